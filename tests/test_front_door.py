"The names that `from cfg_repro import ...` gives: which they are, what they cost, and what help() says of them."
import ast, json, re, subprocess, sys
import pytest
import project

door = project.package/'__init__.py'
tree = ast.parse(door.read_text(encoding='utf-8'))

def fresh(code, *words):
    "What code prints in an interpreter of its own: whatever is completed or loaded in it stays there."
    done = subprocess.run([sys.executable, '-c', code, *words], cwd=project.root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def places():
    "{name: module} as type checkers and editors see them: the imports that are never run."
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names:
            assert alias.asname == alias.name            # otherwise a checker takes it for our own affair
            found[alias.name] = node.module
    return found


in_a_fresh_one = '''
import contextlib, importlib, io, json, sys, types
import cfg_repro
found, places = {}, json.loads(sys.argv[1])
cfg_repro.__version__, cfg_repro.__all__
found['dir'] = dir(cfg_repro)
found['loaded'] = [name for name in sys.modules if name.split('.')[0] in ('torch', 'numpy', 'fastcore', 'tqdm') or name.startswith('cfg_repro.')]
try: cfg_repro.gided
except AttributeError as e: found['attribute'] = str(e)
try: from cfg_repro import gided
except ImportError as e: found['name'] = str(e)
from cfg_repro import guided
with contextlib.redirect_stdout(io.StringIO()) as out: help(guided)
found['help'] = out.getvalue()
found['as it was'] = importlib.import_module('cfg_repro.sampling').sample.__doc__
found['same'] = [name for name, module in places.items() if getattr(cfg_repro, name) is getattr(importlib.import_module(f'cfg_repro.{module}'), name)]
found['all'] = cfg_repro.__all__
found['docs'] = {name: getattr(cfg_repro, name).__doc__ for name in places if callable(getattr(cfg_repro, name))}
from cfg_repro import digits, evaluate, schedule
found['modules'] = [type(module) is types.ModuleType for module in (digits, evaluate, schedule)]
names = {}
exec('from cfg_repro import *', names)
found['star'] = [name for name in places if names.get(name) is getattr(cfg_repro, name)]
print(json.dumps(found))
'''


@pytest.fixture(scope='module')
def found():
    return json.loads(fresh(in_a_fresh_one, json.dumps(places())))


def test_each_name_is_the_one_of_its_module(found):
    names = sorted(places())
    assert len(names) >= 12 and names == sorted(found['same']) == sorted(found['all']) == sorted(found['star'])
    assert set(names) <= set(found['dir'])


def test_what_is_taken_at_the_door_is_there():
    "By the README and the pages: names of the list, or modules."
    taken = set()
    for path in (project.root/'README.md', *sorted((project.root/'nbs').glob('*.ipynb'))):
        for line in re.findall(r'from cfg_repro import ([\w, ]+)', path.read_text(encoding='utf-8')):
            taken |= {word.strip() for word in line.split(',')}
    assert 'guided' in taken and not taken - set(places()) - set(project.modules()) - {'__version__'}


def test_no_name_is_that_of_a_module(found):
    "Else it would depend on what has been imported before which of the two one gets. Modules are still found."
    assert not set(places()) & set(project.modules()) and all(found['modules'])


def test_importing_the_package_costs_nothing(found):
    "Nothing heavy is loaded by it, nor by looking what there is."
    assert not found['loaded']


def test_what_is_not_there(found):
    assert found['attribute'] == "module 'cfg_repro' has no attribute 'gided'"
    assert found['name'].startswith("cannot import name 'gided' from 'cfg_repro'")


def test_help_at_the_door(found):
    "What somebody sees who imports `guided` and asks; a function that nobody asked for is as it was."
    above, _, below = found['help'].partition('Parameters\n    ----------\n')
    assert above.startswith('Help on function guided in module cfg_repro.guidance:') and 'Eq. (6)' in above
    names = [line.strip().split(' : ')[0] for line in below.splitlines() if line.startswith('    ') and line[4:5].strip()]
    assert names[:3] == ['model', 'w', 'null'] and '\n' not in found['as it was']


def test_every_function_at_the_door_has_its_words(found):
    for name, doc in found['docs'].items():
        assert 'Parameters\n----------\n' in doc and max(map(len, doc.splitlines())) <= 72, name
    assert len(found['docs']) >= 12


said_by_help = '''
import contextlib, importlib, inspect, io, json, sys
from cfg_repro.console import helped
def shown(thing):
    with contextlib.redirect_stdout(io.StringIO()) as out: help(thing)
    return out.getvalue()
found = {}
for name in json.loads(sys.argv[1]):
    module = importlib.import_module(f'cfg_repro.{name}')
    for word in module.__all__:
        thing = getattr(module, word)
        if callable(thing) and getattr(thing, '__module__', '') == module.__name__:
            before = shown(thing)
            found[f'{name}.{word}'] = before, shown(helped(thing))
print(json.dumps(found))
'''


def words_in_source(module):
    "{function: words of its parameters and its value}, read from the text of a module and by nothing that we use."
    lines = (project.package/f'{module}.py').read_text(encoding='utf-8').splitlines()
    found = {}
    for node in ast.parse('\n'.join(lines)).body:
        if isinstance(node, ast.FunctionDef):
            head = lines[node.lineno-1:node.body[0].lineno-1]
            found[node.name] = [line.split('#', 1)[1].strip() for line in head if '#' in line]
    return found


@pytest.mark.slow
def test_help_shows_the_words_of_every_public_function():
    "Those that stand in the code as comments, in their order, none of which help() shows by itself; in 80 columns below the signature."
    modules = project.modules()
    said, checked = json.loads(fresh(said_by_help, json.dumps(modules))), 0
    for module in modules:
        for name, words in words_in_source(module).items():
            before, after = said.get(f'{module}.{name}', (None, None))
            if before is None:
                continue
            plain = ' '.join(after.split())
            at = [plain.find(' '.join(text.split())) for text in words]
            assert -1 not in at, f'{module}.{name}: {words[at.index(-1)]!r} in\n{after}'
            assert len(words) < 2 or plain.index(words[-1]) >= max(at[:-1])
            body = after.splitlines()[3:]
            assert max(map(len, body), default=0) <= 80, after
            long = [text for text in words if len(text) > 20]
            assert not any(' '.join(text.split()) in ' '.join(before.split()) for text in long), name
            checked += len(words)
    assert checked > 500

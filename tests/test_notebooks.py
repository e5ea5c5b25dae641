"""The notebooks as they are stored: executed from top to bottom, without errors (nbdev_test runs them again); and how
their code is laid out: one statement a line, lines that fit the page, short cells, each with its check."""
import ast, io, os, re, subprocess, sys, tokenize
from pathlib import Path
import pytest, yaml
import project, readme

notebooks = project.notebooks()
each = pytest.mark.parametrize('notebook', notebooks.values(), ids=[path.stem for path in notebooks])


def calls(tree):
    "The names of the functions that a cell calls outside its own definitions: print, plt.subplots, ..."
    body = [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return {ast.unparse(n.func) for node in body for n in ast.walk(node) if isinstance(n, ast.Call)}


def shows(source):
    "What the outputs of a cell must hold: 'stdout', 'image/png' or 'text/plain'."
    flags, code = readme.directives(source)
    if flags.get('eval') == 'false':
        return set()
    tree = ast.parse(re.sub(r'^%.*', '', code, flags=re.M))  # a line of magic is not Python
    kinds = {'print': 'stdout', 'plt.subplots': 'image/png', 'plt.figure': 'image/png'}
    needed = {kinds[name] for name in calls(tree) if name in kinds}
    values = (ast.Name, ast.Subscript, ast.BinOp, ast.Tuple)
    if tree.body and isinstance(tree.body[-1], ast.Expr) and isinstance(tree.body[-1].value, values):
        needed.add('text/plain')
    return needed


def kinds(outputs):
    return {kind for o in outputs for kind in ([o['name']] if 'name' in o else o.get('data', {}))}


@each
def test_stored_without_errors(notebook):
    assert not [o for _, outputs in project.code_cells(notebook) for o in outputs if o['output_type'] == 'error']
    assert not [o for _, outputs in project.code_cells(notebook) for o in outputs if o.get('name') == 'stderr']


@each
def test_stored_executed(notebook):
    "A cell that prints, ends in a value or draws has that output stored."
    bare = [source for source, outputs in project.code_cells(notebook) if not shows(source) <= kinds(outputs)]
    assert not bare, '\n\n'.join(bare)


@each
def test_figures_have_words(notebook):
    "Who cannot see a figure can read what it shows."
    mute = []
    for source, outputs in project.code_cells(notebook):
        flags, _ = readme.directives(source)
        if 'image/png' in kinds(outputs) and 'hide' not in flags and not flags.get('fig-alt'):
            mute.append(source)
    assert not mute, '\n\n'.join(mute)


WIDTH, LENGTH = 88, {'command': 40, 'loop': 24, 'function': 20}
EXPORTS = {'export', 'exports', 'exporti'}


def exported(source):
    "The code of a cell that makes a part of the module; None where it makes none."
    flags, code = readme.directives(source)
    return code if EXPORTS & flags.keys() else None


def imports_only(tree):
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree.body)


def crowded(code):
    "The lines on which something stands before a statement: another one, or the head of the block that it is in."
    lines = code.encode().splitlines()                       # as ast counts
    statements = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.stmt)]
    return {node.lineno for node in statements if lines[node.lineno-1][:node.col_offset].strip()}


def semicolons(code):
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.OP and token.string == ';'}


def wide(code):
    return {i for i, line in enumerate(code.splitlines(), 1) if len(line) > WIDTH}


def body(code):
    "How many lines a cell has; blank ones, and what docments need (signatures and docstrings), are not counted."
    free = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            first, *rest = node.body
            said = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            free |= set(range(node.lineno, first.end_lineno+1 if said else first.lineno))
    return len([i for i, line in enumerate(code.splitlines(), 1) if line.strip() and i not in free])


def checks(source):
    "Whether a cell checks something: it makes no part of the module, and asserts, tests or prints."
    flags, code = readme.directives(source)
    if EXPORTS & flags.keys() or flags.get('eval') == 'false':
        return False
    nodes = list(ast.walk(ast.parse(re.sub(r'^%.*', '', code, flags=re.M))))
    called = {ast.unparse(node.func).split('.')[-1] for node in nodes if isinstance(node, ast.Call)}
    asserts = any(isinstance(node, ast.Assert) for node in nodes)
    return asserts or any(re.match('assert_|test_|print$', name) for name in called)


@each
def test_directives_are_yaml(notebook):
    "As Quarto reads them; each says what it seems to say, and stands at the top of its cell."
    bad = []
    for source, _ in project.code_cells(notebook):
        flags, rest = readme.directives(source)
        bad += re.findall(r'^\s*#\s*\|.*', rest, re.M)
        for line in source.splitlines()[:len(flags)]:
            try:
                said = yaml.safe_load(line.strip().lstrip('#').strip().lstrip('|'))
            except yaml.YAMLError:
                bad.append(line)
                continue
            value = next(iter(said.values())) if isinstance(said, dict) else ''
            whole = not isinstance(value, str) or not value or line.rstrip(' \'"').endswith(value[-3:])
            if not isinstance(said, (str, dict)) or value is None or not whole:
                bad.append(line)
    assert not bad


@each
def test_code_is_laid_out(notebook):
    "In what is exported a statement has a line of its own; no line of code is wider than the page."
    bad = []
    for source, _ in project.code_cells(notebook):
        _, code = readme.directives(source)
        found = wide(code)
        if exported(source) is not None:
            found |= crowded(code) | semicolons(code)
        bad += [code.splitlines()[i-1] for i in sorted(found)]
    assert not bad, '\n'.join(bad)


def kind(code):
    """What a cell makes, for how long it may be.

    A command reads as settings, data, network, loop, record, and a training loop is one loop: cut into pieces they say less.
    """
    if '@command' in code:
        return 'command'
    return 'loop' if re.search(r'^def train(_run)?\(', code, re.M) else 'function'


def plain(node):
    "Whether a class is fields and nothing else."
    return isinstance(node, ast.ClassDef) and all(isinstance(n, (ast.AnnAssign, ast.Expr)) for n in node.body)


def defines(code):
    "Whether a cell defines something that is called by others: a function or a class with a public name."
    return any(isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name[0] != '_' and not plain(n) for n in ast.parse(code).body)


@each
def test_cells_are_short_and_checked(notebook):
    """An exported cell has a body of 20 lines at most, and what it makes public is checked within the next two cells of code.

    Cells of private helpers in between are not counted: they are checked by what calls them.
    """
    sources, bad = [source for source, _ in project.code_cells(notebook)], []
    for i, source in enumerate(sources):
        code = exported(source)
        if code is None or imports_only(ast.parse(code)):
            continue
        name = code.strip().splitlines()[0]
        functions = any(isinstance(n, (ast.FunctionDef, ast.ClassDef)) for n in ast.parse(code).body)
        if functions and (n := body(code)) > LENGTH[kind(code)]:
            bad.append(f'{n} lines: {name}')
        after = [s for s in sources[i+1:] if exported(s) is None or defines(exported(s))]
        if defines(code) and not any(map(checks, after[:2])):
            bad.append(f'no check: {name}')
    assert not bad, '\n'.join(bad)


def test_the_rules_see():
    "Each of the rules finds what it is for, and no more."
    one = ('def f(\n    a, # First\n)->int: # A: value; with words\n    "One: line; with words."\n'
           '    b = {1: 2}[a:]\n\n    return b')
    assert crowded(one) == semicolons(one) == wide(one) == set() and body(one) == 2
    assert crowded('if a: b\nelse: c\ntry:\n    d; e\nfinally: f') == {1, 2, 4, 5} and semicolons('a;\nb') == {1}
    assert crowded('def f(a): return a') == crowded('class A: pass') == crowded('with a: b = 1') == {1}
    assert wide('#'*88) == set() and wide('x = 1\n' + 'é'*88 + '\n' + '#'*89) == {3}
    assert body('@g\nclass A:\n    "Words."\n    def f(self,\n        a, # First\n    ): return a\n    x = 1') == 3
    assert checks('assert a') and checks('x.test_eq(1)') and checks('assert_close(a, b)') and checks('print(1)')
    assert not checks('#| exports\nassert a') and not checks('a = 1') and not checks('pprint(1)')
    assert exported('#| exporti\na') == 'a' and exported('#| hide\na') is None

    def refused(*cells): return [test for test in rules if fails(test, cells)]
    def fails(test, cells):
        notebook = dict(cells=[dict(cell_type='code', source=source, outputs=[]) for source in cells])
        try:
            test(notebook)
        except AssertionError:
            return True
    rules = test_directives_are_yaml, test_code_is_laid_out, test_cells_are_short_and_checked
    f, private, long = '#| exports\ndef f():\n    g()', '#| exporti\ndef _g():\n    f()', '#| exports\ndef f():\n' + '    g()\n'*21
    assert refused(f, 'b = 2', 'assert a') == refused(f, private, private, 'b = 2', 'assert a') == []
    assert refused(f, 'b = 2', 'c = 3', 'assert a') == refused(f, f, f, 'assert a') == [test_cells_are_short_and_checked]
    assert refused(long, 'assert a') == refused(long.replace('f():', 'train():') + '    g()\n'*4, 'assert a') == [test_cells_are_short_and_checked]
    assert refused('#| exports\n@command\n' + long[11:], 'assert a') == refused('#| exports\na = 1', 'b', 'c', 'd') == []
    assert refused('#| exports\nif a: b', 'assert a') == [test_code_is_laid_out]
    assert refused('a; b') == refused('#| export\nimport a') == refused("#| fig-alt: 'a: b'\n#| hide\na") == []
    for line in ('#| fig-alt: a: b', '#| fig-alt: some words # and more', '#| fig-alt:', 'a = 1\n#| hide'):
        assert refused(line) == [test_directives_are_yaml], line


def is_slow(notebook):
    return any('slow' in readme.directives(source)[0] for source, _ in project.code_cells(notebook))


slow = [path for path, notebook in notebooks.items() if is_slow(notebook)]


@pytest.mark.slow
@pytest.mark.parametrize('path', slow, ids=[path.stem for path in slow])
def test_slow_cells(path):
    "nbdev_test skips the cells marked slow; here they run."
    nbdev_test = Path(sys.executable).with_name('nbdev_test')
    run = subprocess.run([nbdev_test, '--path', path, '--flags', 'slow', '--timing'],
                         cwd=project.root, capture_output=True, text=True)
    assert run.stdout.startswith('Success.'), run.stderr
    assert re.findall(r'(\S+): \d+ secs', run.stdout) == [path.name]      # it, and no other


@pytest.mark.slow
@pytest.mark.parametrize('name', ['42_train_imagenet', '43_sample_imagenet'])
def test_imagenet_of_128(name):
    "The pages of ImageNet's two models, of which nbdev_test runs the smaller one."
    nbdev_test = Path(sys.executable).with_name('nbdev_test')
    run = subprocess.run([nbdev_test, '--path', f'nbs/{name}.ipynb'], cwd=project.root,
                         env=os.environ | dict(SIZE='128'), capture_output=True, text=True)
    assert run.stdout.startswith('Success.'), run.stderr

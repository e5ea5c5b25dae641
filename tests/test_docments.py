"Every exported name says what it is, and what each of its parameters and its value are, where they stand in the code."
import ast, dataclasses, importlib, inspect, re, textwrap
from typing import NamedTuple
import pytest
from fastcore.docments import docments
import project


def exported():
    "Every exported function, class and public method, as {module.name: object}."
    found = {}
    for module_name in project.modules():
        module = importlib.import_module(f'{project.package.name}.{module_name}')
        for name in getattr(module, '__all__', []):  # a module without it is no export: test_layers.py says so
            thing = getattr(module, name)
            if not callable(thing):
                continue
            found[f'{module_name}.{name}'] = thing
            if inspect.isclass(thing):
                for method, f in vars(thing).items():
                    f = getattr(f, '__func__', getattr(f, 'fget', f))  # of a classmethod, a staticmethod, a property
                    public = method[0] != '_' or method in ('__init__', '__call__')
                    if public and inspect.isfunction(f) and written_here(f):
                        found[f'{module_name}.{name}.{method}'] = f
    return found


def written_here(f):
    "A dataclass's own __init__ has no source."
    ours = f.__module__.startswith(f'{project.package.name}.')
    return ours and f.__code__.co_filename.startswith(str(project.package))


def returns(f):
    "Does a function itself, not one inside it, give anything back?"
    def own(node):
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, (ast.FunctionDef, ast.Lambda)):
                yield child
                yield from own(child)
    tree = ast.parse(textwrap.dedent(inspect.getsource(f))).body[0]
    return any(isinstance(n, (ast.Return, ast.Yield, ast.YieldFrom)) and n.value is not None for n in own(tree))


def docstring(f):
    "As it stands in the code: at the front door `helped` adds the words of the parameters to it."
    try:
        source = inspect.getsource(f)
    except OSError:                                      # made where there is no code
        return f.__doc__
    return ast.get_docstring(ast.parse(textwrap.dedent(source)).body[0])


def varying(f):
    "The names of *args and **kwargs, to which docments gives no words."
    return [p.name for p in inspect.signature(f).parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def fields(thing):
    "The words of a named tuple's fields, which docments does not find."
    source = inspect.getsource(thing)
    found = {name: re.search(rf'^ +{name} *:[^#\n]*# *(\S.*)', source, re.M) for name in thing._fields}
    return {name: match and match[1] for name, match in found.items()}


def words_of(bare):
    "Name -> words of the parameters of a function, of the fields of a class; those of the value are under 'return'."
    if hasattr(bare, '_fields'):
        return fields(bare)
    if inspect.isclass(bare) and not dataclasses.is_dataclass(bare):
        return {}                                        # its __init__ has them
    words = {name: about.get('docment') for name, about in docments(bare, full=True).items()}
    for unspoken in ['self', 'cls', *varying(bare)]:
        words.pop(unspoken, None)
    return words


def complaints(name, thing):
    "What is missing or wrong in the words that an exported thing carries."
    bare = inspect.unwrap(thing)
    doc = docstring(bare) if not name.endswith('.__init__') else 'As its class.'
    if not doc or not doc.strip():
        yield 'no docstring'
    elif '\n' in doc.strip():
        yield 'a docstring of several lines'
    words = words_of(bare)
    value = words.pop('return', None)
    yield from (f'parameter {parameter} has no docment' for parameter, text in words.items() if not text)
    if inspect.isfunction(bare) and not name.endswith('.__init__') and returns(bare) and not value:
        yield 'the returned value has no docment (it needs ->type: before it)'
    for text in [doc, value, *words.values()]:
        if text and ('\\' in text or '$' in text):
            yield f'LaTeX in {text!r}'


@pytest.mark.parametrize('name, thing', exported().items(), ids=exported())
def test_exported_names_are_documented(name, thing):
    found = list(complaints(name, thing))
    assert not found


def good(
    a, # First
    *,
    b=1, # Second
)->int: # Sum
    "One line."
    return a + b

def silent(
    a, # First
    b,
):
    """Two
    lines."""
    return a + b

def latex(
    a, # $a$
)->int: # \alpha
    "One line."
    yield a

def nothing(
    a, # First
    **others,
):
    "One line."
    def inner(): return a
    yield


class Pair(NamedTuple):
    "One line."
    a:int # First
    b:int


def test_the_test_sees():
    assert not list(complaints('good', good)) and not list(complaints('nothing', nothing))
    assert list(complaints('Pair', Pair)) == ['parameter b has no docment']
    assert not list(complaints('Error', type('Error', (ValueError,), dict(__doc__='One line.'))))
    assert len(list(complaints('silent', silent))) == 3
    assert len(list(complaints('latex', latex))) == 2

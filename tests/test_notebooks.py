"The notebooks as they are stored: executed from top to bottom, without errors. (nbdev_test runs them again.)"
import ast, re, subprocess, sys
import pytest
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
    if tree.body and isinstance(tree.body[-1], ast.Expr) and isinstance(tree.body[-1].value, (ast.Name, ast.Subscript, ast.BinOp, ast.Tuple)):
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
    mute = [source for source, outputs in project.code_cells(notebook)
            if 'image/png' in kinds(outputs) and 'hide' not in readme.directives(source)[0] and not readme.directives(source)[0].get('fig-alt')]
    assert not mute, '\n\n'.join(mute)


slow = [path for path, nb in notebooks.items() if any('slow' in readme.directives(s)[0] for s, _ in project.code_cells(nb))]


@pytest.mark.slow
@pytest.mark.parametrize('path', slow, ids=[path.stem for path in slow])
def test_slow_cells(path):
    "nbdev_test skips the cells marked slow; here they run."
    run = subprocess.run([sys.executable, '-c', 'from nbdev.test import nbdev_test; nbdev_test()', '--path', str(path), '--flags', 'slow'],
                         cwd=project.root, capture_output=True, text=True)
    assert 'Success.' in run.stdout.splitlines(), run.stderr

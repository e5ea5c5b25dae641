"The number of a notebook is its floor: a module imports from lower floors only, and importing it costs little."
import ast, json, re, subprocess, sys
from importlib.metadata import packages_distributions
import pytest
import project

floors, name = project.floors(), project.package.name
each_module = pytest.mark.parametrize('module', project.modules())


def imports(module):
    "What a module imports, anywhere in it, in full: {'torch.nn', 'cfg_repro.schedule', ...}; and whether by a star."
    found, star = set(), False
    for node in ast.walk(ast.parse((project.package/f'{module}.py').read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            star |= node.names[0].name == '*'
            base = f"{name}.{node.module or ''}".strip('.') if node.level else node.module
            found |= {f'{base}.{alias.name}' for alias in node.names} if base == name else {base}
    return found, star


def test_each_module_is_a_notebook():
    assert project.modules() == sorted(floors)
    exporting = [module for nb in project.notebooks().values() if (module := project.module_of(nb))]
    assert len(exporting) == len(set(exporting)), 'two notebooks export to one module'


def test_each_floor_is_taken_once():
    numbers = [path.name[:2] for path in project.notebooks() if path.stem != 'index']
    assert all(re.fullmatch(r'\d\d', number) for number in numbers) and len(numbers) == len(set(numbers))


@each_module
def test_imports_come_from_below(module):
    found, star = imports(module)
    ours = {full.split('.')[1] for full in found if full.startswith(f'{name}.')} - {'__version__'}
    above = {other: floors.get(other) for other in ours if floors.get(other, 100) >= floors.get(module, -1)}
    assert not above, f'{module} is floor {floors.get(module)} and imports {above}'
    assert not star, f'{module} imports *'


@each_module
def test_imports_are_declared(module):
    "What a module imports is in settings.ini; what is asked for only where it is used, among the extras."
    strip = lambda requirement: re.match(r'[\w.-]+', requirement)[0].lower().replace('_', '-')
    declared = {strip(r) for kind in ('requirements', 'dinov2_requirements') for r in project.settings[kind].split()}
    tops = {full.split('.')[0] for full in imports(module)[0]} - set(sys.stdlib_module_names) - {name}
    owners = {'sklearn': ['scikit-learn'], 'PIL': ['pillow']} | packages_distributions()     # Python 3.10 misses two
    foreign = {top for top in tops if not {d.lower().replace('_', '-') for d in owners.get(top, [top])} & declared}
    assert not foreign


def test_requirements_are_bounded_and_justified():
    "From a version on and below another one, each with its reason in CONTRIBUTING.md."
    reasons = (project.root/'CONTRIBUTING.md').read_text()
    for kind in ('requirements', 'dinov2_requirements', 'dev_requirements'):
        for requirement in project.settings[kind].split():
            found = re.match(r'([\w.-]+)(.*)', requirement)
            assert '<' in found[2] or found[2].startswith('=='), requirement
            assert re.search(rf'(\| |`){found[1]}( \||`|==|<)', reasons), f'{found[1]} has no reason'


def loaded(statement):
    "The top-level packages that a statement loads in a fresh interpreter."
    code = f'import sys, json; {statement}; print(json.dumps(sorted({{m.split(".")[0] for m in sys.modules}})))'
    done = subprocess.run([sys.executable, '-c', code], cwd=project.root, check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


@pytest.mark.slow
def test_import_costs_little_more_than_torch():
    "The package itself, and all of Part I, load nothing heavy beside torch."
    part_one = [f'{name}.{module}' for module, floor in floors.items() if floor <= 10]
    assert len(part_one) >= 10
    extra = loaded(f"import {', '.join([name, *part_one])}") - loaded('import torch')
    assert extra <= {name, 'fastcore'} | set(sys.stdlib_module_names) | {m for m in extra if m.startswith('_')}, extra

"What a user installs: the wheel, away from the checkout."
import shutil, subprocess, sys, sysconfig, zipfile
import pytest
import project

name, version = project.settings['lib_name'], project.settings['version']
commands = [line.split('=')[0] for line in project.settings['console_scripts'].split()]
pytestmark = pytest.mark.slow


def run(*command, cwd):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "The wheel, built from the project's own files: a checkout may hold remains of older builds."
    source, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    for path in project.files():
        (source/path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(project.root/path, source/path, follow_symlinks=False)
    run(sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--no-index', '-w', out, source, cwd=out)
    return next(out.glob('*.whl'))


@pytest.fixture(scope='module')
def venv(wheel, tmp_path_factory):
    "A fresh venv with the wheel in it, which borrows what the wheel requires from the environment of this test."
    venv = tmp_path_factory.mktemp('fresh')/'venv'
    run(sys.executable, '-m', 'venv', '--without-pip', venv, cwd=venv.parent)
    site = next(venv.glob('lib/python*/site-packages'))
    (site/'borrowed.pth').write_text(sysconfig.get_paths()['purelib'] + '\n', encoding='utf-8')
    run(sys.executable, '-m', 'pip', '--python', venv/'bin/python', 'install', '--no-deps', '--no-index', wheel, cwd=venv.parent)
    return venv


def test_files(wheel):
    "The modules, the figures' style, the script of the sliders, and nothing else: no notebooks, no tests, no data."
    held = {path for path in zipfile.ZipFile(wheel).namelist() if not path.startswith(f'{name}-{version}.dist-info/')}
    modules = {f'{name}/{module}.py' for module in [*project.modules(), '__init__', '_modidx']}
    assert held == modules | {f'{name}/figures.mplstyle', f'{name}/sliders.js', f'{name}/py.typed'}


def test_metadata(wheel):
    metadata = zipfile.ZipFile(wheel).read(f'{name}-{version}.dist-info/METADATA').decode()
    assert f"Requires-Python: >={project.settings['min_python']}" in metadata
    assert 'License: Apache-2.0' in metadata or 'License-Expression: Apache-2.0' in metadata
    assert f'{name}-{version}.dist-info/licenses/LICENSE' in zipfile.ZipFile(wheel).namelist() or 'License-File: LICENSE' in metadata


def test_import(venv):
    "Every module is imported from the venv, not from the checkout, and the figures' style is found."
    imports = ', '.join(f'{name}.{module}' for module in project.modules())
    out = run(venv/'bin/python', '-c', f'''
import {imports}, matplotlib.pyplot as plt
plt.style.use('{name}.figures')
print({name}.__file__, {name}.__version__)''', cwd=venv.parent)
    assert out.split()[0].startswith(str(venv)) and out.split()[1] == version


@pytest.mark.parametrize('command', commands)
def test_help(venv, command):
    assert 'usage' in run(venv/'bin'/command, '--help', cwd=venv.parent)


def test_requirements_are_met(venv):
    "pip check: what the wheel requires is there and agrees, also with what development adds."
    run(sys.executable, '-m', 'pip', '--python', venv/'bin/python', 'check', cwd=venv.parent)


def test_links_by_nbdev(venv):
    "nbdev finds the index that turns a name in backticks into a link."
    out = run(venv/'bin/python', '-c', f'''
from importlib.metadata import entry_points
print(len([e for e in entry_points(group='nbdev') if e.name == '{name}'][0].load()['syms']))''', cwd=venv.parent)
    assert int(out) >= len(project.modules())

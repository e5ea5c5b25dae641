"The command of the README and of CI: it says no when it should."
import json, re, shutil, subprocess, sys
from pathlib import Path
import pytest
import project

readme = (project.root/'README.md').read_text(encoding='utf-8')
lines = re.findall(r'^```bash\n(.*?)\n```$', readme, re.M | re.S)


def test_readme_has_two_commands():
    "Each is one line that sets everything up by itself."
    run, test = [line for line in lines if line.startswith('python3 -m venv .venv && . .venv/bin/activate && pip install ')]
    assert run.endswith(project.settings['console_scripts'].split('=')[0]) and 'nbdev_test' in test and test.endswith('&& pytest')


@pytest.mark.parametrize('text, status, said', [
    ('```bash\necho nbdev_test, then pytest\n```\n', 0, 'nbdev_test, then pytest'),
    ('`nbdev_test` and `pytest` in prose.\n\n```bash\n(exit 3) && nbdev_test | grep x && pytest\n```\n', 3, ''),
    ('Nothing.\n', 1, 'no line'),
    ('nbdev_test && pytest\nnbdev_test || pytest\n', 1, 'more than one')])
def test_ci_runs_the_readme(tmp_path, text, status, said):
    "What stands in the README is what runs, and its exit status is CI's."
    (tmp_path/'.ci').mkdir()
    shutil.copy2(project.root/'.ci/run', tmp_path/'.ci/run')
    (tmp_path/'README.md').write_text(text, encoding='utf-8')
    done = subprocess.run([tmp_path/'.ci/run'], capture_output=True, text=True)
    assert done.returncode == status and said in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('name, code, passes', [('00_a.ipynb', 'assert 1 + 1 == 2', True), ('00_a.ipynb', 'print("Success."); assert 1 + 1 == 3', False),
                                                ('_00_a.ipynb', '1', False)], ids=['passes', 'fails', 'matches nothing'])
def test_notebooks_decide(tmp_path, name, code, passes):
    "The README's step that runs the notebooks fails when one of them fails, and when there is none to run."
    step = next(step for line in lines for step in line.split(' && ') if 'nbdev_test' in step)
    (tmp_path/'settings.ini').write_text('[DEFAULT]\nrepo=a\nlib_name=a\nlib_path=a\nauthor=a\n', encoding='utf-8')
    (tmp_path/'nbs').mkdir()
    cell = dict(cell_type='code', id='c', metadata={}, outputs=[], execution_count=None, source=code)
    (tmp_path/'nbs'/name).write_text(json.dumps(dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)), encoding='utf-8')
    done = subprocess.run(['bash', '-c', f'PATH={Path(sys.executable).parent}:$PATH; {step}'], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) == passes, done.stdout + done.stderr

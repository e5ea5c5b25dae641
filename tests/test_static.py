"What can be seen without running anything: unused names, blind excepts, shadowed builtins, types."
import subprocess, sys
import project

ruff = ['check', '--isolated', '--no-cache', '--output-format', 'concise', '--target-version', 'py310',
        '--select', 'F,B,BLE,A,E701,E702,E703', '--exclude', '_modidx.py',
        # zip without strict, also where two lists are known to be of one length; methods that @patch adds to two classes; a loop for its last value
        '--ignore', 'B905,F811,B007',
        '--config', 'lint.flake8-builtins.ignorelist=["compile","set","bytes"]']      # flags of commands and the bytes of images
types = ['--ignore-missing-imports', '--implicit-optional', '--allow-redefinition-new', '--local-partial-types', '--no-incremental', '--cache-dir', '/dev/null']
a_user = '''
import torch
from cfg_repro import DIGITS, UNet, guided, new_state, sample, train
from cfg_repro.data import digits
from cfg_repro.runs import cfg_train
from cfg_repro.schedule import logsnr_grid

state = new_state(UNet(**DIGITS))
for step in train(state, digits(), steps=2, lr=4e-3, p_uncond=0.1): loss: float = step['loss'].item()
images: torch.Tensor = sample(guided(state.ema.module, w=1., null=10), torch.randn(10, 1, 8, 8), torch.arange(10), T=4)
grid: torch.Tensor = logsnr_grid(T=8)
cfg_train('digits', out='run', steps=3, p_uncond=0.2)
'''


def run(*command):
    done = subprocess.run([sys.executable, '-m', *map(str, command)], cwd=project.root, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_ruff():
    code, said = run('ruff', *ruff, project.package)
    assert code == 0, said


def test_types():
    """Names, arguments, returned values and assignments agree with the package's own annotations.

    What is left out is what no checker can follow: methods that `@patch` adds, and torch's modules, whose attributes may be anything.
    """
    _, said = run('mypy', *types, project.package)
    seen = ('name-defined', 'call-arg', 'valid-type', 'return', 'return-value', 'assignment', 'has-type', 'truthy-function', 'syntax')
    found = [line for line in said.splitlines() if line.endswith(tuple(f'[{code}]' for code in seen)) and 'got Module' not in line]
    assert not found and 'checked' in said, '\n'.join(found) or said


def test_types_reach_a_user(tmp_path):
    path = tmp_path/'user.py'
    path.write_text(a_user)
    code, said = run('mypy', *types, '--follow-imports=silent', path)
    assert code == 0, said
    path.write_text(a_user + "cfg_train(digits='digits')\nlogsnr_grid(T='8')\nfrom cfg_repro import gided\nguided(1., nul=10)\n")
    code, said = run('mypy', *types, '--follow-imports=silent', path)
    assert code == 1 and said.count('error:') == 4, said           # three unknown names and a wrong type

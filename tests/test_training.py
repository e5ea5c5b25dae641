"Training from a terminal: several processes are one, compiled is the same, and a stopped run ends as a whole one."
import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest
import torch
from safetensors.torch import load_file
import warm

bin = Path(sys.executable).parent
environment = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE')}
environment |= {'COLUMNS': '80', 'OMP_NUM_THREADS': '1'}
line = [str(bin/'cfg_train'), 'digits', '--device', 'cpu', '--log_every', '2']


def ended(*words, cwd, code=0, **more):
    "A command that has come to its end: what it printed, and what it said of errors and progress."
    if words[0] == line[0] and not more: words = (warm.bin()/'cfg_train', *words[1:])
    how = dict(cwd=cwd, env=environment | more, capture_output=True, text=True, timeout=600)
    done = subprocess.run([*map(str, words)], **how)
    assert done.returncode == code, done.stderr
    assert code == 1 or 'Traceback' not in done.stderr
    return done.stdout, done.stderr


def sentence(*words, cwd, code=2, **more):
    "The sentence with which a command ends."
    out, err = ended(*words, cwd=cwd, code=code, **more)
    assert out == '' and 'Traceback' not in err
    return err.splitlines()[-1]


def held(run):
    "All tensors of a run's checkpoint, and its log."
    (checkpoint,) = Path(run).glob('step-*')
    tensors = {f'{f.stem}.{k}': v for f in checkpoint.glob('*.safetensors') for k, v in load_file(f).items()}
    return tensors, [json.loads(row) for row in (Path(run)/'log.jsonl').open()]


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    "A run of one process."
    folder = tmp_path_factory.mktemp('alone')
    ended(*line, '--steps', 6, '--out', 'run', cwd=folder)
    return folder/'run'


# Several processes

LAUNCHER = [str(bin/'accelerate'), 'launch', '--cpu', '--num_processes', '2', '--num_machines', '1',
            '--mixed_precision', 'no', '--dynamo_backend', 'no']
HOW = dict(processes=[sys.executable, *line, '--processes', '2'], accelerate=LAUNCHER+line,
           pieces=[*line, '--processes', '3', '--micro_batch', '15'])


@pytest.mark.slow
@pytest.mark.parametrize('how', HOW)
def test_several_processes_give_the_run_of_one(alone, tmp_path, how):
    "By our own switch, by accelerate, and in pieces; the images are drawn alike, so only rounding differs. One speaks."
    out, err = ended(*HOW[how], '--steps', 6, '--out', 'run', cwd=tmp_path)
    assert err.count('of 42,489 parameters; 1,797 images') == 1 and out.count('6 steps of 128 images') == 1
    (one, one_log), (many, many_log) = held(alone), held(tmp_path/'run')
    assert list(one) == list(many)
    for name in one:
        if not name.startswith('opt') or 'exp_avg_sq' not in name:
            torch.testing.assert_close(many[name], one[name], rtol=1e-3, atol=2e-5)
    for a, b in zip(one_log, many_log, strict=True):
        assert a['step'] == b['step'] and abs(a['loss']-b['loss']) < 1e-5
        assert abs(a['grad_norm']/b['grad_norm']-1) < 1e-3


@pytest.mark.slow
def test_a_launcher_that_is_not_one(tmp_path):
    "What does not fit together is refused, and nothing is written."
    for words, told, more in ((0, 'RANK is 0, WORLD_SIZE is None', dict(RANK='0')),
                              (2, 'RANK is 0, WORLD_SIZE is None', dict(RANK='0')),
                              (2, 'processes is 2: the launcher has started 1', dict(RANK='0', WORLD_SIZE='1'))):
        assert told in sentence(*line, *(['--processes', words] if words else []), cwd=tmp_path, **more)
        assert not list(tmp_path.iterdir())


# Stopping

def started(*words, cwd):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([*map(str, words)], cwd=cwd, env=environment, **pipes)


def seconds(process, limit=60):
    "How long a process still lives, and its last words."
    began = time.time()
    said = process.communicate(timeout=limit)[1]
    return time.time()-began, said


@pytest.mark.slow
@pytest.mark.parametrize('sign, workers', [('SIGINT', 0), ('SIGTERM', 0), ('SIGKILL', 0), ('SIGINT', 2)])
def test_stopped_and_started_again(alone, tmp_path, sign, workers):
    "Ctrl-C and SIGTERM leave a checkpoint and a word, SIGKILL the last one; the same line ends with the same bytes."
    words = [*line, '--workers', workers, '--steps', '400', '--save_every', '3', '--out', 'run']
    running = started(*words, cwd=tmp_path)
    for _ in range(600):
        time.sleep(0.05)
        if list((tmp_path/'run').glob('step-*')) or running.poll() is not None: break
    running.send_signal(signal.Signals[sign])
    said = running.communicate(timeout=60)[1]
    if sign != 'SIGKILL':
        assert running.returncode == 130 and 'stopping in good order' in said
        assert said.splitlines()[-1] == 'cfg_train: stopped; the same line goes on from here'
    (checkpoint,) = (tmp_path/'run').glob('step-*')
    step = int(checkpoint.name[5:])
    assert 0 < step < 400
    ended(*words[:-4], '--steps', step+2, '--out', 'run', cwd=tmp_path)          # two steps more, from there
    ended(*line, '--steps', step+2, '--out', 'whole', cwd=tmp_path)
    (a, a_log), (b, b_log) = held(tmp_path/'run'), held(tmp_path/'whole')
    assert all(torch.equal(a[k], b[k]) for k in b)
    assert [r for r in a_log if r['step'] % 2 == 0] == [r for r in b_log if r['step'] % 2 == 0]


def in_a_long_step(*words, cwd):
    "A run whose steps take a minute or more, when it is in the first."
    running = started(*line, '--out', 'run', '--batch_size', 400_000, *words, cwd=cwd)
    for _ in range(600):
        time.sleep(0.05)
        if (cwd/'run'/'log.jsonl').exists() or running.poll() is not None: break
    time.sleep(1)
    assert running.poll() is None, running.communicate()[1]
    return running


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_long_step(tmp_path):
    "Taken in pieces, the step is left between two of them; nothing was learned, and nothing is written."
    running = in_a_long_step('--micro_batch', 500, cwd=tmp_path)
    running.send_signal(signal.SIGINT)
    took, said = seconds(running)
    assert took < 30 and running.returncode == 130, (took, said)       # of minutes; most of it is Python's own end
    assert said.splitlines()[-1] == 'cfg_train: stopped; the same line goes on from here'
    assert not list((tmp_path/'run').glob('step-*'))


@pytest.mark.slow
def test_ctrl_c_twice(tmp_path):
    "The first is answered at once, though a piece takes long; the second ends the command when torch gives way."
    running = in_a_long_step('--micro_batch', 20_000, cwd=tmp_path)
    running.send_signal(signal.SIGINT)
    began = time.time()
    while 'stopping in good order' not in (said := running.stderr.readline()): assert said
    assert time.time()-began < 5
    running.send_signal(signal.SIGINT)
    took, said = seconds(running)
    assert took < 60 and running.returncode == 130 and 'Traceback' not in said, (took, said)


# What is said

@pytest.mark.slow
def test_words_before_the_first_step(tmp_path):
    "What will be trained, and a bar; the words and the bar are on stderr, the result is on stdout."
    running = in_a_long_step('--micro_batch', 500, cwd=tmp_path)
    running.kill()
    out, err = running.communicate()
    assert out == '' and err.startswith('unet of 42,489 parameters; 1,797 images 1x8x8 in 10 classes; '
                                        '8 channels at 8x8, 16 channels at 4x4; steps 1 to 500 of 400,000 images; cpu in float32; about ')
    assert '0/500 [00:00<?' in err
    out, err = ended(*line, '--steps', 12, '--out', 'other', cwd=tmp_path)
    assert out.startswith('other: 12 steps of 128 images, 0 skipped; ') and out.count('\n') == 1
    assert ' steps/s, ' in err and ' images/s]' in err and 's/ ' not in err
    out, err = ended(*line, '--steps', 12, '--out', 'other', cwd=tmp_path)
    assert out == 'other: 12 steps are taken already\n'


MEASURE = """
import sys, torch
from cfg_repro.console import keep_memory
from cfg_repro.data import MemorySet
from cfg_repro.hardware import memory, memory_needed, prepared
from cfg_repro.objective import eps_loss
from cfg_repro.training import classifier_loss, new_state, train
from cfg_repro.unet import NoisyClassifier, UNet, placed
kind, n, micro_batch, checkpoint, bf16 = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
make, loss = (UNet, eps_loss) if kind == 'unet' else (NoisyClassifier, classifier_loss)
size = dict(size=32, n_classes=10, channels=32, mult=(1,2,2), blocks=2, attention=(16,), head_channels=32, groups=8)
def steps(net, batch_size, k, **how):
    c = torch.arange(100) % 10
    data = MemorySet(torch.zeros(100, 3, net.size, net.size), c, dict(n_classes=10))
    list(train(new_state(net), data, steps=k, batch_size=batch_size, loss=loss, p_uncond=0., **how))
steps(make(**size | dict(size=8, channels=8, head_channels=8, attention=())), 2, 1)         # loads what is loaded once
with torch.device('meta'): net = make(**size)
net.checkpoint = bool(checkpoint)
needed = memory_needed(net, n, micro_batch, loss=loss, bf16=bool(bf16))
before = memory('cpu')
net = placed(make(**size), 'cpu')
net.checkpoint = bool(checkpoint)
steps(net, n, 2, micro_batch=micro_batch, model=prepared(net, bf16=bool(bf16)))
print(needed, memory('cpu')-before)
"""


@pytest.mark.slow
@pytest.mark.parametrize('kind, n, micro_batch, checkpoint, bf16, factor', [
    ('unet', 48, 48, 0, 0, 1.25), ('unet', 96, 24, 0, 0, 1.25), ('classifier', 96, 96, 0, 0, 1.5),
    ('unet', 48, 48, 1, 0, 2), ('unet', 48, 48, 0, 1, 2)])
def test_expected_memory(kind, n, micro_batch, checkpoint, bf16, factor):
    "What was foretold is measured within a quarter; a classifier within a half; computing again and bfloat16 within two."
    out, _ = ended(sys.executable, '-c', MEASURE, kind, n, micro_batch, checkpoint, bf16, cwd='.')
    needed, used = map(float, out.split())
    assert needed > 0.1 and 1/factor < used/needed < factor, (needed, used)


@pytest.mark.slow
@pytest.mark.parametrize('size', [99_999_999_999, 2**62, 2**63-1])
def test_too_large_a_batch(tmp_path, size):
    told = sentence(*line, '--batch_size', size, cwd=tmp_path)
    assert told == ('cfg_train: there is not enough memory: '
                    'take the batch in smaller pieces by --micro_batch, '
                    'compute features twice by --checkpoint, or take a smaller --batch_size')


LITTLE = """
import resource, sys
import cfg_repro.runs, torchvision
from pathlib import Path
used = int(Path('/proc/self/statm').read_text().split()[0])*resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used+5*2**27, used+5*2**27))
sys.argv = ['cfg_train', *sys.argv[1:]]
cfg_repro.runs.cfg_train.console()
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='a limit of the address space is kept on Linux alone')
def test_out_of_memory(tmp_path):
    "In the middle of a step: one sentence; and with its advice, the same run goes through."
    words = [sys.executable, '-c', LITTLE, *line[1:], '--out', 'run', '--steps', 1, '--batch_size', 60_000]
    assert '--micro_batch' in sentence(*words, cwd=tmp_path)
    ended(*words, '--micro_batch', 500, cwd=tmp_path)


@pytest.mark.slow
def test_divergence(tmp_path):
    "A loss that is finite and far too large ends the run with status 1; the checkpoint before it stands and is named."
    words = '--lr 1 --set warmup=0 --steps 50 --save_every 1 --log_every 1 --max_skipped 1 --out run'
    told = sentence(*line, *words.split(), cwd=tmp_path, code=1)
    assert told.startswith('cfg_train: a loss of ') and 'far above the 0.991 of the first step' in told
    assert told.endswith('in the last 1 steps, up to 2: the last good checkpoint is run/step-00000001')
    assert [p.name for p in (tmp_path/'run').glob('step-*')] == ['step-00000001']


@pytest.mark.slow
def test_what_cannot_be_written(alone, tmp_path):
    "No directory: refused at once. No record at the end: the result is printed, and the checkpoint stands."
    (tmp_path/'a_file').write_text('mine')
    assert 'a_file' in sentence(*line, '--out', 'a_file/run', cwd=tmp_path)
    (tmp_path/'run'/'provenance.json').mkdir(parents=True)
    out, err = ended(*line, '--steps', 6, '--out', 'run', cwd=tmp_path, code=2)
    assert out.startswith('run: 6 steps of 128 images') and 'provenance.json' in err.splitlines()[-1]
    assert all(torch.equal(v, held(tmp_path/'run')[0][k]) for k, v in held(alone)[0].items())


@pytest.mark.slow
def test_more_than_one_checkpoint(tmp_path):
    ended(*line, '--steps', 9, '--save_every', 2, '--keep', 3, '--out', 'run', cwd=tmp_path)
    assert sorted(p.name[-1] for p in (tmp_path/'run').glob('step-*')) == ['6', '8', '9']
    shutil.rmtree(tmp_path/'run'/'step-00000009')                               # an older one goes on as well
    ended(*line, '--steps', 9, '--save_every', 2, '--out', 'run', cwd=tmp_path)
    ended(*line, '--steps', 9, '--out', 'whole', cwd=tmp_path)
    (a, a_log), (b, b_log) = held(tmp_path/'run'), held(tmp_path/'whole')
    assert all(torch.equal(a[k], b[k]) for k in b) and a_log == b_log


# Compiling

@pytest.mark.slow
def test_compiled_network_is_the_same(tmp_path):
    "Same loss, same names in the checkpoint; of a network of one level, with attention, for the compiler's sake."
    small = [*line, '--set', 'mult=[1]', '--set', 'attention=[8]', '--steps', 6]
    ended(*small, '--out', 'plain', cwd=tmp_path)
    ended(*small, '--compile', '--out', 'run', cwd=tmp_path)
    (one, one_log), (compiled, compiled_log) = held(tmp_path/'plain'), held(tmp_path/'run')
    assert json.loads((tmp_path/'run'/'provenance.json').read_text())['compiled'] is True
    assert list(one) == list(compiled)
    assert max(abs(a['loss']-b['loss']) for a, b in zip(one_log, compiled_log, strict=True)) < 1e-4


@pytest.mark.slow
def test_no_compiler_no_harm(alone, tmp_path):
    "Without a C++ compiler there is a word, and the run of one that is not compiled."
    missing = dict(CXX=str(tmp_path/'none'), TORCHINDUCTOR_CACHE_DIR=str(tmp_path/'cache'))
    _, err = ended(*line, '--compile', '--steps', '6', '--out', 'run', cwd=tmp_path, **missing)
    assert 'not compiled, for the compiler does not work here: ' in err
    (one, one_log), (plain, plain_log) = held(alone), held(tmp_path/'run')
    assert all(torch.equal(one[k], plain[k]) for k in one) and one_log == plain_log
    assert json.loads((tmp_path/'run'/'provenance.json').read_text())['compiled'] is False


# Refusals; many more are in test_bad_input.py

@pytest.mark.slow
def test_bad_input_in_a_terminal(alone, tmp_path):
    "One sentence, and every file as it was."
    shutil.copytree(alone, tmp_path/'other')
    (tmp_path/'a_file').write_text('mine')
    def files(): return {str(p): p.read_bytes() for p in sorted(tmp_path.rglob('*')) if p.is_file()}
    before = files()
    told = {'--lr -1': 'lr is -1.0: it must be above 0 and finite',
            '--p_uncond 1.5': 'p_uncond is 1.5: it must be in [0,1]',
            '--data nowhere': 'nowhere is not a set of images', '--data other': 'other is not a set of images',
            '--set widht=3': "'widht' is no field", '--set mult=5': 'mult is 5',
            '--precision float16': "precision is 'float16'", '--steps 7 --set steps=5': 'steps is set twice',
            '--out other --seed 7': 'was trained with another seed', '--keep 0': 'keep is 0',
            '--out a_file': 'a_file', '--stesp 3': 'there is no --stesp; did you mean --steps'}
    for words, expected in told.items():
        assert expected in sentence(*line, *words.split(), cwd=tmp_path)
        assert files() == before

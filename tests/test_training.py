"Training from a terminal: several processes are one, a compiled network is the same, and whatever stops a run, the same line ends with the same bytes."
import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest
import torch
from safetensors.torch import load_file

bin = Path(sys.executable).parent
environment = {k: v for k, v in os.environ.items() if k != 'RANK'} | {'COLUMNS': '80', 'OMP_NUM_THREADS': '1'}
line = [str(bin/'cfg_train'), 'digits', '--device', 'cpu', '--log_every', '2']


def ends_well(*words, cwd):
    done = subprocess.run([*map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def held(run):
    "All tensors of a run's checkpoint, and its log."
    (checkpoint,) = Path(run).glob('step-*')
    return {f'{f.stem}.{k}': v for f in checkpoint.glob('*.safetensors') for k, v in load_file(f).items()}, [json.loads(row) for row in (Path(run)/'log.jsonl').open()]


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    "A run of one process."
    folder = tmp_path_factory.mktemp('alone')
    ends_well(*line, '--steps', 6, '--out', 'run', cwd=folder)
    return folder/'run'


@pytest.mark.slow
@pytest.mark.parametrize('how', ['processes', 'accelerate', 'pieces'])
def test_several_processes_give_the_run_of_one(alone, tmp_path, how):
    "By our own switch, by accelerate's launcher, and with each process taking its share in pieces; the images are drawn alike, so only rounding differs."
    launcher = [str(bin/'accelerate'), 'launch', '--cpu', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no']
    words = {'processes': [*line, '--processes', '2'], 'accelerate': launcher + line, 'pieces': [*line, '--processes', '3', '--micro_batch', '15']}[how]
    ends_well(*words, '--steps', 6, '--out', 'run', cwd=tmp_path)
    (one, one_log), (many, many_log) = held(alone), held(tmp_path/'run')
    assert list(one) == list(many)
    for name in one:
        if not name.startswith('opt') or 'exp_avg_sq' not in name:
            torch.testing.assert_close(many[name], one[name], rtol=1e-3, atol=2e-5, msg=lambda m: f'{name}: {m}')
    for a, b in zip(one_log, many_log, strict=True):
        assert a['step'] == b['step'] and abs(a['loss']-b['loss']) < 1e-5 and abs(a['grad_norm']/b['grad_norm']-1) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize('sign', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_started_again(alone, tmp_path, sign):
    "Ctrl-C and SIGTERM leave a checkpoint and a word; SIGKILL leaves the last one; the same line ends with the same bytes."
    words = [*line, '--steps', '400', '--save_every', '3', '--out', 'run']
    running = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        time.sleep(0.05)
        if list((tmp_path/'run').glob('step-*')) or running.poll() is not None: break
    running.send_signal(sign)
    said = running.communicate(timeout=60)[1]
    if sign != signal.SIGKILL:
        assert running.returncode == 130 and said.splitlines()[-1] == 'cfg_train: stopped; the same line goes on from here'
    (checkpoint,) = (tmp_path/'run').glob('step-*')
    step = int(checkpoint.name[5:])
    assert 0 < step < 400
    ends_well(*words[:-4], '--steps', step+2, '--out', 'run', cwd=tmp_path)      # two steps more, from there
    ends_well(*line, '--steps', step+2, '--out', 'whole', cwd=tmp_path)
    (a, a_log), (b, b_log) = held(tmp_path/'run'), held(tmp_path/'whole')
    assert all(torch.equal(a[k], b[k]) for k in b) and [r for r in a_log if r['step'] % 2 == 0] == [r for r in b_log if r['step'] % 2 == 0]


@pytest.mark.slow
def test_compiled_network_is_the_same(alone, tmp_path):
    "Same loss, same names in the checkpoint."
    ends_well(*line, '--compile', '--steps', 6, '--out', 'run', cwd=tmp_path)
    (one, one_log), (compiled, compiled_log) = held(alone), held(tmp_path/'run')
    assert list(one) == list(compiled)
    assert max(abs(a['loss']-b['loss']) for a, b in zip(one_log, compiled_log, strict=True)) < 1e-4


@pytest.mark.slow
def test_no_compiler_no_harm(alone, tmp_path, monkeypatch):
    "Without a C++ compiler there is a word, and the run of one that is not compiled."
    monkeypatch.setenv('CXX', str(tmp_path/'none')); monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path/'cache'))
    done = subprocess.run([*line, '--compile', '--steps', '6', '--out', 'run'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and 'cfg_train: not compiled' not in done.stdout and 'not compiled, for the compiler does not work here: ' in done.stderr
    (one, one_log), (plain, plain_log) = held(alone), held(tmp_path/'run')
    assert all(torch.equal(one[k], plain[k]) for k in one) and [r['loss'] for r in one_log] == [r['loss'] for r in plain_log]
    assert json.loads((tmp_path/'run'/'provenance.json').read_text())['compiled'] is False


@pytest.mark.slow
@pytest.mark.parametrize('changes, said', [
    (dict(p_uncond=1.5), 'p_uncond is 1.5: it must be in [0,1]'), (dict(steps=0), 'steps is 0'), (dict(lr=float('nan')), 'lr is nan'), (dict(seed=-1), 'seed is -1'),
    (dict(data='nowhere'), 'nowhere is not a set of images'), (dict(set=['widht=3']), "'widht' is no field"), (dict(set=['dropout']), "'dropout' is not name=value"),
    (dict(precision='float16'), "precision is 'float16'"), (dict(processes=0), 'processes is 0'), (dict(out='other', seed=7), 'was trained with another seed'),
    (dict(out='a_file'), 'a_file'), (dict(save_every=0), 'save_every is 0'), (dict(device='tpu'), 'device is tpu'), (dict(batch_size=0), 'batch_size is 0'),
    (dict(data='other'), 'other is not a set of images')], ids=lambda v: '_'.join(v) if isinstance(v, dict) else '')
def test_bad_input(alone, tmp_path, monkeypatch, capsys, changes, said):
    "One sentence, exit 2, and every file as it was."
    from cfg_repro.runs import cfg_train
    monkeypatch.chdir(tmp_path)
    Path('a_file').write_text('mine'); shutil.copytree(alone, 'other')
    def files(): return {str(p): p.read_bytes() for p in sorted(tmp_path.rglob('*')) if p.is_file()}
    before = files()
    with pytest.raises(SystemExit) as end: cfg_train('digits', **(dict(device='cpu', steps=8) | changes))
    out, err = capsys.readouterr()
    assert end.value.code == 2 and err.splitlines()[-1].startswith('cfg_train: ') and said in err.splitlines()[-1]
    assert out == '' and files() == before


@pytest.mark.slow
def test_bad_input_in_a_terminal(tmp_path):
    "The same from a terminal, without a traceback."
    done = subprocess.run([*line, '--lr', '-1'], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (2, '', 'cfg_train: lr is -1.0: it must be above 0 and finite\n') and not list(tmp_path.iterdir())

"What is on its way between disk, processes and device: noise ahead of a GPU, bytes to it, weights to the disk."
import json, os, shutil, signal, subprocess, sys, threading, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
import warm
import cfg_repro.checkpoints as checkpoints
import cfg_repro.generate as generating
from cfg_repro.checkpoints import last_checkpoint, read_checkpoint, train_run
from cfg_repro.data import Glyphs, digits
from cfg_repro.generate import image_noise
from cfg_repro.training import new_state, seeded, train
from cfg_repro.unet import UNet


# Noise

def test_noise_is_drawn_before_a_device_asks(monkeypatch):
    "While step t is in use, step t+1 is drawn by other threads; each image's rows are numpy's own, made afresh."
    drawn, done, fill = [], threading.Event(), generating._fill
    def watched(x, seed, indices, t):
        fill(x, seed, indices, t)
        for i, row in zip(indices, x):
            afresh = np.random.Generator(np.random.Philox(key=[seed, i], counter=[0, 0, 0, t]))
            assert (row == afresh.standard_normal(row.shape, dtype=np.float32)).all()
            drawn.append((threading.current_thread(), i, t))
        if t == 4 and len([1 for _, _, t in drawn if t == 4]) == 9:
            done.set()
    monkeypatch.setattr(generating, '_fill', watched)
    noise = image_noise(5, range(9), (1, 4, 4), 'meta')
    assert noise(3).device.type == 'meta'
    assert done.wait(10), 'step 4 was not drawn ahead'
    assert sorted((i, t) for _, i, t in drawn) == [(i, t) for i in range(9) for t in (3, 4)]
    assert threading.main_thread() not in {thread for thread, _, _ in drawn}


def test_noise_for_a_cpu_is_drawn_when_asked(monkeypatch):
    "No thread, and no step that nobody wants."
    drawn, fill = [], generating._fill
    def watched(x, seed, indices, t):
        drawn.append((threading.current_thread(), t))
        fill(x, seed, indices, t)
    monkeypatch.setattr(generating, '_fill', watched)
    noise = image_noise(5, range(9), (1, 4, 4))
    assert torch.equal(noise(3), noise(3))
    assert drawn == [(threading.main_thread(), 3)]*2


# Images

SMALL = dict(channels=4, mult=(1,), blocks=1, attention=(), head_channels=4, groups=2)


class Numbers:
    "A set that hands out numbers and knows no bytes."
    def __init__(self, data): self.data = data
    def __len__(self): return len(self.data)
    def __getitem__(self, idx): return self.data[idx]


def trained(data, **how):
    with seeded(0): state = new_state(UNet(8, 26, **SMALL))
    rows = list(train(state, data, steps=3, batch_size=20, flip=True, lr=1e-2, **how))
    return torch.stack([row['loss'] for row in rows]), torch.cat([p.detach().flatten() for p in state.net.parameters()])


@pytest.mark.parametrize('how', [{}, dict(micro_batch=6), dict(micro_batch=6, workers=2)], ids=str)
def test_bytes_and_numbers_train_alike(how, monkeypatch):
    "What travels are bytes, in pieces; the run is, bit for bit, that of the numbers."
    import cfg_repro.training as training
    travelled, arrived = [], training._arrived
    def watched(x, *rest):
        travelled.append((x.dtype, len(x)))
        return arrived(x, *rest)
    monkeypatch.setattr(training, '_arrived', watched)
    data = Glyphs(60, 8)
    (losses, weights), sizes = trained(data, **how), [6, 6, 6, 2] if how else [20]
    assert travelled == [(torch.uint8, n) for n in sizes*3]
    other_losses, other_weights = trained(Numbers(data), **how)
    assert torch.equal(losses, other_losses) and torch.equal(weights, other_weights)


SHARED = """
import os, time, torch
from cfg_repro.training import Draws, _reader
from cfg_repro.data import Images
class Plain(Images):
    def __init__(self): super().__init__(torch.zeros(1000, dtype=torch.long), {}, (3,64,64))
    def _pixels(self, rows): return torch.zeros(len(rows), 3, 64, 64, dtype=torch.uint8)
def used():
    s = os.statvfs('/dev/shm')
    return (s.f_blocks-s.f_bfree)*s.f_frsize
draws, most = Draws(1000, 512, 0, 0, 3, piece=64), 0
for x, c in _reader(Plain(), draws, 4, torch.device('cpu')):
    time.sleep(0.05)
    most = max(most, used())
print(most)
"""


def alone(*command):
    "Run a command where /dev/shm is its own, and as small as Docker makes it: 64 MB. What it printed."
    mount = 'mount -t tmpfs -o size=64m none /dev/shm && "$@"'
    how = dict(capture_output=True, text=True, timeout=300, env=os.environ | dict(OMP_NUM_THREADS='1'))
    for namespace in (['unshare', '--mount'], ['unshare', '--user', '--map-root-user', '--mount']):
        inside = [*namespace, 'sh', '-c', mount, 'sh']
        if shutil.which('unshare') and subprocess.run([*inside, 'true'], **how).returncode == 0:
            done = subprocess.run([*inside, *command], **how)
            assert done.returncode == 0, done.stderr
            return done.stdout
    pytest.skip('needs a mount of its own')


@pytest.mark.slow
def test_shared_memory_around_a_loader():
    "Four processes read ahead: two pieces each, and two more, of 64 images of 64x64x3 bytes; and labels."
    most = int(alone(sys.executable, '-c', SHARED))
    piece = 64*3*64*64
    assert 4*piece < most <= 10*(piece + 2*4096), most/piece


# Weights

def fresh(seed=0, **how):
    with seeded(seed): return new_state(UNet(8, 10, in_channels=1, **SMALL), **how)


def weights(state):
    return torch.cat([p.detach().flatten().clone() for p in state.net.parameters()])


def test_the_run_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    "Ten steps are taken while the disk takes nothing; what comes to it is the run as it was. No two are written at once."
    go_on, write, busy = threading.Event(), checkpoints._write, []
    def slow(kept, new, settings):
        assert not busy and threading.current_thread() is not threading.main_thread()
        busy.append(kept.step)
        assert go_on.wait(60)
        write(kept, new, settings)
        busy.pop()
    monkeypatch.setattr(checkpoints, '_write', slow)
    state, seen = fresh(), {}
    for _ in train_run(state, digits(), tmp_path, {}, steps=24, save_every=12, batch_size=4, lr=1e-2, keep=9):
        seen[state.step] = weights(state)
        if state.step == 23:
            assert busy == [12] and not last_checkpoint(tmp_path)
            go_on.set()
    paths = sorted(tmp_path.glob('step-*'))
    assert [p.name for p in paths] == ['step-00000012', 'step-00000024']
    for path in paths:
        saved, net = read_checkpoint(path, 'net')
        found = torch.cat([net[k].flatten() for k, _ in state.net.named_parameters()])
        assert torch.equal(found, seen[saved['step']])
    assert not torch.equal(seen[12], seen[24])


@pytest.mark.parametrize('error, words', [(OSError(28, 'No space left on device'), 'last good checkpoint is .*step-00000002$'),
                                          (RuntimeError('a defect'), '^a defect$')])
def test_what_goes_wrong_behind_the_run_ends_it(tmp_path, monkeypatch, error, words):
    "At the next step, while others are still to come; and at the end, where it is the last checkpoint."
    write = checkpoints._write
    def broken(kept, new, settings):
        if kept.step > 2: raise error
        write(kept, new, settings)
    monkeypatch.setattr(checkpoints, '_write', broken)
    for steps in (4, 1000):
        state = fresh()
        with pytest.raises(type(error), match=words):
            for _ in train_run(state, digits(), tmp_path/str(steps), {}, steps=steps, save_every=2, batch_size=4):
                if steps == 1000 and state.step > 3: time.sleep(0.1)
        assert 4 <= state.step <= 6
        assert last_checkpoint(tmp_path/str(steps)).name == 'step-00000002'


def test_checkpoints_by_the_clock(tmp_path, monkeypatch):
    "Ten minutes after the last one, or after the start; what is in the run does not depend on it."
    now, taken = [0.], []
    monkeypatch.setattr(checkpoints, 'time', SimpleNamespace(monotonic=lambda: now[0]))
    save = checkpoints.save_checkpoint
    monkeypatch.setattr(checkpoints, 'save_checkpoint', lambda kept, *rest: taken.append(kept.step) or save(kept, *rest))
    state = fresh()
    for _ in train_run(state, digits(), tmp_path, {}, steps=10, batch_size=4, log_every=3): now[0] += 250
    assert taken == [4, 7, 10]
    other = fresh()
    for _ in train_run(other, digits(), tmp_path/'other', {}, steps=10, batch_size=4, log_every=3, save_every=1): pass
    assert torch.equal(weights(state), weights(other))
    assert (tmp_path/'log.jsonl').read_bytes() == (tmp_path/'other'/'log.jsonl').read_bytes()


def test_nothing_is_copied_on_the_device():
    "From a GPU (fake tensors, which know their device): each tensor goes to the host as it lies, none is made anew there."
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    made = []
    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, f, types, args=(), kwargs=None):
            out = f(*args, **kwargs or {})
            if isinstance(out, torch.Tensor): made.append((f.__name__, out.device.type))
            return out
    pinned, empty_like = [], torch.empty_like
    def unpinned(t, *, device, pin_memory):
        pinned.append(pin_memory)
        return empty_like(t, device=device)
    with FakeTensorMode(), pytest.MonkeyPatch.context() as m:
        m.setattr(torch, 'empty_like', unpinned)
        for order in (torch.contiguous_format, torch.channels_last):
            weight = torch.empty(4, 3, 3, 3, device='cuda').to(memory_format=order)
            with Watch(): copy = checkpoints._copied(weight)
            assert copy.device.type == 'cpu' and copy.stride() == weight.stride()
    assert pinned == [True, True] and made
    assert {name.split('.')[0] for name, device in made if device == 'cuda'} <= {'detach'}, made


def test_averages_come_back(tmp_path):
    "A run with three averages, stopped and gone on with from other weights, has those of the run that was not stopped."
    def session(run, seed, steps):
        state = fresh(seed, emas=(0.1, 0.3))
        for _ in train_run(state, digits(), tmp_path/run, {}, steps=steps, batch_size=4, lr=1e-2): pass
        return [torch.cat([p.flatten() for p in some]) for some in (state.averaged, *state.others.values())]
    whole = session('whole', 0, 7)
    session('parts', 0, 3)
    parts = session('parts', 1, 7)
    assert len(whole) == 3 and all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert not torch.equal(whole[1], whole[2])


SLOW = """
import sys, time
import cfg_repro.checkpoints as checkpoints
from cfg_repro.runs import cfg_train
write = checkpoints._write
def slow(kept, new, settings):
    print('begun', kept.step, flush=True)
    time.sleep(2)
    write(kept, new, settings)
    print('done', kept.step, flush=True)
checkpoints._write = slow
sys.argv = ['cfg_train', 'digits', '--out', sys.argv[1], *'--device cpu --steps 100000 --save_every 5'.split()]
cfg_train.console()
"""


@pytest.mark.slow
def test_a_word_to_stop_while_a_checkpoint_is_written(tmp_path):
    "SIGTERM in the middle of a slow write: that one is finished, the last one is written, and both are whole."
    environment = os.environ | dict(OMP_NUM_THREADS='1', TQDM_DISABLE='1')
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    running = subprocess.Popen([sys.executable, '-c', SLOW, str(tmp_path/'run')], **pipes)
    assert running.stdout.readline() == 'begun 5\n'
    running.send_signal(signal.SIGTERM)
    began = time.time()
    out, err = running.communicate(timeout=60)
    took = time.time()-began
    done, begun, last = out.splitlines()
    assert done == 'done 5' and begun.startswith('begun ') and last == 'done' + begun[5:]
    assert 2 < took < 30 and running.returncode == 130, (took, err)
    assert err.splitlines()[-1] == 'cfg_train: stopped; the same line goes on from here' and 'Traceback' not in err
    path = last_checkpoint(tmp_path/'run')
    assert int(path.name[5:]) == int(last[5:]) >= 5
    saved, *_ = read_checkpoint(path, 'net', 'ema', 'opt')
    assert saved['step'] == int(last[5:]) and not Path(tmp_path/'run'/'.saving').exists()


# Evaluation

EVALUATED = """
import json, sys, torch
from cfg_repro.console import share
from cfg_repro.data import MemorySet, digits, from_uint8
from cfg_repro.evaluate import evaluate, make_extractor, read_classifier
real, extractor = digits(), make_extractor(read_classifier('own.safetensors'))
fake = real.bytes(torch.arange(601)).flip(3)
rows = [evaluate(fake, real, extractor, splits=splits, groups=groups, manifold=manifold, batch_size=size)
        for splits, groups, manifold, size in ((1, 5, 10_000, 500), (10, 0, 300, 7))]
json.dump(rows, open(f'rows{share()[0]}of{share()[1]}.json', 'w'))
"""


def launched(n, *words, cwd):
    "A script, or a command line, in so many processes."
    start = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={n}'] if n > 1 else []
    environment = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE')} | dict(OMP_NUM_THREADS='1')
    done = subprocess.run([sys.executable, *start, *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def alike(a, b): return a == b if isinstance(b, str) else a == pytest.approx(b, rel=1e-6, abs=1e-9)


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    from cfg_repro.judge import own_classifier
    folder = tmp_path_factory.mktemp('lab')
    own_classifier(folder/'own.safetensors', digits(), steps=200)
    return folder


@pytest.mark.slow
def test_an_evaluation_is_shared(lab):
    "Two processes, and three: each has the row of one, to rounding; and that is the value by hand."
    from cfg_repro.evaluate import read_classifier
    from cfg_repro.data import from_uint8
    (lab/'evaluated.py').write_text(EVALUATED)
    for m in (1, 2, 3): launched(m, 'evaluated.py', cwd=lab)
    one = json.loads((lab/'rows0of1.json').read_text())
    for m in (2, 3):
        for k in range(m):
            for a, b in zip(json.loads((lab/f'rows{k}of{m}.json').read_text()), one, strict=True):
                assert a.keys() == b.keys() and all(alike(a[name], b[name]) for name in b), (a, b)
    net, real = read_classifier(lab/'own.safetensors'), digits()
    with torch.no_grad():
        f, g = (net.body(from_uint8(x)).double().numpy() for x in (real.bytes(torch.arange(601)).flip(3), real.bytes(slice(None))))
        p = net.head(net.body(from_uint8(real.bytes(torch.arange(601)).flip(3)))).double().softmax(1)
    mu, S1, S2 = f.mean(0)-g.mean(0), np.cov(f.T), np.cov(g.T)
    cross = np.sqrt(np.linalg.eigvals(S1@S2).real.clip(0)).sum()
    assert one[0]['fd'] == pytest.approx(mu@mu + np.trace(S1+S2) - 2*cross, rel=1e-6)
    assert one[0]['is_mean'] == pytest.approx((p*(p.log()-p.mean(0).log())).sum(1).mean().exp().item(), rel=1e-9)
    def covered(a, b):
        def distances(a, b): return np.sqrt((a*a).sum(1)[:, None] + (b*b).sum(1) - 2*a@b.T + 1e-12)
        return (distances(a, b) <= np.sort(distances(b, b))[:, 3] + 1e-9).any(1).mean()
    assert one[0]['precision'] == pytest.approx(covered(f, g), abs=2/601) and one[0]['recall'] == pytest.approx(covered(g, f), abs=2/1797)


@pytest.mark.slow
def test_a_sweep_and_a_judgement_by_two(lab):
    "cfg_sweep and cfg_evaluate with --processes 2: the rows of one process, the reference looked at once and kept."
    from cfg_repro.prepare import cfg_prepare
    from cfg_repro.runs import cfg_train
    from cfg_repro.samples import cfg_sample
    run, bin = lab/'run', warm.bin()
    cfg_train('digits', out=str(run), steps=12, device='cpu')
    cfg_sample(str(run), out=str(lab/'samples'), n=130, T=4, w=1., device='cpu')
    common = ['--reference', 'digits', '--device', 'cpu', '--splits', 1]
    for m in (1, 2):
        own = [*common, '--classifier', f'own{m}.safetensors', '--fit_steps', 100, '--processes', m]
        launched(1, bin/'cfg_sweep', run, *own, '--out', f'sweep{m}', '--w', '0,1', '--T', 4, '--n', 130, cwd=lab)
        launched(1, bin/'cfg_evaluate', 'samples', *own, '--out', f'found{m}.json', cwd=lab)
    one, two = ([json.loads(p.read_text()) for p in sorted((lab/f'sweep{m}'/'parts').rglob('*.json'))] for m in (1, 2))
    assert len(one) == 4
    one.append(json.loads((lab/'found1.json').read_text())['result']); two.append(json.loads((lab/'found2.json').read_text())['result'])
    for a, b in zip(one, two, strict=True):
        for name in a.keys() & {'fd', 'is_mean', 'precision', 'recall', 'fd_se', 'n', 'extractor'}:
            assert alike(a[name], b[name]), name
    a, b = (load_file(lab/f'own{m}.safetensors') for m in (1, 2))
    assert all(torch.equal(a[k], b[k]) for k in b)
    assert not list((lab/'sweep2'/'parts'/'samples').iterdir())

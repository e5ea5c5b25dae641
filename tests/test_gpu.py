"""The road to a GPU, as far as a CPU can walk it; nothing here has run on one.

A `meta` tensor has a device, a shape and strides, and no numbers: as on a GPU it does not mix with tensors of the CPU, and as there
a look at its numbers is a wait; here it is an error. Fake tensors say they are of `cuda`, so that autocast takes them for such.
Several processes are gloo's, two machines are two launchers on this one, and processes that are only counted are a fake group.
"""
import json, os, re, shutil, signal, socket, subprocess, sys, time
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock, patch
import pytest
import torch
import torch.distributed as dist
import project, warm
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from cfg_repro import digits as main_job, runs, samples, training, unet as unets
from cfg_repro.adapters import cosine_betas, discrete_classifier, discrete_model, linear_betas, visited
from cfg_repro.classifier_guidance import classifier_guided, classifier_guided_step
from cfg_repro.data import MemorySet, digits
from cfg_repro.generate import image_noise
from cfg_repro.guidance import guided
from cfg_repro.hardware import Bfloat16, memory_needed
from cfg_repro.samples import GRIDS, STEPS
from cfg_repro.sampling import sample
from cfg_repro.sets import write_set
from cfg_repro.training import classifier_loss, new_state, train
from cfg_repro.unet import CLASSIFIER64, IMAGENET64, IMAGENET128, NoisyClassifier, UNet, placed

bin = Path(sys.executable).parent
SMALL = dict(size=8, n_classes=10, in_channels=1, channels=8, mult=(1, 2), blocks=1, attention=(4,), groups=4, head_channels=8)


class Watch(TorchDispatchMode):
    "What a GPU would be asked to do that it cannot, or not at once; and how often something is copied to it."
    def __init__(self):
        super().__init__()
        self.copies, self.bad = 0, []

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        out = f(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if torch.is_tensor(t)]
        here, there = ([t for t in tensors if (t.device.type == 'cpu') is on_cpu] for on_cpu in (True, False))
        copy = f.__name__.startswith(('_to_copy', 'copy_'))
        self.copies += bool(copy and here and there)
        if any(t.dtype is torch.float64 for t in there):
            self.bad.append(f'{f.__name__} in float64')
        if there and any(t.dim() for t in here) and not copy:
            self.bad.append(f'{f.__name__} of two devices')
        return out


def test_the_watch_sees():
    with Watch() as watch:
        x = torch.zeros(2).to('meta')
        x + torch.tensor(1., dtype=torch.float64)          # a single number reaches a GPU with its kernel
    assert (watch.copies, watch.bad) == (1, [])
    with Watch() as watch:
        x.double()
    assert 'float64' in watch.bad[0]
    for look in (lambda: bool(x.sum() > 0), lambda: x.sum().item(), lambda: x + torch.zeros(2)):
        with pytest.raises(RuntimeError): look()


# Sampling

def on_meta(cls=UNet, **changes):
    with torch.device('meta'):
        return cls(**SMALL | changes).eval()


def sampled(model, step, logsnrs):
    "What happens on the way from noise to images; the noise is of this package too."
    c = torch.zeros(3, dtype=torch.long, device='meta')
    with Watch() as watch:
        noise = image_noise(0, range(3), (1, 8, 8), 'meta')
        x = sample(model, noise(0), c, logsnrs=logsnrs, step=step, noise=noise)
    assert (x.device.type, x.dtype, x.shape) == ('meta', torch.float32, (3, 1, 8, 8))
    assert not watch.bad
    return watch.copies/len(logsnrs)


@pytest.mark.parametrize('w', [0., -1., 1.])
@pytest.mark.parametrize('step', STEPS)
def test_sampling(step, w):
    "Every step and grid, with and without guidance: a copy a step at most, that of its noise."
    for grid in GRIDS.values():
        assert sampled(guided(on_meta(), w, null=10), STEPS[step], grid(5)) <= 1


def test_sampling_with_a_classifier_and_with_adapters():
    net, noisy, c = on_meta(), on_meta(NoisyClassifier), torch.zeros(3, dtype=torch.long, device='meta')
    assert sampled(classifier_guided(net, noisy, 1.), STEPS['ancestral'], GRIDS['paper'](5)) <= 1
    assert sampled(net, classifier_guided_step(noisy, c, s=1.), GRIDS['paper'](5)) <= 2
    betas = linear_betas()
    other, judge = discrete_model(net.at_time, betas, channels=1), discrete_classifier(noisy.at_time, cosine_betas())
    for model in (guided(other, 1., null=10), classifier_guided(other, judge, 1.)):
        assert sampled(model, STEPS['ancestral'], visited(betas, 5)) <= 2          # with the tables, which are copied once


# A training step

def on_a_device(seed, step, device='cpu', real=training.step_generator):
    "There are no generators on meta; one that says so is enough, as nothing is drawn there."
    if torch.device(device).type == 'cpu':
        return real(seed, step)
    return SimpleNamespace(device=torch.device(device), initial_seed=lambda: 3)


def drawn_by(f):
    def draw(*args, generator=None, **how):
        real = isinstance(generator, torch.Generator)
        return f(*args, **how, **(dict(generator=generator) if real else {}))
    return draw


@pytest.fixture
def drawing_on_meta():
    fused = patch('torch.optim.optimizer._get_fused_kernels_supported_devices', lambda: ['cpu', 'meta'])
    with (patch.multiple(torch, rand=drawn_by(torch.rand), randn=drawn_by(torch.randn)), fused,
          patch.object(training, 'step_generator', on_a_device)):
        yield


@pytest.mark.parametrize('cls, checkpoint, micro_batch', [(UNet, False, None), (UNet, True, 5), (NoisyClassifier, False, 5)])
def test_training_step(drawing_on_meta, cls, checkpoint, micro_batch):
    "It waits for nothing, mixes nothing, needs no float64; moments and averages lie as the weights do."
    net = placed(on_meta(cls, dropout=0.1), 'meta')
    net.checkpoint = checkpoint
    state, data = new_state(net), MemorySet(torch.zeros(40, 1, 8, 8), torch.arange(40) % 10, dict(n_classes=10))
    how = dict(loss=classifier_loss, p_uncond=0.) if cls is NoisyClassifier else {}
    pieces = 3 if micro_batch else 1
    with Watch() as watch:
        steps = train(state, data, steps=2, batch_size=12, micro_batch=micro_batch, grad_clip=1., flip=True, **how)
        for i, line in enumerate(steps, 1):
            assert watch.copies <= i*(2*pieces+1)           # images and labels of each piece, and the log-SNRs
            assert line['loss'].device.type == line['grad_norm'].device.type == 'meta'
    assert not watch.bad and state.step == 2
    lasting = [w for w in net.parameters() if w.dim() == 4 and not w.is_contiguous()]
    assert lasting                                          # channels last
    for average, (w, slot) in zip(state.averaged, state.opt.state.items(), strict=True):
        assert average.stride() == w.stride() and average.device.type == 'meta'
        assert {name: v.device.type for name, v in slot.items()} == dict(step='meta', exp_avg='meta', exp_avg_sq='meta')
        assert slot['exp_avg'].stride() == slot['exp_avg_sq'].stride() == w.stride()


# A network on a fake GPU

@pytest.fixture
def autocast_as_on_a_gpu():
    "Without a GPU autocast for one is off, and says so."
    there = patch('torch.amp.autocast_mode.torch.cuda.amp.common.amp_definitely_not_available', lambda: False)
    with there, patch.object(torch.cuda, 'is_bf16_supported', lambda including_emulation=True: True):
        yield


class Count(TorchDispatchMode):
    n = 0
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        self.n += 1
        return f(*args, **(kwargs or {}))


def fake(cls, kw, n=2):
    "A network on a fake GPU, and what it is called with."
    net = cls(**kw)
    args = torch.empty(n, 3, kw['size'], kw['size']), torch.zeros(n)
    return net, args if cls is NoisyClassifier else (*args, torch.zeros(n, dtype=torch.long))


@pytest.mark.parametrize('cls, kw', [(UNet, IMAGENET64), (UNet, IMAGENET128), (NoisyClassifier, CLASSIFIER64)], ids=['64', '128', 'classifier'])
def test_forward_on_a_fake_gpu(autocast_as_on_a_gpu, cls, kw):
    "The paper's networks: no look at a number, float32 out, and in bfloat16 the normalisation of torch: half the operations of ours."
    with FakeTensorMode(), torch.device('cuda'), torch.no_grad():
        net, args = fake(cls, kw)
        def called(model):
            with Count() as count: out = model(*args)
            assert (out.device.type, out.dtype) == ('cuda', torch.float32)
            return count.n
        called(net)
        by_torch = called(Bfloat16(net.eval()))
        with patch.object(unets.GroupNorm, 'forward', lambda self, x, film=None: self.by_hand(x, film)):
            by_hand = called(Bfloat16(net))
    assert by_torch < 0.6*by_hand


def kept_for_an_image(kw, bf16):
    "Bytes that a fake GPU keeps for the gradient of one image more."
    def kept(n):
        with FakeTensorMode(), torch.device('cuda'):
            net, args = fake(UNet, kw, n)
            seen = {p.untyped_storage()._cdata: p.untyped_storage() for p in net.parameters()}
            before = set(seen)
            def keep(t):
                seen[t.untyped_storage()._cdata] = t.untyped_storage()
                return t
            with saved_tensors_hooks(keep, lambda t: t):
                (Bfloat16(net) if bf16 else net)(*args)
        return sum(storage.nbytes() for at, storage in seen.items() if at not in before)
    return kept(3) - kept(2)


@pytest.mark.parametrize('bf16', [False, True])
@pytest.mark.parametrize('kw', [IMAGENET64, IMAGENET128], ids=['64', '128'])
def test_memory_on_a_fake_gpu(autocast_as_on_a_gpu, kw, bf16):
    "What was foretold for images on a CPU is what autocast keeps on a GPU, within a half; under it torch's group norm would keep twice as much."
    with torch.device('meta'): net = UNet(**kw)
    foretold = (memory_needed(net, 9, bf16=bf16) - memory_needed(net, 8, bf16=bf16))*2**30 - 2*4*3*kw['size']**2
    assert 0.9 < kept_for_an_image(kw, bf16)/foretold < 1.5


# Compiled

@pytest.mark.slow
@pytest.mark.parametrize('kind', ['heads of a width', 'a number of heads', 'classifier'])
def test_nothing_breaks_the_graph(kind):
    "In one piece, whatever the network, the mode, the checkpointing and the precision."
    cls, kw = {'heads of a width': (UNet, dict(dropout=0.1)), 'a number of heads': (UNet, dict(heads=4, resblock_updown=False)),
               'classifier': (NoisyClassifier, {})}[kind]
    for learns, checkpoint, bf16 in product((True, False), repeat=3):
        if cls is NoisyClassifier and checkpoint: continue
        torch._dynamo.reset()
        net = cls(**SMALL | kw).train(learns)
        net.checkpoint, graphs = checkpoint, []
        def backend(graph, inputs): return graphs.append(graph) or graph
        model = torch.compile(Bfloat16(net) if bf16 else net, backend=backend, fullgraph=True)
        args = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.zeros(2, dtype=torch.long)
        with torch.set_grad_enabled(learns):
            out = model(*args[:2 if cls is NoisyClassifier else 3])
        if learns: out.sum().backward()
        assert len(graphs) == 1


@pytest.mark.slow
def test_a_sweep_is_compiled_twice():
    "Once for a batch and once for a doubled one, whatever w, T, the step, the grid; a last, smaller batch needs no more."
    torch._dynamo.reset()
    graphs = []
    model = torch.compile(on_cpu := UNet(**SMALL).eval(), backend=lambda graph, inputs: graphs.append(graph) or graph)
    for w, T, (name, step) in product((0., 0.1, 1., -1., 4.), (3, 5), STEPS.items()):
        for grid in GRIDS.values():
            sample(guided(model, w, null=10), torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.long), logsnrs=grid(T), step=step)
    sample(guided(model, 1., null=10), torch.randn(3, 1, 8, 8), torch.zeros(3, dtype=torch.long), T=3)
    assert len(graphs) == 2 and not on_cpu.training


# Processes that are counted

@pytest.fixture(params=[3, 8, 64])
def group(request):
    "As each process of a group in turn."
    def members():
        for rank in range(request.param):
            dist.init_process_group('fake', store=FakeStore(), rank=rank, world_size=request.param)
            try:
                yield rank
            finally:
                dist.destroy_process_group()
    return request.param, members


class Plain(torch.nn.Linear):
    "A network that can be shared."
    n_classes = 1797
    def no_sync(self): return torch.no_grad()


def test_batches_are_shared(group, batch_size=150):
    "None twice, none lost: images, labels dropped or not, log-SNRs, noise and mirroring are those of one process, row by row."
    seen = []
    def loss(net, x, c, logsnr, eps):
        seen.append((x, c, logsnr, eps))
        return net(x.flatten(1)).sum(1)
    data = MemorySet(digits().x, torch.arange(1797), dict(n_classes=1797))
    def rows():
        seen.clear()
        net = Plain(64, 1)
        next(train(new_state(net), data, steps=1, batch_size=batch_size, loss=loss, flip=True, p_uncond=0.3, model=net))
        return seen[0]
    whole, (m, members) = rows(), group
    assert len(whole[1].unique()) > 50 and 20 < (whole[1] == 1797).sum() < 80
    sizes = []
    for k in members():
        part = rows()
        sizes.append(len(part[0]))
        for a, b in zip(part, whole): assert torch.equal(a, b[k::m])
    assert sum(sizes) == batch_size and max(sizes)-min(sizes) <= 1


def test_shards_are_shared(group, tmp_path):
    "Of a set of images each file is made once, by one process."
    made, (m, _) = [], group
    def make(indices):
        made.extend(indices)
        yield dict(images=torch.zeros(len(indices), 1, 2, 2, dtype=torch.uint8), labels=torch.zeros(len(indices), dtype=torch.long))
    for k in range(m):
        list(write_set(tmp_path/'set', make, 100, {}, shard_size=3, part=(k, m)))
    assert sorted(made) == list(range(100))


# Processes that run

environment = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')} | {'OMP_NUM_THREADS': '1', 'COLUMNS': '80'}
LINE = [str(bin/'cfg_train'), 'digits', '--device', 'cpu', '--log_every', '1']


def ended(*words, cwd, **more):
    if words[0] == LINE[0] and not more: words = (warm.bin()/'cfg_train', *words[1:])
    done = subprocess.run([*map(str, words)], cwd=cwd, env=environment | more, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def log(run):
    return [json.loads(row) for row in (Path(run)/'log.jsonl').open()]


def weights(run):
    (checkpoint,) = Path(run).glob('step-*')
    return load_file(checkpoint/'net.safetensors')


def same_run(a, b):
    "Equal but for rounding."
    for one, other in zip(log(a), log(b), strict=True):
        assert one['step'] == other['step'] and abs(one['loss']-other['loss']) < 1e-4
    for name, value in weights(a).items():
        torch.testing.assert_close(weights(b)[name], value, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    "A run of one process."
    folder = tmp_path_factory.mktemp('alone')
    ended(*LINE, '--steps', 4, '--out', 'run', cwd=folder)
    return folder/'run'


@pytest.mark.slow
def test_compiled_and_checkpointed_by_two(tmp_path):
    how = [*LINE, '--steps', 3, '--set', 'mult=[1]']         # a smaller network, for the compiler's sake
    ended(*how, '--out', 'alone', cwd=tmp_path)
    ended(*how, '--out', 'run', '--compile', '--checkpoint', '--processes', 2, cwd=tmp_path)
    same_run(tmp_path/'alone', tmp_path/'run')
    about = json.loads((tmp_path/'run'/'provenance.json').read_text())
    assert (about['compiled'], about['checkpointed'], about['processes']) == (True, True, 2)


@pytest.mark.slow
def test_what_accelerate_is_configured_for_is_not_obeyed(alone, tmp_path):
    "Its precision and its compiler are set by the environment, as its launcher does; the run is the one that its record describes."
    config = dict(ACCELERATE_MIXED_PRECISION='bf16', ACCELERATE_DYNAMO_BACKEND='EAGER')
    ended(*LINE, '--steps', 4, '--out', 'run', '--processes', 2, cwd=tmp_path, **config)
    same_run(alone, tmp_path/'run')
    told = subprocess.run([*LINE, '--out', 'other', '--processes', '2'], cwd=tmp_path, env=environment | dict(ACCELERATE_USE_FSDP='true'),
                          capture_output=True, text=True, timeout=300)
    assert told.returncode and 'accelerate is configured for FSDP' in told.stderr


@pytest.mark.slow
def test_resumed_by_other_processes(alone, tmp_path):
    "One, then two, then three: the run is the one that was not stopped, to rounding."
    for steps, processes in ((1, 1), (3, 2), (4, 3)):
        ended(*LINE, '--steps', steps, '--out', 'run', '--processes', processes, cwd=tmp_path)
    same_run(alone, tmp_path/'run')


def child_of(pid):
    "The processes that a process has started."
    return [int(p) for p in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize('sign, to_all', [('SIGUSR1', False), ('SIGTERM', True)])
def test_two_processes_are_stopped(tmp_path, sign, to_all):
    "A word to the launcher, or as some schedulers have it to everybody, and then again from the launcher: a checkpoint, of one step, in the end."
    running = subprocess.Popen([*LINE, '--processes', '2', '--steps', '100000', '--save_every', '100000', '--out', 'run'],
                               cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for _ in range(1200):
        time.sleep(0.05)
        if (tmp_path/'run'/'log.jsonl').exists() and len(log(tmp_path/'run')) > 20 or running.poll() is not None: break
    for pid in child_of(running.pid) if to_all else []:
        os.kill(pid, signal.Signals[sign])
    time.sleep(0.3)                                          # or a process takes two words for one
    running.send_signal(signal.Signals[sign])
    said = running.communicate(timeout=90)[1]
    (checkpoint,) = (tmp_path/'run').glob('step-*')
    assert int(checkpoint.name[5:]) == log(tmp_path/'run')[-1]['step'] > 1
    assert said.count('stopping in good order') == 1 and 'cfg_train: stopped; the same line goes on from here' in said


class Started(Exception):
    pass


def test_before_the_processes_start_nothing_large_is_read(tmp_path):
    "Neither the bytes of a data set, which are hashed once and by one, nor weights: whoever starts the others has no use for them."
    list(write_set(tmp_path/'data', lambda idx: [dict(images=digits().bytes(torch.arange(1797)), labels=digits().labels)], 1797,
                   dict(source='digits', n_classes=10, transform=''), 1797))
    hashed = Mock(side_effect=runs.open_data)
    with patch.object(runs, 'spread', side_effect=Started), patch.object(runs, 'open_data', hashed), pytest.raises(Started):
        runs.cfg_train('digits', data=str(tmp_path/'data'), out=str(tmp_path/'run'), device='cpu', processes=2)
    assert [call.kwargs for call in hashed.call_args_list] == [dict(check=False)]
    runs.cfg_train('digits', out=str(tmp_path/'run'), steps=1, device='cpu')
    read = Mock(side_effect=samples.read_checkpoint)
    with patch.object(samples, 'spread', side_effect=Started), patch.object(samples, 'read_checkpoint', read), pytest.raises(Started):
        samples.cfg_sample(str(tmp_path/'run'), device='cpu', processes=2)
    assert [len(call.args) for call in read.call_args_list] == [1]        # of the checkpoint, no part


@pytest.mark.slow
def test_workers_of_the_main_job_compute_in_float32():
    with main_job._processes(2) as pool:
        assert pool.submit(eval, "__import__('torch').backends.cudnn.allow_tf32").result() is False


# Two machines

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def documented(processes):
    "What the page on a GPU box has one type before the command, for as many processes a machine, at a free port of this one."
    page = project.notebooks()[project.root/'nbs/45_gpu.ipynb']
    text = '\n'.join(''.join(c['source']) for c in page['cells'] if c['cell_type'] == 'markdown')
    (line,) = re.findall(r'^(torchrun .*) cfg_train ', text, re.M)
    for old, new in (('--nproc-per-node 8', f'--nproc-per-node {processes}'), ('HOST:29400', f'127.0.0.1:{free_port()}')):
        assert line.count(old) == 1
        line = line.replace(old, new)
    return line.split()


def on_two_machines(*words, cwd, processes=2):
    "The line that is documented, on each of two machines, which are this one."
    line = [*documented(processes), *map(str, words)]
    pipes = dict(cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    path = f"{bin}:{os.environ['PATH']}"
    machines = [subprocess.Popen(line, env=environment | dict(PATH=path), **pipes) for _ in range(2)]
    said = [machine.communicate(timeout=300) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    return ''.join(out for out, _ in said)


@pytest.mark.slow
def test_two_machines_train_one_run(alone, tmp_path):
    out = on_two_machines('cfg_train', 'digits', '--device', 'cpu', '--log_every', 1, '--steps', 4, '--out', 'run', cwd=tmp_path)
    assert out.count('run: 4 steps of 128 images') == 1
    same_run(alone, tmp_path/'run')
    assert json.loads((tmp_path/'run'/'provenance.json').read_text())['processes'] == 4


@pytest.mark.slow
def test_two_machines_sample_one_set(alone, tmp_path):
    "Their `--n` is not taken for torchrun's `--nnodes`; each file is made by one of the four processes."
    shutil.copytree(alone, tmp_path/'run')
    how = ['cfg_sample', 'run', '--device', 'cpu', '--n', 70, '--T', 3, '--shard_size', 10]
    out = on_two_machines(*how, '--out', 'two', cwd=tmp_path)
    assert out == 'two: 70 images from step 4 of run\ntwo/samples.png: a look at them\n'
    ended(bin/'cfg_sample', *how[1:], '--out', 'one', cwd=tmp_path)
    for a, b in zip(sorted((tmp_path/'one').glob('shard-*.safetensors')), sorted((tmp_path/'two').glob('shard-*.safetensors')), strict=True):
        a, b = load_file(a), load_file(b)
        assert torch.equal(a['labels'], b['labels']) and (a['images'].int()-b['images'].int()).abs().max() <= 1


@pytest.mark.slow
def test_a_group_outlives_what_shares_gradients(tmp_path):
    "In a run's last moments torch's reducer is freed; were it the last to hold the group, threads could wait for each other for ever."
    code = '''
import gc, torch, weakref
import torch.distributed as dist
from cfg_repro.runs import _Machine
dist.init_process_group('gloo', init_method=f'file://{FILE}', rank=0, world_size=1)
class Accelerator:
    def end_training(self): dist.destroy_process_group()
on = _Machine(torch.device('cpu'), False, False, False)
vars(on)['accelerator'] = Accelerator()
group = weakref.ref(dist.group.WORLD)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
on.finish()
assert not dist.is_initialized()
del on, model
gc.collect()
assert group() is not None
'''.replace('{FILE}', str(tmp_path/'meet'))
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

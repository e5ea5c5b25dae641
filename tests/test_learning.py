"What training does, against numbers found another way: every draw, step and average, and every setting on its way."
import json, math, os, signal, threading
from contextlib import nullcontext
from functools import partial
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
import cfg_repro.checkpoints as checkpoints
import cfg_repro.hardware as hardware
import cfg_repro.runs as runs
import cfg_repro.training as training
import project
from cfg_repro.adapters import linear_betas
from cfg_repro.checkpoints import last_checkpoint, read_checkpoint, save_checkpoint, train_run
from cfg_repro.checks import Refusal
from cfg_repro.console import arguments
from cfg_repro.data import MemorySet, digits
from cfg_repro.objective import eps_loss
from cfg_repro.presets import PRESETS, preset
from cfg_repro.reverse import ancestral_step
from cfg_repro.runs import cfg_train, new_run
from cfg_repro.sampling import sample
from cfg_repro.training import Draws, new_state, seeded, step_generator, train
from cfg_repro.unet import NoisyClassifier, UNet

DIGITS = digits()
SMALL = PRESETS['digits']['net']


def small(seed=0, **changes):
    with seeded(seed): return UNet(**SMALL | changes)


def watched(loss=eps_loss, **how):
    "What the loss is given at each call in a run: a list of (x, c, logsnr, eps)."
    seen = []
    def peek(net, x, c, *, logsnr, eps):
        seen.append((x, c, logsnr, eps))
        return loss(net, x, c, logsnr=logsnr, eps=eps)
    list(train(new_state(small()), DIGITS, loss=peek, **how))
    return seen


# What is drawn

def test_images_and_labels_are_those_of_the_draws():
    "Line 2: image and label of the same index, by the generator of the step."
    for step, (x, c, _, _) in enumerate(watched(steps=3, batch_size=50, p_uncond=0., seed=4)):
        index = torch.randint(1797, (50,), generator=step_generator(4, step))
        assert torch.equal(x, DIGITS.x[index]) and torch.equal(c, DIGITS.labels[index])


def test_labels_are_dropped_in_their_share():
    "Line 3: 30% of 20,000, within 5 standard errors; no other label is touched; in two steps they are not the same."
    seen = watched(steps=20, batch_size=1000, p_uncond=0.3, lr=1e-9)
    dropped = torch.stack([c == 10 for _, c, _, _ in seen])
    assert abs(dropped.float().mean() - 0.3) < 5*math.sqrt(0.3*0.7/20_000)
    assert (dropped[0] != dropped[1]).any()
    for step, (_, c, _, _) in enumerate(seen):
        index = torch.randint(1797, (1000,), generator=step_generator(0, step))
        assert torch.equal(c[~dropped[step]], DIGITS.labels[index][~dropped[step]])


def test_noise_levels_are_stratified_between_the_bounds():
    "Line 4: u = (arctan(exp(-logsnr/2)) - b)/a has one value in each of B intervals; log-SNRs are from -20 to 20."
    b = math.atan(math.exp(-10))
    a = math.atan(math.exp(10)) - b
    for _, _, logsnr, _ in watched(steps=5, batch_size=64):
        assert logsnr.shape == (64,) and logsnr.dtype == torch.float32
        assert -20 <= logsnr.min() and logsnr.max() <= 20
        u = (np.arctan(np.exp(-logsnr.double().numpy()/2)) - b)/a
        assert sorted(np.floor(64*u).astype(int).tolist()) == list(range(64))
    starts = [logsnr[0].item() for _, _, logsnr, _ in watched(steps=5, batch_size=64)]
    assert len(set(starts)) == 5
    wide = torch.cat([logsnr for _, _, logsnr, _ in watched(steps=10, batch_size=1000, lr=1e-9)])
    assert wide.min() < -12 and wide.max() > 12


def test_noise_is_standard_normal():
    "Line 5: moments within 5 standard errors; each image and each step has its own, and none is in the images."
    (x, _, _, eps), (_, _, _, other) = watched(steps=2, batch_size=1000)
    n = eps.numel()
    assert abs(eps.mean()) < 5/n**0.5 and abs(eps.var() - 1) < 5*(2/n)**0.5
    assert abs(eps.pow(4).mean() - 3) < 5*(96/n)**0.5
    for a, b in ((eps, other), (eps[:-1], eps[1:]), (eps, x)):
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 5/n**0.5


def test_half_of_the_images_are_mirrored_or_none():
    seen = watched(steps=10, batch_size=100, flip=True), watched(steps=10, batch_size=100, flip=False)
    mirrored = []
    for step, ((x, *_), (plain, *_)) in enumerate(zip(*seen, strict=True)):
        images = DIGITS.x[torch.randint(1797, (100,), generator=step_generator(0, step))]
        assert torch.equal(plain, images)
        turned = (x != images).flatten(1).any(1)
        assert torch.equal(x[turned], images[turned].flip(3))
        mirrored.append(turned.float().mean())
    assert abs(np.mean(mirrored) - 0.5) < 5*0.5/1000**0.5


def test_pieces_are_as_large_as_was_said():
    assert [len(x) for x, *_ in watched(steps=2, batch_size=50, micro_batch=20)] == [20, 20, 10]*2
    assert [len(x) for x, *_ in watched(steps=1, batch_size=50)] == [50]


def test_seeds():
    "Equal ones draw the same, others draw something else: images, labels, noise levels and noise."
    def draws(seed): return watched(steps=1, batch_size=64, seed=seed)[0]
    for a, b, other in zip(draws(1), draws(1), draws(2)):
        assert torch.equal(a, b) and not torch.equal(a, other)
    first = next(iter(Draws(1000, 64, 0, 1, 2)))
    assert not torch.equal(first, next(iter(Draws(1000, 64, 1, 0, 1))))       # step 1 of seed 0, step 0 of seed 1


# Dropout

class Shared(nn.Module):
    "A network as accelerate prepares it, as far as `train` asks."
    def __init__(self, net): super().__init__(); self.net, self.no_sync = net, nullcontext
    def forward(self, *args): return self.net(*args)


def masks(monkeypatch, *, k=0, m=1, between=lambda net: None, **how):
    "What each dropout layer drops, in the order in which it is called: boolean tensors. As process k of m."
    monkeypatch.setattr(training, 'processes', lambda: (k, m))
    monkeypatch.setattr(training.dist, 'all_reduce', lambda value: None)
    net, seen = small(dropout=0.3), []
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.register_forward_hook(lambda _, x, out: seen.append(((out == 0) & (x[0] != 0), out, x[0])))
    for _ in train(new_state(net), DIGITS, model=Shared(net), **dict(steps=2, batch_size=40) | how):
        between(net)
    return seen


def test_dropout_drops_its_share(monkeypatch):
    "30% within 5 standard errors, the others are scaled by 1/0.7."
    seen = masks(monkeypatch)
    dropped = torch.cat([mask.flatten() for mask, _, _ in seen])
    assert abs(dropped.float().mean() - 0.3) < 5*(0.3*0.7/len(dropped))**0.5
    for mask, out, x in seen: torch.testing.assert_close(out[~mask], x[~mask]/0.7)


def test_dropout_differs(monkeypatch):
    "From step to step, piece to piece and process to process; not between a run and the same once more."
    one = masks(monkeypatch, micro_batch=20)
    again = masks(monkeypatch, micro_batch=20)
    first, second = (masks(monkeypatch, k=k, m=2) for k in (0, 1))
    assert len(one) == 2*len(first) and all(torch.equal(a, b) for (a, *_), (b, *_) in zip(one, again, strict=True))
    def share(a, b): return (a[0] == b[0]).float().mean()              # 0.58 where the two are independent
    layers = len(one)//4
    assert share(one[0], one[layers]) < 0.65 and share(one[0], one[2*layers]) < 0.65
    for a, b in zip(first, second, strict=True): assert share(a, b) < 0.65


def test_dropout_is_on_at_every_step(monkeypatch):
    "Also where the network was left in evaluation mode; and it is not drawn from the numbers that made the noise."
    plain, between = masks(monkeypatch), masks(monkeypatch, between=lambda net: net.eval())
    assert all(mask.any() for mask, *_ in between)
    assert all(torch.equal(a, b) for (a, *_), (b, *_) in zip(plain, between, strict=True))
    seeds = []
    def loss(net, x, c, logsnr, eps):
        seeds.append(torch.initial_seed())
        return eps_loss(net, x, c, logsnr=logsnr, eps=eps)
    list(train(new_state(small()), DIGITS, steps=3, loss=loss))
    assert len(set(seeds)) == 3 and not set(seeds) & {step_generator(0, step).initial_seed() for step in range(100)}


def test_no_dropout_in_evaluation():
    net = small(dropout=0.3).eval()
    z, logsnr, c = torch.randn(4, 1, 8, 8), torch.zeros(4), torch.zeros(4, dtype=torch.long)
    assert torch.equal(net(z, logsnr, c), net(z, logsnr, c))


# Steps

class Vector(nn.Module):
    "Five numbers whose gradient is what we say."
    def __init__(self):
        super().__init__()
        self.theta, self.n_classes = nn.Parameter(torch.tensor([1., -2., .5, 0., 3.])), 10


GRADIENTS = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))*torch.tensor([1., .1, 10., .01, 1.])


def taken(steps=6, weight_decay=0., **how):
    "The numbers, their average and the learning rate after each step, and the state at the end."
    state, found = new_state(Vector(), weight_decay), []
    def loss(net, x, c, logsnr, eps): return (net.theta*GRADIENTS[state.step]).sum().expand(len(x))
    for row in train(state, DIGITS, steps=steps, batch_size=4, loss=loss, **how):
        copies = state.net.theta.detach().clone(), state.ema.module.theta.detach().clone()
        found.append((*copies, row['lr'], row['grad_norm'].item(), state.opt.param_groups[0]['lr']))
    return found, state


HOW = [(0., None, 0, 0.9999), (0.05, None, 0, 0.9999), (0., 0.5, 0, 0.9999), (0., None, 4, 0.9999), (0.1, 2., 3, 0.2)]


@pytest.mark.parametrize('weight_decay, grad_clip, warmup, ema_decay', HOW)
def test_every_step_by_hand(weight_decay, grad_clip, warmup, ema_decay):
    "AdamW, clipping, warm-up and average in float64, from their formulas."
    lr, beta1, beta2, small_number = 0.02, 0.9, 0.999, 1e-8
    theta, m, v, ema = np.array([1., -2., .5, 0., 3.]), np.zeros(5), np.zeros(5), None
    found, _ = taken(lr=lr, weight_decay=weight_decay, grad_clip=grad_clip, warmup=warmup, ema_decay=ema_decay)
    for t, (numbers, average, rate, norm, used) in enumerate(found, 1):
        g = GRADIENTS[t-1].double().numpy()
        np.testing.assert_allclose(norm, np.sqrt((g*g).sum()), rtol=1e-6)
        if grad_clip: g = g*min(1, grad_clip/np.sqrt((g*g).sum()))
        now = lr*min(1, t/warmup) if warmup else lr
        assert abs(rate/now - 1) < 1e-12 and used == rate
        m, v = beta1*m + (1-beta1)*g, beta2*v + (1-beta2)*g*g
        theta = theta*(1 - now*weight_decay) - now*(m/(1-beta1**t))/(np.sqrt(v/(1-beta2**t)) + small_number)
        np.testing.assert_allclose(numbers.numpy(), theta, rtol=2e-6, atol=1e-6)
        d = min(ema_decay, t/(t+9))                     # with t steps taken, this one among them: (1 + t-1)/(10 + t-1)
        ema = theta if t == 1 else d*ema + (1-d)*theta
        np.testing.assert_allclose(average.numpy(), ema, rtol=2e-6, atol=1e-6)


def test_the_gradient_is_that_of_the_mean():
    "Of the loss over the batch, in pieces or not; its norm as AdamW's first moments, 0.1 times the gradient, have it."
    net, state = small(), new_state(small())
    (x, c, logsnr, eps), = watched(steps=1, batch_size=40)
    eps_loss(net, x, c, logsnr=logsnr, eps=eps).mean().backward()
    next(train(state, DIGITS, steps=1, batch_size=40, micro_batch=7))
    for p, slot in zip(net.parameters(), state.opt.state.values(), strict=True):
        torch.testing.assert_close(slot['exp_avg'], 0.1*p.grad, rtol=1e-3, atol=1e-7)


def test_golden_losses():
    "The first five steps of the preset `digits`, as they were when the numbers of results/digits were made."
    p = preset('digits')
    how = {name: p[name] for name in ('lr', 'warmup', 'batch_size', 'p_uncond')}
    lines = train(new_run(p, 0, 'cpu'), DIGITS, steps=5, **how)
    golden = [0.9913508892, 1.0069441795, 1.0132830143, 1.0129959583, 0.9700800180]
    np.testing.assert_allclose([row['loss'].item() for row in lines], golden, rtol=0, atol=1e-4)


def test_presets_of_letters():
    "Of glyphs16 as its results say, and of glyphs64 as they are to be made: another number is another experiment."
    for p_uncond in (0.1, 0.2, 0.5):
        made = json.loads((project.root/f'results/glyphs16/train-p{p_uncond}.json').read_text())
        said, p = made['settings'], json.loads(json.dumps(preset('glyphs16', p_uncond=p_uncond)))
        assert {k: said[k] for k in p.keys() & said.keys()} == {k: p[k] for k in p.keys() & said.keys()}
        left = {k: v for k, v in p.items() if k not in said}
        assert left == dict(network='unet', steps=made['steps'], micro_batch=None, weight_decay=0.)
    assert PRESETS['glyphs64'] == dict(
        network='unet', p_uncond=.1, steps=10_000, batch_size=128, micro_batch=None, lr=3e-4, warmup=500, grad_clip=1.,
        weight_decay=0., ema_decay=.9999, flip=False, v=.3, T=256,
        net=dict(size=64, n_classes=26, channels=64, mult=(1, 2, 3, 4), blocks=2, attention=(16, 8), head_channels=64,
                 dropout=.1))


def test_linear_betas_are_those_of_ddpm():
    "From 0.0001 to 0.02 in a thousand steps; in fewer, as much noise in all."
    betas = linear_betas(1000)
    np.testing.assert_allclose(betas, 1e-4 + (0.02-1e-4)*np.arange(1000)/999, rtol=1e-12)
    np.testing.assert_allclose(linear_betas(250)[[0, -1]], [4e-4, 0.08], rtol=1e-12)


# What is kept

def test_a_checkpoint_holds_the_average(tmp_path):
    "Its `ema` is the average of the weights, by hand in float64; `net` is the network. So it is after a restart."
    how = dict(lr=1e-2, batch_size=16, ema_decay=0.9)
    def go(steps, path):
        state, average = new_state(small()), None
        for _ in train_run(state, DIGITS, path, {}, steps=steps, **how):
            theta = {k: v.double().clone() for k, v in state.net.state_dict().items()}
            t = state.step
            d = min(0.9, t/(t+9))
            average = theta if average is None else {k: d*average[k] + (1-d)*theta[k] for k in theta}
        return theta, average
    theta, average = go(6, tmp_path/'run')
    held = {name: load_file(last_checkpoint(tmp_path/'run')/f'{name}.safetensors') for name in ('net', 'ema')}
    for k in theta:
        assert torch.equal(held['net'][k].double(), theta[k])
        torch.testing.assert_close(held['ema'][k].double(), average[k], rtol=1e-5, atol=1e-6)
    assert any((held['ema'][k]-held['net'][k]).abs().max() > 1e-3 for k in theta)
    go(3, tmp_path/'again')
    for _ in train_run(new_state(small(seed=5)), DIGITS, tmp_path/'again', {}, steps=6, **how): pass
    again = load_file(last_checkpoint(tmp_path/'again')/'ema.safetensors')
    assert all(torch.equal(again[k], v) for k, v in held['ema'].items())


def test_a_loaded_run_is_the_average_in_evaluation_mode(tmp_path):
    "Of a diffusion model and of a classifier."
    from cfg_repro.samples import load_run
    for name, kind in (('digits', UNet), ('digits_classifier', NoisyClassifier)):
        run = tmp_path/name
        cfg_train(name, out=str(run), steps=3, device='cpu', lr=.01, set=['dropout=0.5'])
        ema = load_file(last_checkpoint(run)/'ema.safetensors')
        model, settings = load_run(run, 'cpu')
        assert isinstance(model, kind) and not any(m.training for m in model.modules())
        assert settings['lr'] == .01
        assert all(torch.equal(v, ema[k]) for k, v in model.state_dict().items())


def test_grids_change_nothing(tmp_path):
    "A run with dropout and a grid after every step ends with the weights of one without; the grids are of the average."
    how = dict(steps=4, device='cpu', set=['dropout=0.3', 'T=2'], save_every=1, keep=9)
    for name, every in (('with', 1), ('without', 0)):
        cfg_train('digits', out=str(tmp_path/name), grid_every=every, **how)
    for name in ('net', 'ema', 'opt'):
        a, b = (load_file(last_checkpoint(tmp_path/run)/f'{name}.safetensors') for run in ('with', 'without'))
        assert all(torch.equal(a[k], b[k]) for k in b)
    state = new_run(preset('digits', dropout=0.3), 0, 'cpu')
    for step in (1, 4):
        state.ema.module.load_state_dict(load_file(tmp_path/'with'/f'step-{step:08d}'/'ema.safetensors'))
        picture = runs._grid(state, preset('digits', T=2), 'cpu')
        shown = np.array(Image.open(tmp_path/'with'/'grids'/f'step-{step:08d}.png'))
        assert np.array_equal(shown.transpose(2, 0, 1), picture.numpy())
    state.net.train()
    runs._grid(state, preset('digits', T=2), 'cpu')
    assert state.net.training and not state.ema.module.training


@pytest.mark.parametrize('v, T', [(0.3, 4), (0.9, 4), (0.3, 7)])
def test_a_grid_by_hand(v, T):
    "A row for each of w = 0, 1, 3: eight images by Algorithm 2 from the same noise, of classes 0 to 7, as bytes."
    p = preset('digits', v=v, T=T)
    state = new_run(p, 3, 'cpu')
    net = state.ema.module
    with seeded(0):
        for q in net.parameters():
            if not q.any(): nn.init.normal_(q, std=0.1)                 # a fresh network does not look at classes
    picture = runs._grid(state, p, 'cpu')
    def noise(t):
        made = (np.random.Generator(np.random.Philox(key=[0, i], counter=[0, 0, 0, t])) for i in range(8))
        return torch.stack([torch.from_numpy(g.standard_normal((1, 8, 8), dtype=np.float32)) for g in made])
    for row, w in enumerate((0., 1., 3.)):
        def model(z, logsnr, c, w=w): return (1+w)*net(z, logsnr, c) - w*net(z, logsnr, torch.full_like(c, 10))
        with torch.no_grad():
            x = sample(model, noise(0), torch.arange(8), T=T, step=partial(ancestral_step, v=v), noise=noise)
        expected = ((x.clamp(-1, 1)+1)*127.5).round().int()
        for i in range(8):
            shown = picture[:, 1+9*row:9+9*row, 1+9*i:9+9*i].int()
            assert shown.shape == (3, 8, 8) and (shown-expected[i]).abs().max() <= 1
            assert shown.float().std() > 20
    for a, b in ((1, 10), (10, 19)):
        assert (picture[:, a:a+8, 1:].int()-picture[:, b:b+8, 1:].int()).abs().float().mean() > 5


# What surrounds a step

def test_draws_are_as_many_as_are_left():
    assert [len(Draws(9, 2, 0, a, b)) for a, b in ((0, 3), (2, 3), (3, 3), (5, 3))] == [3, 1, 0, 0]


class Handlers:
    "A data set whose item says what a signal does where it is read."
    def __len__(self): return 2
    def __getitem__(self, idx):
        ignored, ends = (signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM))
        return torch.tensor([ignored == signal.SIG_IGN, ends == signal.SIG_DFL])


def test_readers_are_not_for_the_terminal():
    for answer in training._reader(Handlers(), Draws(2, 1, 0, 0, 1), 1, torch.device('cpu')): assert answer.all()


def test_labels_beyond_the_classes_are_refused():
    "The null class is no label of data: an image of it would be learnt without one."
    data = MemorySet(DIGITS.x[:20], torch.full((20,), 10), DIGITS.settings)
    with pytest.raises(Refusal, match='10'): next(train(new_state(small()), data, steps=1, batch_size=4))


def test_processes_get_an_image_each(monkeypatch):
    monkeypatch.setattr(training, 'processes', lambda: (0, 2))
    with pytest.raises(Refusal, match='2 processes need 2 images'):
        next(train(new_state(small()), DIGITS, steps=1, batch_size=1, model=Shared(small())))


@pytest.mark.parametrize('times, bad', [(9.95, 0), (10.05, 1), (math.nan, 0)])
def test_a_bad_step_is_ten_times_the_first(times, bad):
    state = new_state(Vector())
    training._count(state, torch.tensor(2.), torch.tensor(1.))
    training._count(state, torch.tensor(2*times), torch.tensor(1.))
    assert (state.step, int(state.in_a_row), int(state.skipped), float(state.first)) == (2, bad, 0, 2.)


def test_a_checkpoint_is_on_the_disk(tmp_path, monkeypatch):
    "Its files, its directory and the run's are flushed before it takes its place."
    flushed, flush = [], os.fsync
    monkeypatch.setattr(os, 'fsync', lambda fd: flushed.append(os.fstat(fd).st_ino) or flush(fd))
    path = save_checkpoint(new_state(Vector()), tmp_path/'run', {})
    assert {f.stat().st_ino for f in (*path.iterdir(), path, path.parent)} <= {*flushed}


def test_a_record_without_settings_is_no_checkpoint(tmp_path):
    path = save_checkpoint(new_state(Vector()), tmp_path/'run', [1])
    with pytest.raises(Refusal, match='no step and settings'): read_checkpoint(path, 'net')


def test_the_last_checkpoint_is_named_once(tmp_path):
    path = save_checkpoint(new_state(Vector()), tmp_path/'run', {})
    for said in ('no space', f'no space: the last good checkpoint is {path}'):
        with pytest.raises(OSError) as e, checkpoints.naming_last(tmp_path/'run'): raise OSError(said)
        assert str(e.value).startswith('no space') and str(e.value).count(str(path)) == 1


def test_several_processes_leave_no_step(monkeypatch):
    state = new_state(Vector())
    assert checkpoints._in_between(lambda: True, state)() and not checkpoints._in_between(lambda: False, state)()
    monkeypatch.setattr(checkpoints, 'processes', lambda: (0, 2))
    assert not checkpoints._in_between(lambda: True, state)()


# What surrounds a run

class Called(list):
    "Stands in for an object: notes which methods are called, with what."
    def __getattr__(self, name): return lambda *args, **kw: self.append((name, args, kw))
    def __bool__(self): return True


def machine(**changes):
    return runs._Machine(**dict(place=torch.device('cpu'), bf16=False, compile=False, checkpoint=False) | changes)


def test_one_process_alone_needs_no_accelerator(monkeypatch):
    made = []
    monkeypatch.setattr('accelerate.Accelerator', lambda **kw: made.append((kw, Called())) or made[-1][1])
    for share, n in (((0, 1), 0), ((0, 2), 1)):
        monkeypatch.setattr(hardware, 'share', lambda: share)
        machine().finish()
        assert len(made) == n
    how, calls = made[0]
    assert (how['cpu'], how['mixed_precision'], how['dynamo_backend']) == (True, 'no', 'no')
    assert how['kwargs_handlers'][0].timeout.total_seconds() == 7200 and calls == [('end_training', (), {})]


def test_where_it_runs():
    none, two = ['cpu'], ['cpu', 'cuda', 'cuda:0', 'cuda:1']
    for device, names, place in ((None, none, 'cpu'), ('cpu', none, 'cpu'), ('cpu', two, 'cpu'), (None, two, 'cuda:0'),
                                 ('cuda', two, 'cuda:0'), ('cuda:1', two, 'cuda:1')):
        assert hardware._place(device, names) == torch.device(place)


def test_all_wait_for_all(monkeypatch):
    "Several processes; one alone for nobody."
    made, state = [], Called()
    monkeypatch.setattr('accelerate.PartialState', lambda **kw: made.append(kw) or state)
    for world in (1, 3):
        monkeypatch.setattr(hardware, 'share', lambda: (0, world))
        hardware.wait('cpu')
        assert state == [('wait_for_everyone', (), {})]*(world > 1)
    assert [kw['cpu'] for kw in made] == [True] and made[0]['timeout'].days == 2


def test_memory_of_pieces_and_of_what_is_computed_again():
    with torch.device('meta'): plain, again = small(), small()
    again.checkpoint = True
    one, whole = (hardware.memory_needed(plain, 8, n) for n in (1, None))
    assert one < whole and hardware.memory_needed(plain, 8, 8) == hardware.memory_needed(plain, 8, 9) == whole
    held, largest = sum(hardware._per_image(again, eps_loss)), max(hardware._per_image(plain, eps_loss))
    assert hardware._peak(again, eps_loss) == held + 2*largest and again.checkpoint


def test_whether_it_compiles(monkeypatch, capfd):
    def broken(f): raise RuntimeError('no compiler\nat all')
    for compiler, works, word in ((lambda f: f, True, ''), (broken, False, 'no compiler')):
        monkeypatch.setattr(torch, 'compile', compiler)
        assert hardware.compiles() is works
        assert capfd.readouterr().err.strip().endswith(word)


def test_what_is_compiled_for_what(monkeypatch):
    "CUDA graphs are for sampling, and what they put out is copied."
    modes = []
    monkeypatch.setattr(torch, 'compile', lambda net, mode='default': modes.append(mode) or net)
    learning, sampling = small().train(), small().eval()
    assert hardware.prepared(learning, compile=True) is learning and modes == ['default']
    kept = hardware.prepared(sampling, compile=True)
    assert isinstance(kept, hardware.Copied) and kept.net is sampling and modes[1:] == ['reduce-overhead']
    assert hardware.prepared(learning) is learning and hardware.prepared(sampling) is sampling and len(modes) == 2


def test_how_a_run_was_computed(monkeypatch):
    monkeypatch.setattr(runs, 'memory', lambda place: 1.23456)
    monkeypatch.setattr(runs, 'share', lambda: (1, 3))
    for bf16, compile, checkpoint in np.eye(3, dtype=bool).tolist():
        monkeypatch.setattr(runs, 'compiles', lambda place: True)
        assert runs._made(machine(bf16=bf16, compile=compile, checkpoint=checkpoint)) == dict(
            precision='bfloat16' if bf16 else 'float32', compiled=compile, checkpointed=checkpoint, processes=3,
            memory_gib=1.23)


def test_a_full_disk_ends_a_thread_silently(monkeypatch):
    "Any other error is told, and afterwards all are."
    told = []
    monkeypatch.setattr(threading, 'excepthook', lambda e: told.append(e.exc_value))
    def meet(error):
        def fail(): raise error
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    full, wrong = OSError('full'), ValueError('wrong')
    with runs._patient_threads():
        for error in (full, wrong): meet(error)
    assert told == [wrong]
    meet(full)
    assert told == [wrong, full]


def test_the_board_forgets_what_was_not_kept(tmp_path, monkeypatch):
    "With five steps taken, all from the sixth on; numbers that are not finite stay in their place."
    made, written = [], Called()
    monkeypatch.setattr('torch.utils.tensorboard.SummaryWriter', lambda *args, **kw: made.append((args, kw)) or written)
    board = runs._Board(tmp_path, 5)
    assert not made
    board.line(dict(step=10, loss=.5, grad_norm=2., lr=.1, skipped=3), 7.)
    assert made == [((str(tmp_path/'tensorboard'),), dict(purge_step=6))]
    scalars = [('train/loss', .5, 10), ('train/grad_norm', 2., 10), ('train/lr', .1, 10), ('train/skipped', 3, 10)]
    assert written == [('add_scalar', args, {}) for args in (*scalars, ('images_per_second', 7., 10))]
    board.line(dict(step=11, loss=None, grad_norm=None, lr=.1, skipped=4), 7.)
    assert len(made) == 1 and all(math.isnan(written[i][1][1]) for i in (5, 6))


def test_pace_is_from_the_first_step_on(monkeypatch):
    "The first step warms up: what comes after it is counted, over all of it."
    now = [0.]
    monkeypatch.setattr(runs.time, 'time', lambda: now[0])
    pace = runs._Pace(3)
    for at, step, expected in ((8., 3, 0.), (10., 4, .1), (11., 5, 1.), (16., 7, .5), (18., 7, 3/8)):
        now[0] = at
        assert pace(step) == expected


def test_grids_are_of_the_first_process(tmp_path, monkeypatch):
    state, drawn = new_state(Vector()), []
    def steps():
        for state.step in range(3, 9): yield None
    monkeypatch.setattr(runs, '_grid', lambda state, p, place: f'after {state.step}')
    monkeypatch.setattr(runs._Board, 'picture', lambda board, picture, step: drawn.append((picture, step)))
    for share, expected in (((1, 2), []), ((0, 1), [('after 4', 4), ('after 8', 8)])):
        monkeypatch.setattr(runs, 'share', lambda: share)
        on = machine()
        on.accelerator = None
        runs._watch(steps(), state, tmp_path, dict(steps=8, batch_size=2), on, 4, 2)
        assert drawn == expected


# Every setting on its way

class Recorder(nn.Module):
    "Stands in for a network: what it was made with, and hardly anything else."
    def __init__(self, size, n_classes, in_channels=3, **more):
        super().__init__()
        self.made_with = dict(size=size, n_classes=n_classes, in_channels=in_channels, **more)
        self.size, self.n_classes, self.in_channels, self.channels = size, n_classes, in_channels, 8
        self.scale = nn.Parameter(torch.ones(()))
    def forward(self, z, logsnr, c=None):
        return self.scale.expand(len(z), self.n_classes) if c is None else z*self.scale


@pytest.fixture
def road(monkeypatch, tmp_path):
    "Go through cfg_train up to `train_run`, and tell what arrived there, the settings of network and optimizer too."
    monkeypatch.chdir(tmp_path)
    def go(experiment, **options):
        net = PRESETS[experiment]['net']
        n, size = net['n_classes'] or 5, net['size'] or 16
        shape = net.get('in_channels') or 3, size, size
        about = dict(source='mine', n_classes=n, transform='')
        images = MemorySet(torch.zeros(n, *shape), torch.arange(n), about)
        arrived = {}
        def spy(state, data, run, settings, **how):
            (group,) = state.opt.param_groups
            arrived.update(how, state=state, data=data, run=run, settings=settings, net=state.net.made_with)
            arrived.update(weight_decay=group['weight_decay'])
            return iter(())
        with monkeypatch.context() as m:
            m.setattr(runs, 'open_data', lambda source, check=True: images)
            m.setattr(runs, 'NETWORKS', dict(unet=Recorder, classifier=Recorder))
            m.setattr(runs, 'train_run', spy)
            m.setattr(runs, '_record', lambda *args, **kwargs: arrived.update(record=kwargs))
            cfg_train(experiment, **dict(data='mine', device='cpu') | options)
        return arrived
    return go


LOOP = ('p_uncond', 'steps', 'batch_size', 'micro_batch', 'lr', 'warmup', 'grad_clip', 'ema_decay', 'flip')


@pytest.mark.parametrize('name', PRESETS)
def test_every_field_of_a_preset_arrives(road, name):
    p, arrived = PRESETS[name], road(name, **dict(steps=10_000) if name == 'auto' else {})      # which has an hour otherwise
    assert {k: arrived[k] for k in LOOP} == {k: p[k] for k in LOOP} and arrived['weight_decay'] == p['weight_decay']
    assert arrived['loss'] is (training.classifier_loss if p['network'] == 'classifier' else eps_loss)
    found = dict(n_classes=5, size=16, in_channels=3, mult=(3, 6), attention=(8,), head_channels=16)      # what `auto` takes of the data, and `tiny` the first
    for key, value in p['net'].items(): assert arrived['net'][key] == (found[key] if value is None else value)
    decided = {k: v for k, v in p.items() if k not in ('steps', 'micro_batch', 'net')}
    assert arrived['settings'] | decided == arrived['settings']
    assert arrived['net'] | arrived['settings']['net'] == arrived['net']
    assert set(p) == {*LOOP, 'weight_decay', 'network', 'net', 'v', 'T'}, 'a new field: where does it arrive?'


CHANGES = dict(p_uncond=0.37, steps=7, batch_size=11, micro_batch=3, lr=0.0123, warmup=5, grad_clip=0.77, ema_decay=0.5,
               flip=False, weight_decay=0.2, dropout=0.45, channels=6, v=0.9, T=9)
OPTIONS = ('p_uncond', 'steps', 'batch_size', 'micro_batch', 'lr')


@pytest.mark.parametrize('field', CHANGES)
def test_each_field_arrives_alone(road, field):
    "Changed by --set, and by its own option where it has one: it arrives, and all others are the preset's."
    value, before = CHANGES[field], road('tiny')
    ways = [dict(set=[f'{field}={json.dumps(value)}'])] + ([{field: value}] if field in OPTIONS else [])
    for way in ways:
        after = road('tiny', **way)
        changed = {k for k in (*LOOP, 'weight_decay') if before[k] != after[k]}
        changed |= {k for k in after['net'] if before['net'].get(k) != after['net'][k]}
        decided = {k for k in after['settings'] if before['settings'][k] != after['settings'][k]}
        if field in ('v', 'T'):
            assert not changed
        else:
            assert changed == {field} and (after[field] if field in after else after['net'][field]) == value
        of_the_net, not_decisive = ('dropout', 'channels'), ('steps', 'micro_batch')
        assert decided == {'net' if field in of_the_net else field} - {*not_decisive}


def test_null_arrives(road):
    "A field that may be off can be switched off."
    assert road('tiny')['grad_clip'] == 1. and road('tiny', set=['grad_clip=null'])['grad_clip'] is None
    assert road('imagenet64')['micro_batch'] == 64
    assert road('imagenet64', set=['micro_batch=null'])['micro_batch'] is None


def test_each_option_arrives_alone(road, monkeypatch):
    "Those that are no field of a preset."
    before, defaults = road('digits'), dict(log_every=10, save_minutes=10., save_every=None, keep=1, snapshot_every=0, max_skipped=100, workers=0, seed=0)
    assert {k: before[k] for k in defaults} == defaults
    for name, value in dict(log_every=3, save_minutes=.5, save_every=4, keep=2, snapshot_every=6, max_skipped=9, workers=1, seed=5).items():
        after = road('digits', **{name: value})
        assert after[name] == value
        assert {k for k in (*LOOP, *defaults) if after[k] != before[k]} == {name}
    assert before['settings']['seed'] == 0 and road('digits', seed=5)['settings']['seed'] == 5
    assert str(before['run']) == 'runs/digits' and str(road('digits', out='mine')['run']) == 'mine'
    assert not before['state'].net.checkpoint and road('digits', checkpoint=True)['state'].net.checkpoint
    assert not before['state'].also and 'emas' not in before['settings']
    assert list(road('digits', emas=(.5, .25))['state'].also) == [.5, .25]
    calls = []
    monkeypatch.setattr(runs, 'prepared', lambda net, **how: calls.append(how) or net)
    monkeypatch.setattr(runs, 'compiles', lambda place: True)
    for how in (dict(), dict(precision='bfloat16'), dict(compile=True)): road('digits', **how)
    assert [(c['bf16'], c['compile']) for c in calls] == [(False, False), (True, False), (False, True)]
    grids = []
    monkeypatch.setattr(runs, '_watch', lambda *args: grids.append(args[5]) or 0.)
    for how in (dict(grid_every=0), dict(grid_every=8), dict()): road('digits', **how)
    assert grids == [0, 8, None]


def test_weights_come_from_the_seed(tmp_path):
    "Through the command: equal seeds, equal weights; others, others; and the draws follow the seed as well."
    def first(seed, name):
        cfg_train('digits', out=str(tmp_path/name), steps=1, lr=1e-9, seed=seed, device='cpu', log_every=1)
        log = json.loads((tmp_path/name/'log.jsonl').read_text())
        return load_file(last_checkpoint(tmp_path/name)/'net.safetensors')['film.weight'], log['loss'], log['lr']
    (a, loss, rate), (b, same, _), (c, other, _) = first(0, 'a'), first(0, 'b'), first(1, 'c')
    assert torch.equal(a, b) and loss == same and rate == 1e-9/50
    assert not torch.allclose(a, c) and loss != other


def test_flags_become_arguments():
    "As they are typed."
    words = ('digits --data d --out o --steps 5 --seed 2 --p_uncond 0.3 --batch_size 7 --micro_batch 2 --lr 1e-3 '
             '--set flip=true dropout=0.1 --device cpu --precision bfloat16 --compile --checkpoint --processes 2 '
             '--workers 3 --log_every 4 --save_minutes 5 --save_every 6 --keep 8 --snapshot_every 7 --emas .9,.99 '
             '--grid_every 9 --max_skipped 11 --minutes 1.5')
    assert arguments(cfg_train, words.split()) == dict(
        experiment='digits', data='d', out='o', steps=5, seed=2, p_uncond=.3, batch_size=7, micro_batch=2, lr=1e-3,
        set=['flip=true', 'dropout=0.1'], device='cpu', precision='bfloat16', compile=True, checkpoint=True,
        processes=2, workers=3, log_every=4, save_minutes=5., save_every=6, keep=8, snapshot_every=7, emas=(.9, .99),
        grid_every=9, max_skipped=11, minutes=1.5)

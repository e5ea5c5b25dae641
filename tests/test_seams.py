"From an option of cfg_sample or cfg_evaluate to a number, each once more by another road: by hand, from the files."
import json, warnings
from dataclasses import FrozenInstanceError, replace
from hashlib import sha256
from inspect import signature
from itertools import product
from pathlib import Path
from unittest.mock import patch
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from torch.testing import assert_close
from tqdm import tqdm
from cfg_repro import evaluate as evaluated_by, generate as generating, judge as judged_by, samples as sampled_by
from cfg_repro.checkpoints import save_checkpoint
from cfg_repro.checks import Refusal
from cfg_repro.data import MemorySet, digits, from_uint8
from cfg_repro.evaluate import (Classifier, FewImages, Statistics, features_of, fit_classifier, make_extractor,
                                read_classifier, save_classifier, save_statistics)
from cfg_repro.generate import balanced_labels, image_noise, random_labels
from cfg_repro.guidance import guided
from cfg_repro.hardware import Bfloat16
from cfg_repro.judge import cfg_evaluate, judging, own_classifier, reference_statistics
from cfg_repro.samples import cfg_sample, load_guide, load_run
from cfg_repro.sampling import sample, trajectory
from cfg_repro.sets import ImageSet, about, write_set
from cfg_repro.solvers import ddim_step, dpmpp_2m_step, sde_dpmpp_2m_step
from cfg_repro.training import new_state, step_generator, train
from cfg_repro.unet import NoisyClassifier, UNet

NET = dict(size=8, n_classes=10, in_channels=1, channels=8, mult=(1, 2), blocks=1, attention=(), head_channels=8,
           groups=4, dropout=.5, resblock_updown=False)


def a_run(folder, network='unet', seed=5, net=NET):
    "A run on disk: seven steps, and an average of the weights that is another network altogether."
    state = new_state((UNet if network == 'unet' else NoisyClassifier)(**net))
    with torch.no_grad():
        for k, whole in enumerate((state.net, state.ema.module)):
            for i, (name, p) in enumerate(whole.named_parameters()):
                size = .7 if network == 'classifier' else 1.5 if name.startswith('label') else .15
                p.copy_(size*torch.sin(1.7*torch.arange(p.numel()) + i + 100*k).view(p.shape))
    state.step = 7
    settings = dict(preset='mine', network=network, seed=seed, net=net, data=about(digits()), p_uncond=.25, v=.6, T=6)
    save_checkpoint(state, folder, settings)
    return str(folder)


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A run, one of a noisy classifier, and a classifier of clean digits."
    folder = tmp_path_factory.mktemp('seams')
    a_run(folder/'run')
    a_run(folder/'noisy', 'classifier')
    own_classifier(folder/'own.safetensors', digits(), 200)
    return folder


def by_hand(run, kind=UNet, name='ema'):
    "The network of a run, built here from its files."
    (checkpoint,) = Path(run).glob('step-*')
    net = kind(**json.loads((checkpoint/'state.json').read_text())['settings']['net'])
    net.load_state_dict({k: torch.from_numpy(v) for k, v in load_file(checkpoint/f'{name}.safetensors').items()})
    return net.eval()


def philox(seed, i, t, shape=(1, 8, 8)):
    "The noise of an image at a step, from a generator made for it."
    generator = np.random.Generator(np.random.Philox(key=[seed, i], counter=[0, 0, 0, t]))
    return generator.standard_normal(shape, dtype=np.float32)


def noise_of(seed, n):
    return lambda t: torch.from_numpy(np.stack([philox(seed, i, t) for i in range(n)]))


def bytes_of(folder):
    data = ImageSet(folder)
    return data.bytes(torch.arange(len(data))).numpy().astype(int)


def alike(a, b):
    "The same images, up to rounding inside a network, which moves a byte by one here and there."
    return np.abs(a-b).max() <= 1 and (a != b).mean() < .02


# Runs

def test_a_loaded_run_is_the_average_in_evaluation_mode(lab):
    (checkpoint,) = (lab/'run').glob('step-*')
    average, last = (load_file(checkpoint/f'{name}.safetensors') for name in ('ema', 'net'))
    model, s = load_run(lab/'run')
    held = {k: v.numpy() for k, v in model.state_dict().items()}
    assert held.keys() == average.keys() and all((held[k] == average[k]).all() for k in average)
    assert all((average[k] != last[k]).any() for k in average)
    assert not any(m.training for m in model.modules())
    z, logsnr, c = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.tensor([1, 2])
    with torch.no_grad():
        assert torch.equal(model(z, logsnr, c), model(z, logsnr, c))               # in training half would be dropped
        assert_close(model(z, logsnr, c), by_hand(lab/'run')(z, logsnr, c))
    assert (s['step'], s['p_uncond'], s['seed'], s['T'], s['v'], s['preset']) == (7, .25, 5, 6, .6, 'mine')
    assert s['weights'] == sha256((checkpoint/'ema.safetensors').read_bytes()).hexdigest()


def test_a_loaded_guide_is_the_average_of_the_classifier(lab):
    guide = load_guide(lab/'noisy', load_run(lab/'run')[1])
    z, logsnr = torch.randn(3, 1, 8, 8), torch.tensor([-1., 0., 2.])
    with torch.no_grad():
        assert_close(guide(z, logsnr), by_hand(lab/'noisy', NoisyClassifier)(z, logsnr))
        assert (guide(z, logsnr) != by_hand(lab/'noisy', NoisyClassifier, 'net')(z, logsnr)).any()
    assert not guide.training


# Noise and labels

def test_noise_is_philox_of_seed_image_and_step():
    for seed, i, t in ((0, 0, 0), (3, 7, 5), (2**40, 2**33, 255)):
        assert (image_noise(seed, [1, i], (1, 8, 8))(t)[1].numpy() == philox(seed, i, t)).all()
    draws = {image_noise(seed, [i], (1, 8, 8))(t).numpy().tobytes() for seed, i, t in product(range(3), repeat=3)}
    assert len(draws) == 27                                           # (0, 1) is not (1, 0), in any two of the three


def test_labels_of_two_seeds_do_not_overlap():
    for seed in (0, 1, 2**40):
        expected = [np.random.default_rng([seed, i]).integers(7) for i in range(40)]
        assert random_labels(range(40), 7, seed).tolist() == expected
    lists = [random_labels(range(300), 1000, seed).tolist() for seed in range(4)]
    seen = [set(zip(labels, labels[1:])) for labels in lists]         # two in a row: a shifted list would share them
    assert not any(seen[a] & seen[b] for a in range(4) for b in range(a))
    assert random_labels(range(3), 1).tolist() == balanced_labels(range(3), 1).tolist() == [0, 0, 0]


def test_the_generator_of_a_step_is_its_own():
    draws = {tuple(torch.rand(4, generator=step_generator(*both)).tolist()) for both in product(range(20), repeat=2)}
    assert len(draws) == 400


# From the options of cfg_sample to images

def algorithm_2(model, seed, n, T, v):
    "The paper's Algorithm 2 for its own grid and step, written here in numpy."
    b = np.arctan(np.exp(-10))
    a = np.arctan(np.exp(10)) - b
    logsnrs = -2*np.log(np.tan(a*np.linspace(1, 0, T) + b))
    def sigmoid(x): return 1/(1+np.exp(-x))
    z = noise_of(seed, n)(0).double().numpy()
    for t, l in enumerate(logsnrs, 1):
        alpha, sigma = sigmoid(l)**.5, sigmoid(-l)**.5
        with torch.no_grad():
            eps = model(torch.from_numpy(z).float(), torch.full((n,), float(l))).double().numpy()
        x = ((z-sigma*eps)/alpha).clip(-1, 1)
        if t == T: return np.rint((x+1)*127.5).astype(int)
        l2 = logsnrs[t]
        mean = np.exp(l-l2)*sigmoid(l2)**.5/alpha*z - np.expm1(l-l2)*sigmoid(l2)**.5*x
        small, large = -np.expm1(l-l2)*sigmoid(-l2), -np.expm1(l-l2)*sigmoid(-l)   # of q(z'|z,x) and of q(z|z')
        z = mean + np.sqrt(small**(1-v)*large**v)*noise_of(seed, n)(t).double().numpy()


def two_calls(net, c, w):
    "Eq. (6) from two calls of the network."
    none = torch.full_like(c, 10)
    return lambda z, logsnr: (1+w)*net(z, logsnr, c) - w*net(z, logsnr, none)


def pushed(net, noisy, c, w):
    "The score of a classifier, by autograd, on top of the network's: Section 3.1."
    def model(z, logsnr):
        with torch.enable_grad():
            x = z.clone().requires_grad_()
            log_p = torch.log_softmax(noisy(x, logsnr), 1)[torch.arange(len(c)), c].sum()
            grad, = torch.autograd.grad(log_p, x)
        return net(z, logsnr, c) - w*torch.sigmoid(-logsnr).sqrt().view(-1, 1, 1, 1)*grad
    return model


PAPERS = [{}, dict(w=0.), dict(w=-1.), dict(w=-.5), dict(w=.5), dict(w=4.), dict(T=3), dict(T=9), dict(v=0.),
          dict(v=1.), dict(seed=1), dict(seed=6), dict(labels='random'), dict(labels='random', seed=1),
          dict(guide_by='noisy'), dict(guide_by='noisy', w=40.)]


def sampled(lab, out, n=12, **options):
    "A sample set, in batches and files that have no say."
    if 'guide_by' in options: options['guide_by'] = str(lab/options['guide_by'])
    cfg_sample(str(lab/'run'), str(out), n=n, batch_size=5, shard_size=7, device='cpu', **options)
    return bytes_of(out)


@pytest.fixture(scope='module')
def papers(lab): return [sampled(lab, lab/f'papers{k}', **dict(w=1.) | options) for k, options in enumerate(PAPERS)]


@pytest.mark.parametrize('k', range(len(PAPERS)), ids=[str(options) for options in PAPERS])
def test_options_of_the_paper_reach_the_images(lab, papers, k):
    o = dict(w=1., T=6, v=.6, seed=0, labels='balanced', guide_by=None) | PAPERS[k]      # T and v: the run's
    c = [i % 10 for i in range(12)]
    if o['labels'] == 'random': c = [int(np.random.default_rng([o['seed'], i]).integers(10)) for i in range(12)]
    c, net = torch.tensor(c), by_hand(lab/'run')
    noisy = by_hand(lab/'noisy', NoisyClassifier) if o['guide_by'] else None
    model = pushed(net, noisy, c, o['w']) if noisy else two_calls(net, c, o['w'])
    assert alike(papers[k], algorithm_2(model, o['seed'], 12, o['T'], o['v']))
    data = ImageSet(lab/f'papers{k}')
    assert data.labels.tolist() == c.tolist()
    for name in ('w', 'T', 'v', 'seed', 'labels'): assert data.settings[name] == o[name]
    assert data.settings['guidance'] == ('classifier' if noisy else 'free')
    assert (data.settings['guide_by'] is None) == (noisy is None)


def test_no_two_options_give_the_same_images(papers):
    assert ((papers[0] > 0) & (papers[0] < 255)).mean() > .3          # what lies within can tell
    for a in range(len(PAPERS)):
        for b in range(a): assert (np.abs(papers[a]-papers[b]) > 1).mean() > .1, (PAPERS[a], PAPERS[b])


SOLVERS = dict(ddim=ddim_step, dpmpp_2m=dpmpp_2m_step, sde_dpmpp_2m=sde_dpmpp_2m_step)


@pytest.mark.parametrize('grid', ['paper', 'even'])
@pytest.mark.parametrize('step', SOLVERS)
def test_steps_and_grids_reach_the_images(lab, tmp_path, step, grid):
    b = np.arctan(np.exp(-10))
    papers = -2*np.log(np.tan((np.arctan(np.exp(10))-b)*np.linspace(1, 0, 5) + b))
    logsnrs = torch.tensor(papers if grid == 'paper' else [-8., -4., 0., 4., 8.], dtype=torch.float64)
    c = torch.arange(12) % 10
    model = guided(by_hand(lab/'run'), 2., null=10)
    x = sample(model, noise_of(3, 12)(0), c, logsnrs=logsnrs, step=SOLVERS[step], noise=noise_of(3, 12))
    expected = ((x.double()+1)*127.5).round().numpy().astype(int)
    assert alike(sampled(lab, tmp_path/'out', w=2., T=5, seed=3, step=step, grid=grid), expected)
    assert (expected > 0).mean() > .1


def test_ten_golden_pixels(lab, papers):
    "What stands here was computed once, by this package and by `algorithm_2`."
    assert np.abs(papers[0][3, 0].flatten()[::7] - GOLDEN).max() <= 1


GOLDEN = [153, 1, 241, 0, 255, 8, 13, 104, 255, 34]


def test_every_option_of_cfg_sample_arrives(lab, tmp_path):
    "Values that are no defaults, each seen where it is used."
    options = dict(w=.7, T=3, v=.2, n=11, step='ancestral', grid='even', labels='random', seed=9, batch_size=3,
                   shard_size=4, device='cpu', precision='bfloat16', compile=True, processes=1, guide_by=None,
                   classes=None, interval=None, picture=None, film=None,              # in test_pictures
                   ema=None, out=str(tmp_path/'out'))
    assert {'run', *options} == set(signature(cfg_sample).parameters)
    made, sizes, prepared, strengths, spread = [], [], [], [], []
    def generate(*args, **kw):
        made.append((kw['seed'], kw['batch_size'], str(kw['device']), kw['logsnrs'].tolist()))
        return generating.generate(*args, **kw)
    def walk_seen(model, z, c, **kw):
        sizes.append((len(z), kw['step'].keywords))
        return trajectory(model, z, c, **kw)
    def prepared_seen(net, **kw):
        prepared.append(kw)
        return Bfloat16(net)
    def guided_seen(model, w, null):
        strengths.append((type(model), w, null))
        return guided(model, w, null=null)
    with patch.multiple(sampled_by, generate=generate, prepared=prepared_seen, guided=guided_seen,
                        compiles=lambda device: True, spread=lambda *args: spread.append(args)), \
         patch.object(generating, 'trajectory', walk_seen):
        cfg_sample(str(lab/'run'), **options)
    assert prepared == [dict(bf16=True, compile=True)] and strengths[1:] == [(Bfloat16, .7, 10)]     # the first is asked before there is a network
    assert made == [(9, 3, 'cpu', [-8., 0., 8.])]*3 and spread == [(1, 'cfg_sample', options['out'])]
    assert sizes == [(n, dict(v=.2)) for n in (3, 1, 3, 1, 3)]        # files of 4, 4 and 3 images, in batches of 3
    data = ImageSet(options['out'])
    assert [len(s['labels']) for s in data.shards] == [4, 4, 3] and data.settings['precision'] == 'bfloat16'
    assert data.labels.tolist() == random_labels(range(11), 10, 9).tolist()


@pytest.mark.parametrize('error', [torch.OutOfMemoryError('CUDA out of memory.'), MemoryError()])
def test_too_little_memory_names_the_batch(lab, tmp_path, error):
    def full(*args, **kw): raise error
    with patch.object(sampled_by, 'generate', full), pytest.raises(Refusal, match='a smaller --batch_size') as refused:
        cfg_sample(str(lab/'run'), str(tmp_path/'out'), n=3, device='cpu')
    assert refused.value.__cause__ is error
    with patch.object(judged_by, 'evaluate', full), pytest.raises(Refusal, match='a smaller --batch_size'):
        cfg_evaluate(sets_of(tmp_path/'set', 90), 'digits', classifier=str(lab/'own.safetensors'), device='cpu')


def sets_of(out, n, transform=''):
    "So many digits on disk."
    batch = dict(images=digits().bytes(torch.arange(n)), labels=digits().labels[:n])
    for _ in write_set(out, lambda i: [batch], n, dict(transform=transform), n): pass
    return str(out)


# From images to the numbers of cfg_evaluate

def own_features(path, images):
    "Features and logits of a data set's own classifier in double precision, from its file."
    w = {k: torch.from_numpy(v).double() for k, v in load_file(path).items()}
    x = torch.from_numpy(images).double()/127.5 - 1
    for name, stride in ((0, 1), (2, 2), (4, 1)):
        x = F.conv2d(x, w[f'body.{name}.weight'], w[f'body.{name}.bias'], stride=stride, padding=1).relu()
    f = x.mean((2, 3))
    return f.numpy(), (f@w['head.weight'].T + w['head.bias']).numpy()


def frechet(f, g):
    cross = sqrtm(np.cov(f.T)@np.cov(g.T)).real
    return ((f.mean(0)-g.mean(0))**2).sum() + np.trace(np.cov(f.T)+np.cov(g.T)-2*cross)


def inception_score(logits):
    p = np.exp(logits-logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return np.exp((p*(np.log(p)-np.log(p.mean(0)))).sum(1).mean())


def share_near(a, b):
    "The share of a within the third neighbours' balls of b."
    radius = np.sort(cdist(b, b), 1)[:, 3]                                              # each is its own nearest
    return (cdist(a, b) <= radius).any(1).mean()


def parts(n, m):
    "torch-fidelity's: the images in an order of their own, cut."
    order = np.random.RandomState(2020).permutation(n)
    return [order[k*n//m:(k+1)*n//m] for k in range(m)]


@pytest.fixture(scope='module')
def judged(lab):
    "Mirrored digits and their evaluation, against all digits."
    data, labels = digits(), torch.zeros(200, dtype=torch.long)
    images = data.bytes(torch.arange(200)).flip(3)
    batch, settings = dict(images=images, labels=labels), dict(w=1., transform='')
    for _ in write_set(lab/'mirrored', lambda i: [batch], 200, settings, 200): pass
    cfg_evaluate(str(lab/'mirrored'), 'digits', classifier=str(lab/'own.safetensors'), splits=3, groups=7,
                 batch_size=64, device='cpu', out=str(lab/'found.json'))
    f, logits = own_features(lab/'own.safetensors', images.numpy())
    g, _ = own_features(lab/'own.safetensors', data.bytes(torch.arange(1797)).numpy())
    return json.loads((lab/'found.json').read_text()), images, f, g, logits


def test_features_are_the_classifiers(lab, judged):
    _, images, f, _, logits = judged
    extractor = make_extractor(read_classifier(lab/'own.safetensors'))
    _, theirs, scores = map(torch.cat, zip(*features_of(images, extractor, batch_size=64)))
    np.testing.assert_allclose(theirs, f, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings('ignore:Matrix is singular')
def test_the_distance_and_its_error(judged):
    found, _, f, g, _ = judged
    assert found['result']['fd'] == pytest.approx(frechet(f, g), rel=1e-4)
    values = np.array([frechet(np.delete(f, part, 0), g) for part in parts(200, 7)])
    error = np.sqrt(6/7*((values-values.mean())**2).sum())
    assert found['result']['fd_se'] == pytest.approx(error, rel=1e-3)


def test_the_inception_score_of_its_parts(judged):
    found, _, _, _, logits = judged
    scores = [inception_score(logits[part]) for part in parts(200, 3)]
    assert found['result']['is_mean'] == pytest.approx(np.mean(scores), rel=1e-4)
    assert found['result']['is_std'] == pytest.approx(np.std(scores), rel=1e-3)
    assert found['splits'] == 3 and np.std(scores) > .01


def test_precision_and_recall(judged):
    found, _, f, g, _ = judged
    assert found['result']['precision'] == pytest.approx(share_near(f, g), abs=.006)   # one of 200 may be on an edge
    assert found['result']['recall'] == pytest.approx(share_near(g, f), abs=.002)
    assert found['result']['precision']-found['result']['recall'] > .05


def test_an_evaluation_says_of_what(lab, judged):
    found, images, *_ = judged
    assert found['result']['n'] == 200 and found['samples'] == dict(w=1., transform='')
    assert found['fingerprint'] == ImageSet(lab/'mirrored').fingerprint
    assert found['result']['reference'] == digits().fingerprint
    weights = b''.join(v.numpy().tobytes() for v in read_classifier(lab/'own.safetensors').state_dict().values())
    assert found['result']['extractor'] == f'classifier-{sha256(weights).hexdigest()[:16]}'
    assert found['result']['judge_accuracy'] == read_classifier(lab/'own.safetensors').about['held_out']


def test_the_own_classifier_is_the_average_of_its_run():
    "And what it learns by reaches the loop."
    states, hows = [], []
    def new_state_seen(net, **kw):
        states.append(new_state(net, **kw))
        hows.append(kw | dict(started={k: v.clone() for k, v in net.state_dict().items()}))
        return states[0]
    def train_seen(state, data, *, loss, **kw):
        hows.append(kw)
        x, c = data[torch.arange(5)]
        logits = x.flatten(1)[:, 10:20]
        assert_close(loss(lambda _: logits, x, c, None, None), logits.logsumexp(1) - logits[torch.arange(5), c])
        return train(state, data, loss=loss, **kw)
    with patch.multiple(evaluated_by, new_state=new_state_seen, train=train_seen):
        classifier = fit_classifier(digits(), 10, steps=30, seed=3)
    average, last = (net.state_dict() for net in (states[0].ema.module, states[0].net))
    assert all(torch.equal(v, average[k]) and (v != last[k]).any() for k, v in classifier.state_dict().items())
    torch.manual_seed(3)
    started = Classifier(1, 10).state_dict()
    assert all(torch.equal(v, started[k]) for k, v in hows[0].pop('started').items()) and not classifier.training
    assert hows == [dict(weight_decay=.05), dict(steps=30, batch_size=64, lr=3e-3, warmup=50, p_uncond=0., seed=3)]


class Watched(MemorySet):
    "The digits, which note while `watch` is set who was looked at."
    watch = None
    def __getitem__(self, idx):
        if self.watch is not None: self.watch.update(torch.as_tensor(idx).reshape(-1).tolist())
        return super().__getitem__(idx)


def test_a_judge_is_not_asked_what_it_has_learnt(tmp_path):
    "Nine images of ten are learnt from, the others are asked, and the share named right is of these."
    data, given = digits(), []
    watched = Watched(data.x, data.labels, data.settings)
    def fit(some, n_classes, **kw):
        watched.watch = set()
        classifier = real_fit(some, n_classes, **kw)
        given.append((watched.watch, n_classes, kw['steps'])); watched.watch = None
        return classifier
    real_fit = judged_by.fit_classifier
    with patch.object(judged_by, 'fit_classifier', fit): own = own_classifier(tmp_path/'own', watched, 250)
    (learnt, n_classes, steps), = given
    asked = sorted(set(range(1797)) - learnt)
    assert asked == sorted(torch.randperm(1797, generator=torch.Generator().manual_seed(0))[:180].tolist())
    assert (n_classes, steps, len(asked)) == (10, 250, 180)           # 250 steps of 64 have seen all the others
    with torch.no_grad(): right = own(data.x[asked]).argmax(1) == data.labels[asked]
    assert own.about['held_out'] == round(right.double().mean().item(), 4) and .7 < own.about['held_out'] < 1
    again = own_classifier(tmp_path/'own', None, 1).state_dict()      # read, not fitted
    assert all(torch.equal(v, again[k]) for k, v in own.state_dict().items())


def test_bars_are_drawn_where_they_are_asked_for(lab, tmp_path, capfd):
    images = digits().bytes(torch.arange(90))
    for verbose in ({}, dict(verbose=True)):
        own_classifier(tmp_path/f'own{len(verbose)}', digits(), 3, **verbose)
        judging('digits', classifier=lab/'own.safetensors', **verbose)(images, splits=1)
        heard = capfd.readouterr().err
        assert [unit in heard for unit in ('steps/s', 'images/s')] == [bool(verbose)]*2, heard


def test_the_bar_of_samples_ends_where_they_do(lab, tmp_path):
    "Begun, and gone on with."
    bars = []
    for n in (12, 12):
        with patch.object(sampled_by, 'progress', lambda **kw: bars.append(tqdm(**kw)) or bars[-1]):
            sampled(lab, tmp_path/'out', n)
    assert [(bar.n, bar.total) for bar in bars] == [(12, 12)]*2


def test_that_images_are_few_is_noted_once(lab, capfd):
    "Of the reference and of the images; other warnings stay warnings."
    def heard(name):
        real = getattr(judged_by, name)
        def called(*args, **kw):
            for kind in (FewImages, FewImages, DeprecationWarning): warnings.warn(f'{name} of {kind.__name__}', kind)
            return real(*args, **kw)
        return called
    names = 'reference_statistics', 'evaluate'
    spies = patch.multiple(judged_by, **{name: heard(name) for name in names})
    with spies, warnings.catch_warnings(record=True) as left:
        warnings.simplefilter('always')
        judging('digits', classifier=lab/'own.safetensors')(digits().bytes(torch.arange(90)), splits=1)
    assert capfd.readouterr().err.split('\n') == [f'note: {name} of FewImages' for name in names] + ['']
    assert [str(w.message) for w in left] == [f'{name} of DeprecationWarning' for name in names]


def test_what_is_told_is_what_was_found():
    row = dict(n=1234, fd=1.236, is_mean=2.345678, is_std=.0449, reference='r'*40, extractor='e')
    few = row | dict(fd_se=.129, precision=.12349, recall=.9)
    assert judged_by._told(row, 10, None) == ('1,234 images: FID 1.24, IS 2.35 +- 0.04 (10 parts)\n'
                                              f'reference {"r"*16}, by e')
    assert judged_by._told(few, 1, 'c') == ('1,234 images: FD 1.24 +- 0.13 (standard error), IS 2.35 +- 0.04 (1 part)\n'
                                            f'precision 0.123, recall 0.900\nreference {"r"*16}, by e')


def test_precision_takes_four_images(lab):
    extractor = make_extractor(read_classifier(lab/'own.safetensors'))
    images, s = digits().bytes(torch.arange(90)), reference_statistics('digits', extractor)
    for n in (3, 4, 5):
        row = evaluated_by.evaluate(images, replace(s, features=s.features[:n]), extractor, splits=1)
        assert ('precision' in row, 'recall' in row) == (n > 3,)*2
    bare = Statistics(s.mu, s.sigma, s.features[:0], s.extractor)
    assert (bare.n, bare.transform, bare.fingerprint, bare.weights) == (0, '', '', '')
    with pytest.raises(FrozenInstanceError): extractor.name = 'another'


def test_a_guide_is_for_images_of_the_same_kind(lab):
    "What a network's settings leave out is its default, three channels."
    def loads(guided, guide):
        with patch.object(sampled_by, 'load_run', lambda *args: ('net', dict(network='classifier', net=guide))):
            return load_guide('there', dict(net=guided))
    bare = dict(size=8, n_classes=10)
    for a, b in product((bare, bare | dict(in_channels=3)), repeat=2): assert loads(a, b) == 'net'
    for other in (dict(in_channels=1), dict(in_channels=4), dict(size=9), dict(n_classes=9)):
        for a, b in ((bare, bare | other), (bare | other, bare)):
            with pytest.raises(Refusal, match=[*other][0]): loads(a, b)


def test_statistics_of_another_set_network_or_version_are_not_taken(lab, tmp_path, monkeypatch):
    data, looks = digits(), []
    def a_set(name, idx):
        batch = dict(images=data.bytes(idx), labels=data.labels[idx])
        for _ in write_set(tmp_path/name, lambda i: [batch], len(idx), dict(n_classes=10, transform='')): pass
        return tmp_path/name
    def mean(reference, extractor):
        s = reference_statistics(reference, extractor); looks.append(s.n)
        f = torch.cat([f for _, f, _ in features_of(ImageSet(reference), extractor)])
        np.testing.assert_allclose(s.mu, f.mean(0)); np.testing.assert_allclose(s.sigma, np.cov(f.T), atol=1e-12)
    looked = judged_by.statistics
    monkeypatch.setattr(judged_by, 'statistics', lambda *args, **kw: looks.append('look') or looked(*args, **kw))
    one, other = make_extractor(read_classifier(lab/'own.safetensors')), make_extractor(Classifier(1, 10))
    first, second = a_set('first', torch.arange(200)), a_set('second', torch.arange(200, 500))
    for reference, by in ((first, one), (first, one), (first, other), (first, one)): mean(reference, by)
    kept = first/f'{one.name}-{one.weights[:16]}.npz'
    (second/kept.name).write_bytes(kept.read_bytes())                 # as if the images had been made again beside it
    mean(second, one)
    assert looks == ['look', 200, 200, 'look', 200, 200, 'look', 300]
    stale = Statistics(np.ones(64), np.eye(64), np.ones((4, 64)), one.name, 300, '', ImageSet(second).fingerprint,
                       one.weights, version=0)
    save_statistics(second/kept.name, stale)
    mean(second, one); assert looks[8:] == ['look', 300]


def test_every_option_of_cfg_evaluate_arrives(lab, tmp_path):
    options = dict(reference=str(tmp_path/'adm.npz'), classifier=str(lab/'own.safetensors'), fit_steps=33, fit_on='digits',
                   weights='w.pth', transform='area', out=str(tmp_path/'found.json'), splits=4, groups=5, batch_size=17,
                   device='cpu', processes=1, w=None, n=None, precision=None, kid=23, by_class=True, manifold=80, dinov2=None)
    assert {'samples', *options} == set(signature(cfg_evaluate).parameters)
    extractor = make_extractor(read_classifier(lab/'own.safetensors'))
    s = reference_statistics('digits', extractor)
    np.savez(options['reference'], mu=s.mu, sigma=s.sigma)
    calls = {}
    def spy(name, answer=None):
        real = getattr(judged_by, name)
        def called(*args, **kw):
            calls[name] = args, kw
            return answer or real(*args, **kw)
        return patch.object(judged_by, name, called)
    row = dict(n=90, fd=1., fd_se=2., is_mean=3., is_std=4., reference='r', extractor='e', classes=[dict(label=0, recall=1.)])
    with spy('own_classifier'), spy('make_extractor', extractor), spy('load_statistics'), spy('evaluate', row):
        cfg_evaluate(sets_of(tmp_path/'set', 90, 'area'), **options)
    path, learnt, steps, *_ = calls['own_classifier'][0]
    assert (path, len(learnt), steps) == (options['classifier'], 1797, 33)      # of a reference without images none could be fitted
    classifier, weights, device = calls['make_extractor'][0]
    assert (classifier.n_classes, weights, str(device)) == (10, 'w.pth', 'cpu')
    assert calls['load_statistics'][0] == (options['reference'], 'area')
    (images, known, by), how = calls['evaluate']
    assert len(images) == 90 and (known.mu == s.mu).all() and known.transform == 'area' and by is extractor
    asked = 'splits', 'groups', 'batch_size', 'kid', 'by_class', 'manifold'
    assert {k: how[k] for k in asked} == dict(splits=4, groups=5, batch_size=17, kid=23, by_class=True, manifold=80)
    assert (tmp_path/'found-classes.csv').read_text() == 'label,name,recall\n0,0,1\n'
    assert json.loads((tmp_path/'found.json').read_text())['result']['fd'] == 1.


@pytest.mark.parametrize('kind', ['in memory', 'on disk'])
def test_batch_size_looks_at_the_reference_too(lab, tmp_path, kind):
    "Seventeen digits at a time, of the reference and of the images."
    sizes = []
    real = judged_by.make_extractor
    def watched(*args):
        e = real(*args)
        def look(images):
            sizes.append(len(images))
            return e.look(images)
        return type(e)(e.name, e.weights, e.width, e.channels, e.device, look)
    with patch.object(judged_by, 'make_extractor', watched):
        reference = 'digits' if kind == 'in memory' else sets_of(tmp_path/'set', 1797)
        judge = judging(reference, classifier=lab/'own.safetensors', batch_size=17)
        judge(digits().bytes(torch.arange(70)), splits=1)
        judge(digits().bytes(torch.arange(70)), splits=1, batch_size=40)
    assert sizes == [17]*105 + [12] + [17]*4 + [2] + [40, 30]


def test_grey_in_memory_and_on_disk_are_one_kind(lab, judged):
    "Bytes, a set in memory and a set on disk of the same images are judged alike."
    found, images, *_ = judged
    judge = judging('digits', classifier=lab/'own.safetensors', batch_size=64)
    in_memory = MemorySet(from_uint8(images), torch.zeros(200, dtype=torch.long), {})
    rows = [judge(some, splits=3, groups=7) for some in (images, in_memory, ImageSet(lab/'mirrored'))]
    assert all(row == found['result'] for row in rows)


def test_a_classifier_of_another_file_is_another_judge(lab, tmp_path):
    torch.manual_seed(1)
    save_classifier(tmp_path/'other', Classifier(1, 10), held_out=.1)
    images = digits().bytes(torch.arange(90)).flip(3)
    files = lab/'own.safetensors', tmp_path/'other'
    one, other = (judging('digits', classifier=path)(images, splits=1) for path in files)
    assert one['extractor'] != other['extractor'] and one['fd'] != other['fd'] and other['judge_accuracy'] == .1

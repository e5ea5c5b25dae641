"The variants of guidance over random inputs, by numpy and by hand; and what the script of their table hands to the sampler."
import json, math, sys
import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
import project
from cfg_repro.guidance import guide
from cfg_repro.results import read_csv
from cfg_repro.schedule import logsnr_grid
from cfg_repro.variants import mixed, projected, ramp, rescaled, still, zero_star

sys.path.append(str(project.root/'benchmarks'))
import variants as script

settings.register_profile('cfg_repro', deadline=None, derandomize=True, database=None, max_examples=100)
settings.load_profile('cfg_repro')

levels = st.sampled_from([-20., 0., 20.]) | st.floats(-20, 20)
strengths = st.sampled_from([-1., 0.]) | st.floats(-2, 8)
seeds = st.integers(0, 2**31)


def three(seed, shape=(4, 1, 3, 3)):
    "Two predictions and the images that they are of."
    return torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights(l):
    "alpha and sigma, from their definition."
    return (1/(1+math.exp(-l)))**.5, (1/(1+math.exp(l)))**.5


def flat(t):
    return t.numpy().reshape(len(t), -1)


class ByHand:
    "Every rule once more: numpy, image by image."
    def __init__(self, l):
        self.alpha, self.sigma = weights(l)

    def x(self, z, e): return (z - self.sigma*e)/self.alpha
    def eps(self, z, x): return (z - self.alpha*x)/self.sigma

    def rescaled(self, c, u, w, z, phi):
        x, x_c = self.x(z, (1+w)*c - w*u), self.x(z, c)
        return self.eps(z, phi*x*x_c.std()/x.std() + (1-phi)*x)

    def rescaled_eps(self, c, u, w, z, phi):
        e = (1+w)*c - w*u
        return phi*e*c.std()/e.std() + (1-phi)*e

    def projected(self, c, u, w, z, eta, r):
        x_c, change = self.x(z, c), self.x(z, c) - self.x(z, u)
        change = change*min(1, r/np.linalg.norm(change))
        unit = x_c/np.linalg.norm(x_c)
        along = (change @ unit)*unit
        return self.eps(z, x_c + w*(change-along) + w*eta*along)

    def zero_star(self, c, u, w, z):
        v_c, v_u = c - self.x(z, c), u - self.x(z, u)
        s = np.linalg.lstsq(v_u[:, None], v_c, rcond=None)[0]
        v = (1+w)*v_c - w*s*v_u
        return (z + self.alpha*v)/(self.alpha + self.sigma)        # z = alpha x + sigma eps, v = eps - x

    def zero_star_eps(self, c, u, w, z):
        return (1+w)*c - w*(c @ u)/(u @ u)*u

    def of_all(self, rule, c, u, w, z, **how):
        return np.stack([getattr(self, rule)(*three, z, **how) for *three, z in zip(flat(c), flat(u), [w]*len(z), flat(z))])


def same_picture(found, wanted, z, l):
    "Two predictions, up to rounding in both of their guises: the noise, and the image."
    alpha, sigma = weights(l)
    scale = np.abs(wanted).max() + np.abs(flat(z)).max()*(1 + 1/sigma + 1/alpha)
    assert np.abs(flat(found)-wanted).max() <= 1e-11*scale


@given(levels, strengths, seeds, st.floats(0, 1))
def test_rescaled(l, w, seed, phi):
    cond, uncond, z = three(seed)
    at = dict(z=z, logsnr=torch.tensor(l, dtype=torch.float64), phi=phi)
    for rule, of_x in (('rescaled', True), ('rescaled_eps', False)):
        wanted = ByHand(l).of_all(rule, cond, uncond, w, z, phi=phi)
        same_picture(rescaled(cond, uncond, w, of_x=of_x, **at), wanted, z, l)


@given(levels, strengths, seeds, st.floats(-1, 2), st.sampled_from([math.inf, 1e-3]) | st.floats(.01, 10))
def test_projected(l, w, seed, eta, r):
    cond, uncond, z = three(seed)
    wanted = ByHand(l).of_all('projected', cond, uncond, w, z, eta=eta, r=r)
    found = projected(cond, uncond, w, z=z, logsnr=torch.tensor(l, dtype=torch.float64), eta=eta, r=r)
    same_picture(found, wanted, z, l)


@given(levels, strengths, seeds)
def test_zero_star(l, w, seed):
    cond, uncond, z = three(seed)
    at = dict(z=z, logsnr=torch.tensor(l, dtype=torch.float64))
    for rule, of_velocity in (('zero_star', True), ('zero_star_eps', False)):
        wanted = ByHand(l).of_all(rule, cond, uncond, w, z)
        same_picture(zero_star(cond, uncond, w, of_velocity=of_velocity, **at), wanted, z, l)


def test_nothing_to_scale():
    "Where the guess, or the other prediction, is nothing, the rules still give numbers."
    z, at = torch.zeros(2, 1, 3, 3).double(), dict(logsnr=torch.tensor(0.).double())
    e = torch.ones_like(z)
    assert_close(zero_star(e, 0*e, 2., z=z, of_velocity=False, **at), 3*e)
    assert_close(projected(0*e, e, 2., z=z, **at), -2*e)


@given(strengths, st.sampled_from(['linear', 'cosine']), levels)
def test_ramp(w, shape, l):
    "By its definition; what goes up and what goes down are together twice w; the mean over any grid of the paper is w."
    b = math.atan(math.exp(-10))
    u = (math.atan(math.exp(-l/2))-b)/(math.atan(math.exp(10))-b)
    up = 2*w*(1-u) if shape == 'linear' else w*(1-math.cos(math.pi*(1-u)))
    at = torch.tensor([l], dtype=torch.float64)
    close = dict(rtol=1e-10, atol=1e-10)
    assert_close(ramp(w, shape)(at).item(), up, **close)
    assert_close(ramp(w, shape, down=True)(at).item(), 2*w-up, **close)
    assert_close(ramp(w, shape, least=.4)(at).item(), max(.4, up), **close)
    for T in (2, 7, 16):
        assert_close(ramp(w, shape)(logsnr_grid(T)).mean().item(), w, **close)


@given(levels, levels, seeds)
def test_still(l, until, seed):
    cond, _, z = three(seed)
    alpha, sigma = weights(l)
    found = still(lambda z, logsnr, c: cond, until)(z, torch.full((4,), l, dtype=torch.float64), torch.zeros(4, dtype=int))
    assert_close(found, z/(alpha+sigma) if l <= until else cond)


def test_each_image_as_if_it_were_alone():
    "A strength, a log-SNR and a class of its own for each image, by every rule."
    table = three(5, (4, 1, 3, 3))
    def model(z, logsnr, c):
        return torch.tanh(z*logsnr.view(-1, 1, 1, 1)/5) + table[0][c]
    z, c = table[1], torch.tensor([0, 1, 2, 0])
    logsnr, w = (torch.tensor(t).double() for t in ([-6., 0., 2., 9.], [0., 1., 2., -1.]))
    for mix in (rescaled, projected, zero_star):
        together = mixed(model, mix, lambda l: w[:len(l)], null=3)(z, logsnr, c)
        for i in range(4):
            alone = mixed(model, mix, w[i:i+1], null=3)(z[i:i+1], logsnr[i:i+1], c[i:i+1])
            assert_close(together[i:i+1], alone)
    assert_close(mixed(model, zero_star, 0., null=3)(z, logsnr, c), model(z, logsnr, c))
    held = torch.stack([z[0]/sum(weights(-6.)), *model(z, logsnr, c)[1:]])     # the first stands still, the others do not
    assert_close(still(model, -1.)(z, logsnr, c), held)


# The script

def net(z, logsnr, c):
    "Eleven predictions that have little in common."
    pattern = torch.randn(11, *z.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return (.3*z + pattern[c]).to(z)


def strength(variant, w, l):
    "What w is at this log-SNR, by a variant."
    b = math.atan(math.exp(-10))
    u = (math.atan(math.exp(-l/2))-b)/(math.atan(math.exp(10))-b)
    return {'interval': w if -2 <= l <= 4 else 0., 'up': 2*(1-u)*w, 'down': 2*u*w}.get(variant, w)


@pytest.mark.parametrize('l', [-20., -5., -2., 0., 3., 12.])
@pytest.mark.parametrize('variant', script.VARIANTS)
def test_every_variant_is_what_its_name_says(variant, l):
    "What a model of the table predicts, and how many passes it takes."
    z, c = three(3)[0], torch.tensor([3, 1, 4, 9])
    logsnr, counted = torch.full((4,), l).double(), script.Counted(net)
    found, hand = script.VARIANTS[variant](counted, 1.5)(z, logsnr, c), ByHand(l)
    w = strength(variant, 1.5, l)
    two = net(z, logsnr, c), net(z, logsnr, torch.full((4,), 10)), w, z
    rules = {'rescaled x': ('rescaled', dict(phi=.7)), 'rescaled eps': ('rescaled_eps', dict(phi=.7)),
             'projected': ('projected', dict(eta=0., r=2.5)), 'zero-star': ('zero_star', {})}
    passes = 8 if abs(w) > 1e-12 else 4
    if variant == 'zero-star' and l == -20:
        wanted, passes = flat(z)/sum(weights(l)), 0
    elif variant in rules:
        rule, how = rules[variant]
        wanted = hand.of_all(rule, *two, **how)
    else:
        wanted = flat(guide(*two[:3]))
    same_picture(found, wanted, z, l)
    assert counted.passes == passes or variant in ('up', 'down')


def test_what_reaches_the_sampler(monkeypatch):
    "A cell: its seed, its w, the passes of an image, and what was judged."
    told = {}

    def sampled(model, seed):
        told.update(seed=seed, guided=model(torch.ones(2, 1, 8, 8).double(), torch.zeros(2).double(), torch.tensor([3, 4])))
        return torch.full((4, 1, 8, 8), 7, dtype=torch.uint8)
    monkeypatch.setattr(script, 'sampled', sampled)
    monkeypatch.setattr(script, 'judged', lambda images: dict(fd=images.sum().item()))
    row = script.cell(net, 'plain', .5, seed=6)
    assert row == dict(w=.5, fd=4*64*7, passes=1.) and told['seed'] == 6
    of = lambda *c: net(torch.ones(2, 1, 8, 8).double(), None, torch.tensor(c))
    assert_close(told['guided'], 1.5*of(3, 4) - .5*of(10, 10))


@pytest.fixture
def small(monkeypatch):
    "The command with networks and a judge that cost nothing; what was asked of them."
    asked = []

    def network(seed, steps):
        asked.append((seed, steps))
        return net
    monkeypatch.setattr(script, 'network', network)
    monkeypatch.setattr(script, 'sampled', lambda model, seed: torch.full((2, 1, 8, 8), seed, dtype=torch.uint8))
    monkeypatch.setattr(script, 'judged', lambda images: dict(fd=images.double().mean().item(), is_mean=1., precision=.5, recall=.5))
    monkeypatch.setattr(script, 'SEEDS', {200: 2, 500: 1})
    monkeypatch.setattr(script, 'VARIANTS', {name: script.VARIANTS[name] for name in ('plain', 'rescaled x')})
    return asked


def test_the_command(small, tmp_path):
    "A row for each network, variant and strength, and one of no guidance; the same line makes nothing again."
    script.variants(out=str(tmp_path))
    rows = read_csv(tmp_path/'variants.csv')
    cells = [(r['steps'], r['seed'], r['variant'], r['w']) for r in rows]
    wanted = [(steps, seed, variant, w) for steps, seeds in ((200, 2), (500, 1)) for seed in range(seeds)
              for variant in ('plain', 'rescaled x') for w in (*((0.,) if variant == 'plain' else ()), *script.STRENGTHS[steps])]
    assert cells == wanted and all(r['fd'] == r['seed'] for r in rows)
    assert small == [(0, 200)]*2 + [(1, 200)]*2 + [(0, 500)]*2
    about = json.loads((tmp_path/'provenance.json').read_text())
    assert about['settings']['phi'] == .7 and about['settings']['n'] == 600 and about['seeds'] == {'200': 2, '500': 1}
    script.variants(out=str(tmp_path))
    assert len(small) == 6 and read_csv(tmp_path/'variants.csv') == rows


def test_other_settings_are_refused(small, tmp_path, monkeypatch):
    script.variants(out=str(tmp_path))
    monkeypatch.setattr(script, 'PHI', .5)
    with pytest.raises(ValueError, match='holds a sweep with phi 0.7, not 0.5'):
        script.variants(out=str(tmp_path))


def test_the_rows_are_whole():
    "What is committed has every cell of the script, once."
    rows = read_csv(project.root/'results'/'variants'/'variants.csv')
    cells = [(r['steps'], r['seed'], r['variant'], r['w']) for r in rows]
    wanted = {(steps, seed, variant, w) for steps, seeds in script.SEEDS.items() for seed in range(seeds)
              for variant in script.VARIANTS for w in script.STRENGTHS[steps]}
    wanted |= {(steps, seed, 'plain', 0) for steps, seeds in script.SEEDS.items() for seed in range(seeds)}
    assert set(cells) == wanted and len(cells) == len(wanted)

"The rules of guidance by another road: densities of torch, matrices solved, published lines written out."
from functools import partial
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.distributions import Normal
from torch.testing import assert_close
from cfg_repro.guidance import guided
from cfg_repro.mixture import Mixture
from cfg_repro.reverse import ancestral_step, reverse_moments
from cfg_repro.rules import (
    cfgpp_step, cfgpp_strength, characteristic, corrected, effective_share, feynman_kac, resample, step_weight)
from cfg_repro.sampling import sample
from cfg_repro.schedule import alpha_sigma, logsnr_grid
from cfg_repro.solvers import ddim_step, even_grid

settings.register_profile('rules', deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile('rules')
seeds, strengths = st.integers(0, 2**31), st.floats(-2, 8, allow_subnormal=False)
exponents = st.sampled_from([0., 1.]) | st.floats(0, 1, allow_subnormal=False)
three = Mixture([[-1.2, -.4], [1.2, -.4], [0., 1.6]], [.7, .8, .5], weights=[2, 3, 5])


def randn(*shape, seed): return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
def number(value): return torch.tensor(value, dtype=torch.float64)


@given(low=st.floats(-10, 8), h=st.floats(.01, 4), w=strengths, v=exponents, seed=seeds)
def test_step_weight(low, h, w, v, seed):
    "The two steps, mixed as densities, are the guided step times the weight, at any place."
    z, eps_c, eps_u, there = randn(4, 5, 3, seed=seed)
    at = dict(logsnr=number(low), logsnr_next=number(low+h))
    alpha, sigma = alpha_sigma(at['logsnr'])
    def law(eps):
        mean, logvar = reverse_moments(z, (z-sigma*eps)/alpha, **at, v=v)
        return Normal(mean, (logvar/2).exp())
    guided_law = law(eps_c + w*(eps_c-eps_u))
    there = guided_law.mean + guided_law.stddev*there
    log_c, log_u, log_w = (p.log_prob(there).sum(1) for p in (law(eps_c), law(eps_u), guided_law))
    found = step_weight(eps_c, eps_u, w, **at, v=v)
    largest = max(1., log_c.abs().max().item(), log_u.abs().max().item())
    assert_close(found, (1+w)*log_c - w*log_u - log_w, rtol=1e-9, atol=1e-12*(1+abs(w))*largest)


def test_mean_weight():
    "In one dimension the weights' mean is what the guided density's integral has grown by, as steps become small."
    pair, w, cell = Mixture([[-1.], [1.]], [.6, .6], weights=[.3, .7]), 1.5, .02
    line = torch.arange(-7, 7, cell, dtype=torch.float64)[:, None]
    c, none, gaps = torch.ones(len(line), dtype=int), torch.full((len(line),), 2), []
    def gamma(l): return ((1+w)*pair.log_prob(line, l, c) - w*pair.log_prob(line, l, none)).exp()
    for h in (.2, .1):
        l, m = number(.5), number(.5+h)
        weight = step_weight(pair(line, l, c), pair(line, l, none), w, logsnr=l, logsnr_next=m, v=1.).exp()
        gaps.append(abs((weight*gamma(l)).sum()/gamma(m).sum() - 1).item())
        plain = abs(gamma(l).sum()/gamma(m).sum() - 1).item()
        assert gaps[-1] < plain/5
    assert gaps[0]/gaps[1] > 3      # of second order in a step, so of first in a walk


@given(n=st.integers(1, 40), spread=st.floats(0, 8), seed=seeds)
def test_resampling(n, spread, seed):
    "Each as often as its weight says, rounded up or down; the share by its definition."
    log_weight = spread*randn(n, seed=seed)
    weight = (log_weight-log_weight.max()).exp()
    assert_close(effective_share(log_weight), weight.sum()**2/(n*(weight**2).sum()))
    assert 1/n - 1e-12 <= effective_share(log_weight) <= 1 + 1e-12
    kept = resample(log_weight, torch.Generator().manual_seed(seed))
    counts, wanted = torch.bincount(kept, minlength=n), n*weight/weight.sum()
    assert kept.shape == (n,) and ((counts-wanted).abs() < 1 + 1e-9).all()


@given(w=st.floats(-1, 3), level=st.floats(-6, 6), seed=seeds)
def test_characteristic_of_gaussians(w, level, seed):
    "Of any two Gaussians, also those with axes of their own: the linear condition solved as a matrix."
    D, gen = 3, torch.Generator().manual_seed(seed)
    mu = torch.randn(2, D, dtype=torch.float64, generator=gen)
    a = torch.randn(D, D, dtype=torch.float64, generator=gen)
    narrow = a @ a.T/D*.2 + .2*torch.eye(D, dtype=torch.float64)
    wide = narrow + torch.eye(D, dtype=torch.float64)
    (alpha, sigma), z = alpha_sigma(number(level)), torch.randn(6, D, dtype=torch.float64, generator=gen)
    def eps(z, mean, cov): return sigma*torch.linalg.solve(alpha**2*cov + sigma**2*torch.eye(D), (z-alpha*mean).T).T
    def model(z, logsnr, c): return torch.where(c[:, None] == 0, eps(z, mu[0], narrow), eps(z, mu[1], wide))
    precision = (1+w)*narrow.inverse() - w*wide.inverse()
    cov = precision.inverse()
    mean = cov @ ((1+w)*narrow.inverse() @ mu[0] - w*wide.inverse() @ mu[1])
    found = characteristic(model, w, null=1, rounds=60)(z, number(level).expand(6), torch.zeros(6, dtype=int))
    assert_close(found, eps(z, mean, cov), rtol=1e-5, atol=1e-6)


def test_one_round_is_plain_guidance():
    z, c, logsnr = randn(9, 2, seed=0), torch.arange(9)%3, torch.linspace(-4, 4, 9, dtype=torch.float64)
    for w in (-1., 0., .3, 4., lambda l: l.sigmoid(), torch.linspace(-1, 4, 9, dtype=torch.float64)):
        found = characteristic(three, w, null=3, rounds=1)(z, logsnr, c)
        assert_close(found, guided(three, w, null=3)(z, logsnr, c))
    for rounds in (1, 2, 5):
        calls = []
        def counting(z, logsnr, c): calls.append(len(z)); return three(z, logsnr, c)
        characteristic(counting, 1., null=3, rounds=rounds)(z, logsnr, c)
        assert calls == [18]*rounds


def test_each_image_has_its_own_characteristic():
    "An image's answer does not hang on its neighbours, nor on the shape of images."
    z, c, logsnr = randn(4, 2, seed=1), torch.arange(4)%3, torch.linspace(-2, 2, 4, dtype=torch.float64)
    w = torch.tensor([.5, 1., 2., 4.], dtype=torch.float64)
    together = characteristic(three, w, null=3)(z, logsnr, c)
    for i in range(4):
        alone = characteristic(three, w[i].item(), null=3)(z[i:i+1], logsnr[i:i+1], c[i:i+1])
        assert_close(together[i:i+1], alone)
    def on_images(z, logsnr, c): return three(z.flatten(1), logsnr, c).view_as(z)
    as_images = characteristic(on_images, w, null=3)(z.view(4, 2, 1, 1), logsnr, c)
    assert_close(as_images.flatten(1), together)


@given(T=st.integers(2, 30), omega=st.floats(-.5, 1.5), seed=seeds, even=st.booleans())
def test_cfgpp_as_published(T, omega, seed, even):
    "The published lines, the step and the strength: one walk. DDPM's letters, alpha-bar = alpha^2."
    logsnrs = even_grid(T) if even else logsnr_grid(T)
    z_1 = randn(5, 2, seed=seed)
    c, none = torch.arange(5)%3, torch.full((5,), 3)
    z = z_1
    for t, l in enumerate(logsnrs):
        abar = l.sigmoid()
        eps_u, eps_c = three(z, l, none), three(z, l, c)
        x = (z - (1-abar).sqrt()*(eps_u + omega*(eps_c-eps_u)))/abar.sqrt() if not l < -19 else (
            z - (-l).sigmoid().sqrt()*(eps_u + omega*(eps_c-eps_u)))/abar.sqrt()
        if t+1 < T: z = logsnrs[t+1].sigmoid().sqrt()*x + (-logsnrs[t+1]).sigmoid().sqrt()*eps_u
    near = dict(rtol=1e-6, atol=1e-6)
    theirs = sample(guided(three, omega-1, null=3), z_1, c, logsnrs=logsnrs, clip=None, step=cfgpp_step(three, null=3))
    assert_close(theirs, x, **near)
    as_strength = guided(three, cfgpp_strength(omega, logsnrs), null=3)
    ours = sample(as_strength, z_1, c, logsnrs=logsnrs, clip=None, step=ddim_step)
    assert_close(ours, x, **near)


def test_cfgpp_strength_in_single_precision():
    "Images in float32 find the log-SNRs of a float64 grid, and a bound on x is kept by the step."
    logsnrs = logsnr_grid(64)
    found = cfgpp_strength(.5, logsnrs)(logsnrs.float())
    wanted = .5/(1-(-(logsnrs.diff()/2)).exp()) - 1
    assert found.dtype == torch.float32
    assert_close(found[:-1].double(), wanted, rtol=1e-6, atol=1e-6)
    assert found[-1] == -.5
    z, x = randn(2, 3, 2, seed=0).float()
    at = dict(logsnr=logsnrs[30], logsnr_next=logsnrs[31])
    def zero(z, logsnr, c): return torch.zeros_like(z)
    alpha, _ = alpha_sigma(logsnrs[31])
    assert_close(cfgpp_step(zero, null=3)(z, x, **at), (alpha*x).float(), check_dtype=False)


def test_correctors_by_hand():
    "Each Langevin step at the log-SNR where the step has come to, with fresh noise of the generator."
    z, x, noise = randn(3, 6, 2, seed=2)
    c, l, m = torch.arange(6)%3, number(-1.), number(.5)
    model, at = guided(three, 2., null=3), dict(logsnr=l, logsnr_next=m)
    for k, base in ((0, ancestral_step), (1, ddim_step), (3, partial(ancestral_step, v=1.))):
        found = corrected(model, c, k=k, size=.4, step=base, generator=torch.Generator().manual_seed(3))(z, x, **at, noise=noise)
        moved, gen = base(z, x, **at, noise=noise), torch.Generator().manual_seed(3)
        for _ in range(k):
            score = -model(moved, m.expand(6), c)/(-m).sigmoid().sqrt()
            fresh = torch.empty_like(moved).normal_(generator=gen)
            moved = moved + .2*(-m).sigmoid()*score + (.4*(-m).sigmoid()).sqrt()*fresh
        assert_close(found, moved)


def test_every_rule_runs_in_sample_on_images():
    "As a model or as a step, in float32, with a bound on x; passes are counted."
    passes = []
    def net(z, logsnr, c):
        passes.append(len(z))
        return z*logsnr.sigmoid().view(-1, 1, 1, 1) + .1*c.view(-1, 1, 1, 1)
    z, c, T = randn(4, 1, 4, 4, seed=0).float(), torch.zeros(4, dtype=int), 5
    gen = torch.Generator().manual_seed(0)
    plus, (walkers, drawn) = guided(net, .5-1, null=2), feynman_kac(net, 1., null=2, generator=gen)
    rules = {
        'cfgpp': (plus, cfgpp_step(net, null=2), T*8 + (T-1)*4),
        'strength': (guided(net, cfgpp_strength(.5, logsnr_grid(T)), null=2), ddim_step, T*8),
        'characteristic': (characteristic(net, 1., null=2, rounds=3), ddim_step, 3*T*8),
        'weights': (walkers, drawn, T*8),
        'corrected': (net, corrected(guided(net, 1., null=2), c, k=2, generator=gen), T*4 + (T-1)*2*8)}
    for name, (model, step, wanted) in rules.items():
        passes.clear()
        x = sample(model, z, c, T=T, step=step)
        assert x.shape == z.shape and x.dtype == torch.float32 and x.abs().max() <= 1, name
        assert sum(passes) == wanted, name


def test_weights_make_the_promised_mean():
    "On two Gaussians, as the closed form has it: the mean of many walkers, within four standard errors and a step's bias."
    s, S, mu, w, n = .5, 1.2, .8, 2., 20_000
    class_, all_ = Mixture([[mu]], [s]), Mixture([[0.]], [S])
    def both(z, logsnr, c):
        zero = torch.zeros_like(c)
        return torch.where(c[:, None] == 0, class_(z, logsnr, zero), all_(z, logsnr, zero))
    precision, gen = (1+w)/s**2 - w/S**2, torch.Generator().manual_seed(4)
    model, step = feynman_kac(both, w, null=1, generator=gen)
    def draw(t=0): return torch.randn(n, 1, dtype=torch.float64, generator=gen)
    x = sample(model, draw(), torch.zeros(n, dtype=int), T=96, step=step, clip=None, noise=draw)
    plain = sample(guided(both, w, null=1), draw(), torch.zeros(n, dtype=int), T=96, clip=None, noise=draw)
    wanted, std = (1+w)*mu/s**2/precision, precision**-.5
    assert abs(x.mean()-wanted) < .03*std + 4*std/n**.5
    assert abs(x.std()/std - 1) < .04
    assert abs(plain.mean()-wanted) > .1*std


@pytest.mark.parametrize('w, v', [(0., 1.), (1., 0.), (4., .5)])
def test_weights_by_hand(w, v):
    "A whole walk written out: draw anew by w(1+w)/2 (e^h - 1) |d|^2, narrower by (the two sigma^2)^v, then an ancestral step."
    grid, noises, c = even_grid(8, -4., 4.), randn(8, 200, 2, seed=5), torch.zeros(200, dtype=int)
    def seeded(): return torch.Generator().manual_seed(1)
    z, draws = noises[0], seeded()
    for t, (l, m) in enumerate(zip(grid, grid[1:]), 1):
        eps_c, eps_u = three(z, l, c), three(z, l, c+3)
        narrower = ((1+l.exp())/(1+m.exp()))**v
        rate = w*(1+w)/2*(m-l).expm1()*narrower
        kept = resample(rate*((eps_c-eps_u)**2).sum(1), draws)
        alpha, sigma = alpha_sigma(l)
        x = (z - sigma*((1+w)*eps_c - w*eps_u))/alpha
        z = ancestral_step(z[kept], x[kept], logsnr=l, logsnr_next=m, v=v, noise=noises[t])
    alpha, sigma = alpha_sigma(m)
    wanted = (z - sigma*((1+w)*three(z, m, c) - w*three(z, m, c+3)))/alpha
    model, step = feynman_kac(three, w, null=3, v=v, generator=seeded())
    found = sample(model, noises[0], c, logsnrs=grid, step=step, clip=None, noise=lambda t: noises[t])
    assert_close(found, wanted)


def test_labels_of_one_class():
    model, _ = feynman_kac(three, 1., null=3)
    with pytest.raises(ValueError, match='must be of one class'):
        model(randn(2, 2, seed=0), torch.zeros(2), torch.tensor([0, 1]))
    assert model(randn(2, 2, seed=0), torch.zeros(2), torch.tensor([1, 1])).isfinite().all()

"The schedule that guidance owes: what its page cannot say of every model, image and weight."
import math
import numpy as np
import torch
from hypothesis import given, settings, strategies as st
from cfg_repro.gaussians import Gaussians
from cfg_repro.guidance import guided
from cfg_repro.mixture import Mixture
from cfg_repro.owed import by_level, cross_ratio, owed_pair, owed_strength, weighed
from cfg_repro.sampling import sample

settings.register_profile('beyond', deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile('beyond')

seeds, strengths = st.integers(0, 2**31), st.floats(-1, 5)
oracle = Mixture([[-1.2, -.4], [1.2, -.4], [0., 1.6]], [.7, .8, .9], weights=[.2, .3, .5])
levels = torch.tensor([-6., 0., 3.]).double()


def draws(seed, n=7, shape=(2,)):
    gen = torch.Generator().manual_seed(seed)
    x, eps = torch.randn(2, n, *shape, dtype=torch.float64, generator=gen)
    return x, eps, torch.randint(0, 3, (n,), generator=gen), torch.rand(n, dtype=torch.float64, generator=gen)+.1


def by_hand(x, eps, c, logsnr):
    "The two predictions, image by image."
    alpha, sigma = torch.sigmoid(logsnr).sqrt(), torch.sigmoid(-logsnr).sqrt()
    z = alpha*x + sigma*eps
    one = lambda i, k: oracle(z[i:i+1], logsnr, torch.tensor([k]))[0].numpy()
    return [np.stack([one(i, k) for i, k in enumerate(ks)]) for ks in (c.tolist(), [3]*len(x))]


@given(seeds)
def test_least_squares(seed):
    "Against numpy's least squares on rows scaled by the root of their weights; without weights all count alike."
    x, eps, c, weights = draws(seed)
    for w, given_weights in ((weights, weights), (torch.ones(7).double(), None)):
        found = owed_strength(oracle, x, eps, c, levels, null=3, weights=given_weights)
        pairs = owed_pair(oracle, x, eps, c, levels, null=3, weights=given_weights)
        ratio = cross_ratio(oracle, x, eps, c, levels, null=3, weights=given_weights)
        scale = np.sqrt(w.numpy())[:, None]
        for i, l in enumerate(levels):
            e_c, e_0 = (e*scale for e in by_hand(x, eps, c, l))
            wanted = eps.numpy()*scale
            solve = lambda columns, y: np.linalg.lstsq(np.stack([a.ravel() for a in columns], 1), y.ravel(), rcond=None)[0]
            np.testing.assert_allclose(found[i], solve([e_c-e_0], wanted-e_c)[0], rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(pairs[i], solve([e_c, e_0], wanted), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(ratio[i], solve([e_0], e_c)[0], rtol=1e-8)


@given(seeds, strengths)
def test_right_where_it_was_made_so(seed, w):
    "Noise that is e_c + w d itself is owed w, and both numbers: whatever the images."
    x, eps, c, _ = draws(seed, 5, (3, 2, 2))
    def model(z, logsnr, c):
        of_all = z.tanh()
        told = torch.where((c == 3)[:, None, None, None], 0., (z+c[:, None, None, None]).sin())
        return of_all + told
    def fixed(z, logsnr, c):                 # its answer does not depend on the noise
        return model(x.repeat(len(z)//len(x), 1, 1, 1), logsnr, c)
    with_class, without = fixed(x, None, c), fixed(x, None, torch.full_like(c, 3))
    noise = (1+w)*with_class - w*without
    torch.testing.assert_close(owed_strength(fixed, x, noise, c, levels, null=3), torch.full((3,), w, dtype=torch.float64))
    torch.testing.assert_close(owed_pair(fixed, x, noise, c, levels, null=3), torch.tensor([[1+w, -w]]*3, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_nothing_is_owed_where_the_class_says_nothing():
    x, eps, c, _ = draws(0)
    blind = lambda z, logsnr, c: z.sin()
    assert owed_strength(blind, x, eps, c, levels, null=3).tolist() == [0., 0., 0.]
    sums = owed_pair(blind, x, eps, c, levels, null=3).sum(1)
    alone = [(eps*z.sin()).sum()/(z.sin()**2).sum() for z in (torch.sigmoid(l).sqrt()*x + torch.sigmoid(-l).sqrt()*eps for l in levels)]
    torch.testing.assert_close(sums, torch.stack(alone))


@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=9, unique=True), seeds)
def test_by_level(places, seed):
    "numpy's interpolation, in any precision, at the places themselves too."
    l = torch.tensor(sorted(places)).double()
    values = torch.randn(len(l), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    at = torch.cat([l, torch.linspace(-25, 25, 41, dtype=torch.float64)])
    found = by_level(l, values)(at)
    np.testing.assert_allclose(found, np.interp(at, l, values), rtol=1e-9, atol=1e-9)


@given(strengths, seeds)
def test_weighed(w, seed):
    "Two numbers that sum to one are guidance, also as functions of the level, in a sampler."
    z, noise, c, _ = draws(seed)
    how = dict(T=4, clip=None, noise=lambda t: noise)
    wanted = sample(guided(oracle, w, null=3), z, c, **how)
    for of_class, of_all in ((1+w, -w), (lambda l: torch.full_like(l, 1+w), lambda l: torch.full_like(l, -w))):
        torch.testing.assert_close(sample(weighed(oracle, of_class, of_all, null=3), z, c, **how), wanted, rtol=1e-9, atol=1e-9)
    e_c, e_0 = (oracle(z, 1., k).numpy() for k in (c, torch.full_like(c, 3)))
    one = torch.ones(7, dtype=torch.float64)
    torch.testing.assert_close(weighed(oracle, 2., .5, null=3)(z, one, c), torch.from_numpy(2*e_c+.5*e_0))


def test_the_start_of_the_schedule():
    "At high noise: how far the promise moves the class, over how far the class is from the middle; in the plane, from Gaussians' own closed form."
    g = Gaussians([1., -.5], .5, 1.)
    gen = torch.Generator().manual_seed(0)
    mean, std = g.promised(2.)
    offset = std*torch.randn(2000, 2, dtype=torch.float64, generator=gen)
    x = mean + torch.cat([offset, -offset])
    eps = torch.zeros_like(x)                # where the noise is left out, only means are
    far = torch.tensor([-30.]).double()
    found = owed_strength(g, x, eps, torch.zeros(4000, dtype=int), far, null=1)
    mu = g.mu
    wanted = (mean-mu)@mu/(mu@mu)            # the middle of all data is 0
    torch.testing.assert_close(found, wanted[None], rtol=1e-3, atol=1e-3)


@given(st.floats(-3, 3), st.floats(.2, 1), st.floats(1.1, 3), st.floats(0, 5), st.floats(-10, 10))
def test_exact_for_gaussians(mu, s, S, w, l):
    "Of any place and width: with one number guidance is the noise of the diffused promise, at every z; and least squares finds that number."
    g = Gaussians(mu, s, S)
    mean, std = g.promised(w)
    level = torch.tensor([l], dtype=torch.float64)
    alpha, sigma = torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt()
    z = torch.linspace(-4, 4, 9, dtype=torch.float64)[:, None]
    x, noise = torch.randn(2, 40, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    right = lambda z: sigma*(z-alpha*mean)/(alpha**2*std**2+sigma**2)
    noised = alpha*(mean + std*x) + sigma*noise
    t = math.exp(-l)
    wanted = (1+w)/(1+w*(1-s*s/S/S))*(s*s+t)/(std**2+t) - 1
    at = level.expand(9), torch.zeros(9, dtype=int)
    torch.testing.assert_close(guided(g, wanted, null=1)(z, *at), right(z), rtol=1e-8, atol=1e-9)
    fixed = lambda z, logsnr, c: g(noised.repeat(2, 1), logsnr, c)
    eps = right(noised)                      # without what no function of z predicts
    found = owed_strength(fixed, x, eps, torch.zeros(40, dtype=int), level, null=1)
    torch.testing.assert_close(found.item(), wanted, rtol=1e-5, atol=1e-6)

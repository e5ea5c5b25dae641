"One Gaussian class among all data: what the page cannot say of every class and every strength."
import math
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from scipy.integrate import quad
from cfg_repro.checks import Refusal
from cfg_repro.gaussians import Gaussians, average_power, exact_moments
from cfg_repro.guidance import guided
from cfg_repro.reverse import ancestral_step
from cfg_repro.solvers import ddim_step, even_grid

settings.register_profile('beyond', deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile('beyond')

places, sizes = st.floats(-3, 3), st.floats(.2, 2)
strengths, stirrings = st.floats(-1, 5), st.floats(0, 20)
oracles = st.builds(Gaussians, places, sizes, sizes)


def near(found, wanted, rel=1e-8, scale=1.):
    assert abs(found-wanted) <= rel*(abs(wanted)+scale), f'{found} is not {wanted}'


@given(st.floats(-2, 10), st.floats(.3, 20), st.floats(-2, .99))
def test_average_power(power, q, b):
    "Against adaptive quadrature in the other variable, a = u^(1/q)."
    assume(1 + b*power/q > .1)               # else there is nearly a pole at u = 0
    wanted, _ = quad(lambda a: q*(1-b*(1-a))**power, 0, 1, weight='alg', wvar=(q-1, 0), epsabs=0., epsrel=1e-11)
    near(average_power(power, q, b), wanted, scale=0.)


@given(oracles, strengths, stirrings, st.floats(.1, 10))
def test_units(g, w, stirring, k):
    "In other units means and widths are what they were, in these units."
    other = Gaussians(k*g.mu, k*g.s, k*g.S)
    for found, wanted in zip(other.ended(w, stirring), g.ended(w, stirring)):
        near(float(found), k*float(wanted), scale=k)


@given(oracles, strengths)
def test_what_was_promised(g, w):
    "The logarithm of the promised density is that of p(x|c)^(1+w) p(x)^-w but for a constant; where none is promised, it is not bounded."
    x = np.linspace(-5, 5, 11)
    wanted = -(1+w)*(x-g.mu.item())**2/(2*g.s**2) + w*x**2/(2*g.S**2)
    if 1 + w*(1-g.s**2/g.S**2) <= 0:
        assert np.diff(wanted, 2).min() >= -1e-6
        with pytest.raises(Refusal, match='there is no guided density'):
            g.promised(w)
        return
    assume(1 + w*g.between > 1e-3)
    mean, std = g.promised(w)
    found = -(x-mean.item())**2/(2*std**2)
    error = (found-wanted) - (found-wanted)[0]
    assert np.abs(error).max() < 1e-9*(1 + np.abs(found).max() + np.abs(wanted).max())


@given(oracles, st.floats(0, 3), st.sampled_from([0., 1.]))
@settings(max_examples=15)
def test_samplers_end_there(g, w, stirring):
    "The error left after that of first order is removed is small beside it."
    step, model = (ancestral_step if stirring else ddim_step), guided(g, w, null=1)
    for part, wanted in enumerate(g.ended(w, stirring)):
        coarse, fine = (exact_moments(model, even_grid(T, -30, 20), step)[part] for T in (96, 192))
        first_order = abs(fine-coarse)
        assert abs(2*fine-coarse - float(wanted)) < .35*first_order + 1e-4*g.s


@given(oracles, st.floats(.1, 4), stirrings)
def test_less_stirring_guides_harder(g, w, stirring):
    "For classes that exist: narrower than with more stirring, wider than with less."
    assume(g.S > 1.05*g.s)
    widths = [g.ended(w, k)[1] for k in (0., stirring/2, stirring, math.inf)]
    assert all(a <= b*(1+1e-9) for a, b in zip(widths, widths[1:]))


def test_images_and_places():
    "A class with a mean of its own in each coordinate, and images: each number is a line of its own."
    z = torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logsnr, c = torch.tensor([-2., 0., 1., 4.]).double(), torch.tensor([0, 1, 0, 1])
    g = Gaussians(.7, .5, 1.)
    found = g(z, logsnr, c)
    for i in range(4):
        alpha2, sigma2 = torch.sigmoid(logsnr[i]), torch.sigmoid(-logsnr[i])
        m, r = (.7, .5) if c[i] == 0 else (0., 1.)
        torch.testing.assert_close(found[i], sigma2**.5*(z[i]-alpha2**.5*m)/(alpha2*r*r+sigma2))
    assert Gaussians([1., 2.], .5, 1.).promised(1.)[0].shape == (2,)

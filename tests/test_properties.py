"The mathematics of Part I over the whole range of its arguments. The independent route is the definition itself, worked out in 60 decimals; a tolerance is a few roundings of what was summed."
import math
from decimal import Context, Decimal, localcontext
from unittest.mock import patch
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings, strategies as st
from cfg_repro.classifier_guidance import classifier_grad, classifier_guide, classifier_guided, classifier_guided_step, shift_mean
from cfg_repro.forward import diffuse, eps_from_score, eps_from_x, log1mexp, score_from_eps, transition, x_from_eps
from cfg_repro.guidance import guide, guided, implicit_classifier_grad
from cfg_repro.mixture import Mixture, guided_log_prob, normalize
from cfg_repro.objective import drop_class, eps_loss, kl_step, stratified_u
from cfg_repro.reverse import ancestral_step, posterior, reverse_moments
from cfg_repro.sampling import denoise, sample, trajectory
from cfg_repro.schedule import alpha_sigma, angles, logsnr_density, logsnr_grid, logsnr_of, u_of
from cfg_repro.solvers import ddim_step, dpmpp_2m_step, even_grid, extrapolate, sde_dpmpp_2m_step
from cfg_repro.langevin import langevin_step
from cfg_repro.tradeoff import truncated_normal

settings.register_profile('cfg_repro', deadline=None, derandomize=True, database=None, max_examples=100)
settings.load_profile('cfg_repro')

lowest, highest = -20., 20.
steps = dict(ancestral=ancestral_step, ddim=ddim_step, dpmpp=dpmpp_2m_step, sde=sde_dpmpp_2m_step)
dtypes = st.sampled_from([torch.float32, torch.float64])
levels = st.sampled_from([lowest, 0., highest]) | st.floats(lowest, highest, width=32, allow_subnormal=False)   # the same number in both dtypes
values = st.floats(-3, 3, width=32, allow_subnormal=False)
strengths = st.sampled_from([-1., 0.]) | st.floats(-5, 10, allow_subnormal=False)
exponents = st.sampled_from([0., 1.]) | st.floats(0, 1, allow_subnormal=False)
seeds = st.integers(0, 2**31)


@st.composite
def rising(draw, n=2):
    "n log-SNRs, each above the one before by 1e-6 to 40."
    gaps = draw(st.lists(st.sampled_from([-6., math.log10(40)]) | st.floats(-6, math.log10(40)), min_size=n-1, max_size=n-1))
    found = [draw(levels)]
    for gap in gaps: found.append(float(np.float32(min(found[-1] + 10**gap, highest))))
    if found[0] == found[-1]: found = [lowest + highest - l for l in found[::-1]]
    assume(all(m-l >= 1e-6 for l, m in zip(found, found[1:])))
    return found


def close(found, wanted, scale, units=8):
    "That `found` is `wanted` but for `units` roundings of numbers as large as `scale`."
    wanted, scale = (t.detach().double() if torch.is_tensor(t) else torch.tensor(float(t), dtype=torch.float64) for t in (wanted, scale))
    error, allowed = (found.detach().double()-wanted).abs(), units*torch.finfo(found.dtype).eps*scale
    assert (error <= allowed).all(), f'{found} is not {wanted}: off by {error}, allowed {allowed}'


def tensors(*numbers, dtype=torch.float64):
    return [torch.tensor(n, dtype=dtype) for n in numbers]


def randn(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


class Exact:
    "Signal, noise, transition and posterior between two log-SNRs, from their definitions, in 60 decimals."
    def __init__(self, l, m):
        with localcontext(Context(prec=60)):
            square = lambda number: 1/(1 + (-Decimal(number)).exp())
            (self.alpha, self.sigma), (self.alpha_next, self.sigma_next) = ((square(n).sqrt(), square(-n).sqrt()) for n in (l, m))
            self.forward = self.alpha/self.alpha_next
            self.forward_var = self.sigma**2 - self.forward**2*self.sigma_next**2
            self.var = 1/(1/self.sigma_next**2 + self.forward**2/self.forward_var)            # Bayes' rule
            self.gain, self.share = self.var*self.forward/self.forward_var, self.var*self.alpha_next/self.sigma_next**2
            self.ddim_gain = self.sigma_next/self.sigma
            self.ddim_share = self.alpha_next - self.ddim_gain*self.alpha
            self.logvar, self.forward_logvar = self.var.ln(), self.forward_var.ln()
            self.log_left, self.log_noise = (self.forward_logvar - 2*self.sigma.ln()), abs(2*self.sigma.ln()) + abs(2*self.sigma_next.ln())
            for name, number in vars(self).items(): setattr(self, name, float(number))
        self.log_scale, self.y = 1 + abs(self.log_left) + self.log_noise, m-l


# The schedule

@given(levels, dtypes)
def test_signal_and_noise(l, dtype):
    (logsnr,) = tensors(l, dtype=dtype)
    alpha, sigma = alpha_sigma(logsnr)
    exact = Exact(l, l+1)
    close(alpha, exact.alpha, exact.alpha); close(sigma, exact.sigma, exact.sigma)
    close(alpha**2 + sigma**2, 1, 1)
    close((alpha**2/sigma**2).log(), l, 1+abs(l))
    assert alpha.dtype == sigma.dtype == dtype


@given(rising(), st.floats(0, 1))
@example([lowest, highest], 0.)
@example([lowest, highest], 1.)
def test_u_there_and_back(bounds, u):
    "An error of theta = a u + b is one of u, divided by a, and one of lambda, divided by sin(theta) cos(theta) = alpha sigma / 2."
    assume(bounds[1]-bounds[0] > .01)
    a, b = angles(*bounds)
    logsnr = logsnr_of(u, *bounds)
    alpha, sigma = alpha_sigma(logsnr)
    assert bounds[0] <= logsnr <= bounds[1] and logsnr.dtype == torch.float64
    close(u_of(logsnr, *bounds), u, 1/a)
    close(logsnr_of(u_of(logsnr, *bounds).clamp(0, 1), *bounds), logsnr, 1/(alpha*sigma))
    close(torch.atan2(sigma, alpha), a*u + b, 1)
    for at, bound in ((1., bounds[0]), (0., bounds[1])):
        close(logsnr_of(at, *bounds), bound, math.cosh(bound/2))
        close(u_of(torch.tensor(bound).double(), *bounds), at, 1/a)


@given(st.floats(1419.6, 1e300), levels)
def test_bounds_that_are_as_good_as_none(far, l):
    "Where exp(lambda/2) is no number: the angle is a right angle."
    (logsnr,) = tensors(l)
    assert angles(-far, highest) == angles(-math.inf, highest)
    grid = logsnr_grid(3, -far, far)
    assert grid[0] == -far and grid[2] == far
    close(grid[1], 0, 1)
    close(u_of(logsnr, -far, far), u_of(logsnr), 1)
    close(logsnr_density(logsnr, -far, far), logsnr_density(logsnr, -math.inf, math.inf), 1)


@given(levels, dtypes)
def test_u_without_bounds(l, dtype):
    logsnr, other = tensors(l, -l, dtype=dtype)
    alpha, sigma = alpha_sigma(logsnr)
    close(u_of(logsnr) + u_of(other), 1, 1)
    close(u_of(logsnr), 2/math.pi*math.atan2(sigma, alpha), 1/(1+math.exp(l/2)))    # all digits also where u is small
    assert u_of(logsnr).dtype == dtype


@given(rising(), levels)
def test_density_is_the_slope_of_u(bounds, l):
    assume(bounds[1]-bounds[0] > .01)
    l = min(max(l, bounds[0]), bounds[1])
    (logsnr,) = tensors(l)
    (slope,) = torch.autograd.grad(u_of(logsnr.requires_grad_(), *bounds), logsnr)
    close(logsnr_density(logsnr, *bounds), -slope, -slope)
    close(logsnr_density(logsnr), -torch.autograd.grad(u_of(logsnr, lowest, highest), logsnr)[0], 1)
    assert not logsnr_density(torch.tensor([bounds[0]-1e-3, bounds[1]+1e-3]), *bounds).any()


@given(st.integers(2, 64), rising())
@example(256, [lowest, highest])
def test_grid(T, bounds):
    assume(bounds[1]-bounds[0] > .01)
    grid = logsnr_grid(T, *bounds)
    assert grid.shape == (T,) and grid.dtype == torch.float64 and (grid.diff() > 0).all()
    assert [grid[0], grid[-1]] == bounds and torch.equal(logsnr_grid(T)[[0,-1]], torch.tensor([lowest, highest]).double())
    close(u_of(grid, *bounds), torch.linspace(1, 0, T, dtype=torch.float64), 1/angles(*bounds)[0])
    even = even_grid(T, *bounds)
    assert even.shape == (T,) and even.dtype == torch.float64 and [even[0], even[-1]] == bounds
    close(even.diff(), torch.full((T-1,), (bounds[1]-bounds[0])/(T-1), dtype=torch.float64), 40)


# There and back

@given(levels, values, values, dtypes)
def test_image_noise_and_score(l, x, eps, dtype):
    logsnr, x, eps = tensors(l, x, eps, dtype=dtype)
    exact = Exact(l, l+1)
    signal, noise = exact.alpha*x.double(), exact.sigma*eps.double()
    z = diffuse(x, eps, logsnr=logsnr)
    size = signal.abs()+noise.abs()
    close(z, signal+noise, size)
    close(x_from_eps(z, eps, logsnr=logsnr), x, size/exact.alpha)
    close(eps_from_x(z, x, logsnr=logsnr), eps, size/exact.sigma)
    close(score_from_eps(eps, logsnr=logsnr), -eps.double()/exact.sigma, eps.abs().double()/exact.sigma)
    close(eps_from_score(score_from_eps(eps, logsnr=logsnr), logsnr=logsnr), eps, eps.abs())


@given(st.floats(-15, 1.7), dtypes)
def test_log1mexp(exponent, dtype):
    (y,) = tensors(10**exponent, dtype=dtype)
    with localcontext(Context(prec=60)): wanted = float((1 - (-Decimal(y.item())).exp()).ln())
    close(log1mexp(y), wanted, abs(wanted)*(1+y.item()))


@given(st.floats(-15, 1.7), dtypes)
@example(math.log10(3e-8), torch.float32)
def test_slope_of_log1mexp(exponent, dtype):
    "1/(e^y - 1), also where the branch that is not taken has none."
    y = torch.tensor(10**exponent, dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(log1mexp(y), y)
    close(slope, 1/math.expm1(y.item()), (1+y.item())/math.expm1(y.item()))


# Steps

@given(rising(), values, values, dtypes)
@example([lowest, highest], 1., 1., torch.float32)
def test_step_moments(pair, z, x, dtype):
    "Mean and log-variance of transition and posterior, and DDIM, in both precisions; also that each takes q(z|x) to q(z_next|x)."
    exact = Exact(*pair)
    (l, m), (z, x, zero) = tensors(*pair, dtype=dtype), tensors(z, x, 0., dtype=dtype)
    at = dict(logsnr=l, logsnr_next=m)
    ends = z.double(), x.double()
    def is_line(found, gain, share):
        close(found, gain*ends[0] + share*ends[1], (1+exact.y)*gain*ends[0].abs() + share*ends[1].abs())
    mean, logvar = transition(z, **at)
    is_line(mean, exact.forward, 0.); close(logvar, exact.forward_logvar, exact.log_scale)
    mean, logvar = posterior(z, x, **at)
    is_line(mean, exact.gain, exact.share); close(logvar, exact.logvar, exact.log_scale)
    is_line(ddim_step(z, x, **at), exact.ddim_gain, exact.ddim_share)
    (alpha, sigma), (alpha_next, sigma_next) = alpha_sigma(l), alpha_sigma(m)
    mean, logvar = posterior(alpha*x, x, **at)
    close(mean, alpha_next*x, (1+exact.y)*(alpha_next*x).abs().double())
    mean, _ = posterior(sigma, zero, **at)
    close(mean**2 + logvar.exp(), sigma_next**2, exact.log_scale*sigma_next.double()**2)
    mean, logvar = transition(alpha_next*x, **at)
    close(mean, alpha*x, (alpha*x).abs())
    mean, _ = transition(sigma_next, **at)
    close(mean**2 + logvar.exp(), sigma**2, exact.log_scale*sigma.double()**2)
    close(ddim_step(alpha*x + sigma*z, x, **at), alpha_next*x + sigma_next*z, (alpha_next*x).abs()+(sigma_next*z).abs()+(sigma_next/sigma*alpha*x).abs())


@given(rising(3))
def test_steps_compose(three):
    "From the first log-SNR to the third is the same by way of the second."
    l, m, n = tensors(*three)
    one, zero = tensors(1., 0.)
    def line(step, *pair, **kwargs):
        at = dict(zip(('logsnr', 'logsnr_next'), pair))
        (gain, logvar), (share, _) = step(one, zero, **at), step(zero, one, **at)
        return gain, share, logvar.exp()
    forward, ddim = lambda z, x, **at: transition(z, **at), lambda z, x, **at: (ddim_step(z, x, **at), zero-math.inf)
    for step, pairs in ((posterior, [(l, m), (m, n)]), (ddim, [(l, m), (m, n)]), (forward, [(m, n), (l, m)])):
        (gain, share, var), (gain_2, share_2, var_2) = (line(step, *pair) for pair in pairs)
        direct = line(step, l, n)
        scale = 1 + (n-l) + abs(math.log(min(m-l, n-m)))
        for found, wanted in zip((gain_2*gain, gain_2*share+share_2, gain_2**2*var+var_2), direct): close(found, wanted, scale*(1+20)*wanted.abs())


@given(rising(), st.lists(exponents, min_size=2, max_size=2), dtypes)
def test_variance_lies_between(pair, vs, dtype):
    exact = Exact(*pair)
    l, m, zero = tensors(*pair, 0., dtype=dtype)
    at = dict(logsnr=l, logsnr_next=m)
    for v in vs: close(reverse_moments(zero, zero, v=v, **at)[1], (1-v)*exact.logvar + v*exact.forward_logvar, exact.log_scale)
    low, high = (reverse_moments(zero, zero, v=v, **at)[1] for v in sorted(vs))
    rounding = 8*torch.finfo(dtype).eps*exact.log_scale
    assert posterior(zero, zero, **at)[1] <= low+rounding and low <= high+rounding and high <= transition(zero, **at)[1]+rounding


@given(levels, values, values, values, exponents, dtypes)
def test_a_step_to_where_it_is(l, z, x, noise, v, dtype):
    "The variance is nothing, for any v, and every step stays."
    l, z, x, noise = tensors(l, z, x, noise, dtype=dtype)
    at = dict(logsnr=l, logsnr_next=l)
    mean, logvar = reverse_moments(z, x, v=v, **at)
    assert mean == z and logvar == -math.inf
    for step in (ancestral_step, sde_dpmpp_2m_step):
        assert step(z, x, noise=noise, v=v, **at) == z
    for step in steps.values():
        assert step(z, x, noise=noise, previous=(noise, l-1), **at) == z


@given(levels, values, values, exponents)
def test_a_step_to_clean_data(l, z, x, v):
    "The guess, without noise; but v=1 takes the variance of the forward step, which is all of sigma^2."
    l, z, x, inf = tensors(l, z, x, math.inf)
    mean, logvar = reverse_moments(z, x, logsnr=l, logsnr_next=inf, v=v)
    assert mean == x
    if v < 1: assert logvar == -math.inf
    else: close(logvar.exp(), 1/(1+math.exp(l)), 1)


@given(rising(), values, values, values, exponents)
def test_noise_of_a_step(pair, z, x, noise, v):
    "A step with noise is its mean, and noise as wide as its log-variance says; v is 0.3 for one and 0 for the other unless given."
    l, m, z, x, noise, zero = tensors(*pair, z, x, noise, 0.)
    at = dict(logsnr=l, logsnr_next=m)
    for step, default in ((ancestral_step, .3), (sde_dpmpp_2m_step, 0.)):
        for given_v, known in ((dict(), default), (dict(v=v), v)):
            mean, logvar = reverse_moments(z, x, v=known, **at)
            close(step(z, x, noise=noise, **given_v, **at), mean + (logvar/2).exp()*noise, mean.abs() + (logvar/2).exp()*noise.abs())
    assert torch.equal(reverse_moments(z, x, **at)[1], reverse_moments(z, x, v=.3, **at)[1])


@given(rising(3), values, values, values, values, exponents)
def test_second_order_steps(three, z, start, slope, noise, v):
    "The extrapolated guess is exact half-way where the guess is linear in lambda, and the step is a step of the first order with it."
    before, l, m, z, noise = tensors(*three, z, noise)
    guess = lambda at: start + slope*at
    at, previous = dict(logsnr=l, logsnr_next=m), (guess(before), before)
    ahead = extrapolate(guess(l), **at, previous=previous)
    close(ahead, guess((l+m)/2), (1 + (m-l)/(l-before))*(abs(start)+20*abs(slope)))
    assert torch.equal(dpmpp_2m_step(z, guess(l), **at, previous=previous), ddim_step(z, ahead, **at))
    assert torch.equal(sde_dpmpp_2m_step(z, guess(l), **at, noise=noise, previous=previous, v=v), ancestral_step(z, ahead, **at, noise=noise, v=v))
    assert torch.equal(dpmpp_2m_step(z, guess(l), **at), ddim_step(z, guess(l), **at))
    assert torch.equal(dpmpp_2m_step(z, guess(l), **at, previous=(guess(l), before)), ddim_step(z, guess(l), **at))


@given(rising(3), values, values, values, exponents, dtypes)
@example([lowest, highest-2e-6, highest], 3., 3., 3., 1., torch.float32)
@example([lowest, lowest+2e-6, highest], 3., 3., -3., 1., torch.float32)
def test_nothing_overflows(three, z, x, eps, v, dtype):
    "Every function that takes a log-SNR, from one end of the range to the other, float32 included."
    before, l, m, z, x, eps = tensors(*three, z, x, eps, dtype=dtype)
    assume(before < l < m)
    at, logits = dict(logsnr=l, logsnr_next=m), lambda z, logsnr: torch.cat([z, -z], 1)
    found = [*alpha_sigma(l), u_of(l), logsnr_density(l), diffuse(x, eps, logsnr=l), *transition(z, **at), *posterior(z, x, **at), *reverse_moments(z, x, v=v, **at),
             x_from_eps(z, eps, logsnr=l), eps_from_x(z, x, logsnr=l), score_from_eps(eps, logsnr=l), eps_from_score(eps, logsnr=l), classifier_guide(eps, x, logsnr=l, w=4.),
             implicit_classifier_grad(eps, x, logsnr=l), kl_step(eps.view(1,1), x.view(1,1), **at), denoise(lambda z, logsnr, c: z, z.view(1), torch.zeros(1), logsnr=l, clip=1.)]
    for previous in (None, (eps, before)):
        for step in steps.values(): found.append(step(z, x, noise=eps, previous=previous, **at))
        found.append(extrapolate(x, previous=previous, **at))
        found.append(classifier_guided_step(logits, torch.tensor([0]), s=2., v=v)(z.view(1,1), x.view(1,1), noise=eps.view(1,1), previous=previous, **at))
    assert all(t.isfinite().all() and t.dtype == dtype for t in found), found


# The objective

@given(seeds, st.integers(1, 50))
def test_uniform_numbers(seed, n):
    "A random start, with all digits, then steps of 1/n around the circle; fresh ones where no generator is given."
    generator = lambda: torch.Generator().manual_seed(seed)
    start = torch.rand((), dtype=torch.float64, generator=generator())
    assert torch.equal(stratified_u(n, generator()), (start + torch.arange(n, dtype=torch.float64)/n) % 1)
    assert stratified_u(n).shape == (n,) and not torch.equal(stratified_u(n), stratified_u(n))


def test_no_label_is_dropped_by_chance():
    "Where p_uncond is 0, not even by a draw of 0."
    with patch('torch.rand', lambda shape, **_: torch.zeros(shape)): assert (drop_class(torch.arange(3), 0., null=3) < 3).all()


@given(rising(), seeds)
def test_kl_of_images(pair, seed):
    "The sum over all pixels, for images as for points."
    eps_hat, eps = randn(2, 3, 2, 4, 4, seed=seed); l, m = tensors(*pair)
    assert torch.equal(kl_step(eps_hat, eps, logsnr=l, logsnr_next=m), kl_step(eps_hat.flatten(1), eps.flatten(1), logsnr=l, logsnr_next=m))


@given(seeds)
def test_loss_of_a_schedule_in_double(seed):
    "Images and model in single precision, the log-SNR as the schedule gives it: the same loss but for rounding."
    x, eps = randn(2, 3, 2, 4, 4, seed=seed)
    logsnr = logsnr_of(stratified_u(3, torch.Generator().manual_seed(seed)))
    def model(z, logsnr, c):
        assert z.dtype == logsnr.dtype
        return torch.nn.functional.conv2d(z, torch.full((2,2,1,1), .3, dtype=z.dtype))   # refuses another precision
    found = eps_loss(model, x.float(), torch.arange(3), logsnr=logsnr, eps=eps.float())
    noisy = diffuse(x, eps, logsnr=logsnr.view(-1,1,1,1))
    wanted = (.3*noisy.sum(1, keepdim=True) - eps).square().mean((1,2,3))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


@given(levels, seeds)
def test_loss_of_a_known_error(l, seed):
    "A model that finds the noise but for d has the mean of d squared as its loss."
    x, eps, d = randn(3, 2, 3, 4, 4, seed=seed)
    logsnr = torch.tensor([l, 0.]).double()
    model = lambda z, logsnr, c: eps_from_x(z, x, logsnr=logsnr.view(-1,1,1,1)) + d*c.view(-1,1,1,1)
    torch.testing.assert_close(eps_loss(model, x, torch.tensor([1,2]), logsnr=logsnr, eps=eps).double(), d.square().mean((1,2,3))*torch.tensor([1.,4.]), rtol=1e-5, atol=0.)


@given(seeds, st.integers(1, 9), st.lists(st.sampled_from([0., 1.]) | st.floats(0, 1), min_size=2, max_size=2))
def test_drop_class(seed, null, ps):
    "Labels stay or become null: none at 0, all at 1, and the more the greater the probability."
    c = torch.arange(60) % null
    few, many = (drop_class(c, p, null=null, generator=torch.Generator().manual_seed(seed)) for p in sorted(ps))
    for out, p in ((few, min(ps)), (many, max(ps))):
        assert out.dtype == c.dtype and ((out == c) | (out == null)).all() and (0 < p < 1 or ((out == null) == p).all())
    assert ((few != null) | (many == null)).all()


@given(seeds, st.integers(1, 200))
def test_stratified_u(seed, n):
    "One number in each of n equal parts, all at the same place in it."
    u = stratified_u(n, torch.Generator().manual_seed(seed))
    assert u.shape == (n,) and u.dtype == torch.float64 and (u >= 0).all() and (u < 1).all()
    place = u.sort()[0] - torch.arange(n, dtype=torch.float64)/n
    close(place, place[0], 1)
    assert -1e-15 < place[0] < 1/n


@given(rising(), values, values)
def test_kl_of_a_step(pair, eps_hat, eps):
    "Two normal distributions of one variance: half the squared distance of their means over it."
    exact = Exact(*pair)
    l, m, eps_hat, eps = tensors(*pair, [[eps_hat, 1.]], [[eps, 1.5]])
    wanted = ((exact.share*exact.sigma/exact.alpha)**2/(2*exact.var)) * ((eps_hat-eps)**2).sum(1)
    close(kl_step(eps_hat, eps, logsnr=l, logsnr_next=m), wanted, (1+exact.y)*wanted)


# Guidance

@given(values, values, strengths, strengths, dtypes)
def test_guide(cond, uncond, w, other, dtype):
    "A line in w through the prediction without the class, at -1, and with it, at 0."
    cond, uncond = tensors(cond, uncond, dtype=dtype)
    assert guide(cond, uncond, 0.) == cond and guide(cond, uncond, -1.) == uncond
    size = ((1+abs(w)+abs(other))*(cond.abs()+uncond.abs())).double()
    close(guide(cond, uncond, w), cond.double() + w*(cond.double()-uncond.double()), size)
    close((guide(cond, uncond, w)+guide(cond, uncond, other))/2, guide(cond, uncond, (w+other)/2), size)
    close(guide(cond, cond, w), cond, size)


@given(levels, values, values, strengths, dtypes)
def test_implicit_classifier(l, cond, uncond, w, dtype):
    "Guided by the gradient of the implicit classifier is guided without a classifier."
    l, cond, uncond = tensors(l, cond, uncond, dtype=dtype)
    grad = implicit_classifier_grad(cond, uncond, logsnr=l)
    close(classifier_guide(cond, grad, logsnr=l, w=w), guide(cond, uncond, w), (1+2*abs(w))*(cond.abs()+uncond.abs()).double())


def network(null, dim, seed):
    "A little random network, and the labels of each call."
    table, matrix, calls = randn(null+1, dim, seed=seed), randn(dim, dim, seed=seed+1), []
    def model(z, logsnr, c):
        calls.append(c)
        return (z @ matrix + logsnr[:,None]/10 + table[c]).tanh()
    return model, calls


@given(seeds, strengths, st.booleans(), st.integers(1, 3))
def test_guided(seed, w, by_level, dim):
    "One batch of two halves is two passes; a pass that is not needed is not made; each image has its own strength."
    model, calls = network(4, dim, seed)
    z, c, logsnr = randn(5, dim, seed=seed+2), torch.tensor([0,1,2,3,4]), torch.linspace(lowest, highest, 5).double()
    strength = (lambda logsnr, w=w: w*(logsnr > 0).double()) if by_level else w
    w = w*(logsnr > 0).double() if by_level else torch.full((5,), w, dtype=torch.float64)
    wanted = torch.stack([guide(model(z, logsnr, c)[i], model(z, logsnr, torch.full((5,), 4))[i], w[i]) for i in range(5)])
    calls.clear()
    found = guided(model, strength, null=4)(z, logsnr, c)
    close(found, wanted, (1+2*w.abs())[:,None])
    assert [len(call) for call in calls] == ([5] if (w == 0).all() or (w == -1).all() else [10])


# The oracle

@st.composite
def oracles(draw):
    "A random mixture, random points, their log-SNRs and classes."
    k, dim, seed = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(seeds)
    stds, weights = draw(st.lists(st.tuples(st.floats(.1, 2), st.floats(.1, 1)), min_size=k, max_size=k).map(lambda rows: zip(*rows)))
    mixture = Mixture(randn(k, dim, seed=seed), stds, weights)
    return mixture, 2*randn(6, dim, seed=seed+1), torch.tensor(draw(st.lists(levels, min_size=6, max_size=6))).double(), torch.arange(6) % k


def size_of(mixture, z, logsnr):
    "How large the numbers are that the oracle sums: logarithms of densities, and predictions."
    means, var = mixture.moments(logsnr)
    logs = 1 + mixture.log_joint(z, logsnr).abs().max(1)[0]
    return logs, (logs*alpha_sigma(logsnr)[1]*((z[:,None]-means).abs().sum(2)/var).max(1)[0])[:,None]


@given(oracles())
def test_oracle_keeps_bayes_rule(oracle):
    mixture, z, logsnr, c = oracle
    logs, _ = size_of(*oracle[:3])
    null, posterior = torch.full_like(c, mixture.null), mixture.classifier(z, logsnr)
    close(posterior.exp().sum(1), 1, logs)
    log_joint = mixture.log_prob(z, logsnr, c) + mixture.weights.log()[c]
    close(log_joint - mixture.log_prob(z, logsnr, null), posterior.gather(1, c[:,None])[:,0], logs)
    by_class = torch.stack([mixture.log_prob(z, logsnr, torch.full_like(c, k)) for k in range(mixture.null)], 1)
    close((by_class.exp()*mixture.weights).sum(1), mixture.log_prob(z, logsnr, null).exp(), logs*by_class.exp().max(1)[0])
    var = (alpha_sigma(logsnr)[0]*mixture.stds[c])**2 + alpha_sigma(logsnr)[1]**2
    normal = torch.distributions.Normal(alpha_sigma(logsnr)[0][:,None]*mixture.means[c], var.sqrt()[:,None])
    close(mixture.log_prob(z, logsnr, c), normal.log_prob(z).sum(1), logs)


@given(oracles(), strengths)
def test_oracle_is_its_score(oracle, w):
    "The prediction is -sigma times the gradient, by autograd, of log p(z|c), of log p(z), and guided of the guided density."
    mixture, z, logsnr, c = oracle
    _, size = size_of(*oracle[:3])
    null, sigma = torch.full_like(c, mixture.null), alpha_sigma(logsnr)[1][:,None]
    def by_autograd(log_density):
        points = z.clone().requires_grad_()
        return -sigma*torch.autograd.grad(log_density(points).sum(), points)[0]
    for label in (c, null): close(mixture(z, logsnr, label), by_autograd(lambda points: mixture.log_prob(points, logsnr, label)), size)
    by_hand, size = guided(mixture, w, null=mixture.null)(z, logsnr, c), (1+2*abs(w))*size
    close(by_hand, by_autograd(lambda points: guided_log_prob(mixture, points, c, w, logsnr=logsnr)), size)
    close(by_hand, classifier_guided(mixture, mixture.classifier, w)(z, logsnr, c), size)
    unconditional = lambda z, logsnr, c: mixture(z, logsnr, null)
    close(by_hand, classifier_guided(unconditional, mixture.classifier, w+1)(z, logsnr, c), size)
    grad = classifier_grad(mixture.classifier, z, c, logsnr=logsnr)
    close(sigma*grad, sigma*implicit_classifier_grad(mixture(z, logsnr, c), mixture(z, logsnr, null), logsnr=logsnr[:,None]), size)


@pytest.mark.parametrize('w', [2., [.5, 1., 2., 3.]])
def test_strength_as_a_tensor(w):
    "One for all images or one for each: the answer keeps the precision of the images, and gradients reach the strength."
    z, c, w = randn(4, 2, seed=0, dtype=torch.float32), torch.tensor([0, 1, 2, 0]), torch.tensor(w, dtype=torch.float64, requires_grad=True)
    model = lambda z, logsnr, c: z*(c+1)[:,None]
    found = guided(model, (lambda logsnr: w) if w.dim() else w, null=3)(z, torch.zeros(4), c)
    slope = (model(z, None, c) - model(z, None, c*0+3)).sum(1).double()
    assert found.dtype == torch.float32
    torch.testing.assert_close(torch.autograd.grad(found.sum(), w)[0], slope if w.dim() else slope.sum(), rtol=1e-6, atol=1e-6)


@given(oracles(), strengths)
def test_gradients_through_guidance(oracle, w):
    "By the strength, also where one pass would do, and by the image, also where a classifier guides."
    mixture, z, logsnr, c = oracle
    _, size = size_of(*oracle[:3])
    null, w = torch.full_like(c, mixture.null), torch.tensor(w, dtype=torch.float64, requires_grad=True)
    free, by_classifier = guided(mixture, w, null=mixture.null), classifier_guided(mixture, mixture.classifier, w)
    difference = mixture(z, logsnr, c) - mixture(z, logsnr, null)
    for model in (free, by_classifier):
        (slope,) = torch.autograd.grad(model(z, logsnr, c).sum(), w)
        close(slope, difference.sum(), size.expand_as(z).sum())
    def by_image(model):
        points = z.clone().requires_grad_()
        return torch.autograd.grad(model(points, logsnr, c).sum(), points)[0]
    def by_hand(z, logsnr, c): return (1+w)*mixture(z, logsnr, c) - w*mixture(z, logsnr, null)
    wanted = by_image(by_hand)
    tolerance = dict(rtol=1e-6, atol=1e-8*(1+abs(w.item()))*(1+mixture.stds.min().item()**-4))
    torch.testing.assert_close(by_image(free), wanted, **tolerance)
    torch.testing.assert_close(by_image(by_classifier), wanted, **tolerance)


@pytest.mark.parametrize('images', [1, 3, 8])
def test_one_strength_for_each_image(images):
    "As (B,) and as (B,1,1,1), for as many images as columns as well; a classifier's and a shifted mean's too."
    a, b = randn(2, images, 3, 8, 8, seed=0)
    each, l = torch.linspace(-1, 4, images, dtype=torch.float64), torch.tensor(.3).double()
    ways = (guide, lambda a, b, w: classifier_guide(a, b, logsnr=l, w=w), lambda a, b, w: shift_mean(a, l, b, s=w))
    for way in ways:
        wanted = torch.cat([way(a[i:i+1], b[i:i+1], each[i].item()) for i in range(images)])
        for w in (each, each.view(-1, 1, 1, 1)): torch.testing.assert_close(way(a, b, w), wanted)


@given(oracles(), rising(), strengths, exponents)
def test_classifier_guided_step(oracle, pair, s, v):
    "The ancestral step, moved by s times its variance times the gradient at z."
    mixture, z, _, c = oracle
    l, m = tensors(*pair)
    at, x, noise = dict(logsnr=l, logsnr_next=m), z.flip(0), z.roll(1, 0)
    grad = classifier_grad(mixture.classifier, z, c, logsnr=l.expand(6))
    def classifier(z, logsnr):                                            # as strict as a network: a log-SNR for each, in the images' precision
        assert logsnr.shape == z.shape[:1] and logsnr.dtype == z.dtype
        return mixture.classifier(z, logsnr)
    assert classifier_guided_step(classifier, c, s=s)(z.float(), x.float(), noise=noise.float(), **at).isfinite().all()
    for given_v, known in ((dict(), .3), (dict(v=v), v)):
        mean, logvar = reverse_moments(z, x, v=known, **at)
        found = classifier_guided_step(classifier, c, s=s, **given_v)(z, x, noise=noise, **at)
        plain = ancestral_step(z, x, noise=noise, v=known, **at)
        close(found, plain + s*logvar.exp()*grad, plain.abs() + mean.abs() + (s*logvar.exp()*grad).abs() + (logvar/2).exp()*noise.abs())
        close(shift_mean(mean, logvar, grad, s=s) - shift_mean(mean, logvar, grad, s=0), s*logvar.exp()*grad, mean.abs() + (s*logvar.exp()*grad).abs())


@given(seeds, st.floats(.01, 10), st.floats(-1000, 1000))
def test_normalize(seed, cell, shift):
    "Sums to one over the cells, whatever constant was added; ratios stay."
    log_density = randn(50, seed=seed)
    density = normalize(log_density+shift, cell)
    close(density.sum()*cell, 1, 1)
    close((density/density[0]).log(), log_density-log_density[0], 1+abs(shift)+log_density.abs().max())


@given(seeds, levels)
def test_draws_of_the_mixture(seed, l):
    "Mean and noise of the class, all digits, and the same again from the same generator; what a log-SNR in single precision gives is what the same number gives in double."
    mixture, c = Mixture([[-.5,0.], [.5,.2], [0.,.7]], [.1,.2,.3], [1,2,3]), torch.tensor([0, 1, 2, 1])
    generator = lambda: torch.Generator().manual_seed(seed)
    assert torch.equal(Mixture(mixture.means, mixture.stds).weights, torch.full((3,), 1/3, dtype=torch.float64))
    drawn, noise = mixture.sample(c, generator=generator()), generator()
    torch.multinomial(mixture.weights, len(c), replacement=True, generator=noise)             # drawn whether needed or not
    assert torch.equal(drawn, mixture.means[c] + mixture.stds[c,None]*torch.randn(4, 2, dtype=torch.float64, generator=noise))
    assert torch.equal(mixture.sample(c*0+3, generator=generator()), mixture.sample(c*0+3, generator=generator()))
    single, double = (torch.tensor([l]*4, dtype=dtype) for dtype in (torch.float32, torch.float64))
    for f in (mixture.moments, lambda logsnr: mixture(drawn, logsnr, c)):
        for a, b in zip(f(single), f(double)): assert torch.equal(a, b)


# Samples

@given(levels, seeds, st.sampled_from([None, .5, 1., 4.]), dtypes)
def test_denoise(l, seed, clip, dtype):
    "The image that belongs to the noise, within bounds."
    (logsnr,) = tensors(l)
    z, eps = randn(2, 3, 4, seed=seed, dtype=dtype)
    x_tilde, x = denoise(lambda z, logsnr, c: eps, z, torch.arange(3), logsnr=logsnr, clip=clip), x_from_eps(z, eps, logsnr=logsnr)
    assert torch.equal(x_tilde, x if clip is None else x.clamp(-clip, clip)) and x_tilde.dtype == dtype


@pytest.mark.parametrize('step', steps)
@settings(max_examples=25)
@given(st.integers(2, 24), strengths, seeds, st.sampled_from([.5, 1., 3.]), dtypes)
def test_samples_are_finite(step, T, w, seed, clip, dtype):
    "For any number of steps, strength, seed and bound: as many images on the way as steps, all of them finite, each guess within the bound, and the last one is the sample."
    mixture = Mixture([[-.5,0.], [.5,.2], [0.,.7]], [.1,.2,.3], [1,2,3])
    start, c, drawn = randn(8, 2, seed=seed, dtype=dtype), torch.arange(8) % 4, randn(T, 8, 2, seed=seed+1, dtype=dtype)
    asked = []
    def noise(t):
        asked.append(t)
        return drawn[t]
    model, how = guided(mixture, w, null=3), dict(T=T, step=steps[step], clip=clip)
    way = list(trajectory(model, start, c, noise=noise, **how))
    assert len(way) == T and torch.equal(way[0][0], start) and asked == ([] if step in ('ddim', 'dpmpp') else list(range(1, T)))
    for z, x_tilde in way:
        assert z.isfinite().all() and x_tilde.abs().max() <= clip and z.dtype == x_tilde.dtype == dtype
    assert torch.equal(sample(model, start, c, noise=noise, **how), way[-1][1])


def test_defaults_of_the_sampler():
    "256 steps, images in [-1,1], fresh noise from torch's own generator, no gradient; and the model is told the log-SNR of each image in its precision."
    z, c, scale, calls = randn(64, 2, seed=0, dtype=torch.float32), torch.zeros(64, dtype=int), torch.tensor([.5, .9], requires_grad=True), []
    def model(z, logsnr, c):
        calls.append(logsnr); assert logsnr.shape == (64,) and logsnr.dtype == z.dtype
        return scale*z
    def seeded(f, **how): torch.manual_seed(1); return f(model, z, c, **how)
    whole, fresh = dict(T=256, clip=1., step=ancestral_step), dict(noise=lambda t: torch.randn_like(z))
    found = seeded(sample)
    assert len(calls) == 256 and not found.requires_grad and found.abs().max() == 1 and (found.abs() < 1).any()
    assert torch.equal(found, seeded(sample, **whole, **fresh)) and not torch.equal(found, sample(model, z, c))
    way = lambda *args, **how: list(trajectory(*args, **how))
    for (a, b), (a_2, b_2) in zip(seeded(way), seeded(way, **whole, **fresh), strict=True): assert torch.equal(a, a_2) and torch.equal(b, b_2)


@given(st.integers(2, 24), st.lists(values, min_size=2, max_size=2), seeds)
def test_a_model_that_knows_the_image(T, image, seed):
    "Its image stays the same, so both deterministic steps are one; its noise stays the same along them; and every step ends at the image."
    image = torch.tensor(image).double()
    model = lambda z, logsnr, c: eps_from_x(z, image, logsnr=logsnr[:,None])
    start, c, grid = randn(3, 2, seed=seed), torch.zeros(3, dtype=int), logsnr_grid(T)
    eps = eps_from_x(start, image, logsnr=grid[0])
    ways = {name: list(trajectory(model, start, c, T=T, step=step, clip=None)) for name, step in steps.items()}
    size = T*(1+image.abs())/alpha_sigma(grid[0])[0]                    # the first guess is z's rounding over alpha
    for logsnr, (z, x_tilde), (z_2, _) in zip(grid, ways['ddim'], ways['dpmpp']):
        close(z, diffuse(image, eps, logsnr=logsnr), size); close(z_2, z, size)
        close(x_tilde, image, image.abs() + z.abs()/alpha_sigma(logsnr)[0])
    for way in ways.values(): close(way[-1][1], image, image.abs() + way[-1][0].abs())


# The other roads

@given(seeds, st.sampled_from([1e-3, math.inf]) | st.floats(.01, 8))
def test_truncated_normal(seed, psi):
    "Within the threshold, and its distribution function is the uniform number it was made of."
    generator = lambda: torch.Generator().manual_seed(seed)
    found, u = truncated_normal((50,), psi, generator=generator()), torch.rand(50, dtype=torch.float64, generator=generator())
    assert found.abs().max() <= psi and found.dtype == torch.float64
    close((found/math.sqrt(2)).erf()/math.erf(psi/math.sqrt(2)), 2*u-1, 1)


@pytest.mark.parametrize('psi', [1e-3, .01, .5, 3., 4.179583323955536])     # the last is exceeded by an ulp without care
def test_truncated_normal_at_its_ends(psi):
    "Not beyond the threshold even where the uniform number is the smallest or the largest there is."
    ends = torch.tensor([0., 1-2**-53], dtype=torch.float64)
    with patch('torch.rand', lambda *_, **__: ends): found = truncated_normal((2,), psi)
    assert found.abs().max() <= psi; torch.testing.assert_close(found, psi*torch.tensor([-1., 1.]).double(), rtol=1e-6, atol=0.)


@given(values, values, st.floats(0, 2), values)
def test_langevin_step(z, score, size, noise):
    "Variances: at a standard normal's score, -z, a step turns a variance of 1 into 1 + size^2/4."
    z, score, noise, zero, one = tensors(z, score, noise, 0., 1.)
    gain, width = langevin_step(one, -one, step_size=size, noise=zero), langevin_step(zero, zero, step_size=size, noise=one)
    close(gain**2 + width**2, 1+size**2/4, 1+size)
    assert gain <= 1 and width >= 0
    found = langevin_step(z, score, step_size=size, noise=noise)
    close(found, z + (1-gain)*score + width*noise, z.abs()+score.abs()*(1+size)+noise.abs()*(1+size))

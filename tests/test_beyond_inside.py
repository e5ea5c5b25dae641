"The classifier inside a model and the gradient that it is not: the mathematics by another road, and what the script measures."
import math, sys
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal
from torch.testing import assert_close
import project
from cfg_repro.forward import diffuse
from cfg_repro.gradient import asymmetry, jacobian
from cfg_repro.inside import Inside, bayes_step, every_class, guided_inside, class_sum, noised_path
from cfg_repro.mixture import Mixture
from cfg_repro.sampling import trajectory
from cfg_repro.schedule import logsnr_grid

sys.path.append(str(project.root/'benchmarks'))
import beyond
import inside as script

settings.register_profile('beyond', deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile('beyond')
levels, seeds = st.floats(-6., 6.), st.integers(0, 2**31)


def normals(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reverse_step(z, x, low, high, v):
    "p(z_high | z_low, x), as Eq. (3) and (4) define it, by precisions: q(z_low | z_high) and q(z_high | x), multiplied."
    (a, s), (b, t) = ((torch.sigmoid(l), torch.sigmoid(-l)) for l in (low, high))      # alpha^2 and sigma^2
    ratio, widest = (a/b).sqrt(), s - a/b*t
    precision = 1/t + ratio**2/widest
    mean = (b.sqrt()*x/t + ratio*z/widest)/precision
    return Independent(Normal(mean, (precision**-(1-v)*widest**v).sqrt()), 3)


@given(low=levels, rise=st.floats(.01, 8.), v=st.sampled_from([0., .3, 1.]), seed=seeds)
def test_bayes_step(low, rise, v, seed):
    "The posterior of a categorical variable whose likelihoods are torch's own Gaussians."
    z, z_next, x = normals(seed, 3, 1, 2, 2), normals(seed+1, 3, 1, 2, 2), normals(seed+2, 3, 4, 1, 2, 2)
    low, high = (torch.tensor(l, dtype=torch.float64) for l in (low, low+rise))
    before = normals(seed+3, 3, 4).log_softmax(1)
    likelihood = [reverse_step(z, x[:, k], low, high, v).log_prob(z_next) for k in range(4)]
    wanted = Categorical(logits=before + torch.stack(likelihood, 1)).logits
    found = bayes_step(before, z, x, z_next, logsnr=low, logsnr_next=high, v=v)
    assert_close(found, wanted, rtol=1e-7, atol=1e-7*(1+wanted.abs().max().item()))


@given(seed=seeds, cut=st.integers(1, 5))
def test_a_walk_of_points_may_leave_out_places(seed, cut):
    "Where each class is one point a step is exact, so a walk with a place left out comes to the same class."
    points = Mixture(normals(seed, 3, 2), [1e-12]*3, [.2, .3, .5])
    grid = logsnr_grid(7, -20., 1.)
    path = noised_path(normals(seed+1, 4, 2), logsnrs=grid, noise=lambda z: normals(seed+2, *z.shape))
    def end(places):
        walk = Inside(points, points.weights, v=0)
        return [walk(path[i], grid[i])[1] for i in places][-1]
    assert_close(end(range(7)), end([i for i in range(7) if i != cut]), rtol=1e-6, atol=1e-6)


def test_clipping_reaches_the_step():
    "Guesses beyond the bound count as the bound, in the class and not in what is predicted."
    z, z_next, low, high = normals(0, 3, 2), normals(1, 3, 2), torch.tensor(-3.).double(), torch.tensor(-1.).double()
    def model(z, logsnr, c): return z - c[:, None]
    walk = Inside(model, torch.ones(2), v=.5, clip=.7)
    eps, before = walk(z, low)
    assert_close(eps, torch.stack([z, z-1], 1))
    alpha, sigma = low.sigmoid().sqrt(), (-low).sigmoid().sqrt()
    x = ((z[:, None]-sigma*eps)/alpha).clamp(-.7, .7)
    assert (x.abs() == .7).any()
    _, found = walk(z_next, high)
    assert_close(found, bayes_step(before, z, x, z_next, logsnr=low, logsnr_next=high, v=.5))


def test_a_walk_starts_anew():
    "Where the log-SNR falls or stays, or other points come, the class is the prior's; the prior may be counts."
    oracle, z = Mixture([[-1.], [1.]], [.5, .5]), normals(0, 3, 1)
    walk, at = Inside(oracle, [2, 6]), lambda l: torch.tensor(l, dtype=torch.float64)
    prior = torch.tensor([.25, .75], dtype=torch.float64)
    for l, points, anew in ((-1., z, True), (0., z, False), (0., z, True), (1., z, False), (-2., z, True), (3., z[:2], True)):
        found = walk(points, at(l))[1].exp()
        assert torch.allclose(found, prior.expand(len(points), 2)) is anew


@given(seed=seeds, w=st.floats(-1., 4.))
def test_guidance_at_each_step(seed, w):
    "A guided walk: at each place the classifier is that of an `Inside` which is led along the same walk, and Eq. (6) by hand."
    oracle = Mixture(normals(seed, 3, 2), [.4, .7, 1.], [.2, .3, .5])
    noises, c = normals(seed+1, 8, 5, 2), torch.tensor([0, 1, 2, 0, 1])
    seen = []
    model = guided_inside(oracle, w, prior=oracle.weights, v=.3)
    def spied(z, logsnr, c):
        seen.append((z, logsnr[0], model(z, logsnr, c)))
        return seen[-1][-1]
    for _ in trajectory(spied, noises[0], c, T=8, clip=None, noise=lambda t: noises[t]):
        pass
    walk = Inside(oracle, oracle.weights, .3)
    for z, logsnr, found in seen:
        eps, log_p = walk(z, logsnr)
        uncond = torch.einsum('bk,bkd->bd', log_p.exp(), eps)
        assert_close(found, (1+w)*oracle(z, logsnr, c) - w*uncond)


def test_guidance_that_changes_with_noise():
    "A strength may be a function of the log-SNR, as in `guided`."
    oracle, z, l = Mixture([[-1.], [1.]], [.5, .5]), normals(0, 4, 1), torch.full((4,), -1., dtype=torch.float64)
    c = torch.tensor([0, 1, 1, 0])
    by_function = guided_inside(oracle, lambda logsnr: -logsnr, prior=[1, 1])(z, l, c)
    assert_close(by_function, guided_inside(oracle, 1., prior=[1, 1])(z, l, c))


def test_jacobian_of_a_score():
    "Of a Gaussian's score it is minus the inverse of the covariance, which is symmetric; turned, it is not."
    root = normals(0, 6, 6)
    cov = root @ root.T + torch.eye(6, dtype=torch.float64)
    law, z = MultivariateNormal(torch.zeros(6, dtype=torch.float64), cov), normals(1, 5, 1, 2, 3)
    def score(z): return torch.autograd.grad(law.log_prob(z.flatten(1)).sum(), z, create_graph=True)[0]
    J = jacobian(score, z)
    assert_close(J, -torch.linalg.inv(cov).expand(5, 6, 6))
    assert asymmetry(J) < 1e-12


@given(seed=seeds, n=st.integers(2, 6))
def test_asymmetry_is_the_distance_from_gradients(seed, n):
    "By least squares over all symmetric matrices, and the same for a matrix that is turned over or scaled."
    J = normals(seed, n, n)
    pairs = [(i, j) for i in range(n) for j in range(i, n)]
    basis = torch.zeros(len(pairs), n, n, dtype=torch.float64)
    for k, (i, j) in enumerate(pairs):
        basis[k, i, j] = basis[k, j, i] = 1.
    A = basis.flatten(1).T
    left = J.flatten() - A @ torch.linalg.lstsq(A, J.flatten()[:, None]).solution[:, 0]
    assert_close(asymmetry(J), left.norm()/J.norm())
    assert_close(asymmetry(-3*J.T), asymmetry(J))
    assert_close(asymmetry(torch.stack([J, J.T])), asymmetry(J))


def flat(oracle):
    "An oracle of 64 numbers as a model of digits."
    def model(z, logsnr, c):
        return oracle(z.flatten(1).double(), logsnr.double(), c).view_as(z).to(z)
    return model


@pytest.fixture
def digits_like():
    "Ten classes in 64 dimensions, 40 images of them and their classes."
    oracle, c = Mixture(.7*normals(0, 10, 64), [.2]*10), torch.arange(40) % 10
    x = oracle.sample(c, generator=torch.Generator().manual_seed(0)).view(-1, 1, 8, 8)
    return oracle, x.clamp(-1, 1).float(), c


def test_the_walk_of_the_script():
    "Rising from -20, with each of the levels on it; 22 places, of which the paper's u are equal steps down to -1."
    grid = script.walk()
    assert len(grid) == 22 and grid[0] == -20 and (grid.diff() > 0).all() and set(script.LEVELS) <= set(grid.tolist())
    theta = (-grid[:16]/2).exp().atan()
    assert_close(theta.diff(), theta.diff()[:1].expand(15))


def test_paths_of_the_script():
    "They end in q(z|x) at the last level and are, on the way, q(z|x) as well: means and variances over 20,000 images."
    x, grid = torch.full((20_000, 1, 1, 1), .8), script.walk()
    path = script.paths(x, grid, 3)
    for z, logsnr in zip(path, grid):
        alpha, sigma = logsnr.sigmoid().sqrt().item(), (-logsnr).sigmoid().sqrt().item()
        assert abs(z.mean() - alpha*.8) < 4*sigma/20_000**.5 and abs(z.std()/sigma - 1) < 4/40_000**.5
    assert all(torch.equal(a, b) for a, b in zip(path, script.paths(x, grid, 3)))


def test_what_a_place_says(digits_like):
    "Each number by hand: with the exact classifier in both places the sum is the exact prediction without a class."
    oracle, x, c = digits_like
    logsnr, noise = torch.tensor(-1.), normals(1, 40, 1, 8, 8).float()
    z = diffuse(x, noise, logsnr=logsnr)
    exact = oracle.classifier(z.flatten(1).double(), logsnr).float()
    eps = every_class(flat(oracle), z, 10, logsnr=logsnr)
    def classifier(z, logsnr): return exact + 5.
    row = script.place(flat(oracle), classifier, z, x, c, eps, exact, logsnr)
    share = (exact.argmax(1) == c).double().mean().item()
    assert row['accuracy_inside'] == pytest.approx(share) == row['accuracy_classifier']
    nats = -exact.double()[torch.arange(40), c].mean().item()
    assert row['nats_inside'] == pytest.approx(nats, rel=1e-5) == row['nats_classifier']
    def error(e): return ((e-noise.double())**2).mean().item()
    wanted = dict(null=flat(oracle)(z, logsnr.expand(40), torch.full_like(c, 10)), prior=eps.sum(1)/10,
                  cond=flat(oracle)(z, logsnr.expand(40), c))
    for name, e in wanted.items():
        assert row[f'error_{name}'] == pytest.approx(error(e.double()), rel=1e-4)
    assert row['error_inside'] == pytest.approx(row['error_null'], rel=1e-4) == row['error_classifier']
    assert row['error_cond'] != row['error_null'] != row['error_prior']


def test_classes_of_the_script(digits_like):
    "A row for each level, and on an exact model the class is known nearly as the exact classifier knows it."
    oracle, x, c = digits_like
    data = beyond.MemorySet(x, c, beyond.digits().settings)
    rows = script.classes(flat(oracle), lambda z, l: oracle.classifier(z.flatten(1).double(), l.double()).float(), 0, data)
    assert [r['logsnr'] for r in rows] == list(script.LEVELS)
    for r in rows:
        assert abs(r['accuracy_inside'] - r['accuracy_classifier']) < .15 and abs(r['nats_inside'] - r['nats_classifier']) < .3


def test_turns_of_the_script(digits_like):
    "Squared norms of the Jacobians by torch.func, of a model that turns by its class."
    _, x, c = digits_like
    M = normals(2, 11, 64, 64)

    class Turning(torch.nn.Module):
        def forward(self, z, logsnr, c):
            return torch.einsum('bij,bj->bi', M[c], z.flatten(1).tanh()).view_as(z)*(1+logsnr.view(-1, 1, 1, 1)**2)
    rows = script.turns(Turning(), 5, beyond.MemorySet(x, c, beyond.digits().settings), 3)
    noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for r in rows:
        l = torch.tensor(r['logsnr'], dtype=torch.float64)
        z = l.sigmoid().sqrt()*x[:3].double() + (-l).sigmoid().sqrt()*noise
        def J(k, i): return torch.func.jacrev(lambda z: (M[k] @ z.tanh())*(1+l**2))(z[i].flatten())
        found = dict(cond=[J(c[i], i) for i in range(3)], null=[J(10, i) for i in range(3)])
        found['d'] = [a-b for a, b in zip(*found.values())]
        def guess(z, k): return (z - (-l).sigmoid().sqrt()*(M[k] @ z.tanh())*(1+l**2))/l.sigmoid().sqrt()
        found['guess'] = [torch.func.jacrev(guess)(z[i].flatten(), c[i])*(l/2).exp() for i in range(3)]
        for name, each in found.items():
            each = torch.stack(each)
            assert r[f'all_{name}'] == pytest.approx((each**2).sum().item())
            assert r[f'odd_{name}'] == pytest.approx(((each-each.transpose(1, 2))**2).sum().item()/4)


def test_what_reaches_the_sampler(monkeypatch):
    "Both ways have their strength, one the null class and one none, and the seed; what the judge says is the row."
    asked = []
    def net(z, logsnr, c):
        asked.append(sorted(set(c.tolist())))
        return c.view(-1, 1, 1, 1).expand_as(z).float()
    def sampled(model, seed):
        z = torch.zeros(4, 1, 8, 8)
        return [model(z, torch.full((4,), -20.), torch.tensor([0, 1, 2, 9]))[:, 0, 0, 0].tolist(), seed]
    monkeypatch.setattr(beyond, 'sampled', sampled)
    monkeypatch.setattr(beyond, 'judged', lambda images: dict(fd=images))
    for w in (.5, 2.):
        for by, without in (('null', 10.), ('inside', 4.5)):
            [row] = script.guidance(net, 7, by, w)
            assert row['fd'][1] == 7 and row['fd'][0] == pytest.approx([k + w*(k-without) for k in (0, 1, 2, 9)])
    assert asked == [[0, 1, 2, 9, 10], [*range(10)]]*2


def test_the_noisy_classifier(monkeypatch, tmp_path):
    "It learns from the digits to learn from, by the loss of a classifier, and is kept."
    told = {}
    monkeypatch.setattr(beyond, 'kept', tmp_path)
    monkeypatch.setattr(script, 'train', lambda state, data, **how: told.update(how, data=data, state=state) or [])
    net = script.noisy_classifier(4)
    assert told['data'] is beyond.parted()[0] and told['loss'] is script.classifier_loss
    assert (told['seed'], told['steps'], told['p_uncond'], net.training) == (4, 500, 0., False)
    monkeypatch.setattr(script, 'train', lambda *_, **__: pytest.fail('trained again'))
    for p, q in zip(script.noisy_classifier(4).parameters(), told['state'].ema.module.parameters()):
        assert torch.equal(p, q)


def test_parts_are_made_once(tmp_path):
    "What is kept is not made again; a damaged part is; each row says of what it is."
    made = []
    def make(): made.append(1); return [dict(a=len(made)), dict(a=5)]
    of = dict(seed=1, steps=50)
    assert script.part(tmp_path, 'x', of, make) == script.part(tmp_path, 'x', of, make) == [of | dict(a=1), of | dict(a=5)]
    (tmp_path/'parts'/'x-1-50.json').write_text('{')
    assert script.part(tmp_path, 'x', of, make)[0]['a'] == 2
    assert script.part(tmp_path, 'x', dict(seed=2, steps=50), make)[0] == dict(seed=2, steps=50, a=3)


def test_all_parts(monkeypatch, tmp_path):
    "Each seed asks for each network that it names, once; the tables hold the parts' rows, and the same line makes nothing."
    asked = []
    monkeypatch.setattr(beyond, 'network', lambda seed, steps: ('net', seed, steps))
    monkeypatch.setattr(script, 'noisy_classifier', lambda seed: ('classifier', seed))
    def note(name):
        def make(*args): asked.append((name, *args)); return [dict(x=len(asked))]
        return make
    for name in ('classes', 'turns', 'guidance'):
        monkeypatch.setattr(script, name, note(name))
    held = beyond.parted()[1]
    script.inside(out=str(tmp_path), seeds=2, n=3)
    wanted = [('classes', ('net', s, k), ('classifier', s), s, held) for s in (0, 1) for k in (100, 500, 2000)]
    wanted += [('turns', ('net', s, k), s, held, 3) for s in (0, 1) for k in (50, 100, 200, 500, 1000, 2000)]
    wanted += [('guidance', ('net', s, 500), s, by, w) for s in (0, 1)
               for by, w in (('null', .3), ('null', .5), ('null', 1.), ('inside', 1.), ('inside', 2.))]
    assert len(asked) == len(wanted) and all(job in asked for job in wanted)
    lines = {name: (tmp_path/f'{name}.csv').read_text().splitlines() for name in ('classes', 'gradient', 'samples')}
    assert [len(found) for found in lines.values()] == [7, 13, 11] and lines['gradient'][0] == 'seed,steps,x'
    script.inside(out=str(tmp_path), seeds=2, n=3)
    assert len(asked) == len(wanted)
    with pytest.raises(ValueError, match='holds a sweep with n 3, not 4'):
        script.inside(out=str(tmp_path), seeds=2, n=4)

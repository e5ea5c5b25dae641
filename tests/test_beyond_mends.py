"What guidance mends, and a worse guide: what the two scripts measure, by another road, and what reaches the sampler."
import json, math, sys
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
import project
from cfg_repro.worse import guided_by

sys.path.append(str(project.root/'benchmarks'))
import beyond, mends, worse


def randn(*shape, seed): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, derandomize=True, database=None)
@given(st.integers(0, 2**31), st.floats(-5, 10), st.booleans(), st.integers(1, 3))
def test_guided_by(seed, w, by_level, dim):
    "Each image by its own strength, away from the other model's answer to the same question, which w = 0 does not ask."
    matrices, asked = randn(2, dim, dim, seed=seed), []

    def net(k):
        def model(z, logsnr, c):
            asked.append(k)
            return (z @ matrices[k] + logsnr[:, None]/10 + c[:, None]).tanh()
        return model
    z, logsnr, c = randn(5, dim, seed=seed+1), torch.linspace(-20, 20, 5).double(), torch.arange(5)
    found = guided_by(net(0), net(1), (lambda l: w*(l > 0).double()) if by_level else w)(z, logsnr, c)
    strength = (w*(logsnr > 0).double() if by_level else torch.full((5,), w, dtype=torch.float64))[:, None]
    calls = asked.copy()
    better, other = net(0)(z, logsnr, c), net(1)(z, logsnr, c)
    assert_close(found, better + strength*(better-other), rtol=1e-12, atol=1e-12)
    assert calls == ([0] if w == 0 else [0, 1])


def test_within():
    "Two classes by hand: black to white is 2 a pixel, and each class counts once."
    images = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    images[0], images[4, 0, 0, 0] = 255, 255
    labels = torch.tensor([3, 3, 5, 5, 5])        # distances 16; 0, 2, 2
    assert_close(mends.within(images, labels), (16 + 4/3)/2)


def test_temperature():
    "Logits that are three times too sure are cooled to a third; numbers of draws are exact."
    p = torch.tensor([.6, .3, .1], dtype=torch.float64)
    logits, labels = 3*p.log().expand(10, 3), torch.tensor([0]*6 + [1]*3 + [2])
    assert_close(mends.temperature(logits, labels).item(), 3., rtol=.01, atol=0.)


def test_each_digit_is_judged_by_others(monkeypatch):
    "No classifier sees the fifth that it judges; its temperature comes from the others."
    taught = []

    def fit_classifier(rest, n, *, steps, seed):
        taught.append({tuple(x.flatten().tolist()) for x in rest.x})
        return lambda x: torch.stack([(torch.tensor(tuple(i.flatten().tolist()) in taught[-1]).float()*9).expand(n) for i in x])
    monkeypatch.setattr(mends, 'fit_classifier', fit_classifier)
    monkeypatch.setattr(mends, 'temperature', lambda logits, labels: torch.tensor(len(labels)/1000.).double())
    data = beyond.MemorySet((torch.arange(1000.)/1000).view(1000, 1, 1, 1), torch.arange(1000) % 10, {})
    logits, cooled = mends.crossed(data)
    assert (logits == 0).all() and [len(t) for t in taught] == [800]*5
    monkeypatch.setattr(mends, 'fit_classifier', lambda *_, **__: lambda x: x.view(-1, 1).expand(-1, 10))
    logits, cooled = mends.crossed(data)
    assert_close(cooled, logits/.8)


def test_promised():
    "As many of each class, none twice, at the rate p^w; with w = 0 all are kept."
    data = beyond.parted()[0]
    log_p = torch.full((len(data),), math.log(.9), dtype=torch.float64)
    log_p[::2] = -1e9                             # these are never kept
    never = {tuple(x.flatten().tolist()) for x in data.bytes(torch.arange(0, len(data), 2))}
    images, labels = mends.promised(log_p, 1., seed=0)
    rows = {tuple(x.flatten().tolist()) for x in images}
    assert len(rows) == len(images) and not rows & never and labels.bincount().max() <= 60
    images, labels = mends.promised(log_p, 0., seed=0)
    assert labels.bincount().tolist() == [60]*10
    assert not torch.equal(images, mends.promised(log_p, 0., seed=1)[0])


def linear(z, logsnr, c):
    "A network that makes known mistakes: half of z with a class, a quarter without."
    return z*torch.where(c == beyond.NULL, .25, .5).view(-1, 1, 1, 1)


def test_fits():
    "The products of a linear network by their expectations: z has the second moment alpha^2 E|x|^2 + sigma^2."
    rows = mends.fitted(linear, 'learnt', torch.zeros(1197).double(), (0., 2.), seed=0)
    square = beyond.parted()[0][torch.arange(600)][0].double().square().mean().item()
    assert len(rows) == 2*16 and {row['digits'] for row in rows} == {'learnt'}
    for row in rows:
        alpha2 = 1/(1+math.exp(-row['logsnr']))
        z2, cross = alpha2*square + 1-alpha2, (1-alpha2)**.5
        wanted = dict(d2=z2/16, aligned=cross/4 - z2/8, error=1 - cross + z2/4)
        for name, value in wanted.items():
            assert abs(row[name]-value) < .03, (name, row)


@pytest.mark.parametrize('which', ['learnt', 'held'])
def test_fits_are_weighted(which):
    "With all weight on one digit at w = 1 the products are its own; at w = 0 they are means over all."
    log_p, eps = torch.full((1197,), -1e9).double(), torch.randn(600, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    log_p[5] = 0.
    all_of_them, one = mends.fitted(linear, which, log_p, (0., 1.), seed=3)[:2]
    z = eps*(1-math.exp(-20))**.5 + math.exp(-10)*beyond.parted()[which == 'held'][torch.arange(600)][0]
    for row, some in ((all_of_them, slice(None)), (one, slice(5, 6))):
        left, d = (eps-z/2)[some], z[some]/4
        for name, product in dict(error=left*left, d2=d*d, aligned=left*d).items():
            assert abs(row[name]-product.mean().item()) < 1e-4, (name, row)


def test_owed():
    "On the grid the fitted ratio of this w and these digits; what the sampler asks in float32 finds its level."
    rows = [dict(w=w, digits=digits, logsnr=l, aligned=a, d2=2.) for w, digits, l, a in
            ((1., 'held', 0.1, 98.), (0., 'learnt', 0.1, 99.), (1., 'learnt', -20., 4.), (1., 'learnt', 0.1, 6.))]
    strength = mends.owed(rows, 1.)
    assert strength(torch.tensor([.1, -20., .1])).tolist() == [3., 2., 3.]


def test_what_reaches_the_sampler(monkeypatch):
    "Strength, seed and null class of a plain cell; the fitted strengths of an owed one; all of them for each network."
    told = []

    def sampled(model, seed):
        z, logsnr = torch.ones(1, 1, 1, 1), torch.tensor([-20.])
        told.append((seed, model(z, logsnr, torch.tensor([3])).item()))
        return torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(mends.beyond, 'sampled', sampled)
    monkeypatch.setattr(mends, 'looked_at', lambda images, labels: dict(fd=labels[:12].tolist()))
    monkeypatch.setattr(mends.beyond, 'network', lambda seed, steps: linear)
    found = mends.of_network(7, 200, torch.zeros(1197).double())
    plain = [row for row in found['cells'] if row['rule'] == 'plain']
    assert [row['w'] for row in plain] == list(mends.W[200]) and all(row['seed'] == 7 and row['steps'] == 200 for row in plain)
    assert_close([value for _, value in told[:len(plain)]], [.5 + .25*w for w in mends.W[200]])
    assert {seed for seed, _ in told} == {7} and plain[0]['fd'] == [*range(10), 0, 1]
    owed = [row for row in found['fits'] if row['digits'] == 'learnt' and row['logsnr'] == -20]
    assert_close([value for _, value in told[len(plain):]], [.5 + .25*row['aligned']/row['d2'] for row in owed])


def test_guides(monkeypatch):
    "Earlier networks of the same seed; the network itself, asked for classes in which nothing shows what was wanted."
    monkeypatch.setattr(worse.beyond, 'network', lambda seed, steps: (seed, steps))
    asked = []

    def net(z, logsnr, c):
        asked.append(c)
        return z
    made = {name: make() for name, make in worse.guides(net, 4).items()}
    assert (made['100'], made['200']) == ((4, 100), (4, 200))
    for _ in range(2):
        made['any class'](torch.zeros(5000, 1), None, torch.full((5000,), 3))
    assert not torch.equal(*asked)
    assert all(abs(c.bincount(minlength=10)/5000 - .1).max() < .03 for c in asked) and asked[0].max() == 9
    again = worse.any_class(net, 4)
    again(torch.zeros(5000, 1), None, torch.full((5000,), 3))
    assert torch.equal(asked[0], asked[2])


def test_worse_reaches_the_sampler(monkeypatch):
    "The network is led away from its guide by w, with the seed of the network."
    told = []

    def sampled(model, seed):
        told.append((seed, model(torch.ones(1, 1, 1, 1), torch.zeros(1), torch.tensor([3])).item()))
        return torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(worse.beyond, 'sampled', sampled)
    monkeypatch.setattr(worse, 'looked_at', lambda images, labels: dict(fd=0.))
    monkeypatch.setattr(worse.beyond, 'network', lambda seed, steps: lambda z, logsnr, c: z*steps)
    rows = worse.of_network(6, 500)['cells']
    wanted = [(guide, w) for guide, ws in worse.W.items() for w in ws]
    assert [(row['guide'], row['w']) for row in rows] == wanted and all(row['seed'] == 6 and row['steps'] == 500 for row in rows)
    pushed = [500 + w*(500-(500 if guide == 'any class' else int(guide))) for guide, w in wanted]
    assert_close(told, [(6, value) for value in pushed])


@pytest.mark.parametrize('module', [mends, worse])
def test_it_goes_on(module, monkeypatch, tmp_path):
    "Rows of every network; a part that is there is not made again; another size of sample is refused."
    made = []

    def of_network(seed, steps, *_):
        made.append((seed, steps))
        return dict(cells=[dict(seed=seed, steps=steps)], fits=[dict(seed=seed)])
    monkeypatch.setattr(module, 'of_network', of_network)
    monkeypatch.setattr(mends, 'of_digits', lambda: dict(cells=[dict(w=0.)], beliefs=[dict(log_p=0.)]))
    go = getattr(module, module.__name__)
    for seeds in (1, 2, 2):
        go(out=str(tmp_path), seeds=seeds, lengths=(100, 500))
    assert made == [(0, 100), (0, 500), (1, 100), (1, 500)]
    assert (tmp_path/'cells.csv').read_text().split() == ['seed,steps', *(f'{k},{n}' for k, n in made)]
    assert json.loads((tmp_path/'provenance.json').read_text())['seeds'] == 2
    monkeypatch.setattr(module.beyond, 'N', 601)
    with pytest.raises(ValueError, match='holds a sweep with n 600, not 601'):
        go(out=str(tmp_path), seeds=1, lengths=(100,))

"Two numbers a level on digits, and what was found beyond the paper once more on garments: each by another road."
import json, sys
import numpy as np
import pytest, torch
from torch.testing import assert_close
import project
from cfg_repro.forward import diffuse
from cfg_repro.solvers import even_grid

sys.path.append(str(project.root/'benchmarks'))
import beyond, garments, two_numbers

matrices = torch.randn(11, 64, 64, generator=torch.Generator().manual_seed(1))/8


def linear(z, logsnr, c):
    "A network that is another matrix for each class."
    return (z.flatten(1)[:, None] @ matrices[c])[:, 0].view_as(z)


def both(level, c):
    "What the network predicts with the class and without, for the digits of a fit, in numpy; and their noise."
    x, eps, labels = two_numbers.noised(3)
    z = diffuse(x, eps, logsnr=torch.tensor(level)).flatten(1).double()
    e_c = torch.einsum('bi,bij->bj', z, matrices[labels].double())
    mine = torch.ones(len(labels), dtype=bool) if c is None else labels == c
    return (a[mine].numpy() for a in (e_c, z @ matrices[10].double(), eps.flatten(1).double()))


def test_the_fits():
    "Two factors by numpy's least squares on weighted rows, one by projection, the ratio by sums; all digits, and a class alone."
    log_p = -torch.rand(two_numbers.FITTED, generator=torch.Generator().manual_seed(2)).double()
    found, one = (two_numbers.promised(fit, linear, log_p, 3) for fit in (two_numbers.owed_pair, two_numbers.owed_strength))
    rho, alone = two_numbers.ratios(linear, 3)
    assert list(found) == list(one) == [0, 1, 4] and alone.shape == (10, 16)
    for i, level in list(enumerate(two_numbers.grid().tolist()))[::5]:
        e_c, e_u, eps = both(level, None)
        for w in (0, 1, 4):
            root = np.exp(w*log_p.numpy()/2)[:, None]
            columns = [(root*a).ravel() for a in (e_c, e_u, eps)]
            wanted = np.linalg.lstsq(np.stack(columns[:2], 1), columns[2], rcond=None)[0]
            assert_close(found[w][i].double().numpy(), wanted, rtol=1e-3, atol=1e-4)
            d = columns[0]-columns[1]
            assert_close(one[w][i].item(), (columns[2]-columns[0]) @ d/(d @ d), rtol=1e-3, atol=1e-4)
        assert_close(rho[i].item(), (e_c*e_u).sum()/(e_u**2).sum(), rtol=1e-4, atol=1e-5)
        e_c, e_u, _ = both(level, 7)
        assert_close(alone[7, i].item(), (e_c*e_u).sum()/(e_u**2).sum(), rtol=1e-4, atol=1e-5)


def test_models():
    "At a level of the grid: the two factors of that level; and ReCFG's rule."
    z, c = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2, 3, 9])
    level = two_numbers.grid()[5].float().expand(4)
    e_c, e_u = linear(z, level, c), linear(z, level, torch.full_like(c, 10))
    numbers = torch.arange(32.).view(16, 2)
    assert_close(two_numbers.of_pair(linear, numbers)(z, level, c), 10*e_c + 11*e_u, rtol=1e-4, atol=1e-4)
    assert_close(two_numbers.of_ratio(linear, numbers[:, 0], 3)(z, level, c), 4*e_c - 3*10*e_u, rtol=1e-4, atol=1e-4)


def test_the_start():
    "The means of each class, with weights and without, one class at a time."
    log_p = -torch.rand(two_numbers.FITTED, generator=torch.Generator().manual_seed(2)).double()
    x, c = (a[:two_numbers.FITTED] for a in (beyond.parted()[0].x, beyond.parted()[0].labels))
    x, weights, c = x.flatten(1).double().numpy(), np.exp(3*log_p.numpy()), c.numpy()
    terms = [(np.average(x[c == k], 0, weights[c == k])-x[c == k].mean(0), x[c == k].mean(0)-x.mean(0)) for k in c]
    assert_close(two_numbers.at_start(log_p, 3), sum(a @ b for a, b in terms)/sum(b @ b for _, b in terms))
    assert two_numbers.at_start(log_p, 0) == 0


def test_what_reaches_the_sampler(monkeypatch):
    "Each rule, each strength, with the seed of the network."
    told = []

    def sampled(model, seed):
        told.append(seed)
        return torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(beyond, 'sampled', sampled)
    monkeypatch.setattr(beyond, 'network', lambda seed, steps: linear)
    monkeypatch.setattr(two_numbers, 'looked_at', lambda images, labels: dict(fd=labels[:12].tolist()))
    monkeypatch.setattr(two_numbers, 'of_pair', lambda net, factors: None)
    asked = []
    monkeypatch.setattr(two_numbers, 'of_ratio', lambda net, rho, w: asked.append((tuple(rho.shape), w)))
    log_p = torch.zeros(two_numbers.FITTED, dtype=torch.float64)
    found = two_numbers.of_network(6, 500, log_p)
    wanted = [('best two', w) for w in (0, 1, 4)] + [('ReCFG', w) for w in (.1, .2, .3, .5, .7, 1, 4)]
    assert [(r['rule'], r['w']) for r in found['cells']] == wanted and told == [6]*10
    assert asked == [((16,), w) for _, w in wanted[3:]]
    assert found['cells'][0]['fd'] == [*range(10), 0, 1]
    assert len(found['fits']) == 48 and len(found['ratios']) == 16
    pair, one = (two_numbers.promised(fit, linear, log_p, 6)[4][2] for fit in (two_numbers.owed_pair, two_numbers.owed_strength))
    row = found['fits'][34]
    assert_close([row[k] for k in ('w', 'logsnr', 'of_class', 'of_all', 'one')],
                 [4., two_numbers.grid()[2].item(), *pair.tolist(), one.item()])
    rho, alone = two_numbers.ratios(linear, 6)
    assert_close([found['ratios'][2][k] for k in ('rho', 'least', 'most')], [rho[2].item(), alone[:, 2].min().item(), alone[:, 2].max().item()])


def test_two_numbers_goes_on(monkeypatch, tmp_path):
    "Rows of every network; what is there is not made again."
    made = []

    def of_network(seed, steps, log_p):
        assert len(log_p) == beyond.LEARNT
        made.append((seed, steps))
        return {name: [dict(seed=seed, steps=steps)] for name in ('cells', 'fits', 'ratios')}
    monkeypatch.setattr(two_numbers, 'of_network', of_network)
    for seeds in (1, 2):
        two_numbers.two_numbers(out=str(tmp_path), seeds=seeds, lengths=(100, 500))
    assert made == [(0, 100), (0, 500), (1, 100), (1, 500)]
    assert (tmp_path/'cells.csv').read_text().split() == ['seed,steps', *(f'{k},{n}' for k, n in made)]
    assert set(json.loads((tmp_path/'provenance.json').read_text())['starts']) == {'0', '1', '4'}


def scale(steps):
    "A network that tells its own steps; half of them without a class."
    return lambda z, logsnr, c: z*steps*torch.where(c < 10, 1., .5).view(-1, 1, 1, 1)


def pushed(name, seed=0):
    "By how much each model of a part scales an image at log-SNR 0 and at 5, by its row."
    z, logsnr, c = torch.tensor([1., 3.]).expand(2, 1, 1, 2), torch.tensor([0., 5.]), torch.tensor([3, 4])
    return [(row, (model(z, logsnr, c)/z)[:, 0, 0, 0]) for row, model in garments.PARTS[name](scale, seed)]


def test_models_of_garments():
    "Guidance, a worse guide and the interval, each by hand, at the strengths that the row names."
    found = pushed('lengths')
    assert [(r['steps'], r['w']) for r, _ in found] == [(n, w) for n in (250, 500, 1000) for w in garments.W[n]]
    for r, scales in found:
        assert_close(scales, torch.full((2,), r['steps']*(1+r['w']/2)))
    found = pushed('away')
    assert [(r['rule'], r['w']) for r, _ in found] == [(f'away from {name}', w) for name, ws in garments.AWAY.items() for w in ws]
    for r, scales in found:
        away = r['rule'].split()[-1]
        earlier = int(away) if away.isdigit() else 1000
        assert r['steps'] == 1000
        assert_close(scales, torch.full((2,), 1000 + r['w']*(1000-earlier)))
    found = pushed('variants')
    usual = (.4, .7, 1.1, 1.6)
    others = ('up', 'down', 'rescaled x', 'rescaled eps', 'projected', 'zero-star')
    assert [(r['rule'], r['w']) for r, _ in found] == [('interval', w) for w in (*usual, 2.4)] + [(rule, w) for rule in others for w in usual]
    assert all(r['steps'] == 1000 for r, _ in found)
    for r, scales in found:
        if r['rule'] == 'interval':
            assert_close(scales, 1000*torch.tensor([1+r['w']/2, 1.]))


def test_garments_are_sampled_by_few_calls(monkeypatch):
    "Five hundred, of each class in turn, on the even grid, by the solver with noise, with the seed; labels reach what looks at them."
    told = {}

    def generate(model, indices, shape, labels, **how):
        told.update(how, n=len(indices), shape=shape, labels=labels(range(12)).tolist())
        yield dict(images=torch.zeros(500, 1, 28, 28, dtype=torch.uint8))
    monkeypatch.setattr(garments, 'generate', generate)
    images = garments.sampled(None, 5)
    assert_close(told.pop('logsnrs'), even_grid(8))
    assert told == dict(seed=5, step=garments.sde_dpmpp_2m_step, n=500, shape=(1, 28, 28), labels=[*range(10), 0, 1])

    def judged(images, splits):
        assert splits == 1
        return dict(fd=1., is_mean=2., precision=3., recall=4., other=5.)
    images[::10] = torch.randint(0, 256, images[::10].shape, generator=torch.Generator().manual_seed(0)).byte()
    zeros = images[::10].flatten(1).double()/127.5
    row = garments.looked_at(images, judged)
    assert_close(row.pop('within'), torch.pdist(zeros).mean().item()/10)
    assert row == dict(fd=1., is_mean=2., precision=3., recall=4.)


def test_garments_from_training_to_rows(monkeypatch, tmp_path):
    "Each seed's own training, its averages on the way, the judge of the tables, every part once."
    told, wrote = [], []

    def cfg_train(preset, **how):
        told.append((preset, how))
    monkeypatch.setattr(garments, 'cfg_train', cfg_train)
    monkeypatch.setattr(garments, 'load_run', lambda path: (path.relative_to(tmp_path/'work').as_posix(), None))
    monkeypatch.setattr(garments, 'judging', lambda *args, **how: (args, how))
    monkeypatch.setattr(garments, 'looked_at', lambda images, judged: dict(fd=images) | dict(judged=judged[1]['classifier']))
    monkeypatch.setattr(garments, 'sampled', lambda model, seed: f'{model}-{seed}')
    monkeypatch.setattr(garments, 'PARTS', dict(first=lambda net_of, seed: [(dict(w=1), net_of(250)), (dict(w=2), net_of(2000))]))
    real = garments.part
    monkeypatch.setattr(garments, 'part', lambda path, make: wrote.append(path.name) or real(path, make))
    for _ in range(2):
        garments.garments(work=str(tmp_path/'work'), out=str(tmp_path/'out'), taught='judge', seeds=(0, 4))
    (_, own), (_, other) = told
    assert told[0][0] == 'fashion' and own == other | dict(seed=0, out=str(tmp_path/'work'/'s0')) and other['seed'] == 4
    assert own['snapshot_every'] == 250 and own['steps'] == 1000 and own['p_uncond'] == .1 and own['data'] == str(tmp_path/'work'/'train')
    assert garments.judge(tmp_path/'work', 'judge') == ((tmp_path/'work'/'test',), dict(classifier='judge', fit_on=tmp_path/'work'/'train', fit_steps=18_000))
    lines = (tmp_path/'out'/'garments.csv').read_text().split()
    assert lines == ['seed,w,fd,judged'] + [f'{k},{w},s{k}/snapshots/step-{n:08d}-{k},judge' for k in (0, 4) for w, n in ((1, 250), (2, 2000))]
    assert wrote == ['0-first.json', '4-first.json']*2
    with monkeypatch.context() as other, pytest.raises(ValueError, match='strengths'):
        other.setattr(garments, 'AWAY', garments.AWAY | {'250': (.1, .2)})
        garments.garments(work=str(tmp_path/'work'), out=str(tmp_path/'out'), taught='judge', seeds=(0,))
    monkeypatch.setattr(garments, 'N', 501)
    with pytest.raises(ValueError, match='n 500, not 501'):
        garments.garments(work=str(tmp_path/'work'), out=str(tmp_path/'out'), taught='judge', seeds=(0,))

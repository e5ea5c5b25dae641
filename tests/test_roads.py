"The road from an option to a number is one, and the number at its end is right: sweeps and the main job, held against the road by hand."
import dataclasses, json
from itertools import combinations
import numpy as np
import pytest
import torch
import by_hand
from cfg_repro import digits as main_job, sweeps
from cfg_repro.checks import Refusal
from cfg_repro.console import said
from cfg_repro.data import digits
from cfg_repro.digits import SETTINGS, Job, cells, cfg_digits, classifiers, run_of, unets
from cfg_repro.files import read_record
from cfg_repro.presets import DIGITS, preset
from cfg_repro.results import read_csv
from cfg_repro.runs import cfg_train
from cfg_repro.samples import cfg_sample
from cfg_repro.sets import ImageSet, write_set
from cfg_repro.sweeps import cfg_sweep
from cfg_repro.training import new_state, seeded, train
from cfg_repro.unet import NoisyClassifier, UNet

N = 90                          # images a cell
real = digits().bytes(torch.arange(1797))


def same(row, expected):
    "A row against numbers by hand: pixels may differ by a rounding, and a distance by a thousandth of itself."
    for key in ('fd', 'is_mean'): assert row[key] == pytest.approx(expected[key], rel=3e-3), key
    for key in ('precision', 'recall'): assert row[key] == pytest.approx(expected[key], abs=0.03), key


def differ(rows):
    "No two of them could be taken for one another by `same`."
    def apart(a, b): return any(abs(a[key]/b[key]-1) > 0.01 for key in ('fd', 'is_mean'))
    return all(apart(a, b) for a, b in combinations(rows, 2))


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "Three runs that differ in p_uncond and seed, a noisy classifier, and the classifier that judges."
    folder = tmp_path_factory.mktemp('lab')
    for name, how in dict(a=dict(p_uncond=0.1, seed=0), b=dict(p_uncond=0.9, seed=1), c=dict(p_uncond=0.1, seed=2)).items():
        said(cfg_train, 'digits', out=str(folder/name), steps=60, lr=1e-2, device='cpu', **how)
    said(cfg_train, 'digits_classifier', out=str(folder/'noisy'), steps=60, device='cpu')
    return folder


def sweep(lab, runs, name, **how):
    "A sweep's rows."
    how = dict(reference='digits', classifier=str(lab/'own.safetensors'), fit_steps=200, n=N, splits=1, device='cpu') | how
    said(cfg_sweep, [str(lab/r) for r in runs], out=str(lab/name), **how)
    return read_csv(lab/name/'cells.csv')


def test_rows_of_several_runs(lab):
    "Each row of a table over runs of another p_uncond and another seed is that of its own run, at its own w: by hand the same, and no other's."
    rows = sweep(lab, 'abc', 'one', w=(-0.5, 0., 0.5, 3.), T=(5,), v=0.6)
    assert [(r['run'], r['p_uncond'], r['seed'], r['w'], r['T'], r['v'], r['n']) for r in rows] == \
        [(i, p, s, w, 5, 0.6, N) for i, (p, s) in enumerate(((0.1, 0), (0.9, 1), (0.1, 2))) for w in (-0.5, 0., 0.5, 3.)]
    look = by_hand.judge(lab/'own.safetensors')
    expected = [by_hand.row(by_hand.images(lab/'abc'[r['run']], N, w=r['w'], T=5, v=0.6, seed=r['seed']), real, look) for r in rows]
    for r, e in zip(rows, expected): same(r, e)
    assert differ(expected)


def test_table_2(lab):
    "Over T, with the paper's v of its second table where none is given."
    rows = sweep(lab, 'a', 'two', table=2, w=(1.,), T=(3, 6))
    assert [(r['T'], r['v']) for r in rows] == [(3, 0.2), (6, 0.2)]
    look = by_hand.judge(lab/'own.safetensors')
    expected = [by_hand.row(by_hand.images(lab/'a', N, w=1., T=T, v=0.2, seed=0), real, look) for T in (3, 6)]
    for r, e in zip(rows, expected): same(r, e)
    assert differ(expected)


def test_a_sweep_guided_by_a_classifier(lab):
    rows = sweep(lab, 'a', 'classifier', w=(0.5, 4.), T=(5,), guide_by=str(lab/'noisy'))
    noisy, look = by_hand.network(lab/'noisy'), by_hand.judge(lab/'own.safetensors')
    assert [r['guidance'] for r in rows] == ['classifier']*2
    for r in rows: same(r, by_hand.row(by_hand.images(lab/'a', N, w=r['w'], T=5, v=0.3, seed=0, noisy=noisy), real, look))
    assert differ(rows)


def test_a_sweep_by_another_sampler(lab):
    "Its rows are those of the images that cfg_sample makes that way (by hand in test_seams), and not those of the paper's."
    rows = sweep(lab, 'a', 'sampler', w=(1.,), T=(4,), step='dpmpp_2m', grid='even')
    said(cfg_sample, str(lab/'a'), str(lab/'by_sampler'), w=1., T=4, n=N, step='dpmpp_2m', grid='even', device='cpu')
    expected = by_hand.row(ImageSet(lab/'by_sampler').bytes(torch.arange(N)), real, by_hand.judge(lab/'own.safetensors'))
    same(rows[0], expected)
    with pytest.raises(Refusal, match="step 'dpmpp_2m', not 'ddim'"): sweep(lab, 'a', 'sampler', w=(1.,), T=(4,), step='ddim', grid='even')
    with pytest.raises(Refusal, match="step is 'euler'"): sweep(lab, 'a', 'sampler', w=(1.,), T=(4,), step='euler')
    (plain,) = sweep(lab, 'a', 'plain', w=(1.,), T=(4,))
    assert differ([plain, expected])


def test_the_error_of_a_sweep(lab):
    "By the jackknife: what a distance is without each of five groups of images, recomputed."
    (row,) = sweep(lab, 'a', 'error', w=(1.,), T=(4,), groups=5)
    images, look = by_hand.images(lab/'a', N, w=1., T=4, v=0.3, seed=0), by_hand.judge(lab/'own.safetensors')
    shuffled = np.random.RandomState(2020).permutation(N)              # torch-fidelity's
    groups = [shuffled[18*k:18*k+18] for k in range(5)]
    without = [by_hand.row(images[np.setdiff1d(shuffled, group)], real, look)['fd'] for group in groups]
    assert row['fd_se'] == pytest.approx(np.sqrt(4/5*sum((fd-np.mean(without))**2 for fd in without)), rel=2e-2)
    with pytest.raises(Refusal, match='groups 5, not 0'): sweep(lab, 'a', 'error', w=(1.,), T=(4,))
    for groups, words in ((1, 'groups is 1'), (N+1, f'groups is {N+1}: there are {N} images')):
        with pytest.raises(Refusal, match=words): sweep(lab, 'a', 'never', w=(1.,), T=(4,), groups=groups)


def test_the_floor(lab):
    "Of as many real images as a cell has, or of all there are."
    sweep(lab, 'a', 'few', w=(0.,), T=(2,), n=75)
    found = read_record(lab/'few'/'parts'/'floor.json')
    some = torch.randperm(1797, generator=torch.Generator().manual_seed(0))[:75]
    assert found['n'] == 75 and found['fd'] == pytest.approx(by_hand.row(real[some], real, by_hand.judge(lab/'own.safetensors'))['fd'], rel=1e-4)
    assert json.loads((lab/'few'/'provenance.json').read_text())['floor'] == found['fd']


def test_the_floor_beside_another_set(lab, tmp_path):
    "Where the judge learnt from the first digits, real images are of these, and the reference is the last."
    for name, idx in (('first', torch.arange(900)), ('last', torch.arange(900, 1797))):
        batch = dict(images=digits().bytes(idx), labels=digits().labels[idx])
        for _ in write_set(tmp_path/name, lambda i: [batch], len(idx), dict(n_classes=10, transform='')): pass
    both = dict(reference=str(tmp_path/'last'), fit_on=str(tmp_path/'first'), classifier=str(tmp_path/'own.safetensors'))
    (row,) = sweep(lab, 'a', 'beside', w=(0.,), T=(2,), n=75, **both)
    some, look = torch.randperm(900, generator=torch.Generator().manual_seed(0))[:75], by_hand.judge(tmp_path/'own.safetensors')
    expected = by_hand.row(real[:900][some], real[900:], look)
    assert read_record(lab/'beside'/'parts'/'floor.json')['fd'] == pytest.approx(expected['fd'], rel=1e-4)
    same(row, by_hand.row(by_hand.images(lab/'a', 75, w=0., T=2, v=0.3, seed=0), real[900:], look))


def test_the_judge_is_not_fitted_on_what_it_is_held_against(lab):
    "Its accuracy is that on the tenth that it has not seen; recomputed."
    rows = sweep(lab, 'a', 'judged', w=(0.,), T=(2,))
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))[:180]
    x, c = real[order], digits().labels[order]
    _, p = by_hand.judge(lab/'own.safetensors')(x)
    assert rows[0]['judge_accuracy'] == pytest.approx((p.argmax(1) == c.numpy()).mean(), abs=1e-4)


def spied(monkeypatch, module, name, result=None):
    "What a function is called with, in the place of being called."
    calls = []
    def spy(*args, **kwargs): calls.append((args, kwargs)); return result
    monkeypatch.setattr(module, name, spy)
    return calls


@pytest.mark.parametrize('option, value, where', [
    ('step', 'ddim', 'measure'), ('grid', 'even', 'measure'), ('fit_on', 'digits', 'judging'),
    ('splits', 3, 'measure'), ('groups', 5, 'measure'), ('kid', 40, 'measure'), ('dinov2', 'd.pth', 'judging'), ('batch_size', 7, 'measure'), ('shard_size', 9, 'measure'), ('keep', True, 'measure'), ('precision', 'bfloat16', 'measure'),
    ('classifier', 'x.safetensors', 'judging'), ('fit_steps', 77, 'judging'), ('weights', 'w.pth', 'judging'), ('transform', 'adm', 'judging'),
    ('compile', True, 'load_run'), ('precision', 'bfloat16', 'load_run'), ('guide_by', 'noisy', 'load_guide')])
def test_options_of_a_sweep_arrive(lab, tmp_path, monkeypatch, option, value, where):
    "Each at the function that uses it."
    model, settings = sweeps.load_run(lab/'a')
    results = dict(judging=lambda images, **how: dict(fd=1.), load_run=(model, settings), load_guide='a guide', measure=None,
                   read_run=settings, check_guide=None)
    monkeypatch.setattr(sweeps, 'dinov2_width', lambda path: 64)
    judged, opened, guides, measured, _, _ = (spied(monkeypatch, sweeps, name, result) for name, result in results.items())
    own = dict(classifier='x.safetensors') if option == 'fit_on' else {}
    with pytest.raises(Refusal, match='is missing'):               # there are no rows: nobody measured
        cfg_sweep([str(lab/'a')], reference='digits', out=str(tmp_path), w=(1.,), T=(2,), n=70, device='cpu', **{option: value} | own)
    (args, kwargs), = measured
    if where == 'measure': assert kwargs[option] == value and args[0] == sweeps.Cell(0, 'free', 0.1, 0, 1., 2, 0.3, 70)
    if where == 'judging': assert judged == [((('digits'),), dict(dict(classifier=None, fit_steps=4000, fit_on=None, weights=None, dinov2=None, transform='', device=torch.device('cpu')) | own, **{option: value}))]
    if option == 'compile': assert opened == [((str(lab/'a'), torch.device('cpu'), False, True), {})]
    if (option, where) == ('precision', 'load_run'): assert opened == [((str(lab/'a'), torch.device('cpu'), True, False), {})]
    if option == 'guide_by':
        assert guides == [(('noisy', settings, torch.device('cpu'), False), {})]
        assert kwargs['guide_by'] == 'a guide' and args[0].guidance == 'classifier'


def test_a_sweep_without_a_reference_is_only_counted(lab, tmp_path, capsys):
    how = dict(out=str(tmp_path), w=(1.,), T=(2,), n=70, device='cpu')
    with pytest.raises(Refusal, match='no --reference'): cfg_sweep([str(lab/'a')], **how)
    cfg_sweep([str(lab/'a')], dry_run=True, **how)
    assert capsys.readouterr().out.startswith('to do: ') and not [*tmp_path.iterdir()]
    for name in ('splits', 'shard_size', 'batch_size', 'processes'):
        with pytest.raises(Refusal, match=f'{name} is 0'): cfg_sweep([str(lab/'a')], dry_run=True, **how | {name: 0})


def test_the_rate_is_that_of_the_fastest_call(monkeypatch):
    "But for the first, which warms up: 7 images in two seconds."
    now, calls = iter((0, 1, 5, 10, 20, 22, 30, 33)), []
    monkeypatch.setattr(sweeps.time, 'time', lambda: next(now))
    def model(z, logsnr, c):
        calls.append((z.shape, logsnr.shape, c.shape, c.dtype))
        return z
    assert sweeps._rate((model, dict(data=dict(shape=[1, 8, 8]))), 'cpu', 7) == 3.5
    assert calls == [((7, 1, 8, 8), (7,), (7,), torch.long)]*4


# The main job

tiny = SETTINGS | dict(p_uncond=(0.1, 0.9), w=(0., 2.), T=4, v=0.6, T_sweep=(3, 4), T_sweep_w=(2.,), classifier_w=(3.,), n=N, classifier_steps=100,
                       steps=40, lr=1e-2, warmup=7, ema_decay=0.8, batch_size=50, seeds=2)


@pytest.fixture(scope='module')
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp('experiment')
    return folder, main_job.run(folder, tiny)


def test_networks_of_the_main_job(experiment):
    "Each is trained with its own p_uncond from its own seed: the weights of Algorithm 1 called by hand, byte for byte."
    folder, _ = experiment
    jobs = unets(tiny) + classifiers(tiny)
    assert jobs == [Job('digits', 0.1, 0), Job('digits', 0.9, 0), Job('digits', 0.1, 1), Job('digits', 0.9, 1), Job('digits_classifier', 0., 0), Job('digits_classifier', 0., 1)]
    seen = set()
    for job in jobs[:4]:
        with seeded(job.seed): state = new_state(UNet(**DIGITS))
        for _ in train(state, digits(), steps=40, batch_size=50, lr=1e-2, warmup=7, p_uncond=job.p_uncond, ema_decay=0.8, seed=job.seed): pass
        expected, found = state.ema.module.state_dict(), by_hand.network(run_of(folder, job)).state_dict()
        assert all(torch.equal(expected[k], found[k]) for k in expected)
        assert by_hand.checkpoint(run_of(folder, job))[1]['p_uncond'] == job.p_uncond
        seen.add(found['out.2.weight'].sum().item())
    assert len(seen) == 4


def test_noisy_classifiers_of_the_main_job(experiment):
    from cfg_repro.training import classifier_loss
    folder, _ = experiment
    for job in classifiers(tiny):
        with seeded(job.seed): state = new_state(NoisyClassifier(**DIGITS), weight_decay=0.05)
        for _ in train(state, digits(), steps=40, batch_size=50, lr=1e-2, warmup=7, p_uncond=0., ema_decay=0.8, seed=job.seed, loss=classifier_loss): pass
        expected, found = state.ema.module.state_dict(), by_hand.network(run_of(folder, job)).state_dict()
        assert all(torch.equal(expected[k], found[k]) for k in expected)


def test_rows_of_the_main_job(experiment):
    "Each column of Table 1 comes from a network trained with that p_uncond, each seed from its own; T and classifier guidance too."
    folder, rows = experiment
    look = by_hand.judge(folder/'parts'/'classifier.safetensors')
    expected = []
    for cell, r in zip(cells(tiny), rows, strict=True):
        assert {k: r[k] for k in dataclasses.asdict(cell)} == dataclasses.asdict(cell)
        noisy = by_hand.network(run_of(folder, Job('digits_classifier', 0., cell.seed))) if cell.guidance == 'classifier' else None
        run = run_of(folder, Job('digits', cell.p_uncond, cell.seed))
        expected.append(by_hand.row(by_hand.images(run, N, w=cell.w, T=cell.T, v=0.6, seed=cell.seed, noisy=noisy), real, look))
        same(r, expected[-1])
    assert differ(expected)


def test_tables_of_the_main_job(experiment):
    "Means over the seeds, each of its own cells."
    _, rows = experiment
    first, second, third = main_job.tables(rows, tiny)
    def mean(**which): return sum(r['fd'] for r in rows if all(r[k] == v for k, v in which.items()))/2
    assert [(r['w'], r['p_uncond'], r['fd']) for r in first] == [(w, p, mean(w=w, p_uncond=p, T=4, guidance='free')) for p in (0.1, 0.9) for w in (0., 2.)]
    assert [(r['w'], r['T'], r['fd']) for r in second] == [(2., T, mean(w=2., T=T, p_uncond=0.1, guidance='free')) for T in (3, 4)]
    assert [(r['w'], r['fd']) for r in third] == [(0., mean(w=0., p_uncond=0.1, T=4, guidance='free')), (3., mean(guidance='classifier'))]


@pytest.mark.parametrize('options, changes', [
    (dict(), dict(seeds=3)), (dict(quick=True), main_job.QUICK | dict(seeds=1)), (dict(seeds=5), dict(seeds=5)), (dict(quick=True, seeds=2), main_job.QUICK | dict(seeds=2))])
def test_options_of_the_main_job_arrive(tmp_path, monkeypatch, options, changes):
    class Enough(Exception): pass
    def spy(*args): raise Enough(args)
    monkeypatch.setattr(main_job, 'run', spy)
    with pytest.raises(Enough) as seen: said(cfg_digits, out=str(tmp_path/'x'), workers=3, **options)
    assert seen.value.args[0] == (tmp_path/'x', SETTINGS | changes, 3, torch.device('cpu'))


def test_settings_of_the_main_job_are_the_presets():
    "What the digits are trained with alone is what the main job trains them with."
    for name in ('digits', 'digits_classifier'):
        p = preset(name)
        assert {k: p[k] for k in ('steps', 'batch_size', 'lr', 'warmup', 'ema_decay')} == {k: SETTINGS[k] for k in ('steps', 'batch_size', 'lr', 'warmup', 'ema_decay')}
    assert (preset('digits')['v'], preset('digits')['T']) == (SETTINGS['v'], SETTINGS['T'])

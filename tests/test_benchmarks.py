"The benchmarks outside the package: they run, refuse bad input in one sentence, and need no peer to be looked at."
import ast, importlib.util, json, os, subprocess, sys
import pytest, torch
from torch.testing import assert_close
import project, warm
from cfg_repro.data import digits
from cfg_repro.schedule import logsnr_of
from cfg_repro.sliders import read_strengths

folder = project.root/'benchmarks'
local = {path.stem for path in folder.iterdir()}
sys.path.append(str(folder))      # a benchmark may import its neighbour


def script(name, *words):
    words = [str(warm.bin()/'python'), str(folder/name), *map(str, words)]
    return subprocess.run(words, cwd=project.root, capture_output=True, text=True, timeout=600)


def run(*words):
    return script('run.py', *words)


@pytest.mark.parametrize('path', sorted(folder.rglob('*.py')), ids=lambda path: path.stem)
def test_nothing_is_imported_that_may_be_missing(path):
    "At its top a file imports the standard library, ours and its neighbours; a peer's packages only inside functions."
    tree = ast.parse(path.read_text(encoding='utf-8'))
    named = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    tops = {name.split('.')[0] for name in named}
    assert tops <= sys.stdlib_module_names | {'cfg_repro', 'torch'} | local
    assert all(importlib.util.find_spec(name) for name in named if name.split('.')[0] not in local)


@pytest.mark.parametrize('path', sorted(folder.rglob('*.py')), ids=lambda path: path.stem)
def test_what_is_imported_of_ours_is_there(path):
    "Names that are imported inside functions too, which a move would leave behind."
    tree = ast.parse(path.read_text(encoding='utf-8'))
    taken = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    for node in [node for node in taken if node.module.startswith('cfg_repro')]:
        module = importlib.import_module(node.module)
        assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize('words, sentence', {
    'measurement': (['fast'], "'fast' is no measurement"),
    'peer': (['--peer', 'stable=.'], 'there is an adapter for'),
    'path': (['--peer', 'edm=nowhere'], 'is no folder'),
    'party': (['--only', 'ours,edm'], "'edm' is no party"),
    'how': (['--only', 'ours+fast'], 'may be followed by'),
    'rounds': (['--rounds', '0'], 'is no whole number'),
    'batch': (['--batch', '16,x'], 'it must be whole numbers'),
    'device': (['--device', 'tpu'], 'invalid choice'),
    'seconds': (['--seconds', '0'], 'it must be above 0'),
}.values())
def test_bad_input(words, sentence):
    done = run(*words)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count('\n') == 1 and not done.stdout


@pytest.mark.slow
def test_all_measurements(tmp_path):
    "Every measurement at a tiny size, ours alone; stopped after a round it goes on; what is finished is left as it is."
    small = ['--only', 'ours', '--net', 'tiny', '--batch', '2,4', '--n', 2, '--T', 3, '--images', 200,
             '--seconds', 0.001, '--out', tmp_path]
    names = ['forward', 'train', 'sample', 'sampler', 'memory', 'profile', 'evaluate']
    done = run(*names, *small, '--rounds', 1)
    assert done.returncode == 0, done.stderr
    paths = sorted(tmp_path.glob('*.json'))
    records = {path: json.loads(path.read_text()) for path in paths}
    assert {r['measurement'] for r in records.values()} == set(names)
    assert all(len(r['rounds']) == 1 and r['about']['versions']['torch'] for r in records.values())
    (profile,) = (r for r in records.values() if r['measurement'] == 'profile')
    assert profile['rounds'][0]['train, 2 images']['ours']['aten::convolution_backward'] > 0
    (sampler,) = (r for r in records.values() if r['measurement'] == 'sampler')
    assert set(sampler['rounds'][0]['32 images, T=25']) == {'ours', 'ours (DDIM)'}
    assert str(project.root) not in ''.join(path.read_text() for path in paths)
    (forward,) = (path for path in paths if records[path]['measurement'] == 'forward')
    assert run('forward', *small, '--rounds', 2).returncode == 0
    more = json.loads(forward.read_text())
    assert len(more['rounds']) == 2 and more['rounds'][0] == records[forward]['rounds'][0]
    again = run('forward', *small, '--rounds', 2)
    assert again.returncode == 0 and json.loads(forward.read_text()) == more and 'of peak' in again.stdout
    other = run('forward', *small, '--rounds', 2, '--batch', 8)
    assert other.returncode == 2 and 'was made with another batch' in other.stderr
    assert run('show', '--out', tmp_path).stdout.count('network tiny') == len(names)


@pytest.mark.slow
def test_calls(tmp_path):
    "The curve over numbers of calls at a tiny size; the same line makes nothing again, and other settings are refused."
    def calls(n): return script('calls.py', '--out', tmp_path, '--seeds', 2, '--n', n, '--steps', 20, '--T', '2,4')
    done = calls(100)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path/'calls.csv').read_text().splitlines()
    about = json.loads((tmp_path/'provenance.json').read_text())
    assert len(rows) == 1 + 2*(1 + 4*2*2) and about['settings']['n'] == 100
    times = {path: path.stat().st_mtime_ns for path in (tmp_path/'parts'/'cells').iterdir()}
    assert calls(100).returncode == 0 and (tmp_path/'calls.csv').read_text().splitlines() == rows
    assert {path: path.stat().st_mtime_ns for path in (tmp_path/'parts'/'cells').iterdir()} == times
    other = calls(101)
    assert other.returncode == 2 and 'holds a sweep with n 100, not 101' in other.stderr
    assert 'Traceback' not in other.stderr


def loaded(name):
    spec = importlib.util.spec_from_file_location(f'benchmark_{name}', folder/f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_uniform_log_snrs():
    "From evenly spaced draws of the paper's density come evenly spaced log-SNRs from -20 to 20, each with its own image."
    u = (torch.arange(100).double()+0.5)/100
    x, told = u.float().view(-1, 1, 1, 1), []

    def net(z, logsnr, c):
        told.append(logsnr)
        return torch.zeros_like(z)
    loss = loaded('choices').uniform(net, x, torch.zeros(100, dtype=int), logsnr=logsnr_of(u).float(), eps=2*x)
    assert_close(told[0], (20 - 40*u).float(), rtol=0., atol=1e-3)
    assert_close(loss, 4*x[:, 0, 0, 0]**2)


def test_widths():
    "The digits have the width 1 in every group of directions, and half of their contrast a quarter of it."
    choices, x = loaded('choices'), digits()[torch.arange(1797)][0]
    images = (x*127.5+127.5)
    assert all(abs(w-1) < 1e-6 for w in choices.widths(images).values())
    assert all(abs(w-.25) < 1e-6 for w in choices.widths((images+127.5)/2).values())


def test_choices_reach_the_sampler(monkeypatch):
    "A cell's v, T, w, seed and labels, each where it acts; the width of what comes out beside what was judged."
    choices, told = loaded('choices'), {}

    def generate(model, indices, shape, labels, *, seed, T, step):
        z, logsnr = torch.zeros(2, 1, 8, 8), torch.zeros(2)
        told.update(seed=seed, T=T, v=step.keywords['v'], labels=[labels(i) for i in indices], guided=model(z, logsnr, torch.tensor([3, 4])))
        yield dict(images=torch.full((len(indices), 1, 8, 8), 7, dtype=torch.uint8))

    def net(z, logsnr, c):
        return c.float().view(-1, 1, 1, 1).expand_as(z)
    net.n_classes = 10
    monkeypatch.setattr(choices, 'generate', generate)
    row = choices.cell(net, lambda images, splits: dict.fromkeys(choices.MEASURED, images.sum().item()), seed=5, n=12, w=0.5, T=16, v=0.6)
    assert (told['seed'], told['T'], told['v'], told['labels']) == (5, 16, 0.6, [*range(10), 0, 1])
    assert told['guided'][:, 0, 0, 0].tolist() == [1.5*3 - 0.5*10, 1.5*4 - 0.5*10]
    assert (row['w'], row['T'], row['v'], row['fd'], row['width_1']) == (0.5, 16, 0.6, 12*64*7, 0)


@pytest.mark.parametrize('density', ['paper', 'uniform'])
def test_choices_reach_training(monkeypatch, density):
    "Its loss, its seed and its number of steps; the weights that come out are the average."
    choices, told = loaded('choices'), {}

    def train(state, data, *, seed, steps, loss, **how):
        told.update(how, seed=seed, steps=steps, loss=loss, state=state)
        return []
    monkeypatch.setattr(choices, 'train', train)
    found = choices.trained(density, 3, 17)
    assert (told['seed'], told['steps'], told['p_uncond']) == (3, 17, 0.1)
    assert told['loss'] is (choices.eps_loss if density == 'paper' else choices.uniform)
    assert found is told['state'].ema.module and not found.training


@pytest.mark.slow
def test_choices(tmp_path):
    "v and p(lambda) at a tiny size; the same line makes nothing again, and other settings are refused."
    def choices(n): return script('choices.py', '--out', tmp_path, '--seeds', 1, '--n', n, '--steps', 3)
    done = choices(100)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path/'choices.csv').read_text().splitlines()
    assert len(rows) == 1 + (2*5 + 1) + 2 and json.loads((tmp_path/'provenance.json').read_text())['settings']['n'] == 100
    times = {path: path.stat().st_mtime_ns for path in (tmp_path/'parts'/'cells').iterdir()}
    assert choices(100).returncode == 0 and (tmp_path/'choices.csv').read_text().splitlines() == rows
    assert {path: path.stat().st_mtime_ns for path in (tmp_path/'parts'/'cells').iterdir()} == times
    other = choices(101)
    assert other.returncode == 2 and 'holds a sweep with n 100, not 101' in other.stderr


@pytest.mark.slow
def test_script_for_a_gpu(tmp_path):
    "The script that a GPU box runs, on the CPU and at a tiny size: it leaves each of its records."
    path = f"{warm.bin()}:{os.environ['PATH']}"
    tiny = dict(DEVICE='cpu', NET='tiny', SHARED='shared', SMALL='digits', BATCH='2', T='2', ROUNDS='1',
                PARTIES='ours', MORE='--seconds 0.001', OUT=str(tmp_path), PATH=path)
    done = subprocess.run(['bash', str(folder/'gpu.sh')], env=os.environ | tiny, capture_output=True, text=True,
                          timeout=1200)
    assert done.returncode == 0, done.stderr
    made = sorted(path.stem.split('-cpu')[0] for path in tmp_path.glob('*.json'))
    assert made == ['forward', 'forward', 'memory', 'profile', 'sample', 'sample', 'train', 'train']


def test_slopes():
    "Time that grows as the square and memory that stays are found to."
    runner = loaded('run')
    points = {str(v): dict(seconds=3*v**2, before=1e8, peak=1.5e8) for v in (1, 2, 4, 8)}
    found = runner.slopes(dict(rounds=[dict(axis=points)]*2), 'axis')
    assert found == pytest.approx(dict(time=2, time_upper=2, memory=0, memory_upper=0), abs=1e-9)


def test_nearest():
    "The distance to the nearest of some images, and which that is, by hand."
    images = torch.zeros(2, 1, 1, 2)
    images[1] = 5
    others = torch.tensor([[3., 4.], [0., 1.], [5., 5.]]).view(3, 1, 1, 2)
    far, which = loaded('neighbours').nearest(images, others)
    assert far.tolist() == [1., 0.] and which.tolist() == [1, 2]


def test_digits_are_parted():
    "Every digit is there once, with its label, and another seed parts them in another way."
    parted, (x, c) = loaded('neighbours').parted, digits()[torch.arange(1797)]
    rows = lambda x, c: sorted((*image, label) for image, label in zip(x.flatten(1).tolist(), c.tolist()))
    assert rows(*parted(0)) == rows(x, c)
    assert not torch.equal(parted(0)[0], parted(1)[0]) and not torch.equal(parted(0)[0], x)


@pytest.mark.slow
def test_neighbours(tmp_path):
    "Of a tiny run: the distances of unseen digits, by numpy, and of samples as far as the file shows them."
    done = script('neighbours.py', '--out', tmp_path/'found.json', '--n', 20, '--steps', 3, '--T', 2)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path/'found.json').read_text())
    x = loaded('neighbours').parted(0)[0].flatten(1).double().numpy()
    far = [((x[:1500]-image)**2).sum(1).min()**.5 for image in x[1500:]]
    assert_close(torch.tensor(found['distances']['new']).double(), torch.tensor(far))
    for name in ('w=0', 'w=1', 'w=4'):
        a, b = (torch.tensor(found['pairs'][name][k]).double() for k in ('samples', 'nearest'))
        assert_close((a-b).flatten(1).norm(dim=1), torch.tensor(found['distances'][name][:10]).double())
        assert all(((x[:1500]-image.flatten().numpy())**2).sum(1).min() < 1e-9 for image in b)
        assert len(found['distances'][name]) == 20


def test_guides_take_turns(monkeypatch, tmp_path):
    "Both ways make the same images, n of them in each round; the ratio is that of their seconds."
    guides, asked = loaded('guides'), []

    def ways(here, guide_by, w, T):
        assert guide_by == here/'classifier' and (w, T) == (1., 8)
        return {name: lambda images, name=name: asked.append((name, list(images))) for name in ('classifier-free', 'classifier')}

    monkeypatch.setattr(guides, 'ways', ways)
    ticks = iter([0., 2., 10., 13., 20., 24., 30., 31.])
    monkeypatch.setattr(guides.time, 'perf_counter', lambda: next(ticks))
    monkeypatch.setattr(guides, 'progress', lambda some, **_: some)
    (tmp_path/'guides').mkdir()
    guides.guides(here=str(tmp_path), n=3, rounds=2)
    found = json.loads((tmp_path/'guides/times.json').read_text())
    assert found['ratios'] == [1.5, 0.25] and found['seconds'][0] == {'classifier-free': 2., 'classifier': 3.}
    assert asked[2:] == [(name, [0, 1, 2]) for name in ('classifier-free', 'classifier')]*2


@pytest.mark.slow
def test_strengths(tmp_path):
    "The same two images at three strengths; at 0 they are those of the picture that is kept."
    done = script('strengths.py', '--n', 2, '--w', '-1,0,1', '--out', tmp_path)
    assert done.returncode == 0, done.stderr
    (few, about), (all_of_them, kept) = read_strengths(tmp_path), read_strengths(project.root/'results'/'strengths')
    assert about['w'] == [-1, 0, 1] and about['n'] == 2 and about['weights'] == kept['weights'] and str(project.root) not in json.dumps(kept)
    for k, w in enumerate(about['w']):
        apart = few[k].int() - all_of_them[kept['w'].index(w), :2].int()
        assert apart.abs().max() <= 2
    assert not torch.equal(few[0], few[1]) and not torch.equal(few[1], few[2])

"The commands from a terminal, end to end on a small set shaped like ImageNet: JPEGs in class folders, a few of them broken."
import csv, gzip, json, os, signal, subprocess, sys, time
from pathlib import Path
from unittest.mock import patch
import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity import feature_extractor_inceptionv3 as inception
import project, warm
from cfg_repro.data import draw_glyph
from cfg_repro.sets import ImageSet

pytestmark = pytest.mark.slow
bin = Path(sys.executable).parent
environment = {k: v for k, v in os.environ.items() if k != 'RANK'} | {'COLUMNS': '80', 'OMP_NUM_THREADS': '1'}
on_cpu = ['--device', 'cpu']


def run(command, *words, cwd, code=0):
    "Run a command; what it printed, or for an expected failure its one sentence."
    done = subprocess.run([str(warm.bin()/command), *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr
    assert 'Traceback' not in done.stderr
    return done.stdout if code == 0 else done.stderr.splitlines()[-1]


def kill_once(command, *words, cwd, when):
    "Start a command and end it by SIGKILL as soon as a file that matches `when` is there."
    running = subprocess.Popen([str(bin/command), *map(str, words)], cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(Path(cwd).glob(when)) and running.poll() is None: time.sleep(0.025)
    assert running.poll() is None, 'it was over before it could be stopped'
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "Photographs, a prepared set and two trained networks."
    folder = tmp_path_factory.mktemp('lab')
    for i in range(160):
        path = folder/'train'/f'n{i%4:08d}'/f'n{i%4:08d}_{i}.JPEG'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_glyph(26*(i//4) + i%4, 40)).resize((44, 40)).convert('L' if i % 9 == 0 else 'RGB').save(path)
    (folder/'train/n00000001/n00000001_5.JPEG').write_bytes(b'')
    (folder/'train/n00000003/n00000003_7.JPEG').write_bytes(path.read_bytes()[:300])
    said = run('cfg_prepare', 'train', 'data', '--size', 16, cwd=folder)
    assert 'left out: n00000001/n00000001_5.JPEG' in said and 'left out: n00000003/n00000003_7.JPEG' in said and '158 images of 16x16 in 4 classes, 2 left out' in said
    for p in (0.1, 0.5): run('cfg_train', 'tiny', '--data', 'data', '--out', f'runs/p{p}', '--p_uncond', p, *on_cpu, cwd=folder)
    return folder


def test_samples_depend_on_nothing_but_the_settings(lab):
    "One process or two, other batches, killed on the way: the same labels, noise exactly the same, pixels to rounding."
    how = ['runs/p0.1', '--w', 1, '--n', 60, '--shard_size', 10, '--labels', 'random', *on_cpu]
    run('cfg_sample', *how, '--out', 'one', '--batch_size', 60, cwd=lab)
    kill_once('cfg_sample', *how, '--out', 'two', '--batch_size', 7, '--T', 4, cwd=lab, when='two/shard-*.sha256')
    run('cfg_sample', *how, '--out', 'two', '--batch_size', 7, '--processes', 2, cwd=lab)
    one, two = ImageSet(lab/'one', check=True), ImageSet(lab/'two', check=True)
    a, b = (s.bytes(torch.arange(60)).int() for s in (one, two))
    assert torch.equal(one.labels, two.labels) and one.settings == two.settings and one.settings['labels'] == 'random'
    assert (a-b).abs().max() <= 1 and (a != b).float().mean() < 0.01 and a.float().std() > 10


def test_samples_are_announced_once(lab):
    "Before the first image, by one process of two: what is made and what it costs, and a bar; at the end one line."
    for processes in (1, 2):
        line = [str(warm.bin()/'cfg_sample'), 'runs/p0.1', '--w', '1', '--n', '60', '--shard_size', '30', '--out', f'said{processes}']
        done = subprocess.run([*line, *on_cpu, '--processes', str(processes)], cwd=lab, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout == f'said{processes}: 60 images from step 20 of runs/p0.1\nsaid{processes}/samples.png: a look at them\n', done.stderr
        said = done.stderr.replace('\r', '\n')
        plan = f'said{processes}: 60 images, w = 1, T = 4, ancestral steps on the paper grid:\n480 passes of an image'
        assert said.count(plan) == 1 and said.count('passes of') == 1
        bar = f'  0%|          | 0.00/{60/processes:.1f} '
        assert said.count(bar) == 1 and said.index(plan) < said.index(bar) < said.index('100%')


@pytest.mark.parametrize('sent, code', [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_samples_can_be_stopped(lab, sent, code):
    "At once, with a word on how to go on; the seconds are for a busy machine, and for torch to leave."
    line = [str(bin/'cfg_sample'), 'runs/p0.1', '--n', '4000', '--T', '50', '--shard_size', '100', '--out', f'stopped{sent}', *on_cpu]
    def restored(): signal.signal(signal.SIGINT, signal.default_int_handler)      # a parent in the background may ignore it
    with subprocess.Popen(line, cwd=lab, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=restored) as running:
        assert '4,000 images, w = 0, T = 50' in running.stderr.readline()
        while not list(lab.glob(f'stopped{sent}/shard-*.sha256')): time.sleep(.05)
        began = time.time(); running.send_signal(sent)
        assert any('cfg_sample: stopped; the same line goes on from here' in text for text in running.stderr)
        assert time.time()-began < 5 and running.wait(20) == code


def test_evaluation(lab):
    "By a classifier of its own against the data, and against statistics kept from it; another filter is refused, and Inception with few images too."
    run('cfg_sample', 'runs/p0.1', '--w', 0.5, '--n', 100, '--out', 'some', *on_cpu, cwd=lab)
    words = ['--classifier', 'own.safetensors', '--fit_steps', 200, '--splits', 1, *on_cpu]
    text = run('cfg_evaluate', 'some', '--reference', 'data', *words, cwd=lab)
    assert text.startswith('100 images: FD ') and 'precision' in text and max(map(len, text.splitlines())) <= 100
    found = json.loads((lab/'some/evaluation.json').read_text())
    assert found['result']['reference'] == ImageSet(lab/'data').fingerprint and found['samples']['w'] == 0.5 and found['result']['fd_se'] > 0
    run('cfg_prepare', 'train', 'adm', '--size', 16, '--resize', 'adm', cwd=lab)
    assert "by 'area', the reference by 'adm'" in run('cfg_evaluate', 'some', '--reference', 'adm', *words, cwd=lab, code=2)
    assert 'there is no --reference' in run('cfg_evaluate', 'some', *words, cwd=lab, code=2)
    (statistics,) = (lab/'data').glob('classifier-*.npz')
    run('cfg_evaluate', 'some', '--reference', statistics, '--out', 'again.json', *words, cwd=lab)
    assert json.loads((lab/'again.json').read_text())['result'] == found['result']
    with patch.object(inception, 'load_state_dict_from_url'), patch.object(inception.FeatureExtractorInceptionV3, 'load_state_dict'):
        torch.save(inception.FeatureExtractorInceptionV3('random', ['2048']).state_dict(), lab/'inception.pth')
    np.savez(lab/'adm.npz', mu=np.zeros(2048), sigma=np.eye(2048))              # as ADM's are
    by_inception = ['cfg_evaluate', 'some', '--reference', 'adm.npz', '--weights', 'inception.pth', *on_cpu]
    assert 'there are 100 images: a covariance of 2048 features needs more' in run(*by_inception, '--transform', 'area', cwd=lab, code=2)
    adms = ['cfg_evaluate', 'some', '--reference', 'adm.npz', '--transform', 'adm', *words]
    assert "by 'area', the reference by 'adm'" in run(*adms, cwd=lab, code=2)
    huge = ['cfg_evaluate', 'some', '--reference', 'data', '--batch_size', 99999999999, '--out', 'huge.json', *words]
    assert run(*huge, cwd=lab).startswith('100 images: FD ')


def test_export(lab):
    "What a run has learnt, in a directory that is then taken in its place."
    text = run('cfg_export', 'runs/p0.1', 'deep/learnt', cwd=lab)
    assert text.startswith('deep/learnt: ') and text.endswith(' parameters, an average of decay 0.9999, from step 20 of runs/p0.1\n')
    assert run('cfg_export', 'runs/p0.1', 'deep/learnt', cwd=lab) == 'deep/learnt is there already, and whole\n'
    for name in ('runs/p0.1', 'deep/learnt'): run('cfg_sample', name, '--n', 10, '--w', 1, '--out', f'by/{name}', *on_cpu, cwd=lab)
    one, two = (ImageSet(lab/'by'/name, check=True) for name in ('runs/p0.1', 'deep/learnt'))
    assert one.fingerprint == two.fingerprint and torch.equal(one.bytes(torch.arange(10)), two.bytes(torch.arange(10)))
    assert 'runs holds something else: export to another directory' in run('cfg_export', 'runs/p0.1', 'runs', cwd=lab, code=2)


def test_sweep(lab):
    "Killed on the way and started again, it ends with the rows of the one that was not; the same line again makes nothing."
    how = ['runs/p0.1', 'runs/p0.5', '--reference', 'data', '--classifier', 'own.safetensors', '--fit_steps', 200, '--w', '0,1,4', '--T', '4', '--n', 90, '--splits', 1, *on_cpu]
    text = run('cfg_sweep', *how, '--out', 'whole', cwd=lab)
    kill_once('cfg_sweep', *how, '--out', 'killed', cwd=lab, when='killed/parts/cells/*.json')
    run('cfg_sweep', *how, '--out', 'killed', cwd=lab)
    for name in ('cells.csv', 'table1.csv'): assert (lab/'whole'/name).read_bytes() == (lab/'killed'/name).read_bytes()
    assert max(map(len, text.splitlines()[1:-1])) <= 80 and text.count('*') >= 2+3
    rows = (lab/'whole/parts/cells'); before = {p: p.stat().st_mtime_ns for p in rows.iterdir()}
    assert len(before) == 6
    again = run('cfg_sweep', *how, '--out', 'whole', cwd=lab)
    assert 'to do' not in again and before == {p: p.stat().st_mtime_ns for p in rows.iterdir()}
    run('cfg_sweep', *how, '--out', 'two', '--processes', 2, '--shard_size', 20, cwd=lab)     # the processes wait for each other at every cell
    whole, two = (list(csv.DictReader((lab/name/'cells.csv').open())) for name in ('whole', 'two'))
    for a, b in zip(whole, two, strict=True): assert a['w'] == b['w'] and abs(float(a['fd'])/float(b['fd'])-1) < 0.01
    dry = run('cfg_sweep', *how, '--out', 'dry', '--dry_run', cwd=lab)
    assert dry.startswith('to do: 6 cells, 540 images, 3,600 passes') and not (lab/'dry').exists()


def test_preparation_killed_and_resumed(lab):
    "The same shards, whatever stopped it."
    kill_once('cfg_prepare', 'glyphs', 'killed_set', '--size', 16, '--n', 25_000, cwd=lab, when='killed_set/shard-*.sha256')
    finished = {p: p.stat().st_mtime_ns for p in (lab/'killed_set').glob('shard-*.safetensors')}
    run('cfg_prepare', 'glyphs', 'killed_set', '--size', 16, '--n', 25_000, cwd=lab)
    assert finished and finished == {p: p.stat().st_mtime_ns for p in finished}
    run('cfg_prepare', 'glyphs', 'whole_set', '--size', 16, '--n', 25_000, cwd=lab)
    assert ImageSet(lab/'killed_set', check=True).fingerprint == ImageSet(lab/'whole_set', check=True).fingerprint


def idx(path, values):
    "An idx file, as Fashion-MNIST's are."
    head = bytes((0, 0, 8, values.ndim)) + b''.join(n.to_bytes(4, 'big') for n in values.shape)
    path.write_bytes(gzip.compress(head + values.tobytes()))


def test_script_of_garments(tmp_path):
    "Every part of it, from files to tables, with few images and few steps; the same line again has nothing to do."
    (tmp_path/'garments').mkdir()
    draws = np.random.default_rng(0)
    for name, n in (('train', 200), ('t10k', 100)):
        idx(tmp_path/f'garments/{name}-images-idx3-ubyte.gz', draws.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        idx(tmp_path/f'garments/{name}-labels-idx1-ubyte.gz', (np.arange(n) % 10).astype(np.uint8))
    small = dict(OUT=str(tmp_path/'out'), WORK=str(tmp_path/'work'), SOURCE=str(tmp_path/'garments'), FIT='20', MORE='--steps 2', P='0.1', W='0,1', T='2',
                 LONG='3', TS='2,3', N='70', SOME='70', DEVICE='--device cpu', PATH=f"{warm.bin()}:{os.environ['PATH']}")
    (tmp_path/'out').mkdir()
    for _ in range(2):
        done = subprocess.run(['bash', str(project.root/'results/fashion/run.sh')], env=environment | small, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0 and done.stdout.endswith('done\n'), done.stderr
    rows = {path.parent.name: list(csv.DictReader(path.open())) for path in (tmp_path/'out').glob('**/cells.csv')}
    assert {name: len(found) for name, found in rows.items()} == {'p0.1': 2, 'calls-long': 3, 'calls-dpmpp_2m': 3, 'calls-sde_dpmpp_2m': 3, 'table2': 10, 'guides': 2}
    assert {r['T'] for r in rows['calls-long']} == {'3'} and {r['guidance'] for r in rows['guides']} == {'classifier'}
    assert all(float(r['fd_se']) > 0 for found in rows.values() for r in found)
    assert (tmp_path/'out/samples.png').exists() and (tmp_path/'out/p0.1/model.safetensors').exists()


def test_gpu_script(tmp_path):
    "The script for one GPU runs from end to end on a CPU at a small size; the same line again has nothing to do."
    small = dict(DEVICE='cpu', OUT=str(tmp_path), WORK=str(tmp_path/'work'), SIZE='16', N='300', FULL='tiny', FULL_STEPS='3', PRESET='tiny', W='0,1', T='4', SAMPLES='100', FIT='100',
                 MORE='--steps 3 --batch_size 8', PATH=f"{warm.bin()}:{os.environ['PATH']}")
    for _ in range(2):
        done = subprocess.run(['bash', str(project.root/'results/glyphs64/run.sh')], env=environment | small, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0 and done.stdout.endswith('done\n'), done.stderr
    about = json.loads((tmp_path/'full_size.json').read_text())
    assert about['settings']['net']['n_classes'] == 26 and 0 < about['share_of_matmul'] < 1 and about['achieved_flops'] == about['flops_per_image']*about['images_per_second']
    assert len(list(tmp_path.glob('train-p*.json'))) == 3 and len((tmp_path/'cells.csv').read_text().splitlines()) == 1+6

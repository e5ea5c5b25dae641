"Nothing is lost: whatever ends a command at whatever moment, the same line goes on, and what it leaves is what it would have been."
import json, os, random, shutil, signal, subprocess, sys, threading, time
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
import pytest
import torch
from tqdm import tqdm
from cfg_repro.checkpoints import last_checkpoint, read_checkpoint, save_checkpoint
from cfg_repro.checks import Refusal
from cfg_repro.digits import SETTINGS, run as run_digits
from cfg_repro.evaluate import Statistics, load_statistics, save_statistics
from cfg_repro.files import locked, write_file
from cfg_repro.judge import cfg_evaluate
from cfg_repro.prepare import cfg_prepare, prepare
from cfg_repro.runs import cfg_train
from cfg_repro.samples import cfg_export, cfg_sample
from cfg_repro.sets import ImageSet, write_set
from cfg_repro.sweeps import cfg_sweep
from cfg_repro.training import new_state
from cfg_repro.unet import UNet

pytestmark = pytest.mark.slow
context = get_context('forkserver')                    # its children start in a moment, with everything imported
context.set_forkserver_preload(['cfg_repro.digits', 'cfg_repro.sweeps', 'torch_fidelity', 'torch.utils.tensorboard', 'sklearn.datasets', 'pytest'])
CHANGES = ('open', 'os.rename', 'os.remove', 'os.mkdir', 'os.rmdir')


def child(job, args, words, inside, at):
    "Do a job, without a word, in this process of its own; SIGKILL at the at-th time that it touches a file whose path holds `inside`."
    torch.set_num_threads(1); tqdm.set_lock(threading.RLock())     # bars' own lock would outlive a process that is killed
    os.environ.update(TQDM_DISABLE='1', COLUMNS='80')
    left = at
    def watch(event, details):
        nonlocal left
        if left is None or event not in CHANGES or not isinstance(details[0], (str, bytes, os.PathLike)) or inside not in os.fsdecode(details[0]): return
        left -= 1
        if left == 0: os.kill(os.getpid(), signal.SIGKILL)
    with open(words, 'w') as out, redirect_stdout(out), redirect_stderr(out):
        sys.addaudithook(watch)
        try: job(*args[0], **args[1])
        except Exception as e: print(e); sys.exit(1)


class Runner:
    "Jobs in processes of their own, with a folder to work in."
    def __init__(self, folder): self.folder, self.kills = folder, 0

    def start(self, job, *args, inside='', at=None, **kwargs):
        process = context.Process(target=child, args=(job, (args, kwargs), self.folder/'words', inside, at))
        process.start()
        return process

    def end(self, process):
        "Its exit status; None where it was killed."
        process.join(300)
        self.kills += process.exitcode == -signal.SIGKILL
        return process.exitcode if process.exitcode >= 0 else None

    def do(self, job, *args, **kwargs):
        "Whether a job came to its end; it either does, or is killed as it was told to be."
        status = self.end(self.start(job, *args, **kwargs))
        assert status in (0, None) or (status, kwargs.get('at')) == (0, None), (self.folder/'words').read_text()
        return status == 0

    def harassed(self, job, *args, inside, most, check=lambda: None, **kwargs):
        "A job killed again and again, each time at another of the `most` next file operations, until it gets through."
        draw, before, over = random.Random(0), self.kills, False
        while not over and self.kills < before+30:
            check()
            over = self.do(job, *args, inside=inside, at=draw.randint(1, most), **kwargs)
        check()
        assert over or self.do(job, *args, **kwargs)
        print(f'{self.kills-before} kills'); assert self.kills >= before+4


@pytest.fixture
def runner(tmp_path): return Runner(tmp_path)


def contents(folder, but=('provenance.json', '.lock')):
    "Every file, byte for byte, but those that say when and where; none that was not finished is left."
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob('*')) if p.is_file() and p.name not in but and 'tensorboard' not in p.parts}
    assert not [name for name in found if '/.' in f'/{name}' or '~' in name]
    return found


# Training

def test_training(runner, tmp_path):
    "Killed two dozen times, every second time inside the writing of a checkpoint, the others at any moment: weights, average, optimizer, log and all, byte for byte."
    how = dict(device='cpu', steps=60, log_every=1, save_every=3, grid_every=60)
    assert runner.do(cfg_train, 'digits', out=str(tmp_path/'whole'), **how)
    run, draw, inside = tmp_path/'run', random.Random(0), 0
    how['out'] = str(run)
    for k in range(24):
        if k % 2: runner.do(cfg_train, 'digits', **how, inside='.saving', at=draw.randint(1, 20))
        else:
            process, before = runner.start(cfg_train, 'digits', **how), last_checkpoint(run)
            while process.is_alive() and last_checkpoint(run) == before: time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.05)); process.kill(); runner.end(process)
        inside += (run/'.saving').exists()
    assert runner.kills >= 20 and inside >= 8, (runner.kills, inside)
    assert last_checkpoint(run).name < 'step-00000060', 'the run was over before it had been killed often enough'
    assert runner.do(cfg_train, 'digits', **how)
    assert contents(run) == contents(tmp_path/'whole')
    print(f'{runner.kills} kills, {inside} of them inside a checkpoint')


def save_twice(run, steps):
    "A checkpoint over another one: of a later step, or of the same."
    net = UNet(8, 10, in_channels=1, channels=4, mult=(1,), blocks=1, attention=(), head_channels=4, groups=2)
    state = new_state(net)
    for state.step in steps:
        for p in (*state.net.parameters(), *state.ema.parameters()): torch.nn.init.constant_(p, state.step)
        save_checkpoint(state, run, dict(steps=list(steps)))


@pytest.mark.parametrize('steps', [(1, 2), (2, 2)])
def test_every_operation_of_a_checkpoint(runner, tmp_path, steps):
    "Killed at the first, the second, ... file that it touches, until it gets through: at any moment, the last checkpoint is a whole one."
    before = ''
    for at in range(1, 100):
        run = tmp_path/f'{at}'
        over, last = runner.do(save_twice, run, steps, inside=str(run), at=at), last_checkpoint(run)
        name = last.name if last else ''
        if last:
            about, ema = read_checkpoint(last, 'ema')
            assert all((v == about['step']).all() for k, v in ema.items())
        assert name.strip('~') >= before, 'a later kill left less'
        if over: break
        before = name.strip('~')
    assert over and last.name == f'step-{steps[-1]:08d}' and at > 20
    print(f'{runner.kills} kills')


def last_line(words): return words.read_text().splitlines()[-1]


def test_one_writer(runner, tmp_path):
    "Who comes second to a run, a set or a sweep is refused at once, and nothing that a crash leaves keeps the next one out."
    run, how = tmp_path/'run', dict(device='cpu', steps=100_000, save_every=5, out=str(tmp_path/'run'))
    first = runner.start(cfg_train, 'digits', **how)
    while not last_checkpoint(run) and first.is_alive(): time.sleep(0.01)
    with pytest.raises(Refusal) as end: cfg_train('digits', **how)
    assert first.is_alive() and str(end.value) == f'{run} is in use: something else is writing to it'
    first.kill(); first.join()
    assert runner.do(cfg_train, 'digits', **how | dict(steps=int(last_checkpoint(run).name[5:])+1))
    for out, job, kwargs in ((tmp_path/'samples', cfg_sample, dict(run=str(run), out=str(tmp_path/'samples'), n=4, T=2, device='cpu')),
                             (tmp_path/'set', cfg_prepare, dict(source='glyphs', dest=str(tmp_path/'set'), n=30, size=8)),
                             (tmp_path/'sweep', cfg_sweep, dict(runs=[str(run)], reference='digits', out=str(tmp_path/'sweep'), n=4, splits=1, T=(2,), w=(0.,), device='cpu'))):
        with locked(out): assert runner.end(runner.start(job, **kwargs)) == 1 and 'is in use: something else is writing to it' in last_line(tmp_path/'words')
    with locked(tmp_path/'digits'/'parts'): assert runner.end(runner.start(run_digits, tmp_path/'digits', tiny)) == 1 and 'is in use' in last_line(tmp_path/'words')


# A full disk

SCRIPT = """
import resource, sys, torch
import cfg_repro.checkpoints as checkpoints
from cfg_repro.runs import cfg_train
save, folder = checkpoints.save_checkpoint, sys.argv[1]
def save_then(*args):
    save(*args)
    {then}
checkpoints.save_checkpoint = save_then
torch.set_num_threads(1)
sys.argv = ['cfg_train', 'digits', '--out', folder + '/run', *'--device cpu --steps 40 --save_every 4 --log_every 1 --grid_every 40'.split()]
cfg_train.console()
"""
FILL = """
    with open(folder + '/filler', 'wb') as f:
        try:
            while True: f.write(bytes(512)); f.flush()
        except OSError: pass
"""
FULL = dict(checkpoint=(1_200_000, 'pass', 100_000), log=(4_000_000, FILL, 300))         # size of the disk, what comes after a checkpoint; without a disk: the longest file there may be after one


def errors(*command): return subprocess.run(command, env=os.environ | dict(TQDM_DISABLE='1', OMP_NUM_THREADS='1'), capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize('what', FULL)
def test_full_disk(runner, tmp_path, what):
    "Where the next checkpoint has no room, and where not even a line of the log has: the last checkpoint is left and named, in one sentence; with room again, the run ends as if nothing had been."
    (size, then, limit), disk, left, script = FULL[what], tmp_path/'disk', tmp_path/'left', tmp_path/'script.py'
    disk.mkdir(); mount, words = f'mount -t tmpfs -o size={size} none {disk}', (sys.executable, str(script), str(disk))
    for namespace in (['unshare', '--mount'], ['unshare', '--user', '--map-root-user', '--mount']):
        if shutil.which('unshare') and errors(*namespace, 'sh', '-c', mount).returncode == 0:              # a disk of its own, this small
            script.write_text(SCRIPT.format(then=then))
            done = errors(*namespace, 'sh', '-c', f'{mount} || exit 99; "$@"; code=$?; cp -r {disk} {left}; exit $code', 'sh', *words); break
    else:
        script.write_text(SCRIPT.format(then=f'resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))'))
        done = errors(*words); shutil.copytree(disk, left)
    words, sentence = done.stderr.splitlines()                                  # what will be trained comes first
    assert done.returncode == 2 and words.startswith('unet of ') and sentence.startswith('cfg_train: '), done.stderr
    assert done.stderr.endswith(f'the last good checkpoint is {disk}/run/step-00000004\n') and ('could not be written' in done.stderr) == (what == 'checkpoint')
    assert last_checkpoint(left/'run').name == 'step-00000004' and read_checkpoint(last_checkpoint(left/'run'), 'net', 'ema', 'opt')
    for run in (left/'run', tmp_path/'whole'): assert runner.do(cfg_train, 'digits', out=str(run), device='cpu', steps=40, save_every=4, log_every=1, grid_every=40)
    assert contents(left/'run') == contents(tmp_path/'whole')


# Generation, evaluation, sweeps, preparation

tiny = SETTINGS | dict(p_uncond=(0.1,), w=(0.,1.), T=2, T_sweep=(2,3), T_sweep_w=(1.,), classifier_w=(1.,), n=70, classifier_steps=5, steps=3, seeds=1)


def unchanged(folder):
    "A check that no finished shard has been made again since the last time."
    known = {}
    def check():
        found = {p: p.with_suffix('.safetensors').stat().st_mtime_ns for p in Path(folder).rglob('shard-*.sha256')}
        assert all(found[p] == t for p, t in known.items() if p in found), 'a finished shard was made again'
        known.update(found)
    return check


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A run that has hardly learned anything."
    folder = tmp_path_factory.mktemp('trained')
    assert Runner(folder).do(cfg_train, 'digits', out=str(folder/'run'), steps=6, device='cpu')
    return folder/'run'


def test_generation(runner, tmp_path, trained):
    how = dict(n=70, shard_size=10, batch_size=4, T=2, w=1., device='cpu')
    assert runner.do(cfg_sample, str(trained), out=str(tmp_path/'whole'), **how)
    runner.harassed(cfg_sample, str(trained), out=str(tmp_path/'killed'), **how, inside=str(tmp_path/'killed'), most=16, check=unchanged(tmp_path/'killed'))
    assert contents(tmp_path/'killed') == contents(tmp_path/'whole')


def test_every_operation_of_an_export(runner, tmp_path, trained):
    "Killed at each file that it touches in turn: nothing is there, or all of it; and the same line leaves that and nothing else."
    assert runner.do(cfg_export, str(trained), str(tmp_path/'whole'))
    for at in range(1, 100):
        folder = tmp_path/f'{at}'; folder.mkdir()
        over, out = runner.do(cfg_export, str(trained), str(folder/'out'), inside=str(folder), at=at), folder/'out'
        assert not out.exists() or contents(out) == contents(tmp_path/'whole')
        assert runner.do(cfg_export, str(trained), str(out))
        assert contents(out) == contents(tmp_path/'whole') and [p.name for p in folder.iterdir() if p.name != '.out.saving' or over] == ['out']
        if over: break
    assert over and at > 15
    print(f'{runner.kills} kills')


def prepare_glyphs(dest): list(prepare('glyphs', dest, size=8, n=305, shard_size=50))


def test_preparation(runner, tmp_path):
    assert runner.do(prepare_glyphs, tmp_path/'whole')
    runner.harassed(prepare_glyphs, tmp_path/'killed', inside=str(tmp_path/'killed'), most=16, check=unchanged(tmp_path/'killed'))
    assert contents(tmp_path/'killed') == contents(tmp_path/'whole')


def test_evaluation(runner, tmp_path, trained):
    "The classifier, the statistics kept beside the reference, the result."
    assert runner.do(cfg_prepare, 'glyphs', str(tmp_path/'reference'), size=8, n=300)
    judged = dict(reference=str(tmp_path/'reference'), fit_steps=20, splits=1, device='cpu')
    def evaluated(name, **more):
        folder = tmp_path/name; shutil.copytree(tmp_path/'reference', folder/'reference')
        assert runner.do(cfg_prepare, 'glyphs', str(folder/'samples'), size=8, n=200)
        how = judged | dict(reference=str(folder/'reference'), classifier=str(folder/'own.safetensors'))
        if more: runner.harassed(cfg_evaluate, str(folder/'samples'), **how, inside=str(folder), **more)
        else: assert runner.do(cfg_evaluate, str(folder/'samples'), **how)
        return contents(folder, but=('.lock', 'evaluation.json')), json.loads((folder/'samples'/'evaluation.json').read_text())['result']
    assert evaluated('killed', most=16) == evaluated('whole')


def test_sweep(runner, tmp_path, trained):
    how = dict(reference='digits', classifier=str(tmp_path/'own.safetensors'), fit_steps=20, w=(0.,1.,4.), T=(2,), n=70, splits=1, shard_size=35, device='cpu')
    assert runner.do(cfg_sweep, [str(trained)], out=str(tmp_path/'whole'), **how)
    runner.harassed(cfg_sweep, [str(trained)], out=str(tmp_path/'killed'), **how, inside=str(tmp_path/'killed'), most=24)
    assert contents(tmp_path/'killed') == contents(tmp_path/'whole')


def test_main_job(runner, tmp_path):
    assert runner.do(run_digits, tmp_path/'whole', tiny)
    runner.harassed(run_digits, tmp_path/'killed', tiny, inside=str(tmp_path/'killed'), most=40)
    assert contents(tmp_path/'killed') == contents(tmp_path/'whole')


def write_everything(folder):
    "A set, statistics and a file, each over what is there already."
    for k in range(2):
        make = lambda indices: [dict(images=torch.full((len(indices),1,2,2), 7, dtype=torch.uint8), labels=torch.zeros(len(indices), dtype=torch.long))]
        for _ in write_set(folder/'set', make, 5, dict(n_classes=1), shard_size=2): pass
        mu, sigma = torch.zeros(3).double().numpy(), torch.eye(3).double().numpy()
        save_statistics(folder/'statistics.npz', Statistics(mu, sigma, sigma, 'mine'))
        write_file(folder/'file', b'new' if k else b'old')


def test_every_operation_of_the_writers(runner, tmp_path):
    "Killed at each file that they touch in turn: every file is whole or absent, and what was begun can be finished."
    (tmp_path/'whole').mkdir(); write_everything(tmp_path/'whole')
    for at in range(1, 200):
        folder = tmp_path/f'{at}'; folder.mkdir()
        over = runner.do(write_everything, folder, inside=str(folder), at=at)
        if (folder/'file').exists(): assert (folder/'file').read_bytes() in (b'old', b'new')
        if (folder/'statistics.npz').exists(): load_statistics(folder/'statistics.npz')
        write_everything(folder)
        for name in ('set', 'statistics.npz', 'file'): assert (folder/name).exists()
        assert [p.read_bytes() for p in sorted((folder/'set').glob('[!.]*'))] == [p.read_bytes() for p in sorted((tmp_path/'whole'/'set').glob('[!.]*'))]
        if over: break
    assert over and at > 30
    print(f'{runner.kills} kills')


def test_altered_shards_are_made_again(runner, tmp_path, trained):
    "A shard cut short, one with a bit flipped, one that is gone and one without its hash, and no other."
    how = dict(out=str(tmp_path/'samples'), n=60, shard_size=10, T=2, w=1., device='cpu')
    assert runner.do(cfg_sample, str(trained), **how)
    shards = sorted((tmp_path/'samples').glob('*.safetensors')); before, times = contents(tmp_path/'samples'), [p.stat().st_mtime_ns for p in shards]
    data = bytearray(shards[0].read_bytes()); data[-1] ^= 1; shards[0].write_bytes(data)
    shards[1].write_bytes(shards[1].read_bytes()[:-10]); shards[2].unlink(); shards[3].with_suffix('.sha256').unlink()
    with pytest.raises(ValueError, match='shard-00000.safetensors is missing or damaged'): ImageSet(tmp_path/'samples')
    assert runner.do(cfg_sample, str(trained), **how) and contents(tmp_path/'samples') == before
    assert [p.stat().st_mtime_ns == t for p, t in zip(shards, times)] == [False]*4 + [True]*2

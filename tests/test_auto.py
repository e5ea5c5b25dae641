"A set of one's own: a network that fits it, a budget of time, and a picture that is always the newest."
import json, os, subprocess, sys
from contextlib import nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from unittest.mock import patch
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from cfg_repro import runs
from cfg_repro.checkpoints import last_checkpoint
from cfg_repro.checks import Refusal
from cfg_repro.console import said
from cfg_repro.data import MemorySet
from cfg_repro.files import read_record, write_record
from cfg_repro.presets import fitting, preset
from cfg_repro.runs import cfg_train
from cfg_repro.samples import cfg_sample, load_run
from cfg_repro.sets import ImageSet, write_set
from cfg_repro.training import new_state, seeded, train
from cfg_repro.unet import UNet


def a_set(folder, size=8, channels=1, classes=2, n=4, height=None):
    "Stripes on disk: of class k, k+1 of them."
    labels = torch.arange(n) % classes
    row = torch.arange(size)
    images = torch.stack([(row*(k+1) % size*255//size).to(torch.uint8).expand(channels, height or size, size) for k in labels.tolist()])
    list(write_set(folder, lambda indices: [dict(images=images[list(indices)], labels=labels[list(indices)])], n, dict(n_classes=classes)))
    return str(folder)


def weights(run, name='net'):
    return load_file(last_checkpoint(run)/f'{name}.safetensors')


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def files(run):
    "What the last checkpoint and the log of a run hold, byte for byte."
    return {p.name: p.read_bytes() for p in (*last_checkpoint(run).iterdir(), Path(run)/'log.jsonl')}


# A network for any set

@pytest.mark.parametrize('size, channels, classes, n', [
    (8, 1, 2, 4), (25, 1, 3, 6), (28, 1, 10, 10), (30, 3, 2, 4), (32, 3, 10, 10), (48, 3, 2, 2), (64, 3, 2, 2), (96, 1, 1, 2), (8, 3, 1, 2), (7, 4, 1, 1)])
def test_auto_trains_and_samples(tmp_path, size, channels, classes, n):
    "Grey and colour, odd and even, one class and two images: a step, from a terminal's words to a sample; the network is the one that is noted."
    data, run = a_set(tmp_path/'data', size, channels, classes, n), tmp_path/'run'
    said(cfg_train, 'auto', data=data, out=str(run), steps=1, batch_size=2, device='cpu')
    model, settings = load_run(run)
    net = settings['net']
    assert (settings['preset'], net['size'], net['in_channels'], net['n_classes']) == ('auto', size, channels, classes)
    assert None not in [v for k, v in net.items() if k != 'heads']
    assert (model.size, model.in_channels, model.n_classes) == (size, channels, classes)
    sides = [size//2**k for k in range(len(net['mult']))]
    assert size == sides[-1]*2**(len(sides)-1) and set(net['attention']) <= set(sides)
    said(cfg_sample, str(run), w=float(classes > 1), T=2, n=2, out=str(tmp_path/'samples'), device='cpu')
    assert ImageSet(tmp_path/'samples').shape == (channels, size, size)


def test_auto_is_a_preset_like_any_other(tmp_path):
    "What it chose, given by hand and trained by Algorithm 1: the same weights. And the same line goes on."
    data = a_set(tmp_path/'data', 28, n=6)
    how = dict(data=data, out=str(tmp_path/'run'), device='cpu', batch_size=3)
    for steps in (1, 2): said(cfg_train, 'auto', steps=steps, **how)
    with seeded(0):
        state = new_state(UNet(size=28, n_classes=2, in_channels=1, channels=16, mult=(1, 3, 6), blocks=1, attention=(7,), head_channels=16, groups=8,
                               resblock_updown=False).to(memory_format=torch.channels_last))
    for _ in train(state, ImageSet(data), steps=2, batch_size=3, lr=2e-3, warmup=200, p_uncond=.1, grad_clip=1., ema_decay=.999): pass
    assert same(weights(tmp_path/'run'), state.net.state_dict())
    assert same(weights(tmp_path/'run', 'ema'), state.ema.module.state_dict())


def test_fields_of_auto_can_be_chosen(tmp_path):
    data = a_set(tmp_path/'data', 32)
    cfg = dict(data=data, out=str(tmp_path/'run'), steps=1, batch_size=1, device='cpu', set=['channels=32', 'mult=[1,2]', 'attention=[16]', 'T=5'])
    said(cfg_train, 'auto', **cfg)
    settings = load_run(tmp_path/'run')[1]
    assert settings['T'] == 5
    assert {k: settings['net'][k] for k in ('channels', 'mult', 'attention', 'head_channels')} == dict(channels=32, mult=[1, 2], attention=[16], head_channels=32)


@pytest.mark.parametrize('size, words', [(97, 'prepare the images with --size 96'), (33, '--size 32'), (66, '--size 64'), (127, '--size 128')])
def test_a_side_that_cannot_be_halved_names_one_that_can(size, words):
    data = MemorySet(torch.zeros(1, 1, size, size), torch.tensor([0]), dict(n_classes=1))
    with pytest.raises(Refusal, match=words): fitting(preset('auto'), data)


def test_images_that_are_not_square_are_no_matter_of_the_preset(tmp_path):
    data = a_set(tmp_path/'data', 8, height=16)
    for name in ('auto', 'digits'):
        with pytest.raises(Refusal, match='they must be square'): cfg_train(name, data=data, out=str(tmp_path/'run'), device='cpu')


# Fields of the network, and what would fit

def test_any_argument_of_the_network_can_be_set(tmp_path):
    "Those that the preset does not name as well: they arrive at the network that is trained, and are noted."
    data = a_set(tmp_path/'data', 16)
    words = ['in_channels=1', 'n_classes=2', 'heads=3', 'dropout=0.25', 'resblock_updown=true', 'groups=4', 'blocks=2', 'out_channels=1']
    said(cfg_train, 'glyphs16', data=data, out=str(tmp_path/'run'), steps=1, batch_size=2, device='cpu', set=words)
    model, settings = load_run(tmp_path/'run')
    expected = UNet(size=16, n_classes=2, channels=24, mult=(1, 2, 2), attention=(), head_channels=24, in_channels=1, heads=3, dropout=.25,
                    resblock_updown=True, groups=4, blocks=2)
    assert str(model) == str(expected) and model.mid[1].heads == 3
    assert same(model.state_dict(), weights(tmp_path/'run', 'ema'))
    assert settings['net'] | dict(in_channels=1, heads=3, dropout=.25, resblock_updown=True, groups=4, blocks=2, out_channels=1) == settings['net']


def test_the_line_that_is_suggested_trains(tmp_path):
    "For every small preset that does not fit: what the refusal says after --set does, or auto does."
    data = a_set(tmp_path/'data', 24, channels=1, classes=2)
    for name in ('digits', 'tiny', 'fashion', 'glyphs64'):
        with pytest.raises(Refusal, match='say auto, which suits') as refused: cfg_train(name, data=data, out=str(tmp_path/name), device='cpu')
        words = str(refused.value).partition('--set ')[2].split()
        more = [] if preset(name)['net']['n_classes'] is None else ['n_classes=2']
        said(cfg_train, name, data=data, out=str(tmp_path/name), steps=1, batch_size=1, device='cpu', set=words + more)
        assert load_run(tmp_path/name)[1]['net']['size'] == 24


def test_attention_is_not_lost_at_another_size(tmp_path):
    "At 96 the levels of glyphs64 have none of its sizes of attention: that is said, and the sizes that are suggested give as many layers of it."
    data = a_set(tmp_path/'data', 96, channels=3)
    def layers(p): return sum(type(m).__name__ == 'Attention' for m in UNet(**p['net']).modules())
    changes = dict(size=96, n_classes=2)
    with pytest.raises(Refusal, match=r'attention is \[16, 8\]: the levels have sides of 96, 48, 24, 12; say --set attention=\[24,12\]'):
        fitting(preset('glyphs64', **changes), ImageSet(data))
    with torch.device('meta'):
        usual = layers(preset('glyphs64'))
        assert usual == layers(fitting(preset('glyphs64', attention=(24, 12), **changes), ImageSet(data))) == 11
        assert layers(preset('glyphs64', **changes)) == 1                  # what would have been trained


# A budget of time

class Clock:
    "A clock that a step of training moves on, by so many seconds; the first by more."
    def __init__(self, seconds, first=0.): self.now, self.seconds, self.first = 1000., seconds, first
    def __call__(self): return self.now
    def step(self, *args):
        self.now += self.seconds + self.first
        self.first = 0.


def budgeted(clock, *args, **how):
    "cfg_train on a clock that only its steps move on. What it said on stderr."
    real = runs.train
    def slow(*args, **how):
        for row in real(*args, **how):
            clock.step()
            yield row
    with patch.object(runs, 'train', slow), patch.object(runs.time, 'monotonic', clock), redirect_stderr(StringIO()) as err:
        said(cfg_train, *args, **how)
    return err.getvalue()


def test_minutes_are_a_number_of_steps(tmp_path):
    "Half a second a step, after one of nine: tried for 1.5 seconds of half a minute, and 29 seconds less these and the first are 36 steps: those of --steps 36, byte for byte."
    data = a_set(tmp_path/'data')
    how = dict(data=data, device='cpu', batch_size=2, set=['dropout=0.5', 'n_classes=2'], seed=3, emas=(.5,), grid_every=0)
    err = budgeted(Clock(.5, 8.5), 'digits', minutes=.5, out=str(tmp_path/'minutes'), **how)
    expected = int((30*29/30 - 9 - 1.5)/.5)
    assert expected == 37
    assert f'0.5 minutes at 2 steps/s: {expected} steps of 2 images, {2*expected} in all, 18.5 passes over the data' in err
    assert 'as many steps as 0.5 minutes have of 2 images' in err
    said(cfg_train, 'digits', steps=expected, out=str(tmp_path/'steps'), **how)
    assert files(tmp_path/'minutes') == files(tmp_path/'steps')
    assert read_record(tmp_path/'minutes'/'budget.json') == dict(minutes=.5, steps=expected)


def test_the_same_line_goes_on_to_the_same_end(tmp_path):
    "Whatever the clock says by then; other minutes are measured anew, from the beginning; --steps goes its own way."
    data = a_set(tmp_path/'data')
    how = dict(data=data, out=str(tmp_path/'run'), device='cpu', batch_size=2, grid_every=0, set=['n_classes=2'])
    write_record(tmp_path/'budget.json', dict(minutes=.5, steps=5))
    (tmp_path/'run').mkdir()
    (tmp_path/'budget.json').rename(tmp_path/'run'/'budget.json')
    said(cfg_train, 'digits', steps=2, **how)
    err = budgeted(Clock(1e6), 'digits', minutes=.5, **how)
    assert 'steps 3 to 5 of 2 images' in err and last_checkpoint(tmp_path/'run').name == 'step-00000005'
    budgeted(Clock(1.), 'digits', minutes=.25, **how)                  # 14.5 s less the first and three more: 10
    assert read_record(tmp_path/'run'/'budget.json') == dict(minutes=.25, steps=10) and last_checkpoint(tmp_path/'run').name == 'step-00000010'
    said(cfg_train, 'digits', steps=12, out=str(tmp_path/'whole'), **{k: v for k, v in how.items() if k != 'out'})
    said(cfg_train, 'digits', steps=12, **how)
    assert all(same(weights(tmp_path/'run', name), weights(tmp_path/'whole', name)) for name in ('net', 'ema', 'opt'))


def test_auto_has_an_hour(tmp_path):
    "And no other preset; a number of steps is instead of it."
    data = a_set(tmp_path/'data')
    asked = []
    class Enough(Exception): pass
    def spy(minutes, *args, **how):
        asked.append(minutes)
        raise Enough
    with patch.object(runs, '_budgeted', spy):
        for more in (dict(), dict(minutes=7.)):
            with pytest.raises(Enough): said(cfg_train, 'auto', data=data, out=str(tmp_path/'run'), device='cpu', **more)
    assert asked == [60., 7.]
    for more in (dict(steps=1), dict(set=['steps=1'])):
        with patch.object(runs, '_budgeted', spy): said(cfg_train, 'auto', data=data, out=str(tmp_path/str(len(more))), device='cpu', **more)


def test_a_stop_while_the_rate_is_measured_leaves_nothing(tmp_path):
    data = a_set(tmp_path/'data')
    def stop_now(): return nullcontext(lambda: True)
    with patch.object(runs, 'stopping', stop_now), pytest.raises(KeyboardInterrupt):
        said(cfg_train, 'digits', data=data, out=str(tmp_path/'run'), minutes=1., device='cpu', set=['n_classes=2'])
    assert not (tmp_path/'run').exists()


def test_a_damaged_note_is_made_again(tmp_path):
    data, note = a_set(tmp_path/'data'), tmp_path/'run'/'budget.json'
    how = dict(data=data, out=str(tmp_path/'run'), device='cpu', batch_size=2, grid_every=0, set=['n_classes=2'], minutes=.25)
    for damage in (lambda data: data, lambda data: data.replace(b'10', b'11'), lambda data: data[:-1]):
        if note.exists(): note.write_bytes(damage(note.read_bytes()))
        budgeted(Clock(1.), 'digits', **how)
        assert read_record(note)['steps'] == 10 and last_checkpoint(tmp_path/'run').name == 'step-00000010'


@pytest.mark.slow
def test_two_processes_agree_on_the_end(tmp_path):
    "Each has a clock of its own: both take the steps that are noted, those of one process up to rounding."
    environment = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')} | {'OMP_NUM_THREADS': '1', 'COLUMNS': '80'}
    line = [str(Path(sys.executable).parent/'cfg_train'), 'digits', '--device', 'cpu', '--batch_size', '4', '--grid_every', '0', '--out']
    done = subprocess.run([*line, 'two', '--minutes', '0.03', '--processes', '2'], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = read_record(tmp_path/'two'/'budget.json')['steps']
    assert done.stderr.count('0.03 minutes at') == 1 and last_checkpoint(tmp_path/'two').name == f'step-{steps:08d}'
    said(cfg_train, 'digits', steps=steps, batch_size=4, grid_every=0, out=str(tmp_path/'one'), device='cpu')
    one, two = weights(tmp_path/'one'), weights(tmp_path/'two')
    assert all(torch.allclose(one[k], two[k], rtol=1e-3, atol=1e-4) for k in one)


# The newest picture

def by_hand(net, classes, n=8, T=16):
    "Rows of w = 0, 1, 3 by DPM-Solver++(2M) as its authors print it, on even steps, in numpy; from Philox noise."
    z0 = np.stack([np.random.Generator(np.random.Philox(key=[0, i], counter=[0]*4)).standard_normal((net.in_channels, net.size, net.size), dtype=np.float32) for i in range(n)])
    c, none, levels = torch.arange(n) % classes, torch.full((n,), classes), np.linspace(-8, 8, T)
    def sigmoid(l): return 1/(1+np.exp(-l))
    rows = []
    for w in (0., 1., 3.):
        z, last = z0.astype(np.float64), None
        for l, after in zip(levels, [*levels[1:], None]):
            level = torch.full((n,), float(l))
            with torch.no_grad(): eps = (1+w)*net(torch.from_numpy(z).float(), level, c) - w*net(torch.from_numpy(z).float(), level, none)
            x = ((z-sigmoid(-l)**.5*eps.double().numpy())/sigmoid(l)**.5).clip(-1, 1)
            if after is None: break
            h = (after-l)/2
            D = x if last is None else 1.5*x - .5*last                  # equal steps: r = 1
            z = (sigmoid(-after)/sigmoid(-l))**.5*z - sigmoid(after)**.5*np.expm1(-h)*D
            last = x
        rows.append(np.rint((x+1)*127.5))
    return np.stack(rows)                                               # (3,n,C,H,W)


def shown(picture, rows, n, size):
    "The images of a grid with a border of one pixel."
    pixels = np.asarray(Image.open(picture)).astype(float)
    assert pixels.shape == (rows*(size+1)+1, n*(size+1)+1, 3)
    return np.stack([[pixels[1+r*(size+1):, 1+i*(size+1):][:size, :size].transpose(2, 0, 1) for i in range(n)] for r in range(rows)])


def test_newest_is_a_grid_of_the_average_by_hand(tmp_path):
    "Of the checkpoint of the last step, and the file of that step: computed here from its weights, in numpy."
    data, run = a_set(tmp_path/'data', classes=2), tmp_path/'run'
    err = StringIO()
    with redirect_stderr(err):
        said(cfg_train, 'digits', data=data, out=str(run), steps=60, batch_size=100, lr=1e-2, device='cpu', set=['n_classes=2'])
    assert (run/'newest.png').read_bytes() == (run/'grids'/'step-00000060.png').read_bytes()
    assert [p.name for p in (run/'grids').iterdir()] == ['step-00000060.png']      # no minute was over before
    net = UNet(**json.loads((last_checkpoint(run)/'state.json').read_text())['settings']['net']).eval()
    net.load_state_dict(weights(run, 'ema'))
    expected, found = by_hand(net, 2), shown(run/'newest.png', 3, 8, 8)
    assert np.abs(found-expected).max() <= 1 and expected.std() > 20
    for a, b in ((0, 1), (1, 2)): assert np.abs(expected[a]-expected[b]).max() > 5


def test_the_clock_draws_and_changes_nothing(tmp_path):
    "A minute a step: a grid after each, the newest is the last; weights and log are those of a run without."
    data = a_set(tmp_path/'data')
    how = dict(data=data, device='cpu', steps=4, batch_size=16, lr=.1, log_every=1, set=['dropout=0.5', 'n_classes=2'])
    now = [0.]
    real = runs._Pace.__call__
    def later(pace, step):
        now[0] += 61.
        real(pace, step)
        return 100.                                                    # steps a second, says the bar: a grid is quick
    with patch.object(runs._Pace, '__call__', later), patch.object(runs.time, 'monotonic', lambda: now[0]):
        said(cfg_train, 'digits', out=str(tmp_path/'with'), **how)
    said(cfg_train, 'digits', out=str(tmp_path/'without'), grid_every=0, **how)
    names = sorted(p.name for p in (tmp_path/'with'/'grids').iterdir())
    assert names == [f'step-0000000{k}.png' for k in (1, 2, 3, 4)]
    assert (tmp_path/'with'/'newest.png').read_bytes() == (tmp_path/'with'/'grids'/names[-1]).read_bytes() != (tmp_path/'with'/'grids'/names[0]).read_bytes()
    assert files(tmp_path/'with') == files(tmp_path/'without')
    assert not (tmp_path/'without'/'grids').exists() and not (tmp_path/'without'/'newest.png').exists()


def test_a_classifier_has_no_grids_and_few_steps_have_none(tmp_path):
    said(cfg_train, 'digits_classifier', out=str(tmp_path/'judge'), steps=60, device='cpu')
    said(cfg_train, 'digits', out=str(tmp_path/'few'), steps=3, device='cpu')
    for run in ('judge', 'few'): assert not [*(tmp_path/run).glob('*.png')] and not (tmp_path/run/'grids').exists()

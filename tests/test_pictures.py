"From a folder of pictures to pictures: classes by name, strengths, an interval, what is shown, and a film; each once more by hand."
import json
from io import BytesIO
from pathlib import Path
import numpy as np
import pytest
import torch
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont, ImageSequence
from safetensors.torch import load_file
import by_hand
from cfg_repro.checks import Refusal
from cfg_repro.console import arguments, said
from cfg_repro.data import draw_glyph
from cfg_repro.prepare import cfg_prepare
from cfg_repro.runs import cfg_train
from cfg_repro.samples import cfg_sample, pictured
from cfg_repro.sets import ImageSet
from cfg_repro.sweeps import cfg_sweep

NAMES = ['bird', 'cat', 'dog']


def a_folder(path, names):
    "Letters of 16x16, a directory for each class."
    for i in range(12*len(names)):
        where = path/names[i % len(names)]
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_glyph(i, 16)).save(where/f'{i}.png')
    return str(path)


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A run of three named classes, one of a single class, one that dropped no label, and one of digits, which are grey."
    lab = tmp_path_factory.mktemp('pictures')
    for name, names in (('pets', NAMES), ('pet', ['cat'])):
        said(cfg_prepare, a_folder(lab/f'{name}_folder', names), str(lab/f'{name}_set'), size=16, workers=1)
        how = dict(data=str(lab/f'{name}_set'), steps=20, device='cpu')
        said(cfg_train, 'tiny', out=str(lab/name), **how)
    said(cfg_train, 'tiny', out=str(lab/'dropped_none'), p_uncond=0., **how | dict(data=str(lab/'pets_set')))
    said(cfg_train, 'digits', out=str(lab/'digits'), steps=40, lr=1e-2, device='cpu')
    return lab


def sampled(lab, run, out, **options):
    "A set in batches and files that have no say; where it is, and what was printed."
    how = dict(n=13, T=5, w=1., batch_size=5, shard_size=7, device='cpu') | options
    return lab/out, said(cfg_sample, str(lab/run), str(lab/out), **how)


def shards(folder):
    "Images and labels, from the files themselves."
    parts = [load_file(path) for path in sorted(folder.glob('shard-*.safetensors'))]
    return [torch.cat([part[key] for part in parts]) for key in ('images', 'labels')]


def settings(folder): return json.loads((folder/'set.json').read_text())['settings']


def alike(a, b):
    "The same images, up to rounding inside a network, which moves a byte by one here and there."
    apart = (a.int()-b.int()).abs()
    return apart.max() <= 1 and (apart > 0).double().mean() < .02


def walked(lab, run, c, **how):
    "The trajectory by hand, as bytes."
    how = dict(w=1., T=5, v=.3, seed=0) | how
    return [(by_hand.as_bytes(z), by_hand.as_bytes(x)) for z, x in by_hand.walk(lab/run, c, **how)]


def cell(picture, r, k, rows, columns, side=64):
    "Image k of row r, counted from the lower right corner: (side,side) or (side,side,3)."
    pixels, each = np.asarray(picture), side+2
    y, x = pixels.shape[0]-(rows-r)*each, pixels.shape[1]-(columns-k)*each
    return pixels[y:y+side, x:x+side]


def squares(image, k):
    "An image (C,H,W) with every pixel k times as high and as wide."
    pixels = np.kron(image.numpy(), np.ones((1, k, k), np.uint8))
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def ink(pixels):
    "What is written, cut out; independent of where."
    dark = pixels < 255
    rows, columns = dark.any(1).nonzero()[0], dark.any(0).nonzero()[0]
    return pixels[rows[0]:rows[-1]+1, columns[0]:columns[-1]+1]


def written(text):
    "A text in the font of the pictures."
    path = Path(get_data_path())/'fonts'/'ttf'/'DejaVuSans.ttf'
    font = ImageFont.truetype(str(path), 12, layout_engine=ImageFont.Layout.BASIC)
    canvas = Image.new('L', (600, 40), 'white')
    ImageDraw.Draw(canvas).text((9, 20), text, fill='black', font=font, anchor='lm')
    return ink(np.asarray(canvas))


def grey(picture): return np.asarray(picture.convert('L'))


# What is shown

def test_a_set_leaves_a_picture_of_its_classes(lab):
    "Each image of the files, enlarged four times, in the row of its class, beside its name; the rest is white."
    out, words = sampled(lab, 'pets', 'classes', n=11)
    images, labels = shards(out)
    picture = Image.open(out/'samples.png')
    assert labels.tolist() == [i % 3 for i in range(11)] and picture.mode == 'RGB'
    left = picture.width-4*66
    for c, name in enumerate(NAMES):
        own = images[labels == c]
        for k in range(len(own)):
            assert (cell(picture, c, k, 3, 4) == squares(own[k], 4)).all()
        top = picture.height-(3-c)*66
        assert np.array_equal(ink(grey(picture)[top:top+64, :left]), written(name))
    assert (cell(picture, 2, 3, 3, 4) == 255).all() and len(own) == 3
    title = 'samples of tiny: w = 1, T = 5, seed 0'
    assert np.array_equal(ink(grey(picture)[:18]), written(title))
    assert words.splitlines()[-1] == f'{out}/samples.png: a look at them'


def test_the_picture_is_made_from_the_files_and_is_the_same_each_time(lab):
    out, _ = sampled(lab, 'digits', 'again')
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob('s*')}
    (out/'samples.png').unlink()
    sampled(lab, 'digits', 'again', picture=str(out/'other.png'))
    assert not (out/'samples.png').exists()
    picture = before.pop(out/'samples.png')[1]
    assert (out/'other.png').read_bytes() == picture
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before}
    assert np.array_equal(np.asarray(pictured(out)), np.asarray(Image.open(BytesIO(picture))))
    assert Image.open(BytesIO(picture)).mode == 'L'


def test_what_is_not_asked_for_is_not_noted(lab):
    "So that a set of before these options is gone on with."
    out, _ = sampled(lab, 'digits', 'plain')
    assert set(settings(out)) == {
        'source', 'preset', 'weights', 'train_step', 'p_uncond', 'transform', 'guidance', 'guide_by', 'w', 'T', 'v', 'step',
        'grid', 'labels', 'seed', 'n_classes', 'precision'}
    out, _ = sampled(lab, 'pets', 'plain_pets')
    assert settings(out)['classes'] == NAMES and not {'only', 'interval'} & set(settings(out))


# What is asked for

@pytest.mark.parametrize('classes', [('dog', 'bird'), ('2', '0'), (2, 0), ('dog', 0)])
def test_some_classes(lab, classes):
    "In turn, in the order in which they are named: by hand."
    out, _ = sampled(lab, 'pets', f"some-{'-'.join(map(str, classes))}", classes=classes)
    images, labels = shards(out)
    c = [2, 0]*6 + [2]
    assert labels.tolist() == c and settings(out)['only'] == [2, 0]
    assert alike(images, walked(lab, 'pets', c)[-1][1])


def test_some_classes_at_random(lab):
    "Drawn by seed and index among those that were named."
    out, _ = sampled(lab, 'pets', 'random', classes=('dog', 'bird'), labels='random', seed=3)
    images, labels = shards(out)
    c = [2*(1-int(np.random.default_rng([3, i]).integers(2))) for i in range(13)]
    assert labels.tolist() == c and {0, 2} == set(c)
    assert alike(images, walked(lab, 'pets', c, seed=3)[-1][1])


def test_one_class(lab):
    "Ten to a row."
    out, _ = sampled(lab, 'digits', 'threes', classes=('3',), n=25)
    images, labels = shards(out)
    assert set(labels.tolist()) == {3} and alike(images, walked(lab, 'digits', [3]*25)[-1][1])
    picture = Image.open(out/'samples.png')
    for i in range(25):
        assert (cell(picture, i//10, i % 10, 3, 10) == squares(images[i], 8)).all()


def test_an_interval(lab, capsys):
    "w between two log-SNRs and 0 elsewhere: by hand; the cost is counted."
    low, high = -2., 15.
    out, _ = sampled(lab, 'digits', 'interval', w=3., interval=(low, high), T=8)
    inside = [low <= lam <= high for lam in by_hand.grid(8)]
    assert 1 < sum(inside) < 7
    c = [i % 10 for i in range(13)]
    expected = walked(lab, 'digits', c, T=8, w=lambda lam: 3.*(low <= lam <= high))[-1][1]
    assert alike(shards(out)[0], expected) and settings(out)['interval'] == [low, high]
    everywhere = walked(lab, 'digits', c, T=8, w=3.)[-1][1]
    assert ((expected.int()-everywhere.int()).abs() > 1).double().mean() > .1
    plan = capsys.readouterr().err
    assert 'w = 3 on [-2,15], T = 8' in plan and f'\n{13*(8+sum(inside)):,} passes of an image' in plan


def test_several_strengths(lab):
    "A set for each on the same noise, by hand and the same as alone; a picture with a row for each."
    out, words = sampled(lab, 'digits', 'several', w=(0., 1., 4.))
    assert not (out/'set.json').exists()
    picture = Image.open(out/'samples.png')
    c = [i % 10 for i in range(13)]
    for r, w in enumerate((0., 1., 4.)):
        each = out/f'w{w:g}'
        images, labels = shards(each)
        assert labels.tolist() == c and alike(images, walked(lab, 'digits', c, w=w)[-1][1])
        for k in range(10):
            assert (cell(picture, r, k, 3, 10) == squares(images[k], 8)).all()
        top = picture.height-(3-r)*66
        assert np.array_equal(ink(np.asarray(picture)[top:top+64, :picture.width-660]), written(f'w = {w:g}'))
        alone, _ = sampled(lab, 'digits', f'alone{w:g}', w=w)
        assert settings(alone) == settings(each)
        assert ImageSet(alone).fingerprint == ImageSet(each).fingerprint
        assert f'{each}: 13 images from step 40' in words
    for k in range(10):                                                # names of classes above
        x = picture.width-(10-k)*66
        above = np.asarray(picture)[19:37, x:x+64]
        assert np.array_equal(ink(above), written(str(k)))


# Films

def frames_of(path):
    with Image.open(path) as moving:
        return [np.asarray(f.convert('RGB')) for f in ImageSequence.Iterator(moving)]


@pytest.mark.parametrize('run, ending', [('digits', 'gif'), ('digits', 'png'), ('pets', 'png')])
def test_a_film_is_the_trajectory(lab, run, ending):
    "z and x at each step, computed by hand; the last x are the images of the set."
    out, _ = sampled(lab, run, f'film-{run}-{ending}', n=7, film=str(lab/f'{run}.{ending}'))
    frames, factor = frames_of(lab/f'{run}.{ending}'), 8 if run == 'digits' else 4
    walk = walked(lab, run, [i % (10 if run == 'digits' else 3) for i in range(7)])
    assert len(frames) == 5
    for frame, pair in zip(frames, walk):
        for r in range(2):
            found = np.stack([cell(frame, r, k, 2, 7) for k in range(7)])
            expected = np.stack([squares(image, factor) for image in pair[r]])
            if expected.ndim == 3: expected = expected[..., None].repeat(3, -1)
            apart = np.abs(found.astype(int)-expected)
            assert apart.max() <= 1 and (apart > 0).mean() < .02
    for k, image in enumerate(shards(out)[0]):
        made = squares(image, factor)
        apart = np.abs(cell(frames[-1], 1, k, 2, 7).astype(int)-(made if made.ndim == 3 else made[..., None]))
        assert apart.max() <= 1


def test_a_film_of_many_steps_and_strengths(lab):
    "64 frames of 100 steps; two rows for each strength."
    out, _ = sampled(lab, 'digits', 'long', n=3, T=100, w=(0., 2.), film=str(lab/'long.png'))
    frames = frames_of(lab/'long.png')
    walks = [walked(lab, 'digits', [0, 1, 2], T=100, w=w) for w in (0., 2.)]
    steps = [round(1+i*99/63) for i in range(64)]
    assert len(frames) == 64
    for frame, t in zip(frames, steps):
        for r, rows in enumerate(rows for walk in walks for rows in walk[t-1]):
            for k in range(3):
                apart = np.abs(cell(frame, r, k, 4, 3)[..., 0].astype(int)-squares(rows[k], 8))
                assert apart.max() <= 2 and (apart > 1).mean() < .01
    assert [sorted(p.name for p in out.iterdir() if p.name != '.lock')] == [['samples.png', 'w0', 'w2']]


# What is typed, and what is refused

def test_the_line(lab):
    typed = '--w 0,-.5 --interval -2,3.5 --classes cat,7 --picture a.png --film b.gif'
    found = arguments(cfg_sample, ['run', *typed.split()])
    assert [found[k] for k in ('w', 'interval', 'classes', 'picture', 'film')] == [
        (0., -.5), (-2., 3.5), ('cat', '7'), 'a.png', 'b.gif']
    assert arguments(cfg_sample, ['run', '--w', '3'])['w'] == (3.,)
    out, _ = sampled(lab, 'digits', 'line', w=(1.,))
    assert settings(out)['w'] == 1. and (out/'samples.png').exists()


def test_one_class_has_nothing_to_guide_by(lab):
    "Without guidance it is sampled as any; a sweep says it before any work, too."
    with pytest.raises(Refusal, match='w is 1: this run has one class, so its label says nothing'):
        sampled(lab, 'pet', 'guided')
    with pytest.raises(Refusal, match='w is 2: this run has one class'):
        sampled(lab, 'pet', 'guided', w=(0., 2.))
    assert not (lab/'guided').exists()
    out, _ = sampled(lab, 'pet', 'one', w=0.)
    assert alike(shards(out)[0], walked(lab, 'pet', [0]*13, w=0.)[-1][1])
    with pytest.raises(Refusal, match='w is 0.5: this run has one class'):
        cfg_sweep([str(lab/'pet')], str(lab/'pet_set'), out=str(lab/'sweep'), w=(0., .5), n=70, device='cpu')
    assert not (lab/'sweep').exists()


def test_who_never_saw_the_null_class_cannot_guide_itself(lab):
    with pytest.raises(Refusal, match='was trained with p_uncond 0 and never saw'):
        sampled(lab, 'dropped_none', 'guided')
    out, _ = sampled(lab, 'dropped_none', 'unguided', w=0.)
    assert alike(shards(out)[0], walked(lab, 'dropped_none', [i % 3 for i in range(13)], w=0.)[-1][1])


def test_a_mistyped_class_is_recognised(lab):
    with pytest.raises(Refusal, match="there is no class 'brid'; did you mean bird?"):
        sampled(lab, 'pets', 'mistyped', classes=('brid',))
    with pytest.raises(Refusal, match="there is no class '3'; classes have numbers from 0 to 2"):
        sampled(lab, 'pets', 'mistyped', classes=('3',))
    assert not (lab/'mistyped').exists()

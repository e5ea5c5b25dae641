"""Folders as people have them: with classes and without, nested, linked, with what
systems leave in them, names in any letters, files of every kind; cropped or padded,
enlarged, in grey. What is expected is written by hand, pixel by pixel."""
import io
import os
import tarfile
import unicodedata
from contextlib import redirect_stderr, redirect_stdout
from fractions import Fraction
from hashlib import sha256
from inspect import signature
from unittest.mock import patch
import numpy as np
import pytest
import torch
from PIL import Image
from cfg_repro import prepare as module
from cfg_repro.checks import Refusal
from cfg_repro.evaluate import same_kind
from cfg_repro.files import read_record
from cfg_repro.prepare import cfg_prepare, class_folders, prepare, unreadable
from cfg_repro.sets import ImageSet, about, teachable
from cfg_repro.training import new_state, train
from cfg_repro.unet import UNet

RED, WHITE, BLACK = [255, 0, 0], [255]*3, [0]*3
ALL = slice(None)


def touched(root, *names):
    "Empty files in a folder."
    for name in names:
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (root/name).touch()
    return root


def flat(path, colour=(255, 0, 0), size=(8, 8)):
    "A picture of one colour."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size, colour).save(path)


def drawn(root, levels):
    "A folder with one grey picture."
    root.mkdir()
    Image.fromarray(np.array(levels, np.uint8)).save(root/'a.png')
    return root


def made(root, dest, **how):
    list(prepare(root, dest, **dict(size=8, workers=1) | how))
    return ImageSet(dest, check=True)


def listed(root):
    "Name and class of what is found in a folder."
    found, names = class_folders(root)
    return [(e.name, names[e.label]) for e in found]


def refusal(do, *args, **kwargs):
    "The sentence in which something is refused."
    with pytest.raises(Refusal) as refused:
        do(*args, **kwargs)
    return str(refused.value)


def spoken(*args, **kwargs):
    "Of the command: what it printed, its remarks without the bar, and a refusal."
    words = None
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            cfg_prepare(*map(str, args), **dict(workers=1) | kwargs)
        except Refusal as e:
            words = str(e)
    lines = [line for line in err.getvalue().splitlines() if line and '%|' not in line]
    return out.getvalue().splitlines(), lines[2:], words


# Classes

def test_pictures_without_classes(tmp_path):
    """One class, called as the folder, which says what that means. A set that was made
    inside the folder is no class of it."""
    root = touched(tmp_path/'my pictures', 'notes/a.txt')
    for k, colour in enumerate([(255, 0, 0), (0, 255, 0)]):
        flat(root/f'{k}.png', colour)
    for _ in range(2):                                      # then the set is there
        out, remarks, _ = spoken(root, root/'data', size=8)
        assert out == [f'{root}/data: 2 images of 8x8 in 1 class, 0 left out']
        assert remarks == [
            'passed over: 1 .txt (read are JPEG, PNG, BMP, WEBP, PPM, TIFF, GIF)',
            'all are of one class, my pictures: '
            'guidance, which tells classes apart, has nothing to do there']
    data = ImageSet(root/'data')
    assert data.bytes(ALL)[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 255, 0]]
    said = about(data)
    assert (said['n_classes'], said['classes'], said['n']) == (1, ['my pictures'], 2)


def test_two_pictures_of_one_class_can_be_learnt(tmp_path):
    for k in range(2):
        flat(tmp_path/'in'/f'{k}.png', (k, 0, 0))
    data = made(tmp_path/'in', tmp_path/'out')
    teachable(data)
    net = UNet(size=8, n_classes=1, channels=8, mult=(1, 2), blocks=1, attention=(),
               head_channels=4, groups=4)
    steps = train(new_state(net), data, steps=2, lr=1e-3, warmup=1, p_uncond=0.1,
                  batch_size=2)
    losses = [step['loss'] for step in steps]
    assert len(losses) == 2 and np.isfinite(losses).all()


def test_the_folder_that_one_is_in(tmp_path, monkeypatch):
    "`cfg_prepare . data`, and even into the folder itself; once more, it goes on."
    flat(tmp_path/'pictures'/'a.png')
    monkeypatch.chdir(tmp_path/'pictures')
    for dest in ('data', '.'):
        for _ in range(2):
            out, *_ = spoken('.', dest, size=8)
            assert out == [f'{dest}: 1 image of 8x8 in 1 class, 0 left out']
        assert ImageSet(dest).settings['classes'] == ['pictures']


def test_a_set_is_no_class(tmp_path):
    "Where it was made in the folder of the class folders, too."
    root = tmp_path/'in'
    for name in ('cats', 'dogs'):
        flat(root/name/'1.png')
    for _ in range(2):
        out, *_ = spoken(root, root/'data', size=8)
        assert out == [f'{root}/data: 2 images of 8x8 in 2 classes, 0 left out']


def test_pictures_with_classes_and_without(tmp_path):
    flat(tmp_path/'in'/'b.png')
    flat(tmp_path/'in'/'cats'/'deep'/'a.png')
    *_, words = spoken(tmp_path/'in', tmp_path/'out')
    assert words == (f'{tmp_path}/in holds b.png and cats/deep/a.png: put each picture '
                     'into the folder of its class, or all of them into one')
    assert not (tmp_path/'out').exists()


def test_nested_folders_belong_to_their_class(tmp_path):
    "In order of their names, folder by folder."
    inside = ['a/y/z.png', 'a/z.png', 'b/1/2/x.png', 'b/1-2/x.png', 'b/1.png']
    touched(tmp_path/'in', *reversed(inside))
    assert listed(tmp_path/'in') == [(name, name[0]) for name in inside]


def test_one_folder_too_high(tmp_path):
    "A folder of a folder of classes is one class; it is said what may have been meant."
    for name in ('cats', 'dogs'):
        flat(tmp_path/'in'/'animals'/name/'1.png')
    _, remarks, _ = spoken(tmp_path/'in', tmp_path/'one', size=8)
    lower = f'{tmp_path}/in/animals'
    assert remarks[-1] == f'if the folders in it are the classes, give {lower}'
    assert ImageSet(tmp_path/'one').settings['classes'] == ['animals']
    assert made(lower, tmp_path/'two').settings['classes'] == ['cats', 'dogs']
    flat(tmp_path/'other'/'cats'/'1.png')
    _, remarks, _ = spoken(tmp_path/'other', tmp_path/'cats', size=8)
    assert [line[:28] for line in remarks] == ['all are of one class, cats: ']


EACH = 'has no image of b: each class needs one, or must not be there'
NONE = 'it must be a folder of pictures or class folders'
PARTS = 'give the one of these that is to be prepared'


@pytest.mark.parametrize('names, words', [
    (('a/1.png', 'b/1.heic', 'b/c/2.heic', 'b/3.txt'),
     f'{EACH} (passed over: 2 .heic, 1 .txt)'),
    (('a/1.png', 'b/.1.png'), EACH),
    (('1.heic', '2.HEIC'), f'holds no images (passed over: 2 .heic): {NONE}'),
    (('a/x', 'b/y'), f'holds no images (passed over: 2 without an ending): {NONE}'),
    (('__MACOSX/a/1.png',), f'holds no images: {NONE}'),
    (('train/a/1.png', 'test/a/1.png'), f'holds test, train: {PARTS}'),
    (('train/1.png',), f'holds train: {PARTS}')])
def test_what_is_no_folder_of_classes(tmp_path, names, words):
    root = touched(tmp_path/'in', *names)
    said = refusal(made, root, tmp_path/'out')
    assert said.startswith(f'{root} {words}') and not (tmp_path/'out').exists()
    assert said == f'{root} {words}' or NONE in words


def test_a_class_of_which_nothing_can_be_read(tmp_path):
    "The set is made and says so, and the command fails: nothing could learn from it."
    flat(tmp_path/'in'/'a'/'1.png')
    touched(tmp_path/'in', 'b/2.png')
    out, _, words = spoken(tmp_path/'in', tmp_path/'out', size=8)
    assert out[0].startswith('left out: b/2.png is damaged')
    assert out[1].endswith('1 image of 8x8 in 2 classes, 1 left out')
    assert words == (f'{tmp_path}/out has no image of b, of which no file can be read: '
                     'mend one or take them away, and use another directory')
    said = refusal(teachable, ImageSet(tmp_path/'out'))
    assert 'no image of class 1' in said


# Files

def test_what_nobody_put_there(tmp_path):
    "Is passed over silently; endings in capitals are read."
    pictures = ['a/1.PNG', 'a/2.Jpeg', 'a/3.jfif', 'a/4.pgm']
    root = touched(tmp_path/'in', *pictures, '.git/1.png', '__MACOSX/a/._1.PNG',
                   'a/.DS_Store', 'a/._1.PNG', 'a/.hidden/9.png', 'a/Thumbs.db',
                   'a/desktop.ini', 'a/@eaDir/1.PNG')
    assert listed(root) == [(name, 'a') for name in pictures]
    touched(root, 'b/Thumbs.db')
    assert refusal(listed, root) == f'{root} {EACH}'


def test_other_files_are_counted(tmp_path):
    "The commonest kinds first, and then by name."
    root = touched(tmp_path/'in', '1.mov', 'x', '2.MOV', 'c/3.mov', 'y.heic', 'z.heic',
                   'w.aaa', 'w.bbb', 'w.ccc')
    flat(root/'1.png')
    _, remarks, _ = spoken(root, tmp_path/'out', size=8)
    kinds, _, rest = remarks[0].partition(' (')
    assert kinds == 'passed over: 3 .mov, 2 .heic, 1 .aaa, 1 .bbb, 1 .ccc, others'
    assert rest == 'read are JPEG, PNG, BMP, WEBP, PPM, TIFF, GIF)'
    (root/'w.aaa').unlink()
    _, remarks, _ = spoken(root, tmp_path/'again', size=8)
    assert '2 .heic, 1 .bbb, 1 .ccc, 1 without an ending (' in remarks[0]


def test_links(tmp_path):
    "To a picture, a folder, a class; in circles, short and long; and to nothing."
    root, other = tmp_path/'in', touched(tmp_path/'elsewhere', 'b/1.png', 'more/2.png')
    touched(root, 'a/0.png')
    for link, target in {'b': other/'b', 'a/linked': other/'more',
                         'a/3.png': other/'more'/'2.png', 'a/self': root/'a',
                         'a/gone.png': tmp_path/'nowhere.png'}.items():
        (root/link).symlink_to(target)
    (other/'more'/'back').symlink_to(root/'a')
    found = ['a/0.png', 'a/3.png', 'a/linked/2.png', 'b/1.png']
    assert listed(root) == [(name, name[0]) for name in found]
    flat(root/'a'/'0.png')
    flat(root/'b'/'1.png')
    _, remarks, _ = spoken(root, tmp_path/'out', size=8)
    assert remarks[0].startswith('passed over: 1 broken link (')


def test_names_in_any_letters(tmp_path):
    "Accents as one character or as two are one name in one order, on every machine."
    names = ['Zürich/é.png', 'città/ñ 1.png', '猫/ネコ.png', '🐶/💤.png', "it's/%s {0}.png"]
    found = []
    for form in ('NFC', 'NFD'):
        root = tmp_path/form/'in'
        for k, name in enumerate(names):
            flat(root/unicodedata.normalize(form, name), (k, 0, 0))
        data = made(root, tmp_path/form/'out')
        found.append((data.fingerprint, data.settings))
    assert found[0] == found[1]
    assert data.settings['classes'] == ['Zürich', 'città', "it's", '猫', '🐶']
    assert data.bytes(ALL)[:, 0, 0, 0].tolist() == [0, 1, 4, 2, 3]


def test_two_folders_that_look_alike(tmp_path):
    for form in ('NFC', 'NFD'):
        touched(tmp_path, unicodedata.normalize(form, 'é/1.png'))
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip('this file system takes them for one')
    assert refusal(listed, tmp_path) == (
        f'{tmp_path} has two folders called é, their accents written in two ways: '
        'give one of them another name')


def test_a_name_that_is_no_text(tmp_path):
    "Is shown by its bytes, and does no harm."
    flat(tmp_path/'in'/'a'/'1.png')
    try:
        os.close(os.open(os.fsencode(tmp_path/'in'/'a') + b'/\xff.png', os.O_CREAT))
    except OSError:
        pytest.skip('this file system has only names that are text')
    out, _, words = spoken(tmp_path/'in', tmp_path/'out', size=8)
    assert out[0].startswith('left out: a/\\udcff.png is damaged') and not words
    assert '\n'.join(out).encode() and len(ImageSet(tmp_path/'out')) == 1


def test_a_folder_that_may_not_be_looked_into(tmp_path):
    "Is not passed over: its pictures would be missing."
    touched(tmp_path/'in', 'a/1.png', 'a/deep/2.png')
    real = os.scandir
    def closed(folder):
        if str(folder).endswith('deep'):
            raise PermissionError(13, 'Permission denied', folder)
        return real(folder)
    with patch('os.scandir', closed), pytest.raises(PermissionError, match='deep'):
        made(tmp_path/'in', tmp_path/'out')


def tarred(files):
    "Files, name to bytes, as the bytes of a tar."
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode='w') as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return into.getvalue()


def test_a_tar_is_the_folder(tmp_path):
    "Names, classes and order, whatever is in the names and whatever a Mac put there."
    names = ['a-1/x.png', 'a/x-1/z.png', 'a/x.png', 'a/x/z.png', 'é/ñ.png']
    classes = {}
    for k, name in enumerate(names):
        flat(tmp_path/'in'/name, (k, 0, 0))
        mac = unicodedata.normalize('NFD', name)
        folder, _, inside = mac.partition('/')
        data = (tmp_path/'in'/name).read_bytes()
        classes.setdefault(folder, {})[inside] = data
    tars = {f'{k}.tar': tarred(v) for k, v in reversed(classes.items())}
    (tmp_path/'in.tar').write_bytes(tarred(tars | {'._a.tar': b'of a Mac'}))
    folder = made(tmp_path/'in', tmp_path/'of the folder')
    tar = made(tmp_path/'in.tar', tmp_path/'of the tar')
    assert folder.fingerprint == tar.fingerprint
    assert folder.settings | dict(source='in.tar') == tar.settings
    assert tar.settings['classes'] == ['a', 'a-1', 'é']


def saved(image, kind='png', **how):
    "The bytes of a file."
    into = io.BytesIO()
    image.save(into, kind, **how)
    return into.getvalue()


def plain(mode, colour, kind='png', **how):
    "The bytes of a picture of one colour."
    return saved(Image.new(mode, (8, 8), colour), kind, **how)


def palette():
    image = Image.new('P', (8, 8), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    return image


red, blue = (Image.new('RGB', (8, 8), name) for name in ('red', 'blue'))
then_blue = dict(save_all=True, append_images=[blue])
halves = Image.fromarray(np.array([[255]*4 + [0]*4]*8, np.uint8))
on_its_side = Image.Exif()
on_its_side[274] = 6                        # the first row is seen on the right
noise = Image.effect_noise((64, 64), 50)
best = dict(kind='jpeg', quality=95)

# name: bytes, and what is seen in the upper left corner and in the lower right one
SEEN = {
    'grey.png': (plain('L', 100), [100]*3, [100]*3),
    'grey.jpg': (plain('L', 100, 'jpeg'), [100]*3, [100]*3),
    'black and white.png': (plain('1', 1), WHITE, WHITE),
    'grey and clear.png': (plain('LA', (0, 51)), [204]*3, [204]*3),
    'colour.jpg': (plain('RGB', (200, 100, 50), **best),
                   [200, 100, 50], [200, 100, 50]),
    'clear.png': (plain('RGBA', (255, 0, 0, 0)), WHITE, WHITE),
    'half clear.webp': (plain('RGBA', (255, 0, 0, 51), 'webp', lossless=True),
                        [255, 204, 204], [255, 204, 204]),
    'inks.jpg': (plain('CMYK', (0, 255, 255, 0), **best), RED, RED),
    'inks.tif': (plain('CMYK', (255, 0, 0, 0), 'tiff'), [0, 255, 255], [0, 255, 255]),
    'sixteen.png': (plain('I;16', 25700), [100]*3, [100]*3),
    'sixteen.tiff': (plain('I;16', 25700, 'tiff'), [100]*3, [100]*3),
    'palette.png': (saved(palette()), RED, RED),
    'palette.gif': (saved(palette(), 'gif'), RED, RED),
    'palette.bmp': (saved(palette(), 'bmp'), RED, RED),
    'clear palette.png': (saved(palette(), transparency=1), WHITE, WHITE),
    'turned.jpg': (saved(halves, exif=on_its_side, **best), WHITE, BLACK),
    'turned.tif': (saved(halves, 'tiff', exif=on_its_side), WHITE, BLACK),
    'turned.png': (saved(halves, exif=on_its_side), WHITE, BLACK),
    'moving.gif': (saved(red, 'gif', **then_blue), RED, RED),
    'moving.webp': (saved(red, 'webp', lossless=True, **then_blue), RED, RED),
    'pages.tiff': (saved(red, 'tiff', **then_blue), RED, RED),
    'two of a phone.jpg': (saved(red, 'mpo', **then_blue), RED, RED),
    'a letter.ppm': (b'P6 1 1 255\n\xff\0\0', RED, RED),
    'a letter.pgm': (b'P5 1 1 255\n\x64', [100]*3, [100]*3),
    'a letter.pbm': (b'P1 1 1\n1', BLACK, BLACK),
    'a png.jpg': (saved(red), RED, RED),
    'bit by bit.jpg': (saved(red, progressive=True, **best), RED, RED)}
# name: bytes, and why nothing is seen
UNSEEN = {
    'an ico.png': (saved(red, 'ico'), 'is damaged: it is no image that PIL knows'),
    'cut.jpg': (saved(noise, 'jpeg')[:900], 'is damaged: '),
    'cut.png': (saved(noise)[:900], 'is damaged: '),
    'empty.gif': (b'', 'is damaged: it is no image that PIL knows'),
    'half a head.png': (saved(red)[:20], 'is damaged: '),
    'words.tif': (b'no image', 'is damaged: it is no image that PIL knows'),
    'floating.tiff': (plain('F', 1., 'tiff'),
                      'has pixels of kind F: what they look like is not said')}


@pytest.mark.parametrize('fit', ['crop', 'pad'])
@pytest.mark.parametrize('resize', ['area', 'adm'])
def test_every_kind_of_file(tmp_path, resize, fit):
    """A folder with one of each: what a person sees is in the set, and what nobody can
    see is left out by name. JPEGs may be off by three levels."""
    root = touched(tmp_path/'in')
    root.mkdir()
    for name, (data, *_) in (SEEN | UNSEEN).items():
        (root/name).write_bytes(data)
    data = made(root, tmp_path/'out', size=4, resize=resize, fit=fit)
    refused = dict(unreadable(root, tmp_path/'out'))
    assert refused.keys() == UNSEEN.keys()
    for name, (_, why) in UNSEEN.items():
        assert refused[name].startswith(f'{name} {why}')
    there = sorted(SEEN | UNSEEN)
    found = [there[i] for i in data.tensor('indices').tolist()]
    assert found == sorted(SEEN)
    for name, x in zip(found, data.bytes(ALL).int()):
        off = 3 if name.endswith('.jpg') else 0
        for pixel, expected in zip((x[:, 0, 0], x[:, 3, 3]), SEEN[name][1:]):
            assert (pixel-torch.tensor(expected)).abs().max() <= off, name


# Sizes

def shared(a, b, i):
    "How much of pixel i lies between two places."
    return max(Fraction(0), min(b, Fraction(i+1)) - max(a, Fraction(i)))


def mean_of(levels, top, left, high, wide):
    "The mean of a part of a picture, whose sides are fractions, pixel by pixel."
    total = Fraction(0)
    for y, row in enumerate(levels):
        for x, level in enumerate(row):
            total += shared(top, top+high, y)*shared(left, left+wide, x)*level
    return total/(high*wide)


def cropped(levels, size):
    "The middle of a grey picture, made smaller or larger, in fractions."
    height, width = len(levels), len(levels[0])
    side = min(height, width)
    top, left, step = height//2-side//2, width//2-side//2, Fraction(side, size)
    return [[mean_of(levels, top+i*step, left+j*step, step, step) for j in range(size)]
            for i in range(size)]


def padded(levels, size):
    "All of a grey picture in the middle of a white square, in fractions."
    height, width = len(levels), len(levels[0])
    rows, columns = (max(1, round(Fraction(n*size, max(height, width))))
                     for n in (height, width))
    high, wide = Fraction(height, rows), Fraction(width, columns)
    page = [[Fraction(255)]*size for _ in range(size)]
    for i in range(rows):
        for j in range(columns):
            level = mean_of(levels, i*high, j*wide, high, wide)
            page[(size-rows)//2+i][(size-columns)//2+j] = level
    return page


@pytest.mark.parametrize('fit, by_hand', [('crop', cropped), ('pad', padded)])
@pytest.mark.parametrize('width, height, size', [
    (6, 3, 3), (3, 6, 3), (7, 4, 3), (4, 7, 5), (9, 9, 4), (5, 2, 8), (2, 2, 5),
    (11, 1, 4), (1, 1, 3)])
def test_pictures_of_any_shape(tmp_path, width, height, size, fit, by_hand):
    "Made smaller or larger, in colour and in grey: by fractions, pixel by pixel."
    levels = np.random.default_rng([width, height]).integers(0, 256, (height, width))
    root = drawn(tmp_path/'in', levels)
    expected = np.array(by_hand(levels.tolist(), size)).astype(float)
    for grey in (False, True):
        data = made(root, tmp_path/f'{grey}', size=size, fit=fit, grey=grey)
        assert data.shape == (1 if grey else 3, size, size)
        assert np.abs(data.bytes(0).numpy()-expected).max() <= 0.5+1e-3


def test_padded_and_cropped_by_hand(tmp_path):
    "Of a wide picture, black and then blue: all of it between white rows; its middle."
    wide = [[BLACK]*4 + [[0, 0, 200]]*4]*4
    root = drawn(tmp_path/'in', wide)
    for resize in ('area', 'adm'):
        how = dict(size=4, resize=resize)
        padded = made(root, tmp_path/f'{resize}_pad', fit='pad', **how).bytes(0)
        row = [[0, 0, 255]]*2 + [[0]*3]*2
        assert padded[:2].tolist() == [[[255]*4, [0]*4, [0]*4, [255]*4]]*2
        assert padded[2].tolist() == [[255]*4, *[[0, 0, 200, 200]]*2, [255]*4]
        cropped = made(root, tmp_path/resize, **how).bytes(0)
        assert cropped[2].tolist() == [[0, 0, 200, 200]]*4 and not cropped[:2].any()


def test_what_fits_in_no_pixel_is_one(tmp_path):
    "Of a picture hundreds of times as long as high a row is left, the mean of it."
    root = drawn(tmp_path/'in', [[10]*900, [30]*900])
    for resize in ('area', 'adm'):
        how = dict(size=4, fit='pad', grey=True, resize=resize)
        found = made(root, tmp_path/resize, **how).bytes(0)[0]
        assert found.tolist() == [[255]*4, [20]*4, [255]*4, [255]*4]


def test_most_are_smaller(tmp_path):
    "Of all, not of the first; it is said of what size they stay as they are."
    for k in range(36):
        flat(tmp_path/'in'/f'{k:02d}.png', size=(28, 30) if k > 8 else (99, 99))
    for k in (16, 20):
        (tmp_path/'in'/f'{k}.png').write_bytes(b'')
    _, remarks, _ = spoken(tmp_path/'in', tmp_path/'64')
    assert remarks[-1] == ('most pictures are smaller, about 28x28, and are enlarged; '
                           '--size 28 enlarges fewer')
    assert ImageSet(tmp_path/'64').shape == (3, 64, 64)
    for size, fit in ((28, 'crop'), (30, 'pad')):       # of 28x30 one side fits each
        _, remarks, _ = spoken(tmp_path/'in', tmp_path/fit, size=size, fit=fit)
        assert len(remarks) == 1 and 'smaller' not in remarks[0]


# Grey

def light(r, g, b):
    "How light a colour is to the eye (ITU-R BT.601), to the nearest level."
    return round(0.299*r + 0.587*g + 0.114*b)


def test_grey(tmp_path):
    "One channel of four colours; the same pictures without their colours are as light."
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 200, 90)]
    for k, colour in enumerate(colours):
        flat(tmp_path/'in'/f'{k}.png', colour)
        Image.new('L', (8, 8), light(*colour)).save(tmp_path/'in'/f'{k}.gif')
    data = made(tmp_path/'in', tmp_path/'out', grey=True)
    levels = [light(*colour) for colour in colours for _ in range(2)]
    assert about(data)['shape'] == [1, 8, 8]
    assert data.bytes(ALL).flatten(1).tolist() == [[level]*64 for level in levels]


def test_all_of_it_is_grey(tmp_path):
    "That is said where three channels are made, and one pixel of colour is enough."
    words = 'all of it is grey: --grey makes one channel of the three'
    for k in range(120):                        # more than are looked at in one go
        flat(tmp_path/'in'/f'{k}.png', (k, k, k))
    assert spoken(tmp_path/'in', tmp_path/'three', size=8)[1][-1] == words
    assert words not in spoken(tmp_path/'in', tmp_path/'one', size=8, grey=True)[1]
    image = Image.open(tmp_path/'in'/'2.png')
    image.putpixel((7, 7), (2, 3, 2))
    image.save(tmp_path/'in'/'2.png')
    assert words not in spoken(tmp_path/'in', tmp_path/'coloured', size=8)[1]


# What a set says of itself

def two_classes(root):
    "Two classes of a picture each, and what a set of them says of itself."
    for name in ('a/1.png', 'b/2.png'):
        flat(root/name)
    listing = sha256(b"[('a/1.png', 0), ('b/2.png', 1)]").hexdigest()
    return dict(source='in', size=8, transform='area', n_classes=2, classes=['a', 'b'],
                listing=listing)


def test_what_a_set_says(tmp_path):
    "As ever where nothing new is asked for, so that sets from before go on."
    expected = two_classes(tmp_path/'in')
    changes = {'area': {}, 'adm': dict(resize='adm'), 'area_pad': dict(fit='pad'),
               'adm_pad': dict(resize='adm', fit='pad')}
    for name, how in changes.items():
        data = made(tmp_path/'in', tmp_path/name, **how)
        assert data.settings == expected | dict(transform=name)
        assert about(data)['transform'] == name
    held = read_record(tmp_path/'area'/'set.json')['settings']
    assert list(held) == list(expected)
    grey = made(tmp_path/'in', tmp_path/'grey', grey=True).settings
    assert grey == expected | dict(grey=True)


def test_what_was_made_otherwise_is_not_gone_on_with(tmp_path):
    "Nor is it compared."
    two_classes(tmp_path/'in')
    data = made(tmp_path/'in', tmp_path/'out')
    others = {"(transform: 'area', not 'area_pad')": dict(fit='pad'),
              '(grey: nothing, not True)': dict(grey=True)}
    for words, how in others.items():
        assert words in refusal(made, tmp_path/'in', tmp_path/'out', **how)
    other = made(tmp_path/'in', tmp_path/'padded', fit='pad')
    words = "smaller by 'area', the reference by 'area_pad'"
    assert words in refusal(same_kind, data, other)


def test_why_a_picture_is_left_out(tmp_path):
    "Is asked as the set was made: all of a line cannot be seen, its middle can."
    flat(tmp_path/'in'/'0.png')
    Image.new('L', (2001, 2)).save(tmp_path/'in'/'1.png')
    for fit in ('crop', 'pad'):
        made(tmp_path/'in', tmp_path/fit, fit=fit)
    assert unreadable(tmp_path/'in', tmp_path/'crop') == []
    why = '1.png: an image is 2001x2: no side may be 1000 times the other'
    assert unreadable(tmp_path/'in', tmp_path/'pad') == [('1.png', why)]


def test_every_option_arrives(tmp_path):
    "From the command to the pixels, by two processes."
    colours = {f'{"ab"[k%2]}/{k:02d}.png': (k, 2*k, 3*k) for k in range(40)}
    for name, colour in colours.items():
        flat(tmp_path/'in'/name, colour, (12, 6))
    options = dict(source=str(tmp_path/'in'), dest=str(tmp_path/'out'), size=6,
                   resize='adm', fit='pad', grey=True, split='train', n=None, workers=2)
    assert options.keys() == signature(cfg_prepare).parameters.keys()
    with patch.object(module, '_decoders', wraps=module._decoders) as decoders:
        spoken(options.pop('source'), options.pop('dest'), **options)
    decoders.assert_called_once_with(2)
    data = ImageSet(tmp_path/'out', check=True)
    assert data.settings['transform'] == 'adm_pad' and data.shape == (1, 6, 6)
    middle = data.bytes(ALL)[:, 0, 1:4].flatten(1).tolist()     # three rows, from 1 on
    assert middle == [[light(*colours[name])]*18 for name in sorted(colours)]

"Data sets, in memory and on disk, have one interface: an image has its own label however it is asked for; nothing is read as what it is not; one writes at a time."
import errno, os, pickle, signal, subprocess, sys
from hashlib import sha256
import numpy as np
import pytest
import torch
from cfg_repro.checks import Refusal
from cfg_repro.data import FONTS, Glyphs, MemorySet, _colours, digits, to_uint8
from cfg_repro.files import _runs, held_record, locked, read_record, reading, write_record
from cfg_repro.prepare import prepare
from cfg_repro.sets import ImageSet, about, open_data, teachable, write_set

n = 23


def image(i):
    "The bytes of image i, from which one can tell which it is."
    return (np.arange(2*3*3).reshape(2, 3, 3)*5 + 7*i) % 256


def label(i): return (i*i) % 7


def on_disk(folder, shard_size=5):
    def make(indices):
        pixels = torch.tensor(np.stack([image(i) for i in indices]), dtype=torch.uint8)
        yield dict(images=pixels, labels=torch.tensor([label(i) for i in indices]), indices=torch.tensor(indices))
    for _ in write_set(folder, make, n, dict(source='made', n_classes=7, transform='area'), shard_size=shard_size): pass
    return ImageSet(folder)


def in_memory(folder):
    x = torch.tensor(np.stack([image(i) for i in range(n)]))/127.5 - 1
    return MemorySet(x.float(), torch.tensor([label(i) for i in range(n)]), dict(source='made', n_classes=7, transform='area'))


SETS = dict(disk=on_disk, memory=in_memory)
INDICES = [0, n-1, -1, -n, slice(None), slice(3, 17, 4), slice(None, -20), [5, 5, -2], [], torch.tensor([22, 0, 7, 7]),
           torch.tensor([[1, -1], [4, 20]]), torch.arange(n) % 3 == 0, np.array([6, 2])]


@pytest.mark.parametrize('kind', SETS)
@pytest.mark.parametrize('idx', INDICES, ids=str)
def test_an_image_has_its_label(tmp_path, kind, idx):
    "Numbers, slices, lists, tensors and masks, from the beginning and from the end."
    data = SETS[kind](tmp_path)
    which = np.arange(n)[idx.numpy() if isinstance(idx, torch.Tensor) else idx]
    pixels = np.array([image(i) for i in which.ravel()]).reshape(*which.shape, 2, 3, 3)
    labels = np.array([label(i) for i in which.ravel()]).reshape(which.shape)
    x, c = data[idx]
    assert x.dtype == torch.float32 and c.dtype == torch.int64 and x.shape == pixels.shape and c.shape == labels.shape
    assert np.abs(x.double().numpy()-(pixels/127.5-1)).max(initial=0) < 1e-6 and c.tolist() == labels.tolist()
    assert data.bytes(idx).dtype == torch.uint8 and data.bytes(idx).tolist() == pixels.tolist()


def test_a_shard_without_its_hash_is_no_shard(tmp_path):
    "As a crash between the two leaves it: refused, and made again."
    expected = on_disk(tmp_path).fingerprint
    (tmp_path/'shard-00002.sha256').unlink()
    with pytest.raises(Refusal, match='shard-00002.safetensors is missing or damaged'): ImageSet(tmp_path)
    assert on_disk(tmp_path).fingerprint == expected


@pytest.mark.parametrize('kind', SETS)
def test_one_interface(tmp_path, kind):
    data = SETS[kind](tmp_path)
    assert (len(data), data.shape, data.labels.tolist()) == (n, (2, 3, 3), [label(i) for i in range(n)])
    known = dict(source='made', shape=[2, 3, 3], n=n, n_classes=7, transform='area')
    assert about(data) == known | dict(fingerprint=data.fingerprint) and list(about(data))[:2] == ['source', 'shape']
    assert len(data.fingerprint) == 64 and set(data.fingerprint) <= set('0123456789abcdef')
    for idx in (n, -n-1, [0, n]):
        with pytest.raises(IndexError): data[idx]
        with pytest.raises(IndexError): data.bytes(idx)
    assert [int(c) for _, c in data] == data.labels.tolist()                   # it ends where it should
    copy = pickle.loads(pickle.dumps(data))
    assert copy.fingerprint == data.fingerprint and torch.equal(copy[-2][0], data[n-2][0])
    with pytest.raises(Refusal, match='no image of class 3'): teachable(data)  # squares modulo 7 are 0, 1, 2, 4


def test_digits_and_glyphs_have_it_too():
    for data, shape, classes in ((digits(), (1, 8, 8), 10), (Glyphs(30, 9), (3, 9, 9), 26)):
        assert data.shape == shape and data.settings['n_classes'] == classes and about(data)['n'] == len(data)
        for idx in (-1, slice(4, 9), [3, -3]):
            x, c = data[idx]
            assert torch.equal(to_uint8(x), data.bytes(idx)) and torch.equal(c, data.labels[idx])
        teachable(data)
    assert open_data('digits').fingerprint == digits().fingerprint


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits
    there, data = load_digits(), digits()
    assert np.abs(data[:][0][:, 0].double().numpy()-(there.images-8)/8).max() == 0 and (data.labels.numpy() == there.target).all()
    assert data.fingerprint == sha256((there.images/8-1).astype('<f4').tobytes() + there.target.astype('<i8').tobytes()).hexdigest()


def test_shards_of_any_size_hold_the_same(tmp_path):
    one, two = on_disk(tmp_path/'one', 5), on_disk(tmp_path/'two', 23)
    assert (len(one.shards), len(two.shards)) == (5, 1) and torch.equal(one.bytes(slice(None)), two.bytes(slice(None)))
    assert one.tensor('indices').tolist() == list(range(n)) and one.fingerprint != two.fingerprint


# The version, and other settings

def test_another_version_is_refused(tmp_path):
    "A set from before sets had a version, and one of a version to come: neither read nor gone on with, and nothing is touched."
    on_disk(tmp_path); held = read_record(tmp_path/'set.json')
    assert held['version'] == 1
    old = {k: v for k, v in held.items() if k != 'version'}
    for record, words in ((old, 'is a set from before sets had a version, and this is version 1: make it again'), (held | dict(version=2), 'of version 2')):
        write_record(tmp_path/'set.json', record)
        before = {p: p.read_bytes() for p in tmp_path.iterdir()}
        for use in (ImageSet, on_disk, open_data):
            with pytest.raises(Refusal, match=words): use(tmp_path)
        assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_which_settings_are_others(tmp_path):
    list(prepare('glyphs', tmp_path/'set', size=8, n=30))
    for how, words in ((dict(size=9, n=30), r'\(size: 8, not 9\)'), (dict(size=8, n=31), r'\(n: 30, not 31\)'),
                       (dict(size=8, n=30, shard_size=7), r'\(shard_size: 10000, not 7\)'), (dict(size=9, n=31), r'\(n: 30, not 31; size: 8, not 9\)')):
        with pytest.raises(Refusal, match=f'{tmp_path}/set holds a set with other settings {words}: use another directory, or the same settings'):
            list(prepare('glyphs', tmp_path/'set', **how))


# What is damage, and what is not

@pytest.mark.parametrize('error', [MemoryError(), NameError('x'), TypeError('x'), AttributeError('x'), torch.OutOfMemoryError('CUDA out of memory'),
                                   RuntimeError('CUDA error'), OSError(errno.EIO, 'x'), OSError(errno.ENOSPC, 'x'), PermissionError(errno.EACCES, 'x')], ids=repr)
def test_what_is_no_damage_passes(tmp_path, error, monkeypatch):
    "From `reading`, from a record, and from a set, of which no shard is made again."
    with pytest.raises(type(error)) as found, reading('a'): raise error
    assert found.value is error
    on_disk(tmp_path); before = {p: p.stat().st_mtime_ns for p in tmp_path.glob('shard-*')}
    def failing(*_): raise error
    with monkeypatch.context() as m:
        m.setattr('cfg_repro.files.json.loads', failing)
        with pytest.raises(type(error)) as found: held_record(tmp_path/'set.json')
        assert found.value is error
    with monkeypatch.context() as m:
        m.setattr('cfg_repro.files.sha256', failing)
        for use in (ImageSet, on_disk):
            with pytest.raises(type(error)) as found: use(tmp_path)
            assert found.value is error
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob('shard-*')} == before


# One writer

OWNER = '''
import os, sys, time
from cfg_repro.files import locked
with locked(sys.argv[1]):
    child = os.fork() if sys.argv[2] == 'forks' else 0
    if child or sys.argv[2] != 'forks': print(child, flush=True)
    time.sleep(60)
'''


@pytest.mark.skipif(os.name != 'posix', reason='processes are forked')
@pytest.mark.parametrize('way', ['forks', 'alone'])
def test_a_crash_frees_the_lock(tmp_path, way):
    "SIGKILL, even where a process that the owner forked lives on."
    owner = subprocess.Popen([sys.executable, '-c', OWNER, tmp_path, way], stdout=subprocess.PIPE, text=True)
    child = int(owner.stdout.readline())
    with pytest.raises(Refusal, match='is in use'), locked(tmp_path): pass
    owner.kill(); owner.wait()
    if child: os.kill(child, 0)
    with locked(tmp_path): pass
    if child: os.kill(child, signal.SIGKILL)
    owner.stdout.close()


def test_a_child_that_ends_frees_nothing(tmp_path):
    with locked(tmp_path):
        subprocess.run([sys.executable, '-c', 'pass'])
        if (child := os.fork()) == 0: os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(Refusal, match='is in use'), locked(tmp_path): pass
        with pytest.raises(Refusal, match='is in use'), locked(tmp_path): pass    # the one that was refused dropped nothing
    with locked(tmp_path): pass


def test_two_writers_of_a_set_in_one_process(tmp_path):
    def make(indices): yield dict(images=torch.zeros(len(indices), 1, 2, 2, dtype=torch.uint8), labels=torch.zeros(len(indices), dtype=torch.long))
    first = write_set(tmp_path, make, 4, {}, shard_size=2)
    next(first)
    with pytest.raises(Refusal, match='is in use'): next(write_set(tmp_path, make, 4, {}, shard_size=2))
    assert list(first) == [4] and len(ImageSet(tmp_path)) == 4


@pytest.mark.parametrize('number', [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_no_locks_is_a_warning(tmp_path, number, monkeypatch):
    "Where the file system has none, work goes on, again and again; any other error of the disk passes."
    import fcntl
    def none(*_): raise OSError(number, os.strerror(number))
    monkeypatch.setattr(fcntl, 'flock', none)
    for _ in range(2):
        with pytest.warns(UserWarning, match=f'{tmp_path} is on a file system without locks'), locked(tmp_path): (tmp_path/'a').touch()
    number = errno.EIO
    with pytest.raises(OSError, match='Input/output error'), locked(tmp_path): pass


def test_fonts_are_in_their_order():
    "A glyph draws its font by number: another order is another set."
    styles = '', '-Bold', '-Oblique', '-BoldOblique'
    italics = '', '-Bold', '-Italic', '-BoldItalic'
    stix = [f'STIXGeneral{style}' for style in ('', 'Bol', 'Italic', 'BolIta')]
    assert FONTS == [
        *(f'DejaVuSans{style}' for style in styles), *(f'DejaVuSansMono{style}' for style in styles),
        *(f'DejaVuSerif{style}' for style in italics), *stix, 'cmr10', 'cmb10', 'cmss10', 'cmtt10']


def test_colours_of_a_glyph_are_192_apart():
    class Draws(list):
        def integers(self, low, high, shape): return np.array(self.pop(0))
    near, far, further = [[9, 9, 9], [9, 9, 200]], [[1, 2, 3], [65, 66, 67]], [[0, 0, 0], [255, 255, 255]]
    for draws in ([near, far, further], [near[::-1], far[::-1], further]): assert np.equal(_colours(Draws(draws)), draws[1]).all()


def test_to_ask_whether_a_process_runs_does_it_no_harm():
    process = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    assert _runs(process.pid)
    process.communicate(b'\n')
    assert process.returncode == 0 and not _runs(process.pid)


def test_a_refusal_that_names_its_file_stays_as_it_is(tmp_path):
    for path in (tmp_path/'a', str(tmp_path/'a')):
        with pytest.raises(Refusal) as refused, reading(path): raise Refusal(f'{path} is odd')
        assert str(refused.value) == f'{path} is odd'

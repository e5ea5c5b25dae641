"Nothing is silently wrong and nothing is run: a damaged or hostile file ends in a refusal or in the right result, before it can cost memory."
import ast, gzip, io, json, os, pickle, random, resource, signal, struct, tarfile, zipfile, zlib
from contextlib import contextmanager
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
import project, test_measures
from cfg_repro.checkpoints import last_checkpoint, load_checkpoint, read_checkpoint, train_run
from cfg_repro.checks import Refusal
from cfg_repro.data import digits, draw_glyph
from cfg_repro.digits import SETTINGS, run as run_digits
from cfg_repro.evaluate import (Classifier, Statistics, dinov2_weights, inception_weights, load_statistics, make_extractor, read_classifier,
                                save_classifier, save_statistics)
from cfg_repro.files import file_hash, npz_members, read_record, read_tensors, write_record
from cfg_repro.archives import cifar10, downsampled_npz, idx_file
from cfg_repro.prepare import FORMATS, Entry, area_resize, open_image, prepare, unreadable
from cfg_repro.presets import fitting, preset
from cfg_repro.runs import run_settings
from cfg_repro.samples import cfg_export, load_run
from cfg_repro.sets import ImageSet, write_set
from cfg_repro.sliders import read_strengths, write_strengths
from cfg_repro.training import new_state
from cfg_repro.unet import UNet

pytestmark = pytest.mark.slow
rng = np.random.default_rng(0)


def fresh():
    torch.manual_seed(0)
    return new_state(UNet(8, 10, in_channels=1, channels=4, mult=(1,), blocks=1, attention=(), head_channels=4, groups=2))


def trained(folder):
    "A run of two steps with the settings that `cfg_train` notes."
    p, net = fitting(preset('digits'), digits()), dict(size=8, n_classes=10, in_channels=1, channels=4, mult=[1], blocks=1, attention=[], head_channels=4, groups=2)
    state, settings = fresh(), run_settings('digits', p, 0, digits()) | dict(net=net)
    for _ in train_run(state, digits(), folder, settings, steps=2, batch_size=8): pass
    return folder


def write_network(folder):
    fresh().net.save_pretrained(folder)
    return folder


def export(folder):
    "An export of a run of two steps."
    cfg_export(trained(folder.with_name('exported')), folder)
    return folder


def write_shards(folder):
    def make(indices): return [dict(images=torch.tensor(rng.integers(0, 256, (len(indices), 3, 8, 8), dtype=np.uint8)), labels=torch.tensor(list(indices)) % 4)]
    for _ in write_set(folder, make, 12, dict(n_classes=4, transform='area'), shard_size=6): pass
    return folder


def write_statistics(path):
    save_statistics(path, Statistics(rng.normal(size=4), np.eye(4), rng.normal(size=(6, 4)).astype(np.float32), 'mine', 6, 'area', 'f'*64))
    return path


def write_npz(folder):
    folder.mkdir()
    np.savez(folder/'train_data_batch_1.npz', data=rng.integers(0, 256, (4, 48), dtype=np.uint8), labels=np.array([1, 2, 3, 1]), mean=np.zeros(48))
    return folder


def write_moments(path):
    "Statistics as ADM's: two arrays and nothing else."
    with path.open('wb') as f: np.savez(f, mu=rng.normal(size=4), sigma=np.eye(4))
    return path


def write_classifier(path):
    torch.manual_seed(0)
    save_classifier(path, Classifier(1, 4), held_out=0.5)
    return path


def write_row(path):
    write_record(path, dict(w=1.0, T=256, fd=12.3456, name='digits'))
    return path


# What is written, and what is read from it: every reader of the package

def whole_run(run):
    "Everything that going on with a run, and sampling it, takes from a checkpoint."
    state = fresh(); settings = read_checkpoint(last_checkpoint(run))[0]['settings']
    load_checkpoint(state, run, settings)
    net, about = load_run(run)
    return [about, state.step, state.skipped, state.net.state_dict(), state.ema.module.state_dict(), state.opt.state_dict()['state'], net.state_dict()]


def whole_network(folder):
    net = UNet.from_pretrained(folder)
    return [net.config, net.state_dict()]


def whole_export(folder):
    "By both of its roads."
    net, about = load_run(folder)
    return [about, net.config, net.state_dict(), *whole_network(folder)]


def whole_set(folder):
    s = ImageSet(folder)
    return [s.settings, s.fingerprint, s.bytes(torch.arange(len(s))), s.labels]


def write_idx(folder):
    folder.mkdir()
    path = folder/'some-ubyte.gz'
    with gzip.GzipFile(path, 'wb', mtime=0) as f: f.write(b'\0\0\x08\x02' + struct.pack('>2I', 3, 5) + bytes(range(15)))
    return path


def whole_npz(folder):
    take, labels, _ = downsampled_npz(folder)
    return [*take(np.arange(4)), labels]


def write_sprite(folder):
    folder.mkdir()
    write_strengths(folder, torch.tensor(rng.integers(0, 256, (3, 2, 1, 8, 8), dtype=np.uint8)), dict(w=[-1., 0., 1.], classes=['a', 'b']))
    return folder


SEALED = 'checkpoint', 'network', 'export'          # by a manifest
READERS = dict(checkpoint=(trained, whole_run), network=(write_network, whole_network), export=(export, whole_export), shards=(write_shards, whole_set), statistics=(write_statistics, lambda path: vars(load_statistics(path))),
               moments=(write_moments, lambda path: vars(load_statistics(path)) | dict(fingerprint='')), npz=(write_npz, whole_npz), idx=(write_idx, idx_file),
               classifier=(write_classifier, lambda path: [read_classifier(path).state_dict(), read_classifier(path).about]), record=(write_row, read_record),
               strengths=(write_sprite, read_strengths))


def same(a, b):
    if isinstance(a, dict): return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (torch.Tensor, np.ndarray)): return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    return type(a) is type(b) and a == b


def copy_of(answer): return pickle.loads(pickle.dumps(answer))


@contextmanager
def at_most(seconds):
    "A hang is a failure."
    def over(*_): raise AssertionError(f'not over after {seconds} s')
    before = signal.signal(signal.SIGALRM, over); signal.alarm(seconds)
    try: yield
    finally: signal.alarm(0); signal.signal(signal.SIGALRM, before)


def test_damage(tmp_path):
    "A bit flipped or an end cut off, in any file of every kind, 100 times each: refused in a sentence that names the place, or read as if nothing were."
    tried = {}
    for number, (kind, (write, read)) in enumerate(READERS.items()):
        place = write(tmp_path/kind); right = copy_of(read(place))
        assert same(right, read(place))
        files = sorted(p for p in place.rglob('*') if p.is_file() and p.name not in ('.lock', 'log.jsonl')) if place.is_dir() else [place]
        draw, ends = random.Random(number), dict(refused=0, right=0)
        for k in range(100):
            path = draw.choice(files); good = path.read_bytes(); data = bytearray(good); bit = draw.randrange(8*len(good))
            if k % 4: data[bit//8] ^= 1 << bit % 8
            else: del data[bit//8:]
            path.write_bytes(data)
            with at_most(20):
                try: found = read(place)
                except Refusal as e: ends['refused'] += 1; assert str(tmp_path) in str(e) and '\n' not in str(e), e
                else: ends['right'] += 1; assert same(found, right), f'{path.name}: bit {bit}'
            path.write_bytes(good)
        tried[kind] = ends
    print(tried)
    assert sum(sum(ends.values()) for ends in tried.values()) == 100*len(READERS) and all(ends['refused'] > 30 for ends in tried.values())


def spoiled(good, draw):
    "Some bytes or bits changed, or an end cut off."
    data = bytearray(good)
    if draw.random() < 0.15: del data[draw.randrange(len(data)):]
    else:
        for _ in range(draw.choice((1, 1, 2, 4))):
            at = draw.randrange(len(data) if draw.random() < 0.5 else min(len(data), 300))       # mostly where the headers are
            data[at] = draw.randrange(256) if draw.random() < 0.5 else data[at] ^ (1 << draw.randrange(8))
    return bytes(data)


def pictures():
    "A picture in every format, in all kinds of pixels, with and without EXIF."
    exif = Image.Exif(); exif[0x0112] = 6; exif[0x010e] = 'x'
    for kind in FORMATS:
        for mode in ('RGB', 'L', 'P', '1', 'CMYK', 'RGBA', 'LA', 'I;16', 'I', 'F'):
            for how in ({}, dict(exif=exif), dict(compression='tiff_lzw'), dict(compression='jpeg'), dict(compression='tiff_adobe_deflate')):
                if 'compression' in how and kind != 'TIFF': continue
                out, image = io.BytesIO(), Image.fromarray(draw_glyph(0, 24)).convert('L' if mode == 'I;16' else 'RGB').convert(mode)
                try: image.save(out, kind, **how)
                except (OSError, ValueError, KeyError): continue           # not every format holds all kinds
                yield f'{kind}-{mode}', out.getvalue()


def test_damaged_pictures(tmp_path):
    "Four thousand of all kinds: each is read, or refused in a sentence that names it, and nothing else is raised."
    draw, good, ends, path = random.Random(0), list(pictures()), dict(refused=0, read=0), tmp_path/'a'
    assert len(good) > 60
    for _ in range(4000):
        name, data = draw.choice(good)
        path.write_bytes(spoiled(data, draw))
        try: found = open_image(Entry(name, 0, str(path)), area_resize, 8)
        except Refusal as e: ends['refused'] += 1; assert str(e).startswith(f'{name} ') and len(str(e)) < 400 and '\n' not in str(e), e
        else: ends['read'] += 1; assert found.shape == (3, 8, 8) and found.dtype == np.uint8
    print(ends); assert min(ends.values()) > 500


@pytest.mark.parametrize('method', ['ZIP_STORED', 'ZIP_DEFLATED', 'ZIP_BZIP2', 'ZIP_LZMA'])
def test_damaged_archives(tmp_path, method):
    "However it is compressed: the arrays as they were, none under a name of its own, or a refusal."
    path, draw, out, ends = tmp_path/'a.npz', random.Random(0), io.BytesIO(), dict(refused=0, right=0)
    with zipfile.ZipFile(out, 'w', getattr(zipfile, method)) as z:
        for name in ('mu', 'sigma'):
            body = io.BytesIO(); np.save(body, np.arange(100.)); z.writestr(f'{name}.npy', body.getvalue())
    for k in range(1500):
        data = spoiled(out.getvalue()[::-1], draw)[::-1] if k % 2 else spoiled(out.getvalue(), draw)     # the directory is at the end
        path.write_bytes(data)
        try: found = {name: m.read() for name, m in npz_members(path, ('mu', 'sigma')).items()}
        except Refusal as e: ends['refused'] += 1; assert str(path) in str(e)
        else: ends['right'] += 1; assert all(same(a, np.arange(100.)) for a in found.values())
    print(method, ends); assert min(ends.values()) > 20


def test_damaged_log(tmp_path):
    "A log with damaged lines keeps the whole ones, and training goes on."
    run = trained(tmp_path/'run'); log = run/'log.jsonl'; good = log.read_bytes()
    for bad in (b'\xff\xfe\x00', b'{"step": 1', b'[]\n', b'{"step": "x"}\n', b'{}\n', b'null\n', b'"step"\n'):
        log.write_bytes(good + bad)
        assert len(list(train_run(fresh(), digits(), run, read_checkpoint(last_checkpoint(run))[0]['settings'], steps=2, batch_size=8))) == 0 and log.read_bytes() == good


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
def test_damaged_dinov2(tmp_path, ending):
    """Cut or changed: refused in a sentence that names the file, or read under the same names and shapes, with finite numbers.

    Safetensors have no sums of their own, so a number may change; the hash of the file, which stands in every row, then does.
    """
    path, draw, ends = tmp_path/f'w.{ending}', random.Random(0), dict(refused=0, read=0)
    w = test_measures.dinov2(side=2)
    save_file(w, path) if ending == 'safetensors' else torch.save(w, path)
    good, shapes, whole = path.read_bytes(), {k: v.shape for k, v in w.items() if k != 'mask_token'}, make_extractor(dinov2=path)
    for _ in range(100):
        path.write_bytes(spoiled(good, draw))
        with at_most(20):
            try: found = dinov2_weights(path); extractor = make_extractor(dinov2=path)
            except Refusal as e: ends['refused'] += 1; assert str(path) in str(e) and '\n' not in str(e), e
            else:
                ends['read'] += 1
                assert {k: v.shape for k, v in found.items()} == shapes and all(v.isfinite().all() for v in found.values())
                assert path.read_bytes() == good or extractor.weights != whole.weights
    print(ending, ends); assert ends['refused'] > 30


# What would run, if it were unpickled

class Bomb:
    def __init__(self, marker): self.marker = str(marker)
    def __reduce__(self): return os.mkdir, (self.marker,)


def bombs(marker, kind):
    "Bytes that make a folder if they are unpickled, in each container that may hold pickles."
    bomb, out = Bomb(marker), io.BytesIO()
    if kind == 'pickle': return pickle.dumps(bomb)
    if kind == 'npy': np.save(out, np.array([bomb], dtype=object), allow_pickle=True)
    if kind == 'torch': torch.save(dict(mu=bomb), out)
    if kind == 'old torch': torch.save(dict(mu=bomb), out, _use_new_zipfile_serialization=False)
    if kind == 'npz': np.savez(out, **{k: np.array([bomb], dtype=object) for k in ('mu', 'sigma', 'features', 'extractor', 'n', 'transform', 'fingerprint', 'data', 'labels')})
    return out.getvalue()


KINDS = ('pickle', 'npy', 'torch', 'old torch', 'npz')


def test_bombs_are_live(tmp_path):
    "Each would go off, if it were unpickled."
    openers = dict(pickle=pickle.loads, npy=lambda b: np.load(io.BytesIO(b), allow_pickle=True), npz=lambda b: np.load(io.BytesIO(b), allow_pickle=True)['mu'],
                   **{kind: lambda b: torch.load(io.BytesIO(b), weights_only=False) for kind in ('torch', 'old torch')})
    for kind in KINDS:
        openers[kind](bombs(tmp_path/kind, kind))
        assert (tmp_path/kind).is_dir()


def resealed(run):
    "The manifest of a checkpoint, made to agree with its files."
    checkpoint = last_checkpoint(run)
    write_record(checkpoint/'manifest.json', {f.name: file_hash(f) for f in checkpoint.iterdir() if f.name != 'manifest.json'})


@pytest.mark.parametrize('kind', KINDS)
def test_bombs(tmp_path, kind, monkeypatch):
    "In the place of every file that is read, one after the other, with every hash beside it made to agree."
    marker = tmp_path/'marker'; data, planted = bombs(marker, kind), 0
    def is_refused(read):
        nonlocal planted
        planted += 1
        with at_most(60), pytest.raises(ValueError): read()
        assert not marker.exists()
    for name, (write, read) in READERS.items():
        place = write(tmp_path/name)
        for path in sorted(p for p in place.rglob('*') if p.is_file() and p.name not in ('.lock', 'log.jsonl')) if place.is_dir() else [place]:
            good = path.read_bytes(); path.write_bytes(data)
            is_refused(lambda: read(place))
            if name in SEALED and path.name != 'manifest.json': resealed(place); is_refused(lambda: read(place))
            if name == 'shards' and path.suffix == '.safetensors': path.with_suffix('.sha256').write_text(sha256(data).hexdigest()); is_refused(lambda: read(place))
            path.write_bytes(good)
            if name in SEALED: resealed(place)
            if name == 'shards' and path.suffix == '.safetensors': path.with_suffix('.sha256').write_text(sha256(good).hexdigest())
        read(place)
    # DINOv2's weights, under either ending
    for ending in ('pth', 'safetensors'):
        (tmp_path/f'dinov2.{ending}').write_bytes(data)
        is_refused(lambda: make_extractor(dinov2=tmp_path/f'dinov2.{ending}'))
    # Inception's weights: given, and in the cache
    weights = tmp_path/'weights-inception-2015-12-05-6726825d.pth'; weights.write_bytes(data)
    is_refused(lambda: inception_weights(weights))
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path/'hub')); (tmp_path/'hub/checkpoints').mkdir(parents=True)
    (tmp_path/'hub/checkpoints'/Path(URL_INCEPTION_V3).name).write_bytes(data)
    is_refused(make_extractor)
    # CIFAR-10, which is pickled, but looked at only if it is the official one
    batches = tmp_path/'cifar/cifar-10-batches-py'; batches.mkdir(parents=True)
    for name in ('batches.meta', 'test_batch', *(f'data_batch_{k}' for k in range(1, 6))): (batches/name).write_bytes(data)
    is_refused(lambda: cifar10(tmp_path/'cifar'))
    # images, alone and in tars
    (tmp_path/'train/a').mkdir(parents=True)
    for name in ('1.JPEG', '2.png', '3.tiff'): (tmp_path/'train/a'/name).write_bytes(data)
    Image.fromarray(draw_glyph(0, 16)).save(tmp_path/'train/a/0.png')
    list(prepare(tmp_path/'train', tmp_path/'prepared', size=8, workers=1))
    assert [name for name, _ in unreadable(tmp_path/'train', tmp_path/'prepared')] == ['a/1.JPEG', 'a/2.png', 'a/3.tiff'] and not marker.exists()
    (tmp_path/'images.tar').write_bytes(data)
    is_refused(lambda: list(prepare(tmp_path/'images.tar', tmp_path/'prepared2', size=8, workers=1)))
    # an experiment of digits and a sweep
    tiny = SETTINGS | dict(p_uncond=(0.1,), w=(0.,), T=2, T_sweep=(2,), T_sweep_w=(0.,), classifier_w=(1.,), n=70, classifier_steps=2, steps=1, seeds=1)
    if kind == 'pickle':
        rows = run_digits(tmp_path/'digits', tiny)
        for path in (tmp_path/'digits/parts').rglob('*.json'):
            good = path.read_bytes(); path.write_bytes(data)
            if path.parent.name == 'cells': assert run_digits(tmp_path/'digits', tiny) == rows        # made again
            else: is_refused(lambda: run_digits(tmp_path/'digits', tiny))
            assert not marker.exists(); path.write_bytes(good)
    print(kind, planted)


def test_no_reader_that_runs_code():
    "No call in the package that unpickles: torch.load says weights_only, np.load says no pickles, and nobody else reads pickles."
    calls = {}
    for path in sorted(project.package.glob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call): calls.setdefault(ast.unparse(node.func), []).append({k.arg: ast.unparse(k.value) for k in node.keywords})
    assert not {'pickle.load', 'pickle.loads', 'eval', 'exec', 'joblib.load', 'np.load', 'np.fromfile', 'torch.jit.load', 'yaml.load', 'marshal.loads'} & calls.keys()
    assert all(call.get('weights_only') == 'True' for call in calls['torch.load']) and all(call.get('allow_pickle') == 'False' for call in calls['np.lib.format.read_array'])


# What would take all memory

def forged(path, name, header, data=b'', *, claims=None, compressed=None):
    "An npz whose only array has any header, and which claims any size."
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z: z.writestr(f'{name}.npy', header + data)
    raw = bytearray(out.getvalue()); at = raw.index(b'PK\x01\x02')
    if compressed: raw[at+20:at+24] = struct.pack('<I', compressed)
    if claims: raw[at+24:at+28] = struct.pack('<I', claims)
    path.write_bytes(raw)
    return path


def npy(shape, dtype='<f8'):
    out = io.BytesIO(); np.lib.format.write_array_header_1_0(out, dict(descr=dtype, fortran_order=False, shape=shape))
    return out.getvalue()


def zeros(path, name, gigabytes):
    "An npz with an array of zeros, true in all it says: a thousandth of its size on disk."
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as z, z.open(f'{name}.npy', 'w', force_zip64=True) as f:
        f.write(npy((gigabytes*2**30,), '|u1'))
        for _ in range(64*gigabytes): f.write(bytes(2**24))
    return path


def long_header(path):
    "An npy file whose header alone has a gigabyte of blanks."
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as z, z.open('mu.npy', 'w', force_zip64=True) as f:
        f.write(b'\x93NUMPY\x02\x00' + struct.pack('<I', 2**30))
        for _ in range(64): f.write(b' '*2**24)
    return path


def png(path, side):
    "A true PNG of one colour."
    def chunk(kind, body): return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind+body))
    path.parent.mkdir(parents=True, exist_ok=True)
    packer = zlib.compressobj(1); rows = b''.join(packer.compress(bytes(1+side)) for _ in range(side)) + packer.flush()
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 0, 0, 0, 0)) + chunk(b'IDAT', rows) + chunk(b'IEND', b''))
    return path.parents[1]


def sparse(path, start=b'', size=2**36):
    "A file of 64 GiB that takes no room on disk."
    with open(path, 'wb') as f: f.write(start); f.truncate(size)
    return path


def tar(path, kind, size):
    "A tar with a header that announces another one, of any size."
    info = tarfile.TarInfo('x'); info.type, info.size = kind, size
    return sparse(path, info.tobuf(tarfile.GNU_FORMAT))


def sealed_run(folder, **net):
    "A whole checkpoint whose settings ask for another network."
    run = trained(folder); state = last_checkpoint(run)/'state.json'; about = read_record(state); about['settings']['net'] |= net
    write_record(state, about); resealed(run)
    return run


def wrote(path, data): path.write_bytes(data); return path


def configured(folder, config):
    "A network without a manifest, and with another config."
    write_network(folder); (folder/'manifest.json').unlink(); config.rename(folder/'config.json')
    return folder


def grown_weights(path):
    "A torch file whose tensors, once unpacked, are a thousand times as large."
    out = io.BytesIO(); torch.save(dict(a=torch.zeros(2**28, dtype=torch.uint8)), out)
    with zipfile.ZipFile(io.BytesIO(out.getvalue())) as old, zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name in old.namelist(): new.writestr(name, old.read(name))
    return path


LARGE = {
    'npz that unpacks to a gigabyte': (lambda d: zeros(d/'a.npz', 'mu', 1), load_statistics),
    'npz with a gigabyte of header': (lambda d: long_header(d/'a.npz'), load_statistics),
    'npz that claims an array of a terabyte': (lambda d: forged(d/'a.npz', 'mu', npy((2**37,))), load_statistics),
    'npz that claims, and whose directory agrees': (lambda d: forged(d/'a.npz', 'mu', npy((2**28,)), claims=2**31+128, compressed=2**31), load_statistics),
    'npz of images that claims': (lambda d: (forged(d/'train_data_batch_1.npz', 'data', npy((2**20, 3072), '|u1'), claims=2**20*3072+128, compressed=2**31), d)[1], downsampled_npz),
    'idx that claims a terabyte': (lambda d: sparse(d/'a', b'\0\0\x08\x03' + struct.pack('>3I', 2**12, 2**14, 2**14), 4096), idx_file),
    'idx that claims two gigabytes': (lambda d: sparse(d/'a', b'\0\0\x08\x01' + struct.pack('>I', 2**31), 4096), idx_file),
    'safetensors with a header of 64 GiB': (lambda d: sparse(d/'a.safetensors', struct.pack('<Q', 2**36-8)), read_tensors),
    'safetensors that claims a terabyte': (lambda d: sparse(d/'a.safetensors', struct.pack('<Q', 80) + b'{"a":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]}}    ', 4096), read_tensors),
    'record of 64 GiB': (lambda d: sparse(d/'a.json', b'{"a": "'), read_record),
    'record of many brackets': (lambda d: (d/'a.json').write_bytes(b'['*10_000_000) and d/'a.json', read_record),
    'record with a number of millions of digits': (lambda d: (d/'a.json').write_bytes(b'{"a": ' + b'9'*10_000_000 + b'}') and d/'a.json', read_record),
    'classifier with a header of 64 GiB': (lambda d: sparse(d/'a.safetensors', struct.pack('<Q', 2**36-8)), read_classifier),
    'Inception that unpacks to a thousand times': (lambda d: grown_weights(d/'a.pth'), inception_weights),
    'tar with a name of 64 GiB': (lambda d: tar(d/'a.tar', b'L', 2**33-1), lambda path: list(prepare(path, path.parent/'out', size=8, workers=1))),
    'tar with a pax header of 8 GiB': (lambda d: tar(d/'a.tar', b'x', 2**33-1), lambda path: list(prepare(path, path.parent/'out', size=8, workers=1))),
    'run that asks for a network of a terabyte': (lambda d: sealed_run(d/'run', channels=200_000), load_run),
    'network with a config of 64 GiB': (lambda d: configured(d/'a', sparse(d/'config.json', b'{"a": "')), UNet.from_pretrained),
    'network with a config of many brackets': (lambda d: configured(d/'a', wrote(d/'config.json', b'['*10_000)), UNet.from_pretrained),
    'network of a terabyte': (lambda d: configured(d/'a', wrote(d/'config.json', json.dumps(fresh().net.config | dict(channels=200_000)).encode())), UNet.from_pretrained),
    'network of a thousand levels': (lambda d: configured(d/'a', wrote(d/'config.json', json.dumps(fresh().net.config | dict(mult=[1]*1000, blocks=64, size=2**1000)).encode())), UNet.from_pretrained),
    'run that asks for a million classes': (lambda d: sealed_run(d/'run', n_classes=10**9), load_run),
}
IMAGES = {
    'PNG of 20,000 by 20,000': lambda d: png(d/'train/a/1.png', 20_000),
    'PNG of 10,000 by 10,000': lambda d: png(d/'train/a/1.png', 10_000),
    'file of 64 GiB': lambda d: (png(d/'train/a/0.png', 9), sparse(d/'train/a/1.png'))[0],
}


def grown(read, path, answer):
    "Read in this process; by how many MiB did it grow, and what came of it."
    torch.set_num_threads(1)
    def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
    before = most()
    try: read(path); words = None
    except ValueError as e: words = str(e)
    answer.put((most()-before, words))


def in_a_process(read, path):
    "In a process that is forked for it, so that what was used before does not count."
    context = get_context('fork'); answer = context.SimpleQueue()
    process = context.Process(target=grown, args=(read, path, answer)); process.start(); process.join(60)
    assert process.exitcode == 0, 'it did not come to an end'
    return answer.get()


@pytest.mark.parametrize('name', LARGE)
def test_large(tmp_path, name):
    "Refused with less than 100 MiB."
    write, read = LARGE[name]
    megabytes, words = in_a_process(read, write(tmp_path))
    print(f'{name}: {megabytes:.0f} MiB, {words}')
    assert words and str(tmp_path) in words and '\n' not in words and megabytes < 100


@pytest.mark.parametrize('name', IMAGES)
def test_large_images(tmp_path, name):
    "Left out, and the rest is prepared."
    train = IMAGES[name](tmp_path); Image.fromarray(draw_glyph(0, 16)).save(train/'a/2.png')
    megabytes, words = in_a_process(lambda path: list(prepare(path, tmp_path/'set', size=8, workers=1)), train)
    print(f'{name}: {megabytes:.0f} MiB')
    assert words is None and megabytes < 100 and 'a/1.png' in [n for n, _ in unreadable(train, tmp_path/'set')] and len(ImageSet(tmp_path/'set')) >= 1

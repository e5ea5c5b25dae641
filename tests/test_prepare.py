"Preparing images from end to end: killed at any moment it goes on where it was, its processes leave nothing running, and a tar is listed without being read."
import io, os, signal, struct, subprocess, sys, tarfile, time, zlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from cfg_repro.data import draw_glyph
from cfg_repro.prepare import Entry, _begin, imagenet_tar, open_image, prepare, unreadable
from cfg_repro.sets import ImageSet

script = '''
if __name__ == '__main__':
    from cfg_repro.prepare import prepare
    for done in prepare('train', 'killed', size=16, workers=2, shard_size=50): pass
'''


def photographs(root, n):
    "JPEGs in three class folders; two of the first four are broken."
    for i in range(n):
        path = root/f'n{i//4%3:08d}'/f'{i:05d}.JPEG'
        path.parent.mkdir(parents=True, exist_ok=True)
        if i in (1, 3): path.write_bytes(b'' if i == 1 else b'no image')
        else: Image.fromarray(draw_glyph(i, 100)).save(path)
    return root


def running(pid):
    "Whether a process is there and no zombie."
    state = subprocess.run(['ps', '-o', 'stat=', '-p', str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith('Z')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A folder of photographs, and the set that one undisturbed process makes of it."
    root = tmp_path_factory.mktemp('prepare')
    photographs(root/'train', 600)
    list(prepare(root/'train', root/'whole', size=16, workers=1, shard_size=50))
    return root


@pytest.mark.slow
def test_killed_again_and_again(folder):
    "SIGKILL while decoding, after the first shard and after more: no process stays behind, no finished shard is made again, and the set is the undisturbed one."
    path, killed = folder/'script.py', folder/'killed'
    path.write_text(script)
    def shards(): return {p.name: p.with_suffix('.safetensors').stat().st_mtime_ns for p in killed.glob('shard-*.sha256')}
    for wanted in (0, 1, 4):
        before = shards()
        main = subprocess.Popen([sys.executable, path], cwd=folder, start_new_session=True)
        workers, deadline = [], time.time()+120
        while time.time() < deadline and main.poll() is None and not (len(workers) > 2 and len(shards()) >= wanted):
            time.sleep(0.01)
            workers = subprocess.run(['pgrep', '-P', str(main.pid)], capture_output=True, text=True).stdout.split()
        assert main.poll() is None and len(workers) > 2, 'it was over before it could be stopped'  # two that decode, and Python's tracker
        main.kill(); main.wait()
        deadline = time.time()+30
        while (left := [pid for pid in workers if running(pid)]) and time.time() < deadline: time.sleep(0.1)
        for pid in left: os.kill(int(pid), signal.SIGKILL)
        assert not left, 'processes stayed behind'
        assert before.items() <= shards().items(), 'a finished shard was made again'
    assert 4 <= len(shards()) < 12
    before = shards()
    assert subprocess.run([sys.executable, path], cwd=folder).returncode == 0
    assert before.items() <= shards().items()
    one, two = ImageSet(folder/'whole', check=True), ImageSet(killed, check=True)
    assert one.fingerprint == two.fingerprint and one.settings == two.settings and len(one) == 598
    for p in one.path.glob('shard-*'): assert p.read_bytes() == (killed/p.name).read_bytes()


@pytest.mark.slow
def test_a_decoding_process_computes_with_one_thread(monkeypatch):
    "Many processes of many threads each are several times slower than as many processes of one."
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    for begin, threads in ((None, 2), (_begin, 1)):
        with ProcessPoolExecutor(1, get_context('spawn'), begin) as pool: assert pool.submit(torch.get_num_threads).result() == threads


def test_a_shard_of_nothing_but_broken_files(tmp_path):
    root = photographs(tmp_path/'train', 12)
    for p in sorted((root/'n00000001').iterdir()): p.write_bytes(b'no image')
    list(prepare(root, tmp_path/'set', size=8, workers=1, shard_size=4))
    data = ImageSet(tmp_path/'set', check=True)
    assert [len(s['images']) for s in data.shards] == [2, 0, 4] and data.labels.tolist() == [0, 0, 2, 2, 2, 2]
    assert data[torch.tensor([5, 1])][0].shape == (2, 3, 8, 8) and len(unreadable(root, tmp_path/'set')) == 6
    assert str(tmp_path) not in (tmp_path/'set'/'set.json').read_text()


def tar_of_tars(path, classes, images, size):
    with tarfile.open(path, 'w') as outer:
        for k in range(classes):
            inside = io.BytesIO()
            with tarfile.open(fileobj=inside, mode='w') as inner:
                for i in range(images):
                    member = tarfile.TarInfo(f'{k}_{i}.JPEG'); member.size = size
                    inner.addfile(member, io.BytesIO(np.random.default_rng([k, i]).bytes(size)))
            member = tarfile.TarInfo(f'n{k:08d}.tar'); member.size = inside.tell(); inside.seek(0)
            outer.addfile(member, inside)
    return path


@pytest.mark.skipif(not Path('/proc/self/io').exists(), reason='only Linux counts the bytes that a process reads')
def test_listing_a_tar_reads_headers_only(tmp_path):
    path = tar_of_tars(tmp_path/'all.tar', 3, 4, 2**20)
    def read(): return int(Path('/proc/self/io').read_text().split()[1])
    before = read(); found, names = imagenet_tar(path); used = read()-before
    assert len(found) == 12 and names == ['n00000000', 'n00000001', 'n00000002']
    assert used < path.stat().st_size/20
    for e in (found[0], found[7]):
        with path.open('rb') as f: f.seek(e.offset); assert f.read(e.length) == np.random.default_rng([int(c) for c in Path(e.name).stem.split('_')]).bytes(2**20)


@pytest.mark.parametrize('share', [0.3, 0.6, 0.9])
def test_a_tar_that_is_cut_short_is_refused(tmp_path, share):
    path = tar_of_tars(tmp_path/'all.tar', 3, 4, 10_000)
    data = path.read_bytes(); path.write_bytes(data[:int(share*len(data))])
    with pytest.raises(ValueError, match='no tar of class tars'): list(prepare(path, tmp_path/'set', size=8, workers=1))
    assert not (tmp_path/'set').exists()


# Stopping

command = '''
import sys
from cfg_repro.prepare import cfg_prepare
if __name__ == '__main__':
    sys.argv = ['cfg_prepare', 'large', 'stopped', '--size', '16', '--workers', '2']
    cfg_prepare.console()
'''


@pytest.fixture(scope='module')
def large(tmp_path_factory):
    "A folder of 200 photographs of nine million pixels: a chunk of them takes a process many seconds."
    root = tmp_path_factory.mktemp('stop')
    (root/'large'/'a').mkdir(parents=True)
    first = root/'large'/'a'/'000.jpg'
    Image.fromarray(draw_glyph(0, 100)).resize((3000, 3000)).save(first)
    for i in range(1, 200): os.link(first, first.with_name(f'{i:03d}.jpg'))
    (root/'command.py').write_text(command)
    return root


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('everybody', [False, True])
@pytest.mark.parametrize('after', [0, 4])
def test_a_stop_is_answered(large, number, everybody, after):
    """While the decoding processes start, and in the middle of their work; alone, and by a terminal, which tells all processes:
    over in a moment, with one sentence, and nobody is left."""
    environment = os.environ | dict(OMP_NUM_THREADS='1')
    main = subprocess.Popen([sys.executable, 'command.py'], cwd=large, env=environment, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    workers, deadline = [], time.time()+120
    while len(workers) < 3 and time.time() < deadline:                 # two that decode, and Python's tracker
        time.sleep(0.05)
        workers = subprocess.run(['pgrep', '-P', str(main.pid)], capture_output=True, text=True).stdout.split()
    time.sleep(after)
    assert main.poll() is None
    start = time.time()
    if everybody: os.killpg(main.pid, number)
    else: main.send_signal(number)
    out, err = main.communicate(timeout=60)
    took = time.time()-start
    if everybody and number == signal.SIGTERM: time.sleep(0.5)         # the tracker was ended as well, and is no child any more
    assert main.returncode == 130 and out == '' and 'Traceback' not in err, err
    assert err.splitlines()[-1] == 'cfg_prepare: stopped; the same line goes on from here'
    assert took < 5, f'{took:.1f} s'                                   # a machine with other work to do; what is begun takes longer
    deadline = time.time()+5
    while (left := [pid for pid in workers if running(pid)]) and time.time() < deadline: time.sleep(0.05)
    assert not left
    assert not list((large/'stopped').glob('shard-*'))


@pytest.mark.slow
def test_what_it_says_before_the_first_image(large):
    "From what, of which size, into what; how many images; and a bar."
    main = subprocess.Popen([sys.executable, 'command.py'], cwd=large, start_new_session=True, stderr=subprocess.PIPE)
    said = b''
    while b'200' not in said or b'0.00/200' not in said: said += os.read(main.stderr.fileno(), 1000) or pytest.fail(said.decode())
    assert not list((large/'stopped').glob('shard-*'))
    main.kill(); main.communicate()
    lines = said.decode().splitlines()
    assert lines[:2] == ['large into stopped', '200 images of 1 class, to be 16x16'] and '  0%|' in lines[-1]


# Pictures as a person sees them

def as_is(image, size): return np.asarray(image)


def opened(path): return open_image(Entry(path.name, 0, str(path)), as_is, 0).transpose(1, 2, 0)


SIDES = {1: ('top', 'left'), 2: ('top', 'right'), 3: ('bottom', 'right'), 4: ('bottom', 'left'),      # of the EXIF standard: where the
         5: ('left', 'top'), 6: ('right', 'top'), 7: ('right', 'bottom'), 8: ('left', 'bottom')}      # first row is, and the first column


def on_its_side(stored, row, column):
    "What is seen where the first row of what is stored is on one side, and its first column on another."
    upright = row in ('top', 'bottom')
    seen = stored if upright else stored.swapaxes(0, 1)
    if 'bottom' in (row, column): seen = seen[::-1]
    if 'right' in (row, column): seen = seen[:, ::-1]
    return seen


@pytest.mark.parametrize('way', SIDES)
def test_a_photograph_is_upright(tmp_path, way):
    "A JPEG of six squares of colour, by the words of the standard."
    squares = np.array([[[250, 10, 10], [10, 250, 10], [10, 10, 250]], [[250, 250, 10], [10, 250, 250], [250, 10, 250]]], np.uint8)
    exif = Image.Exif(); exif[0x0112] = way
    Image.fromarray(squares.repeat(16, 0).repeat(16, 1)).save(tmp_path/'a.jpg', quality=95, exif=exif)
    found = opened(tmp_path/'a.jpg')[8::16, 8::16]
    expected = on_its_side(squares, *SIDES[way])
    assert found.shape == expected.shape and np.abs(found.astype(int)-expected).max() <= 8


def png(path, colour, depth, rows, **chunks):
    "A PNG written by hand: its colour type, its depth, its rows of bytes."
    def chunk(kind, body): return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind+body))
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    width = len(rows[0])*8//(depth*channels)
    header = struct.pack('>IIBBBBB', width, len(rows), depth, colour, 0, 0, 0)
    body = zlib.compress(b''.join(b'\0'+bytes(row) for row in rows))
    extra = b''.join(chunk(name.encode(), data) for name, data in chunks.items())
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + extra + chunk(b'IDAT', body) + chunk(b'IEND', b''))
    return path


def sixteen(*values): return struct.pack(f'>{len(values)}H', *values)


def test_sixteen_bits(tmp_path):
    "Every grey level of 16 bits becomes the nearest of 8; colours are at most one level off, and not in the mean."
    every = np.arange(2**16)
    rows = [sixteen(*row.tolist()) for row in every.reshape(256, 256)]
    nearest = np.rint(every/257).reshape(256, 256)
    grey = opened(png(tmp_path/'grey.png', 0, 16, rows))
    assert (grey == nearest[..., None]).all() and grey.max() == 255 and len(np.unique(grey)) == 256
    (tmp_path/'grey.ppm').write_bytes(b'P5 256 256 65535\n' + b''.join(rows))
    assert (opened(tmp_path/'grey.ppm') == nearest[..., None]).all()
    colours = opened(png(tmp_path/'colours.png', 2, 16, [sixteen(*np.stack([row]*3, -1).ravel().tolist()) for row in every.reshape(256, 256)]))
    assert set(np.unique(nearest[..., None]-colours)) == {-1, 0, 1} and abs((nearest[..., None]-colours).mean()) < 0.01


def test_what_is_transparent_is_white(tmp_path):
    "A colour of 8 bits, one of 16 in grey, a palette; a colour of 16 bits that 8 cannot tell from others is refused."
    assert opened(png(tmp_path/'a.png', 2, 8, [[1, 2, 3, 1, 2, 4]], tRNS=sixteen(1, 2, 3)))[0].tolist() == [[255]*3, [1, 2, 4]]
    assert opened(png(tmp_path/'b.png', 0, 16, [sixteen(2570, 2571)], tRNS=sixteen(2570)))[0, :, 0].tolist() == [255, 10]
    found = opened(png(tmp_path/'c.png', 3, 8, [[0, 1, 2]], PLTE=bytes([100, 0, 0, 0, 100, 0, 0, 0, 100]), tRNS=bytes([0, 51])))
    assert found[0].tolist() == [[255]*3, [204, 224, 204], [0, 0, 100]]                     # a fifth of 100 and four of 255 are 224
    with pytest.raises(ValueError, match='d.png has a transparent colour of 16 bits'):
        opened(png(tmp_path/'d.png', 2, 16, [sixteen(2570, 2570, 2570)], tRNS=sixteen(2570, 2570, 2570)))


def tiff(path, pixels, **tags):
    "A TIFF of one row, written by hand, in the order of the machine's bytes: little."
    found = {256: pixels.shape[1], 257: pixels.shape[0], 258: pixels.dtype.itemsize*8, 259: 1, 262: 1, 277: 1, 278: pixels.shape[0]}
    found |= {int(k[1:]): v for k, v in tags.items()}
    data = pixels.tobytes()
    found |= {273: 8, 279: len(data)}
    entries = b''.join(struct.pack('<HHII', k, 4, 1, v) for k, v in sorted(found.items()))
    path.write_bytes(b'II*\0' + struct.pack('<I', 8+len(data)) + data + struct.pack('<H', len(found)) + entries + bytes(4))
    return path


def test_where_white_is_not_said(tmp_path):
    "TIFFs: 16 bits with black at 0 can be read; with white at 0, with signs, in 32 bits, or floating point, they are refused by name."
    deep = np.array([[0, 257, 65535]], '<u2')
    assert opened(tiff(tmp_path/'a.tiff', deep))[0, :, 0].tolist() == [0, 1, 255]
    others = dict(white=(deep, dict(_262=0)), signed=(deep.astype('<i2'), dict(_339=2)), wide=(deep.astype('<u4'), {}),
                  floating=((deep/65535).astype('<f4'), dict(_339=3)))
    for name, (pixels, tags) in others.items():
        with pytest.raises(ValueError, match=f'{name}.tiff has pixels of kind [IF].*: what they look like is not said'):
            opened(tiff(tmp_path/f'{name}.tiff', pixels, **tags))


def test_seen_and_left_out(tmp_path):
    "From the folder to the set: what is in it is what is seen, and what cannot be is left out by name."
    root = tmp_path/'train'; (root/'a').mkdir(parents=True)
    png(root/'a'/'1.png', 0, 16, [sixteen(*[25700]*8)]*8)
    Image.new('RGBA', (8, 8), (0, 0, 0, 51)).save(root/'a'/'2.png')
    Image.new('F', (8, 8)).save(root/'a'/'3.tiff')
    exif = Image.Exif(); exif[0x0112] = 3
    half = np.zeros((8, 8, 3), np.uint8); half[:4] = 255
    Image.fromarray(half).save(root/'a'/'4.png', exif=exif)
    list(prepare(root, tmp_path/'set', size=2, workers=1))
    data = ImageSet(tmp_path/'set')
    assert data.bytes(slice(None))[:, 0].tolist() == [[[100, 100], [100, 100]], [[204, 204], [204, 204]], [[0, 0], [255, 255]]]
    assert unreadable(root, tmp_path/'set') == [('a/3.tiff', 'a/3.tiff has pixels of kind F: what they look like is not said')]


def test_a_failing_disk_leaves_no_gap(tmp_path, monkeypatch):
    "A file that cannot be read for the moment stops everything; a defect of ours keeps its own kind."
    root = photographs(tmp_path/'train', 12)
    with monkeypatch.context() as m:
        m.setattr('cfg_repro.prepare._contents', lambda entry: 1/0)
        with pytest.raises(ZeroDivisionError): list(prepare(root, tmp_path/'set', size=8, workers=1))
    (root/'n00000002'/'00011.JPEG').unlink(); (root/'n00000002'/'00011.JPEG').symlink_to(root/'n00000002'/'00010.JPEG')
    real = open
    def failing(file, *args, **kwargs):
        if str(file).endswith('00011.JPEG'): raise OSError(5, 'Input/output error', file)
        return real(file, *args, **kwargs)
    with monkeypatch.context() as m:
        m.setattr('builtins.open', failing)
        with pytest.raises(OSError, match='Input/output error'): list(prepare(root, tmp_path/'set', size=8, workers=1))
    list(prepare(root, tmp_path/'set', size=8, workers=1))
    assert len(ImageSet(tmp_path/'set')) == 10 and [name for name, _ in unreadable(root, tmp_path/'set')] == ['n00000000/00001.JPEG', 'n00000000/00003.JPEG']

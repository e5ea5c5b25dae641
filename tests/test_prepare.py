"Preparing images from end to end: killed at any moment it goes on where it was, its processes leave nothing running, and a tar is listed without being read."
import io, os, signal, subprocess, sys, tarfile, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from cfg_repro.data import ImageSet, draw_glyph
from cfg_repro.prepare import _begin, imagenet_tar, prepare, unreadable

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

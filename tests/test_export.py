"A network in a directory, and what a run has learnt by itself: byte for byte by hand, and on every road that takes a run."
import copy, inspect, json, math, os, pickle, re, struct, time
from hashlib import sha256
from unittest.mock import patch
import numpy as np
import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel
import by_hand, project
from cfg_repro.checkpoints import last_checkpoint
from cfg_repro.checks import Refusal
from cfg_repro.console import said
from cfg_repro.files import write_record
from cfg_repro.presets import DIGITS, PRESETS
from cfg_repro.runs import cfg_train
from cfg_repro.samples import cfg_export, cfg_sample, load_guide, load_run, read_run
from cfg_repro.sets import ImageSet
from cfg_repro.sweeps import cfg_sweep
from cfg_repro.unet import CLASSIFIER64, CLASSIFIER128, NoisyClassifier, UNet

NET = dict(size=8, n_classes=10, in_channels=1, channels=16, mult=(1, 2), blocks=1, attention=(4,), head_channels=8, groups=4, dropout=0.5)
CLASSES = dict(unet=UNet, classifier=NoisyClassifier)
z, logsnr, c = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([-9., 0., 9.]), torch.tensor([0, 9, 10])


def waves(net):
    "Every parameter another wave."
    with torch.no_grad():
        for i, p in enumerate(net.parameters()): p.copy_((0.2*torch.sin(1.7*torch.arange(p.numel()) + i)).view(p.shape))
    return net


def answer(net):
    "What a network says of three images, in its own precision, and without dropout."
    images, dtype = (z, logsnr) if isinstance(net, NoisyClassifier) else (z, logsnr, c), next(net.parameters()).dtype
    with torch.no_grad(): return net.eval()(images[0].to(dtype), *images[1:])


def tensors_by_hand(path):
    "What a safetensors file holds, by its format: a length, a JSON header, and the numbers in a row."
    data = path.read_bytes(); n, = struct.unpack('<Q', data[:8]); header = json.loads(data[8:8+n]); found, end = {}, 0
    kinds = dict(F32=torch.float32, F64=torch.float64, BF16=torch.bfloat16)
    for name, about in header.items():
        if name == '__metadata__': continue
        start, stop = about['data_offsets']; assert start == end; end = stop
        found[name] = torch.frombuffer(bytearray(data[8+n+start:8+n+stop]), dtype=kinds[about['dtype']]).view(about['shape'])
    assert 8+n+end == len(data)
    return found


def hashes(folder): return {p.name: sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name not in ('manifest.json', '.lock') and p.is_file()}


def manifest(folder): return {k: v for k, v in json.loads((folder/'manifest.json').read_text()).items() if k != 'sha256'}


def refused(f, *args, **kwargs):
    "The one sentence that something is refused with."
    with pytest.raises(Refusal) as said: f(*args, **kwargs)
    words = str(said.value); assert '\n' not in words and len(words) < 400
    return words


# A network in a directory

GIVEN = [(NoisyClassifier if 'classifier' in name else UNet, dict(p['net'], n_classes=7)) for name, p in PRESETS.items() if name != 'auto']     # whose network is chosen by the set
GIVEN += [(NoisyClassifier, CLASSIFIER64), (NoisyClassifier, CLASSIFIER128), (UNet, dict(size=16, n_classes=2, out_channels=6, heads=2, checkpoint=True, attention=[])), (UNet, NET), (NoisyClassifier, NET)]


@pytest.mark.parametrize('cls, given', GIVEN)
def test_a_config_is_what_init_was_given(cls, given):
    "Every argument and no more, defaults too, tuples as lists; and it makes the same network."
    bound = inspect.signature(cls).bind(**given); bound.apply_defaults()
    with torch.device('meta'):
        net = cls(**given)
        again = cls(**json.loads(json.dumps(net.config)))
        first, second, *_ = given.values()
        by_place = cls(given['size'], given['n_classes'], **{k: v for k, v in given.items() if k not in ('size', 'n_classes')})
    assert net.config == {k: list(v) if isinstance(v, tuple) else v for k, v in bound.arguments.items()} == again.config == by_place.config
    assert json.loads(json.dumps(net.config)) == net.config and str(again) == str(net)
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in again.state_dict().items()}


def test_numbers_of_other_kinds_are_numbers():
    net = UNet(np.int64(8), np.int32(3), in_channels=1, channels=8, mult=(np.int64(1),), blocks=1, attention=(), head_channels=8, dropout=np.float32(0.5))
    assert json.loads(json.dumps(net.config)) == UNet(8, 3, in_channels=1, channels=8, mult=(1,), blocks=1, attention=(), head_channels=8, dropout=0.5).config


@pytest.mark.parametrize('kind', CLASSES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('order', [torch.contiguous_format, torch.channels_last])
def test_a_network_comes_back(tmp_path, kind, dtype, order):
    "The files by hand, the same answers to the last bit, in its precision; and once more from what was read."
    net = waves(CLASSES[kind](**NET)).to(dtype, memory_format=order); net.save_pretrained(tmp_path/'a')
    held = tensors_by_hand(tmp_path/'a/model.safetensors')
    assert held.keys() == net.state_dict().keys() and all(v.dtype == dtype and torch.equal(v, held[k]) for k, v in net.state_dict().items())
    assert json.loads((tmp_path/'a/config.json').read_text()) == net.config and hashes(tmp_path/'a') == manifest(tmp_path/'a')
    found = CLASSES[kind].from_pretrained(str(tmp_path/'a'))
    assert type(found) is CLASSES[kind] and not found.training and all(p.requires_grad for p in found.parameters())
    assert torch.equal(answer(found.to(memory_format=order)), answer(net)) and answer(net).abs().max() > 0.1
    found.save_pretrained(tmp_path/'b')
    assert hashes(tmp_path/'b') == hashes(tmp_path/'a')
    answer(found.to(torch.float64)); found.train()(z.double(), logsnr, *([c] if kind == 'unet' else [])).sum().backward()          # it can be trained on
    assert all(p.grad is not None for p in found.parameters()) and torch.equal(answer(CLASSES[kind].from_pretrained(tmp_path/'a').to(memory_format=order)), answer(net))
    size = sum(v.nbytes for v in held.values())
    assert size < sum(p.stat().st_size for p in (tmp_path/'a').iterdir()) < size + 20_000


def test_what_a_default_type_is_has_no_say(tmp_path):
    net = waves(UNet(**NET)); net.save_pretrained(tmp_path)
    torch.set_default_dtype(torch.float64)
    try: found = UNet.from_pretrained(tmp_path)
    finally: torch.set_default_dtype(torch.float32)
    assert torch.equal(answer(found), answer(net))


def test_a_network_stays_what_it_was(tmp_path):
    "Pickled, copied, averaged, compiled, on no device: the same network, and each can be saved."
    net = waves(UNet(**NET)); right = answer(net)
    for other in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net), AveragedModel(net).module, torch.compile(net, backend='eager')):
        assert torch.equal(other.eval()(z, logsnr, c), right) and other.config == net.config
        other.save_pretrained(tmp_path); assert torch.equal(answer(UNet.from_pretrained(tmp_path)), right)
    copied = copy.deepcopy(net); copied.config['mult'].append(3)
    assert net.config['mult'] == [1, 2]
    with torch.device('meta'): assert all(p.is_meta for p in UNet(**NET).parameters())
    assert len(net.state_dict()) == len(list(net.parameters())) and not list(net.buffers())


class Shared(PyTorchModelHubMixin, UNet): pass


def test_the_hubs_own_class_reads_and_writes_the_same(tmp_path):
    "With the same arguments in config.json, whose defaults it found by itself; what it pushes is what it saves, and we read it."
    net, theirs = waves(UNet(**NET)), waves(Shared(**NET))
    net.save_pretrained(tmp_path/'ours'); theirs.save_pretrained(tmp_path/'theirs')
    configs = [json.loads((tmp_path/name/'config.json').read_text()) for name in ('ours', 'theirs')]
    assert configs[0] == configs[1]
    ours_by_hand, theirs_by_hand = (tensors_by_hand(tmp_path/name/'model.safetensors') for name in ('ours', 'theirs'))
    assert ours_by_hand.keys() == theirs_by_hand.keys() and all(torch.equal(v, theirs_by_hand[k]) for k, v in ours_by_hand.items())
    assert torch.equal(answer(Shared.from_pretrained(tmp_path/'ours')), answer(net)) and torch.equal(answer(UNet.from_pretrained(tmp_path/'theirs')), answer(net))
    pushed = {}
    def upload(**how): pushed.update({p.name: p.read_bytes() for p in how['folder_path'].iterdir()})
    with patch('huggingface_hub.hub_mixin.HfApi') as api:
        api.return_value.create_repo.return_value.repo_id = 'me/net'; api.return_value.upload_folder.side_effect = upload
        theirs.push_to_hub('me/net')
    assert pushed['model.safetensors'] == (tmp_path/'theirs/model.safetensors').read_bytes() and json.loads(pushed['config.json']) == net.config


def test_what_the_hubs_own_class_does_not_refuse(tmp_path):
    "Why the methods are our own: a weight and an argument that do not belong are passed over there, and are refused here."
    net = waves(UNet(**NET)); net.save_pretrained(tmp_path); (tmp_path/'manifest.json').unlink()
    weights = load_file(tmp_path/'model.safetensors'); weights['other'] = weights.pop('time.0.weight'); save_file(weights, tmp_path/'model.safetensors')
    found = Shared.from_pretrained(tmp_path)
    assert not torch.equal(found.time[0].weight, net.time[0].weight) and torch.equal(found.film.weight, net.film.weight)
    assert 'holds no UNet (these are weights of another network: time.0.weight is missing' in refused(UNet.from_pretrained, tmp_path)
    net.save_pretrained(tmp_path); (tmp_path/'manifest.json').unlink(); (tmp_path/'config.json').write_text(json.dumps(net.config | dict(hue=3)))
    Shared.from_pretrained(tmp_path)
    assert "got an unexpected keyword argument 'hue')" in refused(UNet.from_pretrained, tmp_path)


WRONG = [('config.json', b'{"size": 8', 'config.json is damaged: '), ('config.json', b'[1]', 'config.json is damaged: it holds no dictionary'), ('config.json', b'\xff', 'config.json is damaged'),
         ('config.json', b'{"size": ' + b'9'*2**14 + b'}', 'config.json is damaged'), ('config.json', b'{}', "missing 2 required positional arguments: 'size' and 'n_classes'"),
         ('config.json', dict(channels=7), 'channels is 7: it must be an even number'), ('config.json', dict(channels=24), 'time.0.weight is (64, 16) torch.float32, here it is (96, 24)'),
         ('config.json', dict(channels=2*10**30), 'holds no UNet ('), ('config.json', dict(size=math.nan), 'size is nan'), ('config.json', dict(colour=3), "unexpected keyword argument 'colour'"),
         ('config.json', dict(mult=[1]*33, size=2**40), 'it must be a list of 1 to 32 whole numbers'), ('config.json', dict(mult=[1]*32, size=2**40, blocks=1), 'here it is'), ('config.json', None, 'config.json is missing'),
         ('model.safetensors', b'', 'model.safetensors is damaged'), ('model.safetensors', struct.pack('<Q', 2) + b'{}', 'time.0.weight is missing'), ('model.safetensors', None, 'model.safetensors is missing')]


@pytest.mark.parametrize('name, data, words', WRONG)
def test_what_makes_no_network_is_refused(tmp_path, name, data, words):
    "In a sentence that names the place and what is wrong, in a moment; and, with a manifest beside it, whatever it holds."
    net = waves(UNet(**NET)); net.save_pretrained(tmp_path)
    if isinstance(data, dict): data = json.dumps(net.config | data).encode()
    if data is None: (tmp_path/name).unlink()
    else: (tmp_path/name).write_bytes(data)
    assert refused(UNet.from_pretrained, tmp_path) == f"{tmp_path/name} is " + ('missing' if data is None else "damaged: its hash is not the manifest's")
    (tmp_path/'manifest.json').unlink(); began = time.time()
    said = refused(UNet.from_pretrained, tmp_path)
    assert words in said and str(tmp_path) in said and time.time()-began < 20


def test_a_network_has_a_directory_of_its_own(lab, tmp_path):
    "Runs, checkpoints, snapshots and exports are not written over; a README and what is hidden may be there; and it may be saved again."
    net = waves(UNet(**NET)); before = {p: p.read_bytes() for p in lab.rglob('*') if p.is_file()}
    for place in ('run', last_checkpoint(lab/'run').relative_to(lab), 'run/snapshots/step-00000002', 'export'):
        assert 'a network needs a directory of its own' in refused(net.save_pretrained, lab/place)
    assert before == {p: p.read_bytes() for p in lab.rglob('*') if p.is_file()}
    (tmp_path/'.git').mkdir(); (tmp_path/'README.md').write_text('mine')
    UNet(**NET).save_pretrained(tmp_path); net.save_pretrained(tmp_path)
    assert torch.equal(answer(UNet.from_pretrained(tmp_path)), answer(net)) and (tmp_path/'README.md').read_text() == 'mine'
    (tmp_path/'file').write_text('mine')
    with pytest.raises(OSError, match='file'): net.save_pretrained(tmp_path/'file')


# An export

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A run with two averages and a snapshot, a noisy classifier, and an export of each."
    lab = tmp_path_factory.mktemp('export')
    said(cfg_train, 'digits', out=str(lab/'run'), steps=4, emas=(0.2,), snapshot_every=2, device='cpu')
    said(cfg_train, 'digits_classifier', out=str(lab/'noisy'), steps=3, device='cpu')
    exported(lab, 'run', 'export'); exported(lab, 'noisy', 'noisy_export')
    return lab


def exported(lab, run, out, **how): return said(cfg_export, str(lab/run), str(lab/out), **how)


@pytest.mark.parametrize('run, ema, name', [('run', None, 'ema'), ('run', 0.2, 'ema-0.2'), ('run/snapshots/step-00000002', None, 'ema'), ('run/snapshots/step-00000002', 0.2, 'ema-0.2'), ('noisy', None, 'ema')])
def test_an_export_is_an_average_of_the_run(lab, tmp_path, run, ema, name):
    "Byte for byte, with the record of its checkpoint and the hash of every file: four bytes a parameter, no raw weights, no optimizer."
    words = exported(lab, run, tmp_path/'out', ema=ema); checkpoint, out = last_checkpoint(lab/run), tmp_path/'out'
    assert sorted(p.name for p in out.iterdir()) == ['config.json', 'manifest.json', 'model.safetensors', 'state.json'] and manifest(out) == hashes(out)
    assert (out/'model.safetensors').read_bytes() == (checkpoint/f'{name}.safetensors').read_bytes() != (last_checkpoint(lab/'run')/'net.safetensors').read_bytes()
    noted, was = (json.loads((folder/'state.json').read_text()) for folder in (out, checkpoint))
    decay = ema or was['settings']['ema_decay']; noted.pop('sha256'); was.pop('sha256')
    assert noted == was | dict(ema=decay)
    kind = CLASSES[was['settings']['network']]; net = kind.from_pretrained(out); n = sum(p.numel() for p in net.parameters())
    assert net.config.items() >= {k: v for k, v in was['settings']['net'].items()}.items()
    assert words == f"{out}: {n:,} parameters, an average of decay {decay}, from step {was['step']:,} of {lab/run}\n"
    assert 4*n < sum(p.stat().st_size for p in out.iterdir()) < 4*n + 20_000
    held = tensors_by_hand(checkpoint/f'{name}.safetensors'); assert all(torch.equal(v, held[k]) for k, v in net.state_dict().items())
    assert read_run(out) == read_run(lab/run, ema) and torch.equal(answer(load_run(out)[0]), answer(net))
    assert list(tmp_path.iterdir()) == [out]


def test_every_option_of_cfg_export_is_tested(): assert set(inspect.signature(cfg_export).parameters) == {'run', 'out', 'ema'}


def test_samples_of_an_export_are_samples_of_the_run(lab, tmp_path):
    "The same files to the last byte, by itself and guided by the export of a classifier; and what Algorithm 2 gives, by hand."
    def sampled(run, out, **how): said(cfg_sample, str(lab/run), str(tmp_path/out), n=20, shard_size=10, T=5, w=1.5, device='cpu', **how); return {p.name: p.read_bytes() for p in (tmp_path/out).iterdir() if p.name != '.lock'}
    assert sampled('export', 'a') == sampled('run', 'b')
    assert sampled('export', 'c', guide_by=str(lab/'noisy_export')) == sampled('run', 'd', guide_by=str(lab/'noisy'))
    for out, noisy in (('a', None), ('c', by_hand.network(lab/'noisy'))):
        wanted = by_hand.images(lab/'run', 20, w=1.5, T=5, v=0.3, seed=0, noisy=noisy)
        assert (ImageSet(tmp_path/out).bytes(torch.arange(20)).int()-wanted.int()).abs().max() <= 1
    assert torch.equal(answer(load_guide(lab/'noisy_export', read_run(lab/'export'))), answer(by_hand.network(lab/'noisy')))
    assert 'holds no noisy classifier' in refused(cfg_sample, str(lab/'run'), str(tmp_path/'new'), guide_by=str(lab/'export'), n=4, T=2, device='cpu')
    assert 'beside its own average' in refused(cfg_sample, str(lab/'export'), str(tmp_path/'new'), ema=0.2, n=4, T=2, device='cpu')


@pytest.mark.slow
def test_a_sweep_of_an_export_is_one_of_the_run(lab, tmp_path):
    how = dict(reference='digits', classifier=str(tmp_path/'own.safetensors'), fit_steps=20, w=(0., 2.), T=(3,), n=70, splits=1, device='cpu')
    for name in ('run', 'export'): said(cfg_sweep, [str(lab/name)], out=str(tmp_path/name), **how)
    rows = [(tmp_path/name/'cells.csv').read_bytes() for name in ('run', 'export')]
    assert rows[0] == rows[1] and rows[0].count(b'\n') == 3


def page_lines():
    "The code of the page on samples that uses a run from Python, as it stands there."
    nb = next(nb for path, nb in project.notebooks().items() if path.stem == '30_samples')
    texts = [''.join(cell['source']) for cell in nb['cells'] if cell['cell_type'] == 'markdown']
    (text,) = (text for text in texts if "load_run('runs/digits')" in text)
    return re.findall(r'```python\n(.*?)```', text, re.S)


@pytest.mark.parametrize('kind', ['run', 'export'])
def test_three_lines(lab, tmp_path, monkeypatch, kind):
    "As they stand on the page, and by hand: the network from its file, Eq. (6) from two calls, Algorithm 2 written out, the noise in the order of the draws."
    imports, lines = page_lines()
    assert len(lines.splitlines()) == 3 and set(re.findall(r'^(?:from|import) (\w+)', imports, re.M)) == {'torch', 'cfg_repro'}
    (tmp_path/'runs').mkdir(); (tmp_path/'runs/digits').symlink_to(lab/kind); monkeypatch.chdir(tmp_path)
    torch.manual_seed(3); names = {}; exec(imports + lines, names)
    draws = torch.Generator().manual_seed(3)
    monkeypatch.setattr(by_hand, 'noise', lambda seed, indices, t, shape: torch.randn(len(indices), *shape, generator=draws).double())
    wanted = by_hand.images(lab/'run', 10, w=1., T=16, v=0.3, seed=0).int()
    assert ((names['images']+1)*127.5 - wanted).abs().max() <= 1 and names['settings']['T'] == 16 and wanted.float().std() > 10


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors', 'state.json', 'manifest.json'])
def test_a_damaged_export_is_refused(lab, tmp_path, name):
    "A bit here and there in each of its files: by whichever reads that file, of `load_run`, `from_pretrained` and the line that made it; none of them takes anything else for it."
    out = tmp_path/'out'; exported(lab, 'run', out); good, right = (out/name).read_bytes(), (read_run(out), answer(UNet.from_pretrained(out)))
    readers = dict(load_run=lambda: load_run(out), from_pretrained=lambda: UNet.from_pretrained(out), cfg_export=lambda: exported(lab, 'run', out))
    passes = {'config.json': ['load_run'], 'state.json': ['from_pretrained']}.get(name, [])
    for at in np.linspace(0, len(good)-1, 25).astype(int):
        (out/name).write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at+1:])
        for reader, read in readers.items():
            if reader in passes: read()
            else: assert str(out) in refused(read)
        (out/name).write_bytes(good)
    assert read_run(out) == right[0] and torch.equal(answer(UNet.from_pretrained(out)), right[1])


def test_an_edited_config_is_refused_as_edited(lab, tmp_path):
    out = tmp_path/'out'; exported(lab, 'run', out); config = json.loads((out/'config.json').read_text())
    (out/'config.json').write_text(json.dumps(config | dict(dropout=0.1), indent=1))
    assert refused(UNet.from_pretrained, out) == f"{out/'config.json'} is damaged: its hash is not the manifest's"


def test_what_stands_in_the_way_of_an_export(lab, tmp_path):
    "What is there already is left as it is; an empty directory is filled; a run does not go on in an export."
    out = tmp_path/'deep/er/out'; exported(lab, 'run', out); before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.iterdir()}
    assert exported(lab, 'run', out) == exported(lab, out, out) == f'{out} is there already, and whole\n'
    for place in ('run', 'noisy', last_checkpoint(lab/'run'), 'run/snapshots/step-00000002', 'noisy_export'):
        assert refused(cfg_export, str(out), str(lab/place)) == f'{lab/place} holds something else: export to another directory'
    assert 'holds something else' in refused(cfg_export, str(lab/'run'), str(out), ema=0.2)
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.iterdir()}
    (tmp_path/'empty').mkdir(); exported(lab, 'run', tmp_path/'empty'); assert hashes(tmp_path/'empty') == hashes(out)
    said(cfg_sample, str(out), n=4, T=2, device='cpu'); assert exported(lab, 'run', out).endswith('and whole\n') and len(ImageSet(out/'samples')) == 4
    assert 'net.safetensors is missing' in refused(cfg_train, 'digits', out=str(tmp_path/'empty'), emas=(0.2,), device='cpu')
    assert 'holds no checkpoint' in refused(cfg_export, str(tmp_path), str(tmp_path/'new'))
    assert "ema is 0.7: beside its own average" in refused(cfg_export, str(lab/'run'), str(tmp_path/'new'), ema=0.7)
    (tmp_path/'file').write_text('mine')
    with pytest.raises(OSError, match='file'): cfg_export(str(lab/'run'), str(tmp_path/'file'))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['deep', 'empty', 'file'] and (tmp_path/'file').read_text() == 'mine'


def test_a_disk_that_is_full_leaves_nothing(lab, tmp_path):
    "And one that writes beside another is refused, and harms nothing."
    with patch('cfg_repro.unet.write_file', side_effect=OSError(28, 'No space left on device')), pytest.raises(OSError, match='No space'): exported(lab, 'run', tmp_path/'out')
    assert not list(tmp_path.iterdir())
    def twice(*args): assert 'is in use' in refused(exported, lab, 'run', tmp_path/'out'); return write_record(*args)
    with patch('cfg_repro.samples.write_record', twice): exported(lab, 'run', tmp_path/'out')
    assert manifest(tmp_path/'out') == hashes(tmp_path/'out') and os.listdir(tmp_path) == ['out']


def test_here_is_a_place_too(lab, tmp_path, monkeypatch):
    (tmp_path/'here').mkdir(); monkeypatch.chdir(tmp_path/'here')
    exported(lab, 'run', tmp_path/'there'); said(cfg_export, '../there', '.')
    assert hashes(tmp_path/'here') == hashes(tmp_path/'there') and sorted(os.listdir(tmp_path)) == ['here', 'there']


def test_networks_of_an_export_are_those_of_the_preset(lab): assert UNet.from_pretrained(lab/'export').config.items() >= {k: list(v) if isinstance(v, tuple) else v for k, v in DIGITS.items()}.items()

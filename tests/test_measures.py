"Kernel distances, DINOv2 and measures by class, once more by another road: sums over pairs, torch-fidelity's whole command, layers written out."
import json, math, sys
from itertools import combinations
from unittest.mock import patch
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close
import by_hand
from cfg_repro import sweeps
from cfg_repro.checks import Refusal
from cfg_repro.console import said
from cfg_repro.data import MemorySet, digits
from cfg_repro.evaluate import (Classifier, Extractor, density_coverage, dinov2_weights, evaluate, load_statistics, make_extractor, save_classifier,
                                save_statistics, statistics)
from cfg_repro.files import file_hash, read_record
from cfg_repro.judge import cfg_evaluate, judging
from cfg_repro.results import read_csv
from cfg_repro.runs import cfg_train
from cfg_repro.sets import ImageSet, write_set
from cfg_repro.sweeps import cfg_sweep

real, labels = digits().bytes(torch.arange(1797)), digits().labels
names = [f'number {k}' for k in range(10)]


def pixels(width=16):
    "A network that looks at the mean of every two by two pixels, in double precision."
    def look(images): return F.avg_pool2d(images.double()/64, 2).flatten(1), torch.zeros(len(images), 0)
    return Extractor('pixels', 'w', width, (1,), torch.device('cpu'), look)


def seen(images): return pixels().look(images)[0].numpy()


# The kernel distance

def mmd(f, g):
    "The mean of the cubic kernel over pairs of different images, of either set, less twice that over pairs of both; one pair after the other."
    def k(a, b): return (sum(x*y for x, y in zip(a, b))/len(a) + 1)**3
    def within(s): return np.mean([k(a, b) for a, b in combinations(s, 2)])
    return within(f) + within(g) - 2*np.mean([k(a, b) for a in f for b in g])


def test_kid_is_the_unbiased_discrepancy():
    "Of a hundred parts of nine images, as numpy's old generator draws them with the seed of torch-fidelity, 2020."
    fake = real[:70].flip(3)
    found = evaluate(fake, real[:90], pixels(), splits=1, kid=9)
    f, g, draw = seen(fake), seen(real[:90]), np.random.RandomState(2020)
    parts = [mmd(f[draw.choice(70, 9, replace=False)], g[draw.choice(90, 9, replace=False)]) for _ in range(100)]
    assert found['kid_mean'] == pytest.approx(np.mean(parts), rel=1e-9) and found['kid_std'] == pytest.approx(np.std(parts), rel=1e-9)
    assert not {'kid_mean', 'kid_std'} & evaluate(fake, real[:90], pixels(), splits=1).keys()
    whole = evaluate(fake, real[:90], pixels(), splits=1, kid=70)                # all of the first: the parts differ in the second alone
    assert whole['kid_std'] < found['kid_std'] and whole['kid_mean'] > 0


def test_kid_is_that_of_torch_fidelitys_command():
    "The same images given to the library as a whole, which extracts, draws and sums by itself; here they are looked at once."
    from torch_fidelity import calculate_metrics, register_feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    class Pixels(FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs): super().__init__(name, features_list)
        def forward(self, images): return tuple(pixels().look(images[:, :1])[0] for _ in self.features_list)
        @staticmethod
        def get_provided_features_list(): return ('all',)
        @staticmethod
        def get_default_feature_layer_for_metric(metric): return 'all'
        @staticmethod
        def can_be_compiled(): return False
    class Shown(torch.utils.data.Dataset):
        def __init__(self, images): self.images = images.expand(-1, 3, -1, -1)
        def __len__(self): return len(self.images)
        def __getitem__(self, i): return self.images[i]
    register_feature_extractor('pixels', Pixels)
    fake, looks = real[:300].flip(3), []
    how = dict(feature_extractor='pixels', kid_subset_size=60, cuda=False, verbose=False, cache=False, batch_size=50, save_cpu_ram=True)
    theirs = calculate_metrics(input1=Shown(fake), input2=Shown(real), kid=True, **how)
    extractor = pixels()
    def look(images): looks.append(len(images)); return extractor.look(images)
    watched = Extractor(**vars(extractor) | dict(look=look))
    ours = evaluate(fake, real, watched, splits=1, kid=60)
    assert ours['kid_mean'] == pytest.approx(theirs['kernel_inception_distance_mean'], rel=1e-12)
    assert ours['kid_std'] == pytest.approx(theirs['kernel_inception_distance_std'], rel=1e-12)
    assert sum(looks) == 300 + 1797


def test_kid_of_one_distribution_is_zero_on_average():
    "Over sets of normal features, by their own deviation; and it is the squared discrepancy where the second has moved: cubic moments by hand."
    g = torch.Generator().manual_seed(0)
    def drawn(n, move): return torch.randn(n, 1, 1, 1, generator=g, dtype=torch.float64) + move
    def of(numbers):
        table = {}
        def look(images): return torch.stack([table[int(i)] for i in images.flatten()]).reshape(-1, 1), torch.zeros(len(images), 0)
        table.update(enumerate(numbers.flatten()))
        return Extractor('normal', 'w', 1, (1,), torch.device('cpu'), look)
    def kid(move):
        both = torch.cat([drawn(120, move), drawn(120, 0.)])
        images = torch.arange(240).to(torch.uint8).view(240, 1, 1, 1)
        return evaluate(images[:120], images[120:], of(both), splits=1, kid=100)['kid_mean']
    zeros, moved = [[kid(m) for _ in range(20)] for m in (0., 1.)]
    assert abs(np.mean(zeros)) < 4*np.std(zeros)/20**.5 and min(zeros) < 0
    moments = np.array([0., 2., 4.]), np.array([1., 1., 1.])            # E x, E x^2, E x^3 of N(1,1) less those of N(0,1): 1, 1, 4
    expected = 3*1**2 + 3*1**2 + 4**2                                   # (xy+1)^3 = 1 + 3xy + 3(xy)^2 + (xy)^3
    assert moments and abs(np.mean(moved)-expected) < 4*np.std(moved)/20**.5


# Precision, recall, density and coverage of each class

def prdc(fake, real):
    "By loops: Kynkaanniemi et al.'s two with closed balls to the third neighbour, Naeem et al.'s with open ones to the fifth."
    def far(a, b): return math.dist(a, b)
    def radius(a, s, k): return sorted(far(a, o) for o in s)[k]
    precision = np.mean([any(far(f, r) <= radius(r, real, 3) for r in real) for f in fake])
    recall = np.mean([any(far(f, r) <= radius(f, fake, 3) for f in fake) for r in real])
    hits = [[far(f, r) < radius(r, real, 5) for f in fake] for r in real]
    return dict(precision=precision, recall=recall, density=np.sum(hits)/5/len(fake), coverage=np.mean(np.any(hits, 1)))


def few(idx, flip=False):
    x = digits().x[idx]
    return MemorySet(x.flip(3) if flip else x, labels[idx], dict(n_classes=10, transform='', classes=names))


def same(row, expected):
    for k, v in expected.items(): assert row[k] == pytest.approx(v, abs=1e-6), (k, row[k], v)


def test_measures_of_each_class():
    "Every class of mirrored digits against every class of others, one pair of images after the other."
    fake, theirs = few(torch.arange(100), flip=True), few(torch.arange(300, 500))
    found = evaluate(fake, theirs, pixels(), splits=1, by_class=True)['classes']
    assert [r['label'] for r in found] == [*range(10)]
    expected = []
    for r in found:
        ours, real = (some.bytes(some.labels == r['label']) for some in (fake, theirs))
        assert (r['n'], r['n_reference']) == (len(ours), len(real))
        expected.append(prdc(seen(ours), seen(real)))
        same(r, expected[-1])
    assert len({tuple(e.values()) for e in expected}) > 5 and 'classes' not in evaluate(fake, theirs, pixels(), splits=1)


def test_only_kept_images_are_measured_by_class():
    "Of 100 generated images and of 200 others 90 are kept, each with the class that was asked for."
    first = (labels < 3).nonzero()[:, 0]
    fake, theirs = few(first[:100], flip=True), few(first[200:400])
    def kept(n): return torch.randperm(n, generator=torch.Generator().manual_seed(0))[:90].sort().values
    (f, c), (r, d) = ((some.bytes(idx), some.labels[idx]) for some, idx in ((fake, kept(100)), (theirs, kept(200))))
    for row in evaluate(fake, theirs, pixels(), splits=1, by_class=True, manifold=90)['classes']:
        k = row['label']
        assert (row['n'], row['n_reference']) == ((c == k).sum(), (d == k).sum())
        same(row, prdc(seen(f[c == k]), seen(r[d == k])))


def test_limits_of_the_measures_of_a_class():
    "A set with itself, far from itself, one image again and again, images there twice."
    some = few((labels < 2).nonzero()[:60, 0])
    def measured(images, c): return evaluate(MemorySet(images, c, {}), some, pixels(), splits=1, by_class=True)['classes']
    for r in measured(some.x, some.labels): assert [r[k] for k in ('precision', 'recall', 'density', 'coverage')] == [1.]*4
    for r in measured(-some.x, some.labels): assert [r[k] for k in ('precision', 'recall', 'density', 'coverage')] == [0.]*4
    for r in measured(some.x, 1-some.labels): assert r['recall'] < .5 and r['coverage'] < .5
    one = torch.stack([some.x[some.labels == c][0] for c in some.labels])
    for r in measured(one, some.labels):
        n = r['n_reference']
        assert r['precision'] == 1 and r['recall'] <= 1/n+1e-6 and r['coverage'] < .5 and r['density'] > 0
    f = torch.from_numpy(seen(some.bytes(torch.arange(30))))
    twice = density_coverage(f, f.repeat(2, 1))
    same(twice, {k: v for k, v in prdc(f.numpy(), f.repeat(2, 1).numpy()).items() if k in twice})


def test_classes_come_back_from_a_file(tmp_path):
    "Statistics that were kept say of which class each of their features is; those of version 1 do not."
    fake, theirs = few(torch.arange(100), flip=True), few(torch.arange(300, 500))
    s = statistics(theirs, pixels(), manifold=150)
    save_statistics(tmp_path/'s.npz', s)
    kept = load_statistics(tmp_path/'s.npz')
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:150].sort().values
    assert kept.labels.tolist() == theirs.labels[order].tolist()
    np.testing.assert_array_equal(kept.features, seen(theirs.bytes(order)))
    by_file = evaluate(fake, kept, pixels(), splits=1, by_class=True)
    assert by_file == evaluate(fake, theirs, pixels(), splits=1, by_class=True, manifold=150)
    with np.load(tmp_path/'s.npz') as f: np.savez(tmp_path/'old.npz', **{k: f[k] for k in f if k != 'labels'})
    with pytest.raises(Refusal, match='of which classes'): evaluate(fake, load_statistics(tmp_path/'old.npz'), pixels(), splits=1, by_class=True)


# DINOv2, from a file

def dinov2(width=64, depth=2, side=5, seed=0):
    "Small random weights under the names that DINOv2's authors give them."
    g = torch.Generator().manual_seed(seed)
    shapes = {'cls_token': (1, 1, width), 'pos_embed': (1, 1+side**2, width), 'mask_token': (1, width),
              'patch_embed.proj.weight': (width, 3, 14, 14), 'patch_embed.proj.bias': (width,), 'norm.weight': (width,), 'norm.bias': (width,)}
    for b in (f'blocks.{i}' for i in range(depth)):
        for at, out, into in (('attn.qkv', 3, 1), ('attn.proj', 1, 1), ('mlp.fc1', 4, 1), ('mlp.fc2', 1, 4)):
            shapes |= {f'{b}.{at}.weight': (out*width, into*width), f'{b}.{at}.bias': (out*width,)}
        shapes |= {f'{b}.{at}': (width,) for at in ('norm1.weight', 'norm1.bias', 'norm2.weight', 'norm2.bias', 'ls1.gamma', 'ls2.gamma')}
    return {k: torch.randn(v, generator=g)/v[-1]**.5 + (len(v) == 1) for k, v in shapes.items()}


def cubic(old, new=16):
    "The filter of Keys with a = -3/4, at the places that DINOv2's scale, (16+0.1)/old, gives."
    M, a = torch.zeros(new, old, dtype=torch.float64), -.75
    for i in range(new):
        at = (i+.5)*old/(new+.1) - .5
        for k in range(math.floor(at)-1, math.floor(at)+3):
            d = abs(at-k)
            M[i, min(max(k, 0), old-1)] += (a+2)*d**3 - (a+3)*d**2 + 1 if d <= 1 else a*d**3 - 5*a*d**2 + 8*a*d - 4*a
    return M


def features(w, images):
    "DINOv2's features of images, uint8 (n,C,H,W), from the definitions and in double precision."
    w = {k: v.double() for k, v in w.items()}
    def picture(image):
        rgb = np.repeat(image.numpy(), 3//len(image), 0).transpose(1, 2, 0)
        return np.asarray(Image.fromarray(rgb).resize((224, 224), Image.BICUBIC), dtype=np.float64)/255
    x = torch.from_numpy(np.stack([picture(i) for i in images]) - [.485, .456, .406])/torch.tensor([.229, .224, .225], dtype=torch.float64)
    patches = torch.stack([x[:, 14*i:14*i+14, 14*j:14*j+14].permute(0, 3, 1, 2).flatten(1) for i in range(16) for j in range(16)], 1)
    def norm(h, at):
        h = h - h.mean(-1, keepdim=True)
        return h/(h.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()*w[f'{at}.weight'] + w[f'{at}.bias']
    def linear(h, at): return torch.einsum('...i,oi->...o', h, w[f'{at}.weight'].flatten(1)) + w[f'{at}.bias']
    width, side = len(w['norm.weight']), math.isqrt(w['pos_embed'].shape[1]-1)
    M, grid = cubic(side), w['pos_embed'][0, 1:].view(side, side, width)
    places = grid if side == 16 else torch.einsum('ia,jb,abd->ijd', M, M, grid)
    first = (w['cls_token'] + w['pos_embed'][:, :1]).expand(len(x), 1, width)
    h = torch.cat([first, linear(patches, 'patch_embed.proj') + places.reshape(256, width)], 1)
    depth = 1 + max(int(k.split('.')[1]) for k in w if k.startswith('blocks'))
    for b in (f'blocks.{i}' for i in range(depth)):
        qkv = linear(norm(h, f'{b}.norm1'), f'{b}.attn.qkv')
        heads = []
        for at in range(0, width, 64):
            q, k, v = (qkv[..., n*width+at:n*width+at+64] for n in range(3))
            heads.append((q@k.mT/8).softmax(-1)@v)
        h = h + w[f'{b}.ls1.gamma']*linear(torch.cat(heads, -1), f'{b}.attn.proj')
        up = linear(norm(h, f'{b}.norm2'), f'{b}.mlp.fc1')
        h = h + w[f'{b}.ls2.gamma']*linear(up*torch.special.ndtr(up), f'{b}.mlp.fc2')
    return norm(h, 'norm')[:, 0].numpy()


@pytest.mark.parametrize('width, depth, side, ending', [(64, 1, 5, 'pth'), (128, 3, 37, 'safetensors'), (64, 2, 16, 'pth')])
def test_features_of_dinov2(tmp_path, width, depth, side, ending):
    "Grey and coloured images, small and large, by one and by two heads, with the published grid of 37 places and with others."
    w, path = dinov2(width, depth, side), tmp_path/f'w.{ending}'
    save_file(w, path) if ending == 'safetensors' else torch.save(w, path)
    extractor, g = make_extractor(dinov2=path), torch.Generator().manual_seed(1)
    assert (extractor.width, extractor.channels, extractor.weights) == (width, (1, 3), file_hash(path))
    for shape in ((1, 8, 8), (3, 32, 32), (3, 250, 240)):
        images = torch.randint(256, (2, *shape), dtype=torch.uint8, generator=g)
        with torch.no_grad(): f, logits = extractor.look(images)
        np.testing.assert_allclose(f.numpy(), features(w, images), rtol=1e-3, atol=1e-4)
        assert f.shape == (2, width) and logits.shape == (2, 0)


def test_dinov2_has_its_authors_names():
    "By their widths; and the networks of those sizes are built of what such a file holds."
    from cfg_repro.evaluate import DINOV2, _vit
    published = dict(s=(384, 12), b=(768, 12), l=(1024, 24))
    assert {size: width for width, size in DINOV2.items()} == {size: width for size, (width, _) in published.items()}
    for width, depth in published.values():
        with torch.device('meta'): w = {k: torch.empty(v.shape) for k, v in dinov2_shapes(width, depth).items()}
        net = _vit({k: v for k, v in w.items() if k != 'mask_token'})
        assert (net.embed_dim, len(net.blocks), net.blocks[0].attn.num_heads) == (width, depth, width//64)


def dinov2_shapes(width, depth):
    with patch.object(torch, 'randn', lambda shape, generator: torch.empty(shape, device='meta')): return dinov2(width, depth, 37)


def wrong(folder, **changes):
    w = {k: v for k, v in (dinov2() | changes).items() if v is not None}
    torch.save(w, folder/'w.pth')
    return folder/'w.pth'


@pytest.mark.parametrize('changes, words', [
    (dict(cls_token=None), 'holds no DINOv2 as its authors name it'), (dict(register_tokens=torch.zeros(1, 4, 64)), 'holds no DINOv2'),
    ({'blocks.0.mlp.fc1.weight': None, 'blocks.0.mlp.w12.weight': torch.zeros(9, 64)}, 'holds no DINOv2'), ({'norm.bias': torch.zeros(63)}, r'norm.bias is \(63,\)'),
    ({'blocks.1.mlp.fc2.bias': None}, 'weights of another network'), ({'blocks.7.extra': torch.zeros(2)}, 'weights of another network'),
    (dict(pos_embed=torch.zeros(1, 8, 64)), 'is damaged'), (dict(pos_embed=torch.zeros(64)), 'is damaged'), (dict(cls_token='x'), 'is damaged'),
    ({'norm.weight': torch.zeros(10**7)}, 'another network'), ({'norm.weight': torch.zeros(70)}, 'is damaged'), ({'norm.bias': torch.full((64,), math.nan)}, 'not finite')])
def test_a_wrong_file_of_dinov2(tmp_path, changes, words):
    path = wrong(tmp_path, **changes)
    with pytest.raises(Refusal, match=words) as refused: make_extractor(dinov2=path)
    assert str(path) in str(refused.value) and '\n' not in str(refused.value)


def test_dinov2_without_timm(tmp_path):
    "One sentence, before anything is looked at; and the package is imported without it."
    path = wrong(tmp_path)
    with patch.dict(sys.modules, timm=None, **{'timm.models.vision_transformer': None}):
        for ask in (lambda: make_extractor(dinov2=path), lambda: judging('digits', classifier=tmp_path/'never', dinov2=path)):
            with pytest.raises(Refusal, match=r"DINOv2 needs timm, which is not installed here: pip install 'cfg_repro\[dinov2\]'"): ask()
    assert not (tmp_path/'never').exists()


def test_dinov2_scores_no_classes(tmp_path):
    found = evaluate(real[:90], real[100:200], make_extractor(dinov2=wrong(tmp_path)))
    assert not {'is_mean', 'is_std'} & found.keys() and found['extractor'] == 'dinov2-vit-64-14'


# From the options of the commands to their numbers

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A network that judges, DINOv2, a set of mirrored digits, one of others, and a run."
    folder = tmp_path_factory.mktemp('lab')
    torch.manual_seed(0)
    save_classifier(folder/'own.safetensors', Classifier(1, 10), held_out=.5)
    torch.save(dinov2(), folder/'dinov2.pth')
    for name, some in (('fake', few(torch.arange(120), flip=True)), ('real', few(torch.arange(300, 500)))):
        batch = dict(images=some.bytes(torch.arange(len(some))), labels=some.labels)
        for _ in write_set(folder/name, lambda i: [batch], len(some), some.settings, len(some)): pass
    said(cfg_train, 'digits', out=str(folder/'run'), steps=20, lr=1e-2, device='cpu')
    return folder


def options(lab): return dict(classifier=str(lab/'own.safetensors'), dinov2=str(lab/'dinov2.pth'), device='cpu')


def test_numbers_of_an_evaluation(lab):
    "FD_DINOv2, KID and the table of the classes, each by hand from the files."
    text = said(cfg_evaluate, str(lab/'fake'), str(lab/'real'), splits=1, groups=4, kid=30, by_class=True, out=str(lab/'found.json'), **options(lab))
    found, rows = json.loads((lab/'found.json').read_text()), read_csv(lab/'found-classes.csv')
    row, (fake, theirs) = found['result'], (ImageSet(lab/name) for name in ('fake', 'real'))
    f, g = (features(dinov2(), s.bytes(torch.arange(len(s)))) for s in (fake, theirs))
    assert row['fd_dinov2'] == pytest.approx(by_hand.frechet(f, g), rel=1e-3)
    same(dict(p=row['precision_dinov2'], r=row['recall_dinov2']), dict(p=by_hand.within(g, f), r=by_hand.within(f, g)))
    assert f"FD_DINOv2 {row['fd_dinov2']:.2f} +- {row['fd_se_dinov2']:.2f} (standard error), KD_DINOv2 {row['kid_mean_dinov2']:.3g}" in text
    look = by_hand.judge(lab/'own.safetensors')
    a, b = (look(s.bytes(torch.arange(len(s))))[0] for s in (fake, theirs))
    def means(a, b):
        draw = np.random.RandomState(2020)
        return np.mean([mmd_of(a[draw.choice(len(a), 30, replace=False)], b[draw.choice(len(b), 30, replace=False)]) for _ in range(100)])
    assert row['kid_mean'] == pytest.approx(means(a, b), rel=1e-3, abs=1e-7) and row['kid_mean_dinov2'] == pytest.approx(means(f, g), rel=1e-2)
    for k, r in enumerate(rows):
        assert (r['label'], r['name'], r['n'], r['n_reference']) == (k, names[k], (fake.labels == k).sum(), (theirs.labels == k).sum())
        for key, value in prdc(a[fake.labels == k], b[theirs.labels == k]).items(): assert r[key] == pytest.approx(value, abs=.051), (k, key)
    worst = min(rows, key=lambda r: r['recall'])
    assert f"by class least: {worst['recall']:.3f} of " in text and (found['kid'], found['splits'], found['manifold']) == (30, 1, 10_000)


def mmd_of(f, g):
    "As `mmd`, by matrices."
    def k(a, b): return (a@b.T/a.shape[1] + 1)**3
    def within(K): return (K.sum()-np.trace(K))/(len(K)*(len(K)-1))
    return within(k(f, f)) + within(k(g, g)) - 2*k(f, g).mean()


def test_statistics_by_dinov2_are_kept_beside_the_set(lab):
    "Under its name and the hash of its weights, and made again where other numbers of features are asked for."
    judging(str(lab/'real'), **options(lab))
    kept = lab/'real'/f"dinov2-vit-64-14-{file_hash(lab/'dinov2.pth')[:16]}.npz"
    assert len(load_statistics(kept).features) == 200
    judging(str(lab/'real'), manifold=50, **options(lab))
    assert len(load_statistics(kept).features) == 50


def test_columns_of_a_sweep(lab):
    "Rows and their means over seeds have KID and FD_DINOv2, by hand from the same images; so has the floor; and another sweep is refused."
    how = dict(reference=str(lab/'real'), n=90, w=(1.,), T=(3,), splits=1, kid=40, out=str(lab/'sweep'), **options(lab))
    said(cfg_sweep, [str(lab/'run')], **how)
    (row,), (mean,) = read_csv(lab/'sweep'/'cells.csv'), read_csv(lab/'sweep'/'table1.csv')
    images = by_hand.images(lab/'run', 90, w=1., T=3, v=.3, seed=0)
    theirs = real[300:500]
    f, g = (features(dinov2(), some) for some in (images, theirs))
    assert row['fd_dinov2'] == pytest.approx(by_hand.frechet(f, g), rel=2e-3) == mean['fd_dinov2']
    look, draw = by_hand.judge(lab/'own.safetensors'), np.random.RandomState(2020)
    a, b = look(images)[0], look(theirs)[0]
    parts = [mmd_of(a[draw.choice(90, 40, replace=False)], b[draw.choice(200, 40, replace=False)]) for _ in range(100)]
    assert row['kid_mean'] == pytest.approx(np.mean(parts), rel=1e-2, abs=1e-6) == mean['kid_mean']
    some = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:90]
    assert read_record(lab/'sweep'/'parts'/'floor.json')['fd_dinov2'] == pytest.approx(by_hand.frechet(g[some], g), rel=1e-3)
    noted = read_record(lab/'sweep'/'parts'/'sweep.json')
    assert (noted['kid'], noted['dinov2']) == (40, str(lab/'dinov2.pth'))
    with pytest.raises(Refusal, match='kid 40, not None'): said(cfg_sweep, [str(lab/'run')], **how | dict(kid=0))


def test_a_sweep_without_them_is_noted_as_before(lab, monkeypatch):
    "So a directory of an earlier version goes on."
    seen = []
    def begun(out, about): seen.append(about); raise Refusal('enough')
    monkeypatch.setattr(sweeps, 'begin', begun)
    with pytest.raises(Refusal, match='enough'):
        said(cfg_sweep, [str(lab/'run')], 'digits', n=90, w=(1.,), T=(3,), out=str(lab/'other'), classifier=str(lab/'own.safetensors'), device='cpu')
    assert not {'kid', 'dinov2'} & seen[0].keys()

"Latents: stored as an encoder left them, trained on, sampled and decoded; what they are not is refused."
import pytest
import torch
from cfg_repro.checks import Refusal
from cfg_repro.data import to_uint8
from cfg_repro.evaluate import Classifier, features_of, make_extractor
from cfg_repro.generate import generate, image_noise
from cfg_repro.guidance import guided
from cfg_repro.runs import cfg_train
from cfg_repro.samples import cfg_sample, load_run
from cfg_repro.sampling import sample
from cfg_repro.sets import ImageSet, write_set

n, shape = 24, (4, 8, 8)


def encoded(indices):
    "Latents of two classes, far outside of [-1,1]."
    draws = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) + 3*(i % 2) for i in indices]
    yield dict(images=torch.stack(draws), labels=torch.tensor([i % 2 for i in indices]))


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A set of latents, and a run that learnt from it."
    folder = tmp_path_factory.mktemp('latents')
    for _ in write_set(folder/'data', encoded, n, dict(source='made', n_classes=2, transform=''), 10): pass
    cfg_train('auto', data=str(folder/'data'), out=str(folder/'run'), steps=3, batch_size=4, device='cpu',
              set=['channels=8', 'mult=[1,2]', 'blocks=1', 'attention=[]', 'head_channels=8', 'groups=4'])
    return folder


@pytest.mark.slow
def test_training_sees_the_numbers(lab):
    "No byte, no bound: what the network is shown are the latents; no picture is drawn of them."
    x, c = ImageSet(lab/'data')[:]
    for i in range(n):
        wanted = torch.randn(shape, generator=torch.Generator().manual_seed(i)) + 3*(i % 2)
        assert torch.equal(x[i], wanted) and c[i] == i % 2
    assert x.max() > 4 and not (lab/'run'/'grids').exists() and not (lab/'run'/'newest.png').exists()
    net, s = load_run(lab/'run')
    assert s['data']['latents'] is True and net.in_channels == 4 and net.size == 8


@pytest.mark.slow
def test_samples_are_latents(lab):
    "Those of Algorithm 2 by hand without a bound, kept in float32; a decoder makes images of them."
    cfg_sample(str(lab/'run'), out=str(lab/'samples'), w=2., T=4, n=6, seed=5, device='cpu')
    kept = ImageSet(lab/'samples')
    net, s = load_run(lab/'run')
    noise = image_noise(5, range(6), shape)
    c = torch.tensor([0, 1]*3)
    wanted = sample(guided(net, 2., null=2), noise(0), c, T=4, clip=None, noise=noise)
    assert kept.latents and kept.settings['latents'] is True and torch.equal(kept.labels, c)
    assert torch.allclose(kept[:][0], wanted, atol=1e-5) and wanted.abs().max() > 1
    assert not (lab/'samples'/'samples.png').exists()

    def decoder(z): return to_uint8(z[:, :3].repeat_interleave(2, 2).repeat_interleave(2, 3)/9)
    (batch,) = generate(guided(net, 2., null=2), range(6), shape, lambda i: i % 2, T=4, seed=5, clip=None, decode=decoder)
    assert (batch['images'].int() - decoder(wanted).int()).abs().max() <= 1


@pytest.mark.slow
def test_latents_are_no_images(lab):
    with pytest.raises(Refusal, match='needs a decoder'):
        cfg_sample(str(lab/'run'), out=str(lab/'other'), T=4, n=2, picture=str(lab/'a.png'), device='cpu')
    with pytest.raises(Refusal, match='flip is true and the data are latents'):
        cfg_train('auto', data=str(lab/'data'), out=str(lab/'flipped'), steps=1, set=['flip=true'], device='cpu')
    judge = make_extractor(Classifier(4, 2, 8))
    with pytest.raises(Refusal, match='decode them first'):
        next(features_of(ImageSet(lab/'data'), judge))

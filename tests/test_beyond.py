"What the measurements beyond the paper share: who learns from which digits, who is held out, and what reaches the sampler."
import sys
import pytest, torch
from torch.testing import assert_close
import project
from cfg_repro.data import digits

sys.path.append(str(project.root/'benchmarks'))
import beyond


def test_digits_are_held_out():
    "Every digit is there once, with its label; 600 are held out, the same ones each time."
    (a, held), (x, c) = beyond.parted(), digits()[torch.arange(1797)]
    rows = lambda data: [(*image.flatten().tolist(), int(label)) for image, label in zip(data.x, data.labels)]
    both = rows(a) + rows(held)
    assert sorted(both) == sorted((*image.flatten().tolist(), int(label)) for image, label in zip(x, c))
    assert (len(a), len(held)) == (1197, 600) and all((held.labels == k).sum() > 40 for k in range(10))
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    assert_close(held.x, x[order[1197:]])


def test_a_folder_holds_the_set(tmp_path):
    "Bytes and labels come back from the disk, in order."
    _, held = beyond.parted()
    from cfg_repro.sets import open_data
    back = open_data(beyond.as_folder(held, tmp_path/'held'))
    assert torch.equal(back.bytes(range(600)), held.bytes(range(600))) and back.labels.tolist() == held.labels.tolist()


def test_what_reaches_training(monkeypatch):
    "The digits to learn from, the seed, p_uncond and the settings of the main job."
    told = {}
    monkeypatch.setattr(beyond, 'train', lambda state, data, **how: told.update(how, data=data))
    state, _ = beyond.learning(3, p_uncond=0.4, steps=7)
    assert told.pop('data') is beyond.parted()[0] and state.net.n_classes == 10
    wanted = dict(seed=3, p_uncond=0.4, steps=7, batch_size=128, lr=4e-3, warmup=50, ema_decay=0.9999)
    assert {k: told[k] for k in wanted} == wanted
    again, other = beyond.learning(3, steps=7)[0], beyond.learning(4, steps=7)[0]
    same = [torch.equal(p, q) for p, q in zip(state.net.parameters(), again.net.parameters())]
    assert all(same) and not all(torch.equal(p, q) for p, q in zip(state.net.parameters(), other.net.parameters()))


def test_networks_are_kept(monkeypatch, tmp_path):
    "Each length is the average after so many steps of one training, as a training that stops there leaves it."
    monkeypatch.setattr(beyond, 'kept', tmp_path)
    monkeypatch.setattr(beyond, 'STEPS', (2, 4))
    found = {steps: beyond.network(5, steps, p_uncond=0.5) for steps in (2, 4)}
    for steps, net in found.items():
        state, loop = beyond.learning(5, p_uncond=0.5, steps=steps)
        for _ in loop:
            pass
        for p, q in zip(net.parameters(), state.ema.module.parameters()):
            assert torch.equal(p, q)
        assert not net.training
    monkeypatch.setattr(beyond, 'learning', lambda *_, **__: pytest.fail('trained again'))
    beyond.network(5, 4, p_uncond=0.5)


def test_what_reaches_the_sampler(monkeypatch):
    "Seed, T, v, the labels in turn and the shape."
    told = {}

    def generate(model, indices, shape, labels, **how):
        told.update(how, model=model, n=len(indices), shape=shape, labels=labels([0, 9, 10, 23]).tolist())
        yield dict(images=torch.zeros(2, 1, 8, 8))
        yield dict(images=torch.ones(1, 1, 8, 8))
    monkeypatch.setattr(beyond, 'generate', generate)
    images = beyond.sampled('model', 4, n=3, T=5, logsnrs='grid')
    assert images.sum() == 64 and len(images) == 3
    step = told.pop('step')
    assert step.func is beyond.ancestral_step and step.keywords == dict(v=0.3)
    assert told == dict(model='model', n=3, shape=(1, 8, 8), labels=[0, 9, 0, 3], seed=4, T=5, logsnrs='grid')


def test_pairs():
    "The mean difference, and Student's t for two degrees of freedom, 4.3027 standard errors."
    middle, half = beyond.paired([1., 2., 4.], [2., 5., 6.])
    assert middle == 2. and abs(half - 4.302653*1/3**.5) < 1e-5
    with pytest.raises(ValueError):
        beyond.paired([1.], [1., 2.])

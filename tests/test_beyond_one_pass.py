"Guidance for less than two passes: what the script hands to training and to the sampler, and that it resumes."
import json, sys
import pytest, torch
import project
from cfg_repro.checks import Refusal
from cfg_repro.one_pass import LateUNet, StrengthUNet, guidance_free_loss
from cfg_repro.presets import DIGITS

sys.path.append(str(project.root/'benchmarks'))
import beyond, one_pass


@pytest.fixture
def told(monkeypatch):
    "No training: what each would be told, and networks as they begin."
    told = []

    def learning(seed, *, state, **how):
        told.append((seed, type(state.net), getattr(state.net, 'shared', None), how))
        return state, []
    monkeypatch.setattr(one_pass, 'learning', learning)
    monkeypatch.setattr(one_pass, 'plain', lambda seed, steps: one_pass.new(one_pass.UNet, seed+1).eval())
    monkeypatch.setattr(one_pass, 'distillation_loss', lambda teacher, most: ('taught by', type(teacher), most))
    monkeypatch.setattr(one_pass, 'guidance_free_loss', lambda most: ('taught by none', most))
    return told


def test_what_reaches_training(told):
    "Four networks: seeds, steps, where the label enters, the losses, and no dropped labels for the student."
    one_pass.ways(3, 50)
    assert told == [(3, LateUNet, 0, dict(steps=50)), (3, LateUNet, 2, dict(steps=50)),
                    (3, StrengthUNet, None, dict(steps=50, p_uncond=0., loss=('taught by', one_pass.UNet, 4.))),
                    (3, StrengthUNet, None, dict(steps=50, loss=('taught by none', 4.)))]


def test_what_reaches_the_sampler(told, monkeypatch):
    "Each way is its own network in its own manner, at the strength that is asked for; the student begins as its teacher."
    for name in ('guided', 'late_guided', 'told'):
        monkeypatch.setattr(one_pass, name, lambda net, w, name=name, **more: (name, net, w, more))
    models = {name: model(2.) for name, model in one_pass.ways(3, 50).items()}
    assert {name: (manner, type(net), w, more) for name, (manner, net, w, more) in models.items()} == {
        'plain': ('guided', one_pass.UNet, 2., dict(null=10)),
        'late': ('late_guided', LateUNet, 2., {}), 'last': ('late_guided', LateUNet, 2., {}),
        'student': ('told', StrengthUNet, 2., {}), 'free': ('told', StrengthUNet, 2., {})}
    nets = {name: net for name, (_, net, *_) in models.items()}
    assert (nets['late'].shared, nets['last'].shared) == (0, 2) and nets['student'] is not nets['free']
    taught = nets['student'].state_dict()
    assert all(torch.equal(w, taught[name]) for name, w in nets['plain'].state_dict().items())


def test_turns(monkeypatch):
    "The clock goes from way to way, at w = 1; of each the seconds of its own turn."
    ticks, asked = iter([0., 2., 5., 6., 10., 14., 20., 20.5]), []
    monkeypatch.setattr(one_pass.time, 'perf_counter', lambda: next(ticks))
    monkeypatch.setattr(one_pass, 'sampled', lambda model, seed, n: asked.append((model, seed, n)))
    found = one_pass.seconds(dict(a=lambda w: ('a', w), b=lambda w: ('b', w)), 2, n=7)
    assert found == [dict(a=2., b=1.), dict(a=4., b=.5)]
    assert asked == [(('a', 1.), 0, 7), (('b', 1.), 0, 7)]*2


def test_rows_are_kept(monkeypatch, tmp_path):
    "A row for each way and strength, with what the judge says of its images; made once."
    monkeypatch.setattr(one_pass, 'ways', lambda seed, steps: {'way': lambda w: (seed, steps, w)})
    monkeypatch.setattr(one_pass, 'sampled', lambda model, seed: model)
    monkeypatch.setattr(one_pass, 'judged', lambda images: dict(fd=images[2]))
    monkeypatch.setattr(one_pass, 'seconds', lambda models, rounds: [dict(way=rounds)])
    found = one_pass.rows(tmp_path, 4, 50, 3)
    assert found['rows'] == [dict(way='way', seed=4, w=w, fd=w) for w in one_pass.STRENGTHS] and found['seconds'] == [dict(way=3)]
    monkeypatch.setattr(one_pass, 'ways', lambda *_: pytest.fail('made again'))
    assert one_pass.rows(tmp_path, 4, 50, 3)['rows'] == found['rows']


def test_the_loss_of_none_by_hand():
    "Of a network that answers its label and its strength: the formula, and the ordinary loss where a label was dropped."
    def net(z, logsnr, c, w=0.):
        w = torch.as_tensor(w).expand(len(z))
        return (c + 10*w).view(-1, 1, 1, 1).expand_as(z)
    net.n_classes = 2
    eps = torch.full((3, 1, 4, 4), .5)
    torch.manual_seed(7)
    found = guidance_free_loss(4.)(net, torch.zeros_like(eps), torch.tensor([0, 1, 2]), logsnr=torch.zeros(3), eps=eps)
    torch.manual_seed(7)
    w = 4*torch.rand(3)
    by_hand = [((c + 10*w_ + 2*w_)/(1+w_) - .5)**2 for c, w_ in zip((0, 1), w[:2])] + [torch.tensor((2-.5)**2)]
    torch.testing.assert_close(found, torch.stack(by_hand))


def test_refusals():
    "One sentence each."
    with pytest.raises(Refusal, match='shared is -1: it must be a whole number from 0 to 3'):
        LateUNet(**DIGITS, shared=-1)
    with pytest.raises(Refusal, match='w is -0.5: it must be 0 or more'):
        one_pass.new(StrengthUNet, 0)(torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.zeros(1, dtype=int), -.5)


def test_what_is_kept_comes_back(tmp_path):
    "Both networks can be saved and read again, with what makes them what they are."
    for cls, how in ((LateUNet, dict(shared=2)), (StrengthUNet, {})):
        net = one_pass.new(cls, 0, **how).eval()
        for p in net.parameters():
            p.data += 0.05*torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
        net.save_pretrained(tmp_path/cls.__name__)
        back = cls.from_pretrained(tmp_path/cls.__name__)
        z, logsnr, c = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.tensor([3, 10])
        assert torch.equal(back(z, logsnr, c), net(z, logsnr, c)) and json.loads((tmp_path/cls.__name__/'config.json').read_text()) == net.config

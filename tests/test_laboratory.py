"""The laboratory: what the widgets say is what is sampled, the picture is of it, and whoever samples stays in reach.

The network is the garments' own, read from its checkpoint; Algorithm 2 is by_hand's, in double precision.
"""
import asyncio, io, math, shutil
from html import unescape
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
import by_hand
import project
from cfg_repro.checks import Refusal
from cfg_repro.files import read_record, write_manifest, write_record
from cfg_repro.laboratory import Laboratory, Settings, Subject, code, coloured, picture, subject_of, walk

run = project.root/'results/fashion/p0.1'
garments = subject_of(run)


@pytest.fixture(scope='module')
def kept(tmp_path_factory):
    "The same network as a run that by_hand reads: its own files under the names of a checkpoint's."
    step = tmp_path_factory.mktemp('run')/'step-00004000'
    step.mkdir()
    shutil.copy(run/'model.safetensors', step/'ema.safetensors')
    shutil.copy(run/'state.json', step)
    return step.parent


def opened(**settings):
    "A laboratory whose widgets were set after it was opened, one by one; without an event loop it samples at once."
    lab = Laboratory(garments, T=2, n=1)
    for name, value in settings.items():
        lab.controls[name].value = value
    return lab


def solved(run, s, net):
    "DDIM and DPM-Solver++(2M), with noise and without, from their formulas: the last x, double precision."
    lams = by_hand.grid(s.T) if s.grid == 'paper' else np.linspace(-8, 8, s.T).tolist()
    c, z, before = torch.arange(s.n), by_hand.noise(s.seed, range(s.n), 0, (1, 28, 28)), None
    for t, lam in enumerate(lams, 1):
        alpha, sigma = math.sqrt(1/(1+math.exp(-lam))), math.sqrt(1/(1+math.exp(lam)))
        low, high = s.interval
        x = ((z - sigma*by_hand.eps_free(net, z, lam, c, s.w if low-1e-9 <= lam <= high+1e-9 else 0, 10))/alpha).clamp(-1, 1)
        if t == s.T: return x
        after = lams[t]
        alpha_after, sigma_after = math.sqrt(1/(1+math.exp(-after))), math.sqrt(1/(1+math.exp(after)))
        goal = x
        if '2m' in s.step and before:
            goal = x + (after-lam)/(lam-before[1])/2*(x-before[0])
        before = x, lam
        if s.step == 'sde_dpmpp_2m':
            r = math.exp(lam-after)
            var = ((1-r)*sigma_after**2)**(1-s.v) * ((1-r)*sigma**2)**s.v
            z = r*alpha_after/alpha*z + (1-r)*alpha_after*goal + math.sqrt(var)*by_hand.noise(s.seed, range(s.n), t, (1, 28, 28))
        else:
            z = alpha_after*goal + sigma_after*(z-alpha*goal)/sigma


@pytest.mark.parametrize('changes', [
    dict(w=0.), dict(w=4.), dict(w=-1.), dict(w=4., label=3), dict(w=4., v=0.), dict(w=1., v=1.), dict(w=2., T=8),
    dict(w=3., seed=7, n=4), dict(w=4., interval=(-3., 1.)), dict(w=4., interval=(-3., 20.)), dict(w=4., interval=(-20., -1.))], ids=str)
def test_widgets_arrive(kept, changes):
    "The images are those of Algorithm 2 by hand, for w in and out of an interval, the class, v, T, the seed and the number of images."
    s = Settings(T=4, n=3)._replace(**changes)
    lab = opened(**s._asdict())
    assert lab.settings == s
    low, high = s.interval
    c = torch.arange(s.n) if s.label is None else torch.full((s.n,), s.label)
    *_, (_, x) = by_hand.walk(kept, c, w=lambda lam: s.w if low-1e-9 <= lam <= high+1e-9 else 0, T=s.T, v=s.v, seed=s.seed)
    assert lab.images.shape == (s.n, 1, 28, 28)
    assert_close(lab.images.double(), x, rtol=0, atol=1e-2)


@pytest.mark.parametrize('changes', [
    dict(step='ddim'), dict(step='dpmpp_2m'), dict(step='dpmpp_2m', grid='even', interval=(-3., 1.)),
    dict(step='sde_dpmpp_2m', grid='even', v=0.), dict(step='sde_dpmpp_2m', grid='even', v=1.)], ids=str)
def test_samplers_arrive(kept, changes):
    "Each step and each grid, from their formulas."
    s = Settings(T=8, n=2, w=2.)._replace(**changes)
    lab = opened(**s._asdict())
    assert_close(lab.images.double(), solved(kept, s, by_hand.network(kept)), rtol=0, atol=1e-2)
    assert lab.controls['v'].disabled == (s.step in ('ddim', 'dpmpp_2m'))


def test_what_is_seen(kept):
    "At each step z and x are by_hand's, the vector is the difference of two passes, and the strength that of the interval."
    s = Settings(T=6, n=2, w=3., interval=(-2., 1.))
    net, lams, strengths = by_hand.network(kept), by_hand.grid(6), []
    hand = by_hand.walk(kept, [0, 1], w=lambda lam: 3. if -2 <= lam <= 1 else 0, T=6, v=.3, seed=0)
    for seen, lam, (z, x) in zip(walk(garments, s), lams, hand):
        assert_close(seen.z.double(), z, rtol=0, atol=2e-3)
        assert_close(seen.x.double(), x, rtol=0, atol=1e-2)
        with torch.no_grad():
            told, untold = (net(seen.z, torch.full((2,), seen.logsnr), torch.tensor(c)) for c in ([0, 1], [10, 10]))
        assert_close(seen.vector, told-untold, rtol=0, atol=1e-5)
        assert abs(seen.logsnr-lam) < 1e-6 and told.sub(untold).abs().max() > .01
        strengths.append(seen.w)
    assert strengths == [3. if -2 <= lam <= 1 else 0. for lam in lams] and set(strengths) == {0., 3.}


@pytest.mark.parametrize('w, interval, passes', [(3., (-20., 20.), [4]), (0., (-20., 20.), [2, 2]), (-1., (-20., 20.), [2, 2]),
                                                 (3., (-1., 1.), [2, 2])])
def test_listening_costs_no_pass_that_the_sampler_takes(w, interval, passes):
    "Where guidance acts one batch of both, elsewhere one of each."
    asked = []
    def model(z, logsnr, c): asked.append(len(z)); return z*c.view(-1, 1, 1, 1)
    first = next(walk(Subject(model, (1, 4, 4), list('abc')), Settings(w=w, interval=interval, T=4, n=2)))
    assert asked == passes
    assert_close(first.vector, first.z*torch.tensor([0.-3, 1.-3]).view(2, 1, 1, 1))


# Code

@pytest.mark.parametrize('changes', [dict(), dict(label=3, w=4., interval=(-3., 1.)), dict(step='ddim'), dict(step='dpmpp_2m', grid='even', seed=5),
                                     dict(step='sde_dpmpp_2m', v=.55, w=-1., n=1), dict(w=0., T=2)], ids=str)
def test_code_makes_the_same_images(changes, monkeypatch):
    "What stands under the picture, pasted: to the last bit, in an empty namespace."
    lab = opened(**Settings(T=4, n=3)._replace(**changes)._asdict())
    text = unescape(lab.pasted.value).removeprefix('<pre style="user-select: all">').removesuffix('</pre>')
    pasted = {}
    exec(text, pasted)
    assert torch.equal(pasted['images'], lab.images) and text == code(garments, lab.settings)
    imported = {word.strip(',') for line in text.splitlines() if ' import ' in line for word in line.split(' import ')[1].split()}
    body = text.split('\n\n')[1]
    assert all(name in body for name in imported)
    assert max(map(len, body.splitlines())) <= 120


def test_code_of_any_model():
    "A model that nobody can name is the reader's to bring; a device is said where there is one."
    def model(z, logsnr, c): return z/2 + c.view(-1, 1, 1, 1)/9
    mine = Subject(model, (3, 4, 4), ['cat', 'dog'])
    lab = Laboratory(mine, T=4, n=2, w=1.)
    pasted = dict(model=model)
    exec(code(mine, lab.settings), pasted)
    assert torch.equal(pasted['images'], lab.images) and lab.images.shape == (2, 3, 4, 4)
    assert '# model: yours' in code(mine, Settings())
    assert "(3, 4, 4), 'cuda')" in code(mine._replace(device='cuda'), Settings())
    assert subject_of(run, 'cpu').made == f'model,_ = load_run({str(run)!r})'
    assert subject_of(run, 'meta').made == f"model,_ = load_run({str(run)!r}, 'meta')"
    assert [name for name, _ in lab.controls['label'].options] == ['each in turn', 'cat', 'dog']


# Pictures

def test_pictures_are_of_the_steps():
    "A picture for each step, as a PNG: its pixels are those of z, x and the vector; the slider goes back to any."
    lab = Laboratory(garments, T=4, n=2, w=3.)
    assert list(lab.frames) == [1, 2, 3, 4] and lab.at.value == lab.at.max == 4
    for t, seen in enumerate(walk(garments, lab.settings), 1):
        lab.at.value = t
        pixels = np.asarray(Image.open(io.BytesIO(lab.view.value)))
        assert (pixels == np.asarray(picture(garments, lab.settings, seen))).all()
        side, height = 28*4, pixels.shape[0]
        for row, shown in enumerate((by_hand.as_bytes(seen.z), by_hand.as_bytes(seen.x), coloured(seen.vector))):
            for k in range(2):
                top, left = height-(3-row)*(side+2), pixels.shape[1]-(2-k)*(side+2)
                at = torch.tensor(pixels[top:top+side:side//28, left:left+side:side//28])
                assert torch.equal(at.permute(2, 0, 1), shown[k].expand(3, 28, 28))


def test_columns_have_names():
    "Above the images stands what each shows, and nowhere else does another name change a pixel."
    s = Settings(T=2, n=2)
    seen = next(walk(garments, s))
    first, other = (np.asarray(picture(garments._replace(names=names), s, seen)) for names in (garments.names, ['Hat', *garments.names[1:]]))
    rows, columns = np.nonzero((first != other).any(-1))
    height, side = first.shape[0], 28*4
    assert len(rows) and rows.max() < height-3*(side+2) and columns.max() < first.shape[1]-(side+2)


def test_colours():
    "Ten times the scale is as red as the scale; minus mirrors plus; nothing is white; half of it is paler."
    at = coloured(torch.tensor([2., .2, .1, 0., -.1, -.2, -2.]).view(7, 1, 1, 1))[:, :, 0, 0].int()
    assert torch.equal(at[0], at[1]) and torch.equal(at[5], at[6])
    assert at[3].min() > 240 and at[2].sum() > at[1].sum() and at[1][0] > at[1][2] and at[5][2] > at[5][0]


def test_many_steps_have_some_pictures():
    "A film's 64, the first and the last among them; between two the slider shows the one before."
    def model(z, logsnr, c): return z
    lab = Laboratory(Subject(model, (1, 4, 4), ['a', 'b']), T=128, n=1)
    assert len(lab.frames) == 64 and {1, 128} <= set(lab.frames)
    gap = next(t for t in range(1, 128) if t not in lab.frames)
    lab.at.value = gap
    assert lab.view.value == lab.frames[gap-1]


# While it samples

class Slow:
    "A model that counts its calls."
    def __init__(self): self.calls = 0
    def __call__(self, z, logsnr, c): self.calls += 1; return z/2


def slow(): return Subject(Slow(), (1, 4, 4), ['a', 'b'])


async def until(condition, most=2000):
    for _ in range(most):
        if condition(): return
        await asyncio.sleep(.001)
    raise AssertionError('it did not come')


def test_stop_stops():
    "At once, in the midst: no further call of the model; what was seen stays; go starts from the first step."
    async def main():
        subject = slow()
        lab = Laboratory(subject, T=64, n=1, w=1.)
        assert subject.model.calls == 0                      # the cell ends before anything is sampled
        await until(lambda: len(lab.frames) > 2)
        lab.halt.click()
        calls, frames, view = subject.model.calls, dict(lab.frames), lab.view.value
        await asyncio.sleep(.05)
        assert subject.model.calls == calls < 60 and lab.frames == frames and lab.view.value == view
        assert lab.said.value == 'stopped' and lab.images is None
        lab.go.click()
        await lab.task
        assert subject.model.calls == calls+64 and lab.images is not None and '64 steps in' in lab.said.value
    asyncio.run(main())


def test_a_change_ends_what_is_under_way():
    "The old task makes no further call, and leaves nothing in the new one's pictures; the last of many changes is what is seen."
    async def main():
        subject = slow()
        lab = Laboratory(subject, T=256, n=1, w=1.)
        await until(lambda: len(lab.frames) > 2)
        before = subject.model.calls
        for seed in (1, 2, 3):
            lab.controls['seed'].value = seed
        await until(lambda: len(lab.frames) == 2)
        assert lab.said.value == '' and subject.model.calls < before+60     # the new one goes on, and nobody says `stopped`
        before = subject.model.calls
        lab.controls['T'].value = 4
        await lab.task
        await asyncio.sleep(.05)
        assert subject.model.calls == before+4 and list(lab.frames) == [1, 2, 3, 4] and lab.at.max == lab.at.value == 4
        *_, last = walk(subject, Settings(T=4, n=1, w=1., seed=3))
        assert torch.equal(lab.images, last.x) and '4 steps in' in lab.said.value
    asyncio.run(main())


def test_a_new_start_is_seen_from_the_first_step():
    "Also where the old one was stopped at its first."
    async def main():
        lab = Laboratory(slow(), T=64, n=1, w=1.)
        await until(lambda: lab.frames)
        lab.stop()
        old = lab.view.value
        lab.controls['seed'].value = 5
        await until(lambda: lab.frames)
        assert list(lab.frames) == [1] and lab.view.value == lab.frames[1] != old
        lab.stop()
    asyncio.run(main())


def test_others_have_their_turn():
    "Between two steps the loop runs what waits: a message that takes several turns of it gets through within two steps."
    async def main():
        subject = slow()
        lab, heard = Laboratory(subject, T=32, n=1, w=1.), []
        async def messages():
            while not lab.task.done():
                for _ in range(5): await asyncio.sleep(0)     # as a message goes from socket to widget
                heard.append(subject.model.calls)
        await asyncio.gather(lab.task, messages())
        assert max(b-a for a, b in zip(heard, heard[1:])) <= 2
    asyncio.run(main())


# What cannot be

def test_what_is_offered():
    "A widget cannot be set beyond its ends, nor to a word it does not have; a laboratory is not opened with it, in one sentence."
    lab = Laboratory(slow(), T=2, n=1)
    for name, beyond, end in (('w', 20., 8.), ('w', -3., -1.), ('v', 2., 1.), ('v', -1., 0.), ('n', 99, 12), ('n', 0, 1), ('seed', -1, 0),
                              ('seed', 2**60, 2**53-1), ('interval', (-30., 30.), (-20., 20.))):
        lab.controls[name].value = beyond
        assert lab.controls[name].value == end
    for name, word in (('step', 'euler'), ('grid', 'odd'), ('T', 10), ('label', 2)):
        with pytest.raises(Exception, match='Invalid selection'):
            lab.controls[name].value = word
    wrong = dict(w=8.5, v=-.1, n=13, seed=-1, step='euler', grid='odd', T=10, label=2, interval=(-21., 3.))
    for name, value in wrong.items():
        with pytest.raises(Refusal, match=rf'^{name} is ') as refused:
            Laboratory(slow(), **{name: value})
        assert '\n' not in str(refused.value)


def test_refusals_are_said():
    "An interval without an inside is one sentence beside the buttons; the next change is sampled as ever. So is what a model raises."
    async def main():
        subject = slow()
        lab = Laboratory(subject, T=2, n=1)
        await lab.task
        lab.controls['interval'].value = (3., 3.)
        await until(lambda: lab.task.done())
        await asyncio.sleep(.01)
        assert lab.said.value.startswith('the interval is 3.0 to 3.0: it must be two numbers') and lab.images is None
        lab.controls['interval'].value = (3., 4.)
        await lab.task
        assert lab.images is not None
        def broken(z, logsnr, c): raise RuntimeError('a < b & c')
        lab = Laboratory(subject._replace(model=broken), T=2, n=1)
        await until(lambda: lab.said.value)
        assert lab.said.value == 'a &lt; b &amp; c'
    asyncio.run(main())


def test_what_makes_no_images_is_refused(tmp_path):
    "A noisy classifier; a run of latents; a run that has nothing to guide by."
    with pytest.raises(Refusal, match='classifier makes no images'):
        subject_of(run.parent/'classifier')
    for change, said in ((dict(p_uncond=0.), 'never saw the null class'), (dict(data=dict(latents=True)), 'makes no images')):
        about = read_record(run/'state.json')
        about['settings'] |= dict(change) if 'p_uncond' in change else dict(data=about['settings']['data'] | change['data'])
        folder = tmp_path/next(iter(change))
        folder.mkdir()
        for name in ('config.json', 'model.safetensors'):
            shutil.copy(run/name, folder)
        write_record(folder/'state.json', about)
        write_manifest(folder, 'config.json', 'model.safetensors', 'state.json')
        with pytest.raises(Refusal, match=said):
            subject_of(folder)

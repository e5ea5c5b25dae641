"""What the measurements beyond the paper share: digits of which a third is held out, networks that learn from the rest
and are kept while they do, samples of any model, and a judge that has learnt from the rest and compares with the held-out
third. Networks and the judge are kept in runs/beyond, or in the folder that BEYOND_CACHE names."""
import os
from functools import cache, partial
from pathlib import Path
from statistics import mean, stdev
import torch
from cfg_repro.data import MemorySet, digits
from cfg_repro.digits import SETTINGS
from cfg_repro.generate import generate
from cfg_repro.judge import judging
from cfg_repro.presets import fitting, preset
from cfg_repro.results import interval
from cfg_repro.reverse import ancestral_step
from cfg_repro.runs import LOOP, new_run
from cfg_repro.sets import open_data, write_set
from cfg_repro.training import train
from cfg_repro.unet import UNet

LEARNT, HELD, NULL = 1197, 600, 10
V, T, N = 0.3, 16, 600
STEPS = (50, 100, 200, 500, 1000, 2000)
MEASURED = ('fd', 'is_mean', 'precision', 'recall')
kept = Path(os.environ.get('BEYOND_CACHE', Path(__file__).resolve().parents[1]/'runs'/'beyond'))


@cache
def parted():
    "The digits in a random order, the same each time: those to learn from, and those held out, two sets."
    data = digits()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    x, c = data[order]
    return MemorySet(x[:LEARNT], c[:LEARNT], data.settings), MemorySet(x[LEARNT:], c[LEARNT:], data.settings)


def as_folder(data, path):
    "A set in a folder, written unless it is there."
    def make(indices):
        yield dict(images=data.bytes(indices), labels=data.labels[torch.as_tensor(indices)])
    for _ in write_set(path, make, len(data), data.settings):
        pass
    return path


def learning(seed, name='digits', *, state=None, loss=None, **changes):
    """A network (that of a preset, unless a state is given) and its training on the digits to learn from. The loss is
    Eq. (5), unless another is given."""
    learnt, _ = parted()
    how = {k: SETTINGS[k] for k in ('batch_size', 'lr', 'warmup', 'ema_decay')}
    p = fitting(preset(name, **how | changes), learnt)
    if state is None:
        state = new_run(p, seed, 'cpu')
    more = {} if loss is None else dict(loss=loss)
    return state, train(state, learnt, seed=seed, **{k: p[k] for k in LOOP}, **more)


def network(seed, steps, p_uncond=0.1):
    "The averaged weights after so many training steps, one of STEPS; trained to the last of these once, and kept."
    def path(step):
        return kept/f'p{p_uncond:g}-s{seed}'/str(step)
    if not path(STEPS[-1]).exists():
        state, loop = learning(seed, p_uncond=p_uncond, steps=STEPS[-1])
        for _ in loop:
            if state.step in STEPS:
                state.ema.module.save_pretrained(path(state.step))
    return UNet.from_pretrained(path(steps)).eval()


def labels(indices):
    "Each digit in turn."
    return torch.as_tensor(indices) % 10


def sampled(model, seed, *, n=N, T=T, step=partial(ancestral_step, v=V), **how):
    "Images of a model that is called as model(z, logsnr, c), guided or not: uint8 (n,1,8,8)."
    batches = generate(model, range(n), (1, 8, 8), labels, seed=seed, T=T, step=step, **how)
    return torch.cat([batch['images'] for batch in batches])


@cache
def judge():
    "From images to FD (against the held-out digits), IS, precision, recall and others, by a classifier of those to learn from."
    learnt, held = (as_folder(data, kept/name) for data, name in zip(parted(), ('learnt', 'held')))
    own = dict(classifier=kept/'classifier.safetensors', fit_on=learnt, fit_steps=SETTINGS['classifier_steps'])
    return judging(held, **own)


def judged(images):
    "FD, IS, precision and recall of some images."
    found = judge()(images, splits=1)
    return {k: found[k] for k in MEASURED}


def paired(first, second):
    "The mean of second - first, one pair a seed, and half the width of its 95% interval."
    apart = [b-a for a, b in zip(first, second, strict=True)]
    return mean(apart), interval(stdev(apart), len(apart))

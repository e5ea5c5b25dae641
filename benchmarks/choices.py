"""Two choices of the paper, measured on the digits: the exponent v of the step's variance, and the density p(lambda)
of the noise levels in training: python benchmarks/choices.py. The same line goes on where it stopped; the pages
40_digits and 21_training read what it finds."""
from functools import partial
from pathlib import Path
import torch
from cfg_repro.console import command, progress
from cfg_repro.data import digits
from cfg_repro.digits import SETTINGS
from cfg_repro.files import held_record, locked, read_record, write_record
from cfg_repro.generate import generate
from cfg_repro.guidance import guided
from cfg_repro.judge import judging
from cfg_repro.objective import eps_loss
from cfg_repro.presets import fitting, preset
from cfg_repro.results import provenance, write_csv, write_json
from cfg_repro.reverse import ancestral_step
from cfg_repro.runs import LOOP, new_run
from cfg_repro.schedule import u_of
from cfg_repro.sweeps import begin
from cfg_repro.training import train

results = Path(__file__).resolve().parents[1]/'results'
P_UNCOND, V = 0.1, SETTINGS['v']
VS, TS, STRENGTHS, LONG = (0., 0.3, 0.6, 0.8, 1.), (16, 64), (0., 0.5), 64
MEASURED = ('fd', 'is_mean', 'precision', 'recall')


def uniform(net, x, c, *, logsnr, eps):
    "Eq. (5) with every log-SNR from -20 to 20 as likely as any other, from draws of the paper's p(lambda)."
    even = 20 - 40*u_of(logsnr.double(), -20., 20.)
    return eps_loss(net, x, c, logsnr=even.float(), eps=eps)


LOSSES = dict(paper=eps_loss, uniform=uniform)


def trained(density, seed, steps, data=None):
    "A network of the digits, or of some of them, ready to sample."
    data = digits() if data is None else data
    how = {k: SETTINGS[k] for k in ('batch_size', 'lr', 'warmup', 'ema_decay')}
    p = fitting(preset('digits', p_uncond=P_UNCOND, steps=steps, **how), data)
    state = new_run(p, seed, 'cpu')
    loop = {name: p[name] for name in LOOP} | dict(loss=LOSSES[density])
    for _ in train(state, data, seed=seed, **loop):
        pass
    return state.ema.module.eval()


def spectrum():
    "The mean of the digits, their 64 principal directions, the widest first, and the variance along each."
    x, _ = digits()[torch.arange(1797)]
    x = x.flatten(1).double()
    variances, directions = torch.linalg.eigh(x.T.cov())
    return x.mean(0), directions.flip(1), variances.flip(0)


def widths(images, parts=4):
    "The variance of images along the digits' principal directions over the digits' own, in parts of 16 directions."
    mean, directions, variances = spectrum()
    x = images.flatten(1).double()/127.5 - 1
    found = ((x-mean) @ directions).var(0)
    return {f'width_{i}': (a.sum()/b.sum()).item()
            for i, (a, b) in enumerate(zip(found.chunk(parts), variances.chunk(parts)), 1)}


def sampled(net, seed, n, w, T, v):
    "Images of a network, as many of each digit: uint8 (n,1,8,8)."
    how = dict(seed=seed, T=T, step=partial(ancestral_step, v=v))
    batches = generate(guided(net, w, null=10), range(n), (1, 8, 8), lambda i: i % 10, **how)
    return torch.cat([batch['images'] for batch in batches])


def cell(net, judge, seed, n, w, T, v):
    "The row of one sample of a network."
    images = sampled(net, seed, n, w, T, v)
    found = judge(images, splits=1)
    return dict(w=w, T=T, v=v) | {k: found[k] for k in MEASURED} | widths(images)


def wanted(density):
    "What a network is asked for, as (w, T, v): those of the paper's density by every v, the others by one."
    if density == 'paper':
        return [(0., T, v) for T in TS for v in VS] + [(w, LONG, V) for w in STRENGTHS if w]
    return [(w, LONG, V) for w in STRENGTHS]


def rows(out, judge, density, seed, n, steps):
    "The rows of one network, which is trained unless they are there."
    path = out/'parts'/'cells'/f'{density}-{seed}.json'
    if held_record(path) is None:
        net = trained(density, seed, steps)
        found = [cell(net, judge, seed, n, *what) for what in wanted(density)]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, dict(rows=[dict(density=density, seed=seed) | row for row in found]))
    return read_record(path)['rows']


@command
def choices(
    out:str=str(results/'choices'), # Directory of the result
    seeds:int=3, # Networks of each density, each with its own seed
    n:int=2_000, # Images of a cell
    steps:int=SETTINGS['steps'], # Training steps
):
    "v and p(lambda) on the digits. Stop it, and the same line resumes."
    torch.set_num_threads(1)
    out, kept = Path(out), {k: SETTINGS[k] for k in ('batch_size', 'lr', 'warmup', 'ema_decay', 'classifier_steps')}
    settings = dict(p_uncond=P_UNCOND, n=n, steps=steps) | kept
    with locked(out/'parts'):
        begin(out, settings)
        own = out/'parts'/'classifier.safetensors'
        judge = judging('digits', classifier=own, fit_steps=SETTINGS['classifier_steps'])
        jobs = [(density, seed) for seed in range(seeds) for density in LOSSES]
        found = [row for job in progress(jobs, unit=' networks') for row in rows(out, judge, *job, n, steps)]
    write_csv(out/'choices.csv', found)
    about = dict(variances=spectrum()[2].tolist(), judge=judge.about)
    write_json(out/'provenance.json', provenance(settings=settings, seeds=seeds, **about))


if __name__ == '__main__':
    choices.console()

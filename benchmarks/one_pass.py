"""Guidance for less than two passes a step, on the digits: the label late, a student of a guided network, and a network
that needs no teacher, beside plain guidance: python benchmarks/one_pass.py. The same line goes on where it stopped; the
page 68_one_pass reads what it finds."""
import time
from functools import cache
from pathlib import Path
from statistics import median
import torch
from cfg_repro.console import command, progress
from cfg_repro.files import held_record, locked, read_record, write_record
from cfg_repro.guidance import guided
from cfg_repro.one_pass import (LateUNet, StrengthUNet, distillation_loss, guidance_free_loss,
                                late_guided, told)
from cfg_repro.presets import DIGITS
from cfg_repro.results import provenance, write_csv, write_json
from cfg_repro.sweeps import begin
from cfg_repro.training import new_state, seeded
from cfg_repro.unet import UNet
import beyond
from beyond import NULL, judged, learning, sampled

results = Path(__file__).resolve().parents[1]/'results'
STRENGTHS, MOST, LAST_LEVEL = (0., 0.1, 0.3, 0.5, 1., 2., 4.), 4., 2


def learnt(seed, steps, net, **changes):
    "A network after so many steps of the shared settings, its average, ready to sample."
    state, loop = learning(seed, steps=steps, state=new_state(net), **changes)
    for _ in loop:
        pass
    return state.ema.module.eval()


@cache
def plain(seed, steps):
    "The network that plain guidance asks twice."
    return beyond.network(seed, steps)


def new(cls, seed, **how):
    "A network of the size of the digits'."
    with seeded(seed):
        return cls(**DIGITS, **how)


def student(seed, steps):
    "A network that begins as the plain one and learns what that says, guided, in as many steps again."
    teacher = plain(seed, steps)
    net = new(StrengthUNet, seed)
    net.load_state_dict(teacher.state_dict(), strict=False)
    return learnt(seed, steps, net, p_uncond=0., loss=distillation_loss(teacher, MOST))


def ways(seed, steps):
    "Name -> a function that makes the model of a strength."
    late = {name: learnt(seed, steps, new(LateUNet, seed, shared=shared))
            for name, shared in dict(late=0, last=LAST_LEVEL).items()}
    taught = student(seed, steps)
    free = learnt(seed, steps, new(StrengthUNet, seed), loss=guidance_free_loss(MOST))
    return dict(plain=lambda w: guided(plain(seed, steps), w, null=NULL),
                late=lambda w: late_guided(late['late'], w),
                last=lambda w: late_guided(late['last'], w),
                student=lambda w: told(taught, w),
                free=lambda w: told(free, w))


def seconds(models, rounds, n=250):
    "Of each way the seconds of sampling at w = 1, in turns: a list, one a round."
    found = []
    for _ in range(rounds):
        found.append({})
        for name, model in models.items():
            start = time.perf_counter()
            sampled(model(1.), 0, n=n)
            found[-1][name] = time.perf_counter()-start
    return found


def rows(out, seed, steps, rounds):
    "The rows of one seed, and the seconds, unless they are there."
    path = out/'parts'/'cells'/f'{seed}.json'
    if held_record(path) is None:
        models = ways(seed, steps)
        found = [dict(way=name, seed=seed, w=w) | judged(sampled(model(w), seed))
                 for name, model in models.items() for w in STRENGTHS]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, dict(rows=found, seconds=seconds(models, rounds)))
    return read_record(path)


@command
def one_pass(
    out:str=str(results/'one_pass'), # Directory of the result
    seeds:int=5, # Networks of each way, each with its own seed
    steps:int=500, # Training steps of each, one of beyond.STEPS
    rounds:int=3, # Rounds of the clock for each seed
):
    "Guidance for less than two passes a step. Stop it, and the same line resumes."
    torch.set_num_threads(1)
    out = Path(out)
    settings = dict(steps=steps, n=beyond.N, T=beyond.T, v=beyond.V, most=MOST, rounds=rounds)
    with locked(out/'parts'):
        begin(out, settings)
        found = [rows(out, seed, steps, rounds) for seed in progress(range(seeds), unit=' seeds')]
    write_csv(out/'rows.csv', [row for part in found for row in part['rows']])
    clock = [turn for part in found for turn in part['seconds']]
    ratios = {name: median(turn[name]/turn['plain'] for turn in clock) for name in clock[0]}
    write_json(out/'provenance.json', provenance(settings=settings, seeds=seeds, ratios=ratios, seconds=clock))


if __name__ == '__main__':
    one_pass.console()

"""What the two ways of guidance cost on the garments: seconds for the same images, in turns, so that what else the
machine does falls on both: python benchmarks/guides.py. The page 46_fashion reads what it finds."""
import time
from functools import partial
from pathlib import Path
from statistics import median
import torch
from cfg_repro.console import command, progress
from cfg_repro.results import provenance, write_json
from cfg_repro.samples import load_guide, load_run, maker

results = Path(__file__).resolve().parents[1]/'results'


def ways(here, guide_by, w, T):
    "A function for each way of guidance: images i.. -> nothing, made as cfg_sweep makes them."
    model, s = load_run(here/'p0.1')
    how = dict(w=w, T=T, v=s['v'], step='dpmpp_2m', grid='even')
    guides = {'classifier-free': None, 'classifier': load_guide(guide_by, s)}

    def make(guide, images):
        batches, _ = maker(model, s, guide_by=guide, **how)
        for _ in batches(images):
            pass
    return {name: partial(make, guide) for name, guide in guides.items()}


def seconds(work, images):
    "How long it takes."
    began = time.perf_counter()
    work(images)
    return time.perf_counter() - began


@command
def guides(
    here:str=str(results/'fashion'), # Directory of the networks and of the result
    n:int=50, # Images of a round
    rounds:int=7, # Rounds, in each of which both ways take their turn
    w:float=1., # Guidance strength
    T:int=8, # Steps
):
    "Seconds of guidance by a classifier over seconds without one, in turns."
    torch.set_num_threads(1)
    here = Path(here)
    both = ways(here, here/'classifier', w, T)
    for work in both.values():      # once for nothing: memory, threads
        work(range(2))
    images = range(n)
    taken = [{name: seconds(work, images) for name, work in both.items()}
             for _ in progress(range(rounds), unit=' rounds')]
    ratios = [t['classifier']/t['classifier-free'] for t in taken]
    print(f'{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})')
    settings = dict(n=n, w=w, T=T)
    write_json(here/'guides'/'times.json', provenance(settings=settings, seconds=taken, ratios=ratios))


if __name__ == '__main__':
    guides.console()

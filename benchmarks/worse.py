"""A worse guide on the digits: the network away from its own earlier self, or from a random class of its own, in place
of the prediction without a class: python benchmarks/worse.py, after benchmarks/mends.py, whose rows of guidance itself
stand beside these. The same line goes on where it stopped; the page 66_worse reads what it finds."""
from functools import partial
from pathlib import Path
import torch
import beyond
from mends import looked_at, part
from cfg_repro.console import command, progress
from cfg_repro.files import locked
from cfg_repro.results import provenance, write_csv, write_json
from cfg_repro.sweeps import begin
from cfg_repro.worse import guided_by

results = Path(__file__).resolve().parents[1]/'results'
LENGTHS, EARLIER = (500, 2000), (100, 200)
W = {'100': (.1, .2, .3, .5, 1.), '200': (.2, .3, .5, 1., 2.), 'any class': (.1, .2, .3, .5)}


def any_class(net, seed):
    "A network that is asked for a random class, whatever is wanted."
    draw = torch.Generator().manual_seed(seed)
    return lambda z, logsnr, c: net(z, logsnr, torch.randint(beyond.NULL, c.shape, generator=draw))


def guides(net, seed):
    "What to lead away from, by name: a function that makes it, for each sample anew."
    earlier = {str(steps): partial(beyond.network, seed, steps) for steps in EARLIER}
    return earlier | {'any class': partial(any_class, net, seed)}


def cell(net, seed, make, w):
    "What is measured of a sample."
    images = beyond.sampled(guided_by(net, make(), w), seed)
    return looked_at(images, beyond.labels(range(len(images))))


def of_network(seed, steps):
    "The rows of one network: each guide at its strengths."
    net = beyond.network(seed, steps)
    rows = [dict(seed=seed, steps=steps, guide=name, w=w) | cell(net, seed, make, w)
            for name, make in guides(net, seed).items() for w in W[name]]
    return dict(cells=rows)


@command
def worse(
    out:str=str(results/'worse'), # Directory of the result
    seeds:int=5, # Networks of each length of training, each with its own seed
    lengths:tuple[int,...]=LENGTHS, # Training steps of the better network
):
    "Worse guides on the digits. Stop it, and the same line resumes."
    torch.set_num_threads(1)
    out, settings = Path(out), dict(w=W, earlier=EARLIER, n=beyond.N, T=beyond.T, v=beyond.V)
    with locked(out/'parts'):
        begin(out, settings)
        jobs = [(seed, steps) for seed in range(seeds) for steps in lengths]
        found = [part(out/'parts'/f'{seed}-{steps}.json', partial(of_network, seed, steps))
                 for seed, steps in progress(jobs, unit=' networks')]
    write_csv(out/'cells.csv', [row for one in found for row in one['cells']])
    write_json(out/'provenance.json', provenance(settings=settings, seeds=seeds, lengths=lengths))


if __name__ == '__main__':
    worse.console()

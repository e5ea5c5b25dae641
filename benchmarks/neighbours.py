"""Does a network copy what it has learnt from? It learns from five sixths of the digits; how far each of its samples
lies from the nearest of these is compared with how far the other sixth, real digits that it has not seen, lies from
them: python benchmarks/neighbours.py. The page 40_digits reads what it finds."""
from pathlib import Path
import torch
from cfg_repro.console import command
from cfg_repro.data import MemorySet, digits, from_uint8
from cfg_repro.digits import SETTINGS
from cfg_repro.results import provenance, write_json
from choices import sampled, trained

results = Path(__file__).resolve().parents[1]/'results'


def parted(seed):
    "All digits in a random order, (1797,1,8,8) in [-1,1], and their labels: the first 1,500 are to learn from."
    data = digits()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data[order]


def nearest(images, others):
    "Of each image the distance to the nearest of the others, and which that is: two (B,)."
    found = torch.cdist(images.flatten(1).double(), others.flatten(1).double()).min(1)
    return found.values, found.indices


@command
def neighbours(
    out:str=str(results/'neighbours.json'), # File of the result
    n:int=300, # Samples for each strength
    steps:int=SETTINGS['steps'], # Training steps
    T:int=64, # Steps of the sampler
    seed:int=0, # Of what is held out, the weights and the draws
):
    "How far samples of digits lie from those that were learnt from."
    torch.set_num_threads(1)
    x, c = parted(seed)
    old, new = x[:1500], x[1500:]
    net = trained('paper', seed, steps, MemorySet(old, c[:1500], digits().settings))
    real, _ = nearest(new, old)
    found = dict(new=real.tolist())
    pairs = {}
    for w in (0., 1., 4.):
        images = from_uint8(sampled(net, seed, n, w, T, SETTINGS['v']))
        far, which = nearest(images, old)
        found[f'w={w:g}'] = far.tolist()
        pairs[f'w={w:g}'] = dict(samples=images[:10, 0].tolist(), nearest=old[which[:10], 0].tolist())
    settings = dict(n=n, steps=steps, T=T, seed=seed)
    write_json(Path(out), provenance(settings=settings, distances=found, pairs=pairs))


if __name__ == '__main__':
    neighbours.console()

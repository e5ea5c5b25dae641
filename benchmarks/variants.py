"""Variants of guidance on the digits, each at several strengths, by networks that have learnt little and more:
python benchmarks/variants.py. The same line goes on where it stopped; the page 67_variants reads what it finds."""
from functools import partial
from pathlib import Path
import torch
from cfg_repro.console import command, progress
from cfg_repro.files import held_record, locked, read_record, write_record
from cfg_repro.guidance import guided, limited
from cfg_repro.results import provenance, write_csv, write_json
from cfg_repro.sweeps import begin
from cfg_repro.variants import mixed, projected, ramp, rescaled, still, zero_star
from beyond import N, NULL, T, V, judged, network, sampled

results = Path(__file__).resolve().parents[1]/'results'
STRENGTHS = {200: (.5, .625, .75, .875, 1., 1.5), 500: (.2, .3, .4, .5, .6, .75)}    # by steps of training
SEEDS = {200: 5, 500: 5}
INTERVAL, PHI, R, FIRST = (-2., 4.), 0.7, 2.5, -19.


def strengths(make):
    "A variant that is a strength by log-SNR."
    return lambda net, w: guided(net, make(w), null=NULL)


def mixes(mix, **how):
    "A variant that is another mix of the two predictions."
    return lambda net, w: mixed(net, partial(mix, **how), w, null=NULL)


VARIANTS = {
    'plain': strengths(lambda w: w),
    'interval': strengths(lambda w: limited(w, *INTERVAL)),
    'up': strengths(ramp),
    'down': strengths(partial(ramp, down=True)),
    'rescaled x': mixes(rescaled, phi=PHI),
    'rescaled eps': mixes(rescaled, phi=PHI, of_x=False),
    'projected': mixes(projected, r=R),
    'zero-star': lambda net, w: still(mixes(zero_star)(net, w), FIRST),
}


class Counted:
    "A network that counts the images that go through it."
    def __init__(self, net):
        self.net, self.passes = net, 0

    def __call__(self, z, logsnr, c):
        self.passes += len(z)
        return self.net(z, logsnr, c)


def cell(net, variant, w, seed):
    "What a variant makes at one strength: judged, and the passes of a sample."
    counted = Counted(net)
    images = sampled(VARIANTS[variant](counted, w), seed)
    return dict(w=w) | judged(images) | dict(passes=counted.passes/len(images))


def rows(out, seed, steps, variant):
    "The rows of a variant by one network; that of no guidance stands with plain guidance."
    path = out/'parts'/'cells'/f'{seed}-{steps}-{variant.replace(" ", "-")}.json'
    if held_record(path) is None:
        net, asked = network(seed, steps), STRENGTHS[steps]
        asked = (0., *asked) if variant == 'plain' else asked
        found = [cell(net, variant, w, seed) for w in asked]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, dict(rows=[dict(seed=seed, steps=steps, variant=variant) | row for row in found]))
    return read_record(path)['rows']


@command
def variants(
    out:str=str(results/'variants'), # Directory of the result
):
    "Variants of guidance, each at several strengths. Stop it, and the same line resumes."
    torch.set_num_threads(1)
    out = Path(out)
    strengths_of = {str(steps): list(ws) for steps, ws in STRENGTHS.items()}
    settings = dict(T=T, v=V, n=N, strengths=strengths_of, interval=INTERVAL, phi=PHI, r=R, still_until=FIRST)
    with locked(out/'parts'):
        begin(out, settings)
        jobs = [(seed, steps, name) for steps in STRENGTHS for seed in range(SEEDS[steps]) for name in VARIANTS]
        found = [row for job in progress(jobs, unit=' curves') for row in rows(out, *job)]
    write_csv(out/'variants.csv', found)
    write_json(out/'provenance.json', provenance(settings=settings, seeds=SEEDS))


if __name__ == '__main__':
    variants.console()

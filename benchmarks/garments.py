"""What was found beyond the paper on digits, once more on photographs of garments: the best w by training steps, a worse
guide, and variants: python benchmarks/garments.py, after `bash results/fashion/run.sh networks`, which prepares the set and
leaves its judge. Networks are trained by cfg_train, and kept with their parts. The same line goes on where it stopped; the
page 69_garments reads what it finds."""
from functools import cache, partial
from pathlib import Path
import torch
from mends import part, within
from variants import INTERVAL, VARIANTS
from worse import any_class
from cfg_repro.console import command, progress
from cfg_repro.files import locked
from cfg_repro.generate import generate
from cfg_repro.guidance import guided
from cfg_repro.judge import judging
from cfg_repro.results import provenance, write_csv, write_json
from cfg_repro.runs import cfg_train
from cfg_repro.samples import load_run
from cfg_repro.solvers import even_grid, sde_dpmpp_2m_step
from cfg_repro.sweeps import begin
from cfg_repro.worse import guided_by
from beyond import MEASURED, NULL, labels

root = Path(__file__).resolve().parents[1]
N, T, P, PAUSE = 500, 8, 0.1, 250
LENGTHS, LAST = (250, 500, 1000), 1000
W = {250: (0., 1., 2., 3., 4., 6.), 500: (0., .7, 1., 1.5, 2., 3., 4.), 1000: (0., .3, .5, .7, 1., 1.5, 2.)}
EARLIER = (250, 500)
AWAY = {'250': (.1, .2, .4, .7, 1.), '500': (.2, .4, .8, 1.4, 2.), 'any class': (.2, .4, .7, 1.)}
RULES = {name: rule for name, rule in VARIANTS.items() if name != 'plain'}
VARIED, USUAL = 1000, (.4, .7, 1.1, 1.6)
BY_RULE = {name: (*USUAL, 2.4) if name == 'interval' else USUAL for name in RULES}


def trained(work, seed):
    "The run of a network: the preset of garments, short, with its average kept on the way."
    run = work/f's{seed}'
    cfg_train('fashion', data=str(work/'train'), out=str(run), p_uncond=P, steps=LAST, seed=seed,
              snapshot_every=PAUSE, grid_every=0)
    return run


def network(work, seed, steps):
    "Its averaged weights after so many steps."
    net, _ = load_run(work/f's{seed}'/'snapshots'/f'step-{steps:08d}')
    return net


def sampled(model, seed):
    "Garments of each class in turn, by eight calls of the solver with noise: uint8 (n,1,28,28)."
    batches = generate(model, range(N), (1, 28, 28), labels, seed=seed, logsnrs=even_grid(T), step=sde_dpmpp_2m_step)
    return torch.cat([batch['images'] for batch in batches])


@cache
def judge(work, taught):
    "The judge of the tables of garments, which compares with the test set."
    return judging(work/'test', classifier=taught, fit_on=work/'train', fit_steps=18_000)


def looked_at(images, judged):
    "What is measured of some images."
    found = judged(images, splits=1)
    return {k: found[k] for k in MEASURED} | dict(within=within(images, labels(range(len(images)))))


def by_length(net_of, seed):
    "Pairs of a row's own words and a model: guidance itself, at each length of training."
    for steps in LENGTHS:
        for w in W[steps]:
            yield dict(steps=steps, rule='plain', w=w), guided(net_of(steps), w, null=NULL)


def away(net_of, seed):
    "The same for a worse guide of the network that has learnt longest."
    net = net_of(LAST)
    guides = {str(steps): lambda steps=steps: net_of(steps) for steps in EARLIER}
    guides |= {'any class': partial(any_class, net, seed)}
    for name, make in guides.items():
        for w in AWAY[name]:
            yield dict(steps=LAST, rule=f'away from {name}', w=w), guided_by(net, make(), w)


def varied(net_of, seed):
    "The same for the variants of guidance."
    for name, rule in RULES.items():
        for w in BY_RULE[name]:
            yield dict(steps=VARIED, rule=name, w=w), rule(net_of(VARIED), w)


PARTS = dict(lengths=by_length, away=away, variants=varied)


def rows(work, judged, name, seed):
    "The rows of a part by one seed."
    trained(work, seed)
    net_of = cache(partial(network, work, seed))
    found = [about | looked_at(sampled(model, seed), judged) for about, model in PARTS[name](net_of, seed)]
    return dict(cells=[dict(seed=seed) | row for row in found])


@command
def garments(
    work:str=str(root/'runs'/'fashion'), # Directory of the prepared sets, train and test, and of the runs
    taught:str=str(root/'results'/'fashion'/'judge.safetensors'), # File of the judge
    out:str=str(root/'results'/'garments'), # Directory of the result
    seeds:tuple[int,...]=(0, 1, 2), # A network each
):
    "Beyond the paper on garments. Stop it, and the same line resumes."
    torch.set_num_threads(1)
    strengths = dict(lengths={str(n): list(ws) for n, ws in W.items()}, away=AWAY, variants=BY_RULE)
    work, out, settings = Path(work), Path(out), dict(n=N, T=T, p_uncond=P, interval=INTERVAL, strengths=strengths)
    judged, jobs = judge(work, taught), [(name, seed) for seed in seeds for name in PARTS]
    with locked(out/'parts'):
        begin(out, settings)
        found = [part(out/'parts'/f'{seed}-{name}.json', partial(rows, work, judged, name, seed))
                 for name, seed in progress(jobs, unit=' parts')]
    write_csv(out/'garments.csv', [row for one in found for row in one['cells']])
    write_json(out/'provenance.json', provenance(settings=settings, seeds=seeds))


if __name__ == '__main__':
    garments.console()

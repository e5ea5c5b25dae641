"How many calls of the network each sampler needs for the quality of 256 ancestral steps, on the digits: python benchmarks/calls.py. The same line goes on where it stopped; page 50_speed draws what it finds."
import argparse, json
from functools import partial
from itertools import product
from pathlib import Path
import torch
from tqdm import tqdm
from cfg_repro.data import digits, held_record, locked, read_record, to_uint8, write_record
from cfg_repro.digits import NET, SETTINGS, load_classifier, networks, sampler, train_network
from cfg_repro.evaluate import evaluate, make_extractor, statistics
from cfg_repro.experiments import command, provenance, write_csv, write_json
from cfg_repro.reverse import ancestral_step, ddim_step, dpmpp_2m_step, sde_dpmpp_2m_step
from cfg_repro.samples import GRIDS

STEPS = {'ancestral': partial(ancestral_step, v=SETTINGS['v']), 'DDIM': ddim_step, 'DPM-Solver++(2M)': dpmpp_2m_step, 'SDE-DPM-Solver++(2M)': sde_dpmpp_2m_step}
T = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
REFERENCE = 'ancestral', 'paper', 256
P_UNCOND, STRENGTH = 0.1, 0.5


def cell(out, s, judge, name, grid, steps, seed):
    "The row of one sampler on one grid with one number of steps: a sample of one network, scored."
    path = out/'parts'/'cells'/f'{name}-{grid}-{steps}-{seed}.json'
    if not held_record(path):
        make = sampler(dict(guidance='free', p_uncond=P_UNCOND, w=STRENGTH, T=steps, seed=seed), out, s)
        images = torch.cat([batch['images'] for batch in make(range(s['n']), step=STEPS[name], logsnrs=GRIDS[grid](steps))])
        found = evaluate(images, judge[1], judge[0], splits=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, dict(sampler=name, grid=grid, T=steps, seed=seed) | {k: found[k] for k in ('fd', 'is_mean', 'precision', 'recall')})
    return read_record(path)


@command
def calls():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', default=str(Path(__file__).resolve().parents[1]/'results'/'calls'), help='directory of the result')
    parser.add_argument('--seeds', type=int, default=5, help='networks, each with its own seed')
    parser.add_argument('--n', type=int, default=2_000, help='images of a cell')
    parser.add_argument('--steps', type=int, default=SETTINGS['steps'], help='training steps')
    parser.add_argument('--T', type=int, nargs='+', default=list(T), help='numbers of steps')
    args = parser.parse_args()
    torch.set_num_threads(1)
    out, s = Path(args.out), SETTINGS | dict(p_uncond=[P_UNCOND], seeds=args.seeds, n=args.n, steps=args.steps)
    (out/'parts').mkdir(parents=True, exist_ok=True)
    with locked(out/'parts'):
        known = out/'parts'/'settings.json'
        settings = json.loads(json.dumps(dict(p_uncond=P_UNCOND, w=STRENGTH, v=s['v'], n=s['n'], steps=s['steps'], net=NET, classifier_steps=s['classifier_steps'])))
        if known.exists() and read_record(known) != settings: raise ValueError(f'{out} holds other settings: choose another --out')
        write_record(known, settings)
        for job in tqdm([job for job in networks(s) if job['net'] == 'unet'], unit=' networks'): train_network(job, out, s)
        classifier = load_classifier(out, s)
        judge = classifier, statistics(to_uint8(digits().tensors[0]), make_extractor(classifier))
        wanted = [(*what, seed) for seed in range(args.seeds) for what in [REFERENCE, *product(STEPS, GRIDS, args.T)]]
        rows = [cell(out, s, judge, *what) for what in tqdm(wanted, unit=' cells')]
    write_csv(out/'calls.csv', rows)
    write_json(out/'provenance.json', provenance(settings=settings, seeds=args.seeds))


if __name__ == '__main__':
    calls()

"""How many calls of the network each sampler needs for the quality of 256 ancestral steps, on the digits:
python benchmarks/calls.py. The same line goes on where it stopped; page 90_speed draws what it finds."""
from itertools import product
from pathlib import Path
import torch
from cfg_repro.console import command, progress
from cfg_repro.digits import SETTINGS, Job, run_of, train_network
from cfg_repro.files import held_record, locked, read_record, write_record
from cfg_repro.judge import judging
from cfg_repro.presets import DIGITS
from cfg_repro.results import provenance, write_csv, write_json
from cfg_repro.samples import GRIDS, load_run, maker
from cfg_repro.sweeps import begin

results = Path(__file__).resolve().parents[1]/'results'
STEPS = {'ancestral': 'ancestral', 'DDIM': 'ddim',
         'DPM-Solver++(2M)': 'dpmpp_2m', 'SDE-DPM-Solver++(2M)': 'sde_dpmpp_2m'}
T_SWEEP = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
REFERENCE = 'ancestral', 'paper', 256
P_UNCOND, STRENGTH = 0.1, 0.5
MEASURED = ('fd', 'is_mean', 'precision', 'recall')


def cell(out, s, judge, name, grid, T, seed):
    "The row of one sampler on one grid with one number of steps: a sample of one network, judged."
    path = out/'parts'/'cells'/f'{name}-{grid}-{T}-{seed}.json'
    if held_record(path) is None:
        run = load_run(run_of(out, Job('digits', P_UNCOND, seed)))
        make, _ = maker(*run, w=STRENGTH, T=T, v=s['v'], step=STEPS[name], grid=grid, seed=seed)
        images = torch.cat([batch['images'] for batch in make(range(s['n']))])
        found = judge(images, splits=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        where = dict(sampler=name, grid=grid, T=T, seed=seed)
        write_record(path, where | {k: found[k] for k in MEASURED})
    return read_record(path)


def rows(out, s, seeds, Ts):
    "All rows: networks are trained, a judge is fitted, cells are measured, each unless it is there."
    for seed in progress(range(seeds), unit=' networks'):
        train_network(Job('digits', P_UNCOND, seed), out, s)
    judge = judging('digits', classifier=out/'parts'/'classifier.safetensors', fit_steps=s['classifier_steps'])
    how = [REFERENCE, *product(STEPS, GRIDS, Ts)]
    wanted = [(*one, seed) for seed in range(seeds) for one in how]
    return [cell(out, s, judge, *what) for what in progress(wanted, unit=' cells')]


@command
def calls(
    out:str=str(results/'calls'), # Directory of the result
    seeds:int=5, # Networks, each with its own seed
    n:int=2_000, # Images of a cell
    steps:int=SETTINGS['steps'], # Training steps
    T:tuple[int, ...]=T_SWEEP, # Numbers of steps, separated by commas
):
    "FD on the digits against the number of calls of the network. Stop it, and the same line resumes."
    torch.set_num_threads(1)
    out, s = Path(out), SETTINGS | dict(n=n, steps=steps)
    kept = ('v', 'n', 'steps', 'classifier_steps')
    settings = dict(p_uncond=P_UNCOND, w=STRENGTH, net=DIGITS) | {k: s[k] for k in kept}
    with locked(out/'parts'):
        begin(out, settings)
        found = rows(out, s, seeds, T)
    write_csv(out/'calls.csv', found)
    write_json(out/'provenance.json', provenance(settings=settings, seeds=seeds))


if __name__ == '__main__':
    calls.console()

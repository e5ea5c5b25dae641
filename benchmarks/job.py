"""The main job, cfg_digits, as it is and as it was at an earlier commit, in turn:
python benchmarks/job.py --earlier 2702901. What follows `--` is handed to both."""
import argparse, csv, json, os, subprocess, sys, tempfile, time
from pathlib import Path
from statistics import mean, median
from run import write
from worker import commit, cpu

root = Path(__file__).resolve().parents[1]
# Commits before the console of commands parsed the command line in the function itself.
SCRIPT = """from cfg_repro.digits import cfg_digits
if __name__ == '__main__':
    getattr(cfg_digits, 'console', cfg_digits)()
"""
CELL = ('guidance', 'p_uncond', 'w', 'T', 'seed')


def job(code, out, words):
    "Wall time of the whole command in an interpreter of its own, and the FD of each cell that it measured."
    script = out.parent/'cfg_digits'
    script.write_text(SCRIPT)
    environment = os.environ | dict(PYTHONPATH=str(code), OMP_NUM_THREADS='1')
    silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    began = time.perf_counter()
    subprocess.run([sys.executable, str(script), '--out', str(out), *words],
                   cwd=out.parent, env=environment, check=True, **silent)
    seconds = time.perf_counter()-began
    with open(out/'cells.csv') as f:
        return seconds, {tuple(row[k] for k in CELL): float(row['fd']) for row in csv.DictReader(f)}


def git(*words, **how):
    subprocess.run(['git', '-C', str(root), *map(str, words)], capture_output=True, **how)


def compared(folder, args):
    "Seconds of both in each round, and of the last round the change of each cell's FD."
    codes = [('earlier', folder/'earlier'), ('now', root)]
    rounds, apart = [], []
    for r in range(args.rounds):
        order = codes[::-1] if r % 2 else codes
        found = {name: job(code, folder/f'{name}{r}', args.words) for name, code in order}
        rounds.append({name: seconds for name, (seconds, _) in found.items()})
        before, now = found['earlier'][1], found['now'][1]
        apart = [now[k]/before[k]-1 for k in now if k in before]
    return rounds, apart


def parser():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--earlier', required=True, help='the commit to compare with')
    p.add_argument('--rounds', type=int, default=1)
    p.add_argument('--out', default=str(root/'results'/'job.json'))
    p.add_argument('words', nargs='*', help='options of cfg_digits')
    return p


def main():
    args = parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        earlier = Path(folder)/'earlier'
        git('worktree', 'add', '--detach', earlier, args.earlier, check=True)
        try:
            rounds, apart = compared(Path(folder), args)
        finally:
            git('worktree', 'remove', '--force', earlier)
    about = dict(earlier=args.earlier, now=commit(str(root)), options=args.words,
                 cpu=cpu(), cores=len(os.sched_getaffinity(0)))
    found = dict(
        about=about, rounds=rounds, ratio=median(r['earlier']/r['now'] for r in rounds), cells=len(apart),
        largest_change_of_fd=max(map(abs, apart)), mean_change_of_fd=mean(apart))
    write(Path(args.out), found)
    print(json.dumps({k: found[k] for k in ('rounds', 'mean_change_of_fd')}, indent=1))


if __name__ == '__main__':
    main()

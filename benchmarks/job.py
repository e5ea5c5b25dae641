"The main job, cfg_digits, as it is and as it was at an earlier commit, in turn: python benchmarks/job.py --earlier 2702901. What follows `--` is handed to both."
import argparse, csv, json, os, subprocess, sys, tempfile, time
from pathlib import Path
from statistics import median
from run import write
from worker import commit, cpu

root = Path(__file__).resolve().parents[1]
SCRIPT = "from cfg_repro.digits import cfg_digits\nif __name__ == '__main__': cfg_digits()\n"


def job(code, out, words):
    "Wall time of the whole command in an interpreter of its own, and the cells it measured."
    script = out.parent/'cfg_digits'
    script.write_text(SCRIPT)
    began = time.perf_counter()
    subprocess.run([sys.executable, str(script), '--out', str(out), *words], cwd=out.parent, env=os.environ | dict(PYTHONPATH=str(code), OMP_NUM_THREADS='1'), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter()-began
    with open(out/'cells.csv') as f:
        return seconds, {tuple(row[k] for k in ('guidance', 'p_uncond', 'w', 'T', 'seed')): float(row['fd']) for row in csv.DictReader(f)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--earlier', required=True, help='the commit to compare with')
    parser.add_argument('--rounds', type=int, default=1)
    parser.add_argument('--out', default=str(root/'results'/'job.json'))
    parser.add_argument('words', nargs='*', help='options of cfg_digits')
    args = parser.parse_args()
    rounds, apart = [], []
    with tempfile.TemporaryDirectory() as folder:
        earlier = Path(folder)/'earlier'
        subprocess.run(['git', '-C', str(root), 'worktree', 'add', '--detach', str(earlier), args.earlier], check=True, capture_output=True)
        try:
            for r in range(args.rounds):
                found = {name: job(code, Path(folder)/f'{name}{r}', args.words) for name, code in [('earlier', earlier), ('now', root)][::-1 if r % 2 else 1]}
                rounds.append({name: seconds for name, (seconds, _) in found.items()})
                cells, before = found['now'][1], found['earlier'][1]
                apart = [cells[k]/before[k]-1 for k in cells if k in before]
        finally:
            subprocess.run(['git', '-C', str(root), 'worktree', 'remove', '--force', str(earlier)], check=False, capture_output=True)
    about = dict(earlier=args.earlier, now=commit(str(root)), options=args.words, cpu=cpu(), cores=len(os.sched_getaffinity(0)))
    write(Path(args.out), dict(about=about, rounds=rounds, ratio=median(r['earlier']/r['now'] for r in rounds), cells=len(apart), largest_change_of_fd=max(map(abs, apart)), mean_change_of_fd=sum(apart)/len(apart)))
    print(json.dumps(dict(rounds=rounds, mean_change_of_fd=sum(apart)/len(apart)), indent=1))


if __name__ == '__main__':
    main()

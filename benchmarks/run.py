"Measure cfg_repro beside its peers on the same work: python benchmarks/run.py forward train --peer guided-diffusion=PATH. README.md says what the columns are."
import argparse, json, os, subprocess, sys, time
from pathlib import Path
from statistics import median

here, root = Path(__file__).resolve().parent, Path(__file__).resolve().parents[1]
NETS = dict(shared=dict(size=32, n_classes=10, channels=64, mult=(1, 2, 2), blocks=2, attention=(16, 8), head_channels=32),
            digits=dict(size=8, n_classes=10, channels=8, mult=(1, 2), blocks=1, attention=(), head_channels=8),
            tiny=dict(size=16, n_classes=10, channels=32, mult=(1, 2), blocks=1, attention=(8,), head_channels=32),
            imagenet64=dict(size=64, n_classes=1000, channels=192, mult=(1, 2, 3, 4), blocks=3, attention=(32, 16, 8), head_channels=64))
ALLOCATORS = dict(default={}, tuned=dict(MALLOC_MMAP_THRESHOLD_='8589934592', MALLOC_TRIM_THRESHOLD_='17179869184', MALLOC_TOP_PAD_='268435456'))
PEERS = sorted(path.stem.replace('_', '-') for path in (here/'peers').glob('*.py') if path.stem != 'ours')
REFERENCE, DETERMINISTIC = 'guided-diffusion', 'ours (DDIM)'
PART_I = ('schedule', 'forward', 'reverse', 'mixture', 'objective', 'classifier_guidance', 'guidance', 'sampling', 'tradeoff')
IMPORTS = {'torch': 'import torch', 'ours': 'import ' + ', '.join(f'cfg_repro.{m}' for m in PART_I), 'ours, Part II': 'import cfg_repro.unet, cfg_repro.training, cfg_repro.generate, cfg_repro.evaluate',
           'diffusers': 'from diffusers import UNet2DModel, DDPMScheduler'}


def refuse(sentence):
    print(f'run.py: {sentence}', file=sys.stderr)
    sys.exit(2)


class Process:
    "A worker, alive until it is closed."
    def __init__(self, about, environment):
        self.process = subprocess.Popen([sys.executable, str(here/'worker.py'), json.dumps(about)], env=environment, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None if os.environ.get('SHOW_WORKERS') else subprocess.DEVNULL)

    def send(self, **request):
        try:
            self.process.stdin.write(json.dumps(request) + '\n')
            self.process.stdin.flush()
        except BrokenPipeError:
            pass                                    # why it ended is in its answer

    def receive(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else dict(error=f'its process ended with code {self.process.wait()}')

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Pool:
    "One worker for each party, started when it is first asked. A party that fails is left out from then on, with the reason."
    def __init__(self, args):
        self.args, self.workers, self.left_out = args, {}, {}

    def start(self, label, **changes):
        "A new worker; a label is a party's name, then +bfloat16 and +compile as wanted; without one it has no network."
        a, (name, *how) = self.args, label.split('+')
        about = dict(party=name.replace('-', '_') or None, path=a.peers.get(name), net=NETS[a.net], device=a.device, threads=a.threads, seconds=a.seconds,
                     bf16=dtype(a, label) == 'bfloat16', compile=a.compile or 'compile' in how)
        environment = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_')} | ALLOCATORS[a.malloc] | dict(OMP_NUM_THREADS=str(a.threads), PYTHONPATH=os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]))
        return Process(about | changes, environment)

    def ask(self, party, **request):
        "The answer of a party that stays."
        if party in self.left_out:
            return None
        if party not in self.workers:
            self.workers[party] = self.start(party)
        self.workers[party].send(**request)
        return self.answer(party, self.workers[party])

    def ask_new(self, party, start, **request):
        "The answer of a worker that does nothing else."
        if party in self.left_out:
            return None
        worker = self.start(party, **start)
        worker.send(**request)
        found = self.answer(party, worker)
        worker.close()
        return found

    def answer(self, party, worker):
        found = worker.receive()
        if 'error' not in found:
            return found
        if not party or party.split('+')[0] in ('ours', 'torch-fidelity'):
            sys.exit(f'run.py: {party or "the machine"}: {found["error"]}')
        self.left_out[party] = found['error']
        print(f'{party} is left out: {found["error"]}', file=sys.stderr)

    def close(self):
        for worker in self.workers.values():
            worker.close()


def dtype(args, party):
    return 'bfloat16' if 'bfloat16' in party.split('+') else args.dtype


def turn(parties, r):
    "The order of round r: rotated, and every other time backwards."
    k = r % len(parties)
    rotated = parties[k:] + parties[:k]
    return rotated[::-1] if r % 2 else rotated


def answers(asked):
    "Of those that were asked, those that answered."
    return {party: found for party, found in asked if found}


# A measurement is a function of the arguments, the pool and the number of the round; it gives {case: {party: numbers}}.

def machine(args, pool):
    "The rates of the machine in each of the precisions that the parties use."
    return {kind: pool.ask('', do='machine', dtype=kind) for kind in sorted({dtype(args, p) for p in args.parties})}

def forward(args, pool, r):
    return dict(machine=machine(args, pool)) | {f'{n} images': answers((p, pool.ask(p, do='forward', batch=n)) for p in turn(args.parties, r)) for n in args.batch}

def train(args, pool, r):
    n = args.batch[0]
    return dict(machine=machine(args, pool)) | {f'{n} images': answers((p, pool.ask(p, do='train', batch=n)) for p in turn(args.parties, r))}

def sample(args, pool, r):
    return {f'{args.n} images, T={args.T}': answers((p, pool.ask(p, do='sample', n=args.n, T=args.T)) for p in turn(args.parties, r))}

def sampler(args, pool, r):
    def ask(p): return pool.ask_new(p.split(' ')[0], dict(compile=False), do='sampler', n=32, T=25, **(dict(step='ddim_step') if p == DETERMINISTIC else {}))
    return {'32 images, T=25': answers((p, ask(p)) for p in turn(args.parties + [DETERMINISTIC]*('ours' in args.parties), r))}

def memory(args, pool, r):
    n = args.batch[0]
    return {f'{what}, {n} images': answers((p, pool.ask_new(p, {}, do='memory', what=what, batch=n)) for p in turn(args.parties, r)) for what in ('forward', 'train')}

def profile(args, pool, r):
    n = args.batch[0]
    return {f'{what}, {n} images': answers((p, pool.ask(p, do='profile', what=what, batch=n)) for p in turn(args.parties, r)) for what in ('forward', 'train')}

def imports(args, pool, r):
    "CPU seconds of an import in a fresh interpreter."
    def seconds(statement):
        words = [sys.executable, '-c', f'import time; began = time.process_time(); {statement}; print(time.process_time()-began)']
        done = subprocess.run(words, cwd=root, env=os.environ | dict(OMP_NUM_THREADS='1'), capture_output=True, text=True)
        return None if done.returncode else dict(seconds=float(done.stdout.split()[-1]))
    if r == 0:
        for statement in IMPORTS.values(): seconds(statement)          # bytecode is written, files are read once
    return {'import': answers((name, seconds(IMPORTS[name])) for name in turn(list(IMPORTS), r))}

def evaluate(args, pool, r):
    n = args.images
    def job(by, **more): return pool.ask_new(by, dict(party=None), do='once', job='evaluate', by=by, images=n, **more)
    return {f'{n:,} images: FD, IS': answers((by, job(by)) for by in turn(['ours', 'torch-fidelity'], r)), f'{n:,} images: FD, IS, precision and recall of 10,000': dict(ours=job('ours', near=10_000))}

def sizes(args):
    "What growth is measured over: for each axis its values and how to ask for one, as changes of the worker and a request."
    def net(**changes): return dict(net=NETS[args.net] | changes)
    alone, upto = dict(party=None), [n for n in (500, 1_500, 5_000, 15_000, 50_000) if n < args.images] + [args.images]
    return {'batch, training step':        ((1, 2, 4, 8, 16, 32), lambda v: (net(), dict(do='memory', what='train', batch=v))),
            'batch, forward':              ((1, 2, 4, 8, 16, 32, 64), lambda v: (net(), dict(do='memory', what='forward', batch=v))),
            'T, guided sampling':          ((4, 8, 16, 32, 64, 128), lambda v: (alone, dict(do='once', job='generate', images=100, T=v))),
            'image size, forward':         ((16, 32, 64, 128), lambda v: (net(size=v), dict(do='memory', what='forward', batch=1))),
            'images, generated':           (upto, lambda v: (alone, dict(do='once', job='generate', images=v, T=4))),
            'images, FD and IS':           (upto, lambda v: (alone, dict(do='once', job='evaluate', by='ours', images=v))),
            'images, precision and recall as well': ([n for n in upto if n <= 10_000], lambda v: (alone, dict(do='once', job='evaluate', by='ours', images=v, near=v)))}

def growth(args, pool, r):
    "Ours alone: a new worker for each point."
    found = {axis: {str(v): pool.ask_new('ours', how(v)[0], **how(v)[1]) for v in values} for axis, (values, how) in sizes(args).items()}
    return found | {'processes, images generated': {str(m): together(args, pool, m) for m in (1, 2, 4)}}

def together(args, pool, m):
    "Wall time of m processes that share the images, from the word to the last answer, and their memory in sum."
    workers = [pool.start('ours', party=None) for _ in range(m)]
    for k, worker in enumerate(workers):
        worker.send(do='prepare', job='generate', images=min(args.images, 5_000), T=8, part=(k, m))
    for worker in workers: pool.answer('ours', worker)
    began = time.perf_counter()
    for worker in workers: worker.send(do='memory', what='go')
    found = [pool.answer('ours', worker) for worker in workers]
    seconds = time.perf_counter()-began
    for worker in workers: worker.close()
    return dict(seconds=seconds) | {k: sum(f[k] for f in found) for k in ('before', 'peak')}


MEASUREMENTS = {'forward': forward, 'train': train, 'sample': sample, 'sampler': sampler, 'import': imports, 'memory': memory, 'profile': profile, 'evaluate': evaluate, 'growth': growth}
ROUNDS = dict(memory=1, profile=1, growth=1, evaluate=3)       # where nobody asks for another number; otherwise 5


# Tables.

def columns(rows):
    "Rows of words as text; the first column to the left."
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return '\n'.join('  '.join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))).rstrip() for row in rows)

def values(record, case, party, key):
    "A number of a party in each round."
    return [r[case][party][key] for r in record['rounds']]

def whole(record, case):
    "The parties that answered in every round."
    return [p for p in record['rounds'][0][case] if all(p in r[case] for r in record['rounds'])]

def spread(numbers, digits=2):
    return f'{median(numbers):.{digits}f}', f'{min(numbers):.{digits}f}-{max(numbers):.{digits}f}'

def ratios(record, case, party):
    "How many times as fast as the reference, round by round."
    parties = whole(record, case)
    reference = REFERENCE if REFERENCE in parties else parties[0]
    return [b/a for a, b in zip(values(record, case, party, 'seconds'), values(record, case, reference, 'seconds'))]

def peak(record, party):
    "The best rate of the machine in the precision of a party."
    kind = 'bfloat16' if 'bfloat16' in party.split('+') else record['settings']['dtype']
    return max(rate for r in record['rounds'] for rate in r['machine'][kind].values())

def speed_table(record, case):
    n, work = int(case.split()[0]), 'train' if record['measurement'] == 'train' else 'forward'
    rows = [['', 'ms', 'range', 'img/s', 'ratio', 'range', 'M params', 'GFLOP/img', 'GFLOP/s', 'best', 'of peak']]
    for p in whole(record, case):
        s, flops = values(record, case, p, 'seconds'), record['counts'][p][work]
        ms = [1000*t for t in s]
        rows.append([p, *spread(ms, 1), f'{n/median(s):.2f}', *spread(ratios(record, case, p)), f"{record['counts'][p]['parameters']/1e6:.2f}", f'{flops/1e9:.3f}',
                     f'{n*flops/median(s)/1e9:.1f}', f'{n*flops/min(s)/1e9:.1f}', f'{n*flops/min(s)/peak(record, p):.2f}'])
    return columns(rows)

def sample_table(record, case):
    rows = [['', 's', 'range', 'floor s', 's/floor', 'range', 'ratio', 'range']]
    for p in whole(record, case):
        s, floor = values(record, case, p, 'seconds'), values(record, case, p, 'floor')
        rows.append([p, *spread(s, 3), f'{median(floor):.3f}', *spread([a/b for a, b in zip(s, floor)], 3), *spread(ratios(record, case, p))])
    return columns(rows)

def sampler_table(record, case):
    return columns([['', 'ms a step', 'range']] + [[p, *spread([1000*s for s in values(record, case, p, 'seconds')], 3)] for p in whole(record, case)])

def memory_table(record, case):
    rows = [['', 's', 'MB before', 'MB at peak', 'MB more']]
    for p in whole(record, case):
        s, a, b = (median(values(record, case, p, k)) for k in ('seconds', 'before', 'peak'))
        rows.append([p, f'{s:.3f}', f'{a/1e6:.0f}', f'{b/1e6:.0f}', f'{(b-a)/1e6:.0f}'])
    return columns(rows)

def profile_table(record, case):
    "Milliseconds of each operation, the largest first, a column for each party; what is nowhere a hundredth goes to the rest."
    found = {p: record['rounds'][0][case][p] for p in whole(record, case)}
    total = {p: sum(times.values()) for p, times in found.items()}
    share = {name: max(found[p].get(name, 0)/total[p] for p in found) for times in found.values() for name in times if name != 'the rest'}
    kept = sorted((name for name in share if share[name] >= 0.01), key=share.get, reverse=True)
    rows = [['', *found]] + [[name, *(f'{1000*times.get(name, 0):.1f}' for times in found.values())] for name in kept]
    rest = ['the rest', *(f'{1000*(total[p] - sum(found[p].get(name, 0) for name in kept)):.1f}' for p in found)]
    return columns(rows + [rest, ['in all', *(f'{1000*t:.1f}' for t in total.values())]])

def import_table(record, case):
    rows = [['', 'ms', 'range', 'beyond torch', 'times torch', 'range']]
    alone = values(record, case, 'torch', 'seconds')
    for p in whole(record, case):
        s = values(record, case, p, 'seconds')
        rows.append([p, *spread([1000*t for t in s], 0), f'{1000*median(t-a for t, a in zip(s, alone)):.0f}', *spread([t/a for t, a in zip(s, alone)])])
    return columns(rows)

def slope(xs, ys):
    "The exponent with which ys grow: least squares on log-log axes."
    import numpy as np
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])

def slopes(record, case):
    "Exponents of time and of memory above what was there before (a megabyte at least), over all values and over the upper half of them."
    points = [(float(v), median(values(record, case, v, 'seconds')), median(max(1e6, p-b) for p, b in zip(values(record, case, v, 'peak'), values(record, case, v, 'before')))) for v in whole(record, case)]
    xs, seconds, more = zip(*points)
    k = len(xs)//2 if len(xs) > 2 else 0
    return dict(time=slope(xs, seconds), time_upper=slope(xs[k:], seconds[k:]), memory=slope(xs, more), memory_upper=slope(xs[k:], more[k:]))

def growth_table(record, case):
    fitted = slopes(record, case) if len(whole(record, case)) > 1 else {}
    return memory_table(record, case) + '\n' + 'slopes: ' + ', '.join(f'{k} {v:.2f}' for k, v in fitted.items())

TABLES = {'forward': speed_table, 'train': speed_table, 'sample': sample_table, 'sampler': sampler_table, 'import': import_table, 'memory': memory_table, 'profile': profile_table, 'evaluate': memory_table, 'growth': growth_table}

def report(record):
    "The tables of a measurement."
    s = record['settings']
    lines = [f"{record['measurement']}: {s['device']}, {s['dtype']}, allocator {s['malloc']}, {s['threads']} thread(s){', compiled' if s['compile'] else ''}, network {s['net']}; rounds: {len(record['rounds'])}"]
    for case in record['rounds'][0]:
        if case != 'machine':
            lines += ['', case, TABLES[record['measurement']](record, case)]
    if 'machine' in record['rounds'][0]:
        lines += ['', *(f"peak, {kind}: " + ', '.join(f"{name} {max(r['machine'][kind][name] for r in record['rounds'])/1e9:.1f}" for name in rates) + ' GFLOP/s' for kind, rates in record['rounds'][0]['machine'].items())]
    return '\n'.join(lines + [f'left out: {party} ({why})' for party, why in record['left_out'].items()]) + '\n'


# The runner.

def write(path, record):
    "Whole or not at all."
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    part.write_text(json.dumps(record, indent=1) + '\n')
    os.replace(part, path)

def settings(args):
    "What makes two runs the same measurement."
    return {k: getattr(args, k) for k in ('parties', 'device', 'dtype', 'malloc', 'threads', 'compile', 'net', 'batch', 'n', 'T', 'images', 'seconds')}

def path_of(args, measurement):
    extra = [args.net]*(args.net != 'shared') + [f'{args.threads}threads']*(args.threads > 1) + ['compile']*args.compile
    return Path(args.out)/('-'.join([measurement, args.device, args.dtype, args.malloc, *extra]) + '.json')

def opened(args, measurement, path):
    "The record so far, or a new one."
    fresh = dict(measurement=measurement, settings=settings(args), about=None, counts={}, left_out={}, rounds=[])
    if args.again or not path.exists():
        return fresh
    record = json.loads(path.read_text())
    if changed := [k for k, v in fresh['settings'].items() if record['settings'].get(k) != v]:
        refuse(f'{path} was made with another {", ".join(changed)}: give --again to make it anew, or another --out')
    return record

def counts(args, pool):
    "Parameters and operations of each party, by a worker that only counts; the precision and compiling have no say in them."
    names = list(dict.fromkeys(p.split('+')[0] for p in args.parties))
    found = answers((name, pool.ask_new(name, dict(compile=False, bf16=False), do='count')) for name in names)
    return {p: found[p.split('+')[0]] for p in args.parties if p.split('+')[0] in found}

def measure(args, measurement):
    path = path_of(args, measurement)
    record, wanted, pool = opened(args, measurement, path), args.rounds or ROUNDS.get(measurement, 5), Pool(args)
    if len(record['rounds']) < wanted:
        record['about'] = record['about'] or pool.ask_new('', {}, do='about', peers=args.peers)
        if measurement in ('forward', 'train'):
            record['counts'] = args.counts = record['counts'] or args.counts or counts(args, pool)
    while len(record['rounds']) < wanted:
        record['rounds'].append(MEASUREMENTS[measurement](args, pool, len(record['rounds'])))
        record['left_out'] |= pool.left_out
        if measurement == 'growth':
            record['slopes'] = {case: slopes(record, case) for case in record['rounds'][0]}
        write(path, record)
        print(f"{measurement}: round {len(record['rounds'])} of {wanted}", file=sys.stderr)
    pool.close()
    print(report(record))


class Parser(argparse.ArgumentParser):
    def error(self, message): refuse(message)

def whole_number(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number, 1 or more')
    return int(text)

def parser():
    p = Parser(description=__doc__)
    p.add_argument('measurements', nargs='*', metavar='MEASUREMENT', help=f"of {', '.join(MEASUREMENTS)}; all but profile and growth unless given; `show` prints the tables of what is in --out")
    p.add_argument('--peer', action='append', default=[], metavar='NAME=PATH', help=f"where a peer's repository is, the folder that holds its packages; of {', '.join(PEERS)}")
    p.add_argument('--only', help='parties, with commas; a name may be followed by +bfloat16 and +compile; all that there are unless given')
    p.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    p.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='bfloat16: by autocast')
    p.add_argument('--malloc', choices=tuple(ALLOCATORS), default='tuned', help='the allocator of every party: as glibc has it, or told to keep its memory')
    p.add_argument('--threads', type=whole_number, default=1)
    p.add_argument('--compile', action='store_true', help='torch.compile for every party')
    p.add_argument('--net', choices=tuple(NETS), default='shared')
    p.add_argument('--batch', default='16,64', help='images in a call, with commas; train and memory take the first')
    p.add_argument('--n', type=whole_number, default=8, help='images of sample')
    p.add_argument('--T', type=whole_number, default=5, help='steps of sample')
    p.add_argument('--images', type=whole_number, default=50_000, help='images of evaluate, most images of growth')
    p.add_argument('--rounds', type=whole_number, help='5 unless given; memory, profile and growth 1, evaluate 3')
    p.add_argument('--seconds', type=float, default=1., help='least time of one measurement in a round')
    p.add_argument('--out', default=str(root/'results'/'speed'))
    p.add_argument('--again', action='store_true', help='make anew what is there')
    return p

def peers_of(pairs):
    "{name: path}, checked."
    found = dict(pair.partition('=')[::2] for pair in pairs)
    for name, path in found.items():
        if name not in PEERS: refuse(f'--peer {name}: there is an adapter for {", ".join(PEERS)}')
        if not Path(path).is_dir() or not path: refuse(f'--peer {name}: {path!r} is no folder')
    return {name: str(Path(path).resolve()) for name, path in found.items()}

def parties_of(args):
    "The parties, checked: ours, diffusers, and the peers whose repository is there."
    there = ['ours', *sorted({*args.peers, 'diffusers'})]
    parties = args.only.split(',') if args.only else there
    for party in parties:
        name, *how = party.split('+')
        if name not in there: refuse(f'{name!r} is no party: there are {", ".join(there)}; the others need --peer NAME=PATH')
        if not set(how) <= {'bfloat16', 'compile'}: refuse(f'{party!r}: a name may be followed by +bfloat16 and +compile')
    return list(dict.fromkeys(parties))

def main():
    args = parser().parse_args()
    if args.measurements == ['show']:
        return print('\n'.join(report(json.loads(path.read_text())) for path in sorted(Path(args.out).glob('*.json'))))
    for m in args.measurements:
        if m not in MEASUREMENTS: refuse(f'{m!r} is no measurement: there are {", ".join(MEASUREMENTS)}')
    args.peers = peers_of(args.peer)
    args.parties = parties_of(args)
    if not all(part.isdigit() and int(part) for part in args.batch.split(',')): refuse(f'--batch {args.batch!r}: it must be whole numbers, 1 or more, with commas')
    if not args.seconds > 0: refuse(f'--seconds {args.seconds}: it must be above 0')
    args.counts = {}
    args.batch = [int(part) for part in args.batch.split(',')]
    for m in args.measurements or [m for m in MEASUREMENTS if m not in ('profile', 'growth')]:
        measure(args, m)


if __name__ == '__main__':
    main()

"""Measure cfg_repro beside its peers on the same work:
python benchmarks/run.py forward train --peer guided-diffusion=PATH. README.md says what the columns are."""
import argparse, json, os, subprocess, sys, time
from pathlib import Path
from statistics import median

here, root = Path(__file__).resolve().parent, Path(__file__).resolve().parents[1]
NETS = dict(
    shared=dict(size=32, n_classes=10, channels=64, mult=(1, 2, 2), blocks=2, attention=(16, 8), head_channels=32),
    digits=dict(size=8, n_classes=10, channels=8, mult=(1, 2), blocks=1, attention=(), head_channels=8),
    tiny=dict(size=16, n_classes=10, channels=32, mult=(1, 2), blocks=1, attention=(8,), head_channels=32),
    imagenet64=dict(size=64, n_classes=1000, channels=192, mult=(1, 2, 3, 4), blocks=3,
                    attention=(32, 16, 8), head_channels=64))
ALLOCATORS = dict(
    default={},
    tuned=dict(MALLOC_MMAP_THRESHOLD_='8589934592', MALLOC_TRIM_THRESHOLD_='17179869184',
               MALLOC_TOP_PAD_='268435456'))
PEERS = sorted(path.stem.replace('_', '-') for path in (here/'peers').glob('*.py') if path.stem != 'ours')
REFERENCE, DETERMINISTIC = 'guided-diffusion', 'ours (DDIM)'
PART_I = ('schedule', 'forward', 'reverse', 'mixture', 'objective', 'classifier_guidance', 'guidance', 'sampling',
          'solvers', 'tradeoff')
PART_II = ('unet', 'training', 'generate', 'evaluate')


def importing(modules):
    "The statement that imports modules of ours."
    return 'import ' + ', '.join(f'cfg_repro.{m}' for m in modules)


IMPORTS = {
    'torch': 'import torch',
    'ours': importing(PART_I),
    'ours, Part II': importing(PART_II),
    'diffusers': 'from diffusers import UNet2DModel, DDPMScheduler'}


def refuse(sentence):
    print(f'run.py: {sentence}', file=sys.stderr)
    sys.exit(2)


class Process:
    "A worker, alive until it is closed."
    def __init__(self, about, environment):
        words = [sys.executable, str(here/'worker.py'), json.dumps(about)]
        said = None if os.environ.get('SHOW_WORKERS') else subprocess.DEVNULL
        self.process = subprocess.Popen(words, env=environment, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=said)

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
    "One worker for each party, started when it is first asked. A party that fails is left out from then on."
    def __init__(self, args):
        self.args, self.workers, self.left_out = args, {}, {}

    def start(self, label, **changes):
        "A new worker; a label is a party's name, then +bfloat16 and +compile as wanted; without one it has no network."
        a, (name, *how) = self.args, label.split('+')
        about = dict(party=name.replace('-', '_') or None, path=a.peers.get(name), net=NETS[a.net], device=a.device,
                     threads=a.threads, seconds=a.seconds, bf16=dtype(a, label) == 'bfloat16',
                     compile=a.compile or 'compile' in how)
        plain = {k: v for k, v in os.environ.items() if not k.startswith('MALLOC_')}
        path = os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')])
        more = dict(OMP_NUM_THREADS=str(a.threads), PYTHONPATH=path)
        return Process(about | changes, plain | ALLOCATORS[a.malloc] | more)

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
        "What a worker answers; None where it failed, unless it is one that must not."
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


def answers(parties, ask):
    "What each party answers, in this order; without those that do not."
    asked = {party: ask(party) for party in parties}
    return {party: found for party, found in asked.items() if found}


# A measurement is a function of the arguments, the pool and the number of the round;
# it gives {case: {party: numbers}}.

def machine(args, pool):
    "The rates of the machine in each of the precisions that the parties use."
    kinds = sorted({dtype(args, p) for p in args.parties})
    return {kind: pool.ask('', do='machine', dtype=kind) for kind in kinds}


def forward(args, pool, r):
    found = dict(machine=machine(args, pool))
    for n in args.batch:
        def ask(p): return pool.ask(p, do='forward', batch=n)       # noqa: B023  it is called at once
        found[f'{n} images'] = answers(turn(args.parties, r), ask)
    return found


def train(args, pool, r):
    n = args.batch[0]
    def ask(p): return pool.ask(p, do='train', batch=n)
    return dict(machine=machine(args, pool)) | {f'{n} images': answers(turn(args.parties, r), ask)}


def sample(args, pool, r):
    def ask(p): return pool.ask(p, do='sample', n=args.n, T=args.T)
    return {f'{args.n} images, T={args.T}': answers(turn(args.parties, r), ask)}


def sampler(args, pool, r):
    def ask(p):
        step = dict(step='ddim_step') if p == DETERMINISTIC else {}
        return pool.ask_new(p.split(' ')[0], dict(compile=False), do='sampler', n=32, T=25, **step)
    parties = args.parties + [DETERMINISTIC]*('ours' in args.parties)
    return {'32 images, T=25': answers(turn(parties, r), ask)}


def both(args, r, asking):
    "A forward call and a training step of the first batch, each asked in its own way."
    n = args.batch[0]
    return {f'{what}, {n} images': answers(turn(args.parties, r), asking(what, n)) for what in ('forward', 'train')}


def memory(args, pool, r):
    return both(args, r, lambda what, n: lambda p: pool.ask_new(p, {}, do='memory', what=what, batch=n))


def profile(args, pool, r):
    return both(args, r, lambda what, n: lambda p: pool.ask(p, do='profile', what=what, batch=n))


def imports(args, pool, r):
    "CPU seconds of an import in a fresh interpreter."
    def seconds(name):
        timed = f'began = time.process_time(); {IMPORTS[name]}; print(time.process_time()-began)'
        done = subprocess.run([sys.executable, '-c', f'import time; {timed}'], cwd=root, capture_output=True, text=True,
                              env=os.environ | dict(OMP_NUM_THREADS='1'))
        return None if done.returncode else dict(seconds=float(done.stdout.split()[-1]))
    if r == 0:
        answers(IMPORTS, seconds)          # bytecode is written, files are read once
    return {'import': answers(turn(list(IMPORTS), r), seconds)}


def evaluate(args, pool, r):
    n = args.images
    def job(by, **more):
        return pool.ask_new(by, dict(party=None), do='once', job='evaluate', by=by, images=n, **more)
    return {f'{n:,} images: FD, IS': answers(turn(['ours', 'torch-fidelity'], r), job),
            f'{n:,} images: FD, IS, precision and recall of 10,000': dict(ours=job('ours', near=10_000))}


def sizes(args):
    "What growth is measured over: for each axis its values, and for one of them the worker's settings and a request."
    upto = [n for n in (500, 1_500, 5_000, 15_000, 50_000) if n < args.images] + [args.images]
    small = [n for n in upto if n <= 10_000]
    alone = dict(party=None)
    def net(**changes): return dict(net=NETS[args.net] | changes)
    def step(what): return lambda v: (net(), dict(do='memory', what=what, batch=v))
    def wide(v): return net(size=v), dict(do='memory', what='forward', batch=1)
    def steps(v): return alone, dict(do='once', job='generate', images=100, T=v)
    def images(v): return alone, dict(do='once', job='generate', images=v, T=4)
    def looked(v): return alone, dict(do='once', job='evaluate', by='ours', images=v)
    def compared(v): return alone, dict(do='once', job='evaluate', by='ours', images=v, near=v)
    return {'batch, training step': ((1, 2, 4, 8, 16, 32), step('train')),
            'batch, forward': ((1, 2, 4, 8, 16, 32, 64), step('forward')),
            'T, guided sampling': ((4, 8, 16, 32, 64, 128), steps),
            'image size, forward': ((16, 32, 64, 128), wide),
            'images, generated': (upto, images),
            'images, FD and IS': (upto, looked),
            'images, precision and recall as well': (small, compared)}


def growth(args, pool, r):
    "Ours alone: a new worker for each point."
    found = {}
    for axis, (values, asking) in sizes(args).items():
        points = {}
        for v in values:
            start, request = asking(v)
            points[str(v)] = pool.ask_new('ours', start, **request)
        found[axis] = points
    found['processes, images generated'] = {str(m): together(args, pool, m) for m in (1, 2, 4)}
    return found


def together(args, pool, m):
    "Wall time of m processes that share the images, from the word to the last answer, and their memory in sum."
    workers = [pool.start('ours', party=None) for _ in range(m)]
    for k, worker in enumerate(workers):
        worker.send(do='prepare', job='generate', images=min(args.images, 5_000), T=8, part=(k, m))
    for worker in workers:
        pool.answer('ours', worker)
    began = time.perf_counter()
    for worker in workers:
        worker.send(do='memory', what='go')
    found = [pool.answer('ours', worker) for worker in workers]
    seconds = time.perf_counter()-began
    for worker in workers:
        worker.close()
    return dict(seconds=seconds) | {k: sum(f[k] for f in found) for k in ('before', 'peak')}


MEASUREMENTS = {'forward': forward, 'train': train, 'sample': sample, 'sampler': sampler, 'import': imports,
                'memory': memory, 'profile': profile, 'evaluate': evaluate, 'growth': growth}
ROUNDS = dict(memory=1, profile=1, growth=1, evaluate=3)       # where nobody asks for another number; otherwise 5


# Tables: each is a list of rows of words, the head first.

def columns(rows):
    "Rows of words as text; the first column to the left."
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    def line(row):
        first, *rest = (cell.rjust(w) for cell, w in zip(row, widths))
        return '  '.join([row[0].ljust(widths[0]), *rest]).rstrip()
    return '\n'.join(map(line, rows))


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
    ours, theirs = (values(record, case, p, 'seconds') for p in (party, reference))
    return [b/a for a, b in zip(ours, theirs)]


def peak(record, party):
    "The best rate of the machine in the precision of a party."
    kind = 'bfloat16' if 'bfloat16' in party.split('+') else record['settings']['dtype']
    return max(rate for r in record['rounds'] for rate in r['machine'][kind].values())


def best(record, kind, name):
    "The best rate of the machine at one thing in one precision."
    return max(r['machine'][kind][name] for r in record['rounds'])


def speed_table(record, case):
    n, work = int(case.split()[0]), 'train' if record['measurement'] == 'train' else 'forward'
    rows = [['', 'ms', 'range', 'img/s', 'ratio', 'range', 'M params', 'GFLOP/img', 'GFLOP/s', 'best', 'of peak']]
    for p in whole(record, case):
        s, counts = values(record, case, p, 'seconds'), record['counts'][p]
        flops = counts[work]
        typical, fastest = n*flops/median(s), n*flops/min(s)
        rows.append([p, *spread([1000*t for t in s], 1), f'{n/median(s):.2f}', *spread(ratios(record, case, p)),
                     f"{counts['parameters']/1e6:.2f}", f'{flops/1e9:.3f}',
                     f'{typical/1e9:.1f}', f'{fastest/1e9:.1f}', f'{fastest/peak(record, p):.2f}'])
    return rows


def sample_table(record, case):
    rows = [['', 's', 'range', 'floor s', 's/floor', 'range', 'ratio', 'range']]
    for p in whole(record, case):
        s, floor = values(record, case, p, 'seconds'), values(record, case, p, 'floor')
        over = [a/b for a, b in zip(s, floor)]
        rows.append([p, *spread(s, 3), f'{median(floor):.3f}', *spread(over, 3), *spread(ratios(record, case, p))])
    return rows


def sampler_table(record, case):
    rows = [['', 'ms a step', 'range']]
    for p in whole(record, case):
        rows.append([p, *spread([1000*s for s in values(record, case, p, 'seconds')], 3)])
    return rows


def memory_table(record, case):
    rows = [['', 's', 'MB before', 'MB at peak', 'MB more']]
    for p in whole(record, case):
        s, a, b = (median(values(record, case, p, k)) for k in ('seconds', 'before', 'peak'))
        rows.append([p, f'{s:.3f}', f'{a/1e6:.0f}', f'{b/1e6:.0f}', f'{(b-a)/1e6:.0f}'])
    return rows


def profile_table(record, case):
    "Milliseconds of each operation, the largest first, a column for each party; under a hundredth it is in the rest."
    found = {p: record['rounds'][0][case][p] for p in whole(record, case)}
    total = {p: sum(times.values()) for p, times in found.items()}
    names = dict.fromkeys(name for times in found.values() for name in times if name != 'the rest')
    share = {name: max(times.get(name, 0)/total[p] for p, times in found.items()) for name in names}
    kept = sorted((name for name in share if share[name] >= 0.01), key=share.get, reverse=True)
    def line(name, seconds): return [name, *(f'{1000*t:.1f}' for t in seconds)]
    rows = [line(name, (times.get(name, 0) for times in found.values())) for name in kept]
    rest = (total[p] - sum(times.get(name, 0) for name in kept) for p, times in found.items())
    return [['', *found], *rows, line('the rest', rest), line('in all', total.values())]


def import_table(record, case):
    rows = [['', 'ms', 'range', 'beyond torch', 'times torch', 'range']]
    alone = values(record, case, 'torch', 'seconds')
    for p in whole(record, case):
        s = values(record, case, p, 'seconds')
        beyond = 1000*median(t-a for t, a in zip(s, alone))
        times = [t/a for t, a in zip(s, alone)]
        rows.append([p, *spread([1000*t for t in s], 0), f'{beyond:.0f}', *spread(times)])
    return rows


def slope(xs, ys):
    "The exponent with which ys grow: least squares on log-log axes."
    import numpy as np
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def slopes(record, case):
    "Exponents of time, and of memory above what was there (a megabyte at least), over all values and their upper half."
    points = whole(record, case)
    def more(v):
        pairs = zip(values(record, case, v, 'peak'), values(record, case, v, 'before'))
        return median(max(1e6, peak-before) for peak, before in pairs)
    xs = [float(v) for v in points]
    seconds = [median(values(record, case, v, 'seconds')) for v in points]
    added = [more(v) for v in points]
    k = len(xs)//2 if len(xs) > 2 else 0
    return dict(time=slope(xs, seconds), time_upper=slope(xs[k:], seconds[k:]),
                memory=slope(xs, added), memory_upper=slope(xs[k:], added[k:]))


TABLES = {'forward': speed_table, 'train': speed_table, 'sample': sample_table, 'sampler': sampler_table,
          'import': import_table, 'memory': memory_table, 'profile': profile_table, 'evaluate': memory_table,
          'growth': memory_table}


def report(record):
    "The tables of a measurement."
    s, first = record['settings'], record['rounds'][0]
    lines = [f"{record['measurement']}: {s['device']}, {s['dtype']}, allocator {s['malloc']}, "
             f"{s['threads']} thread(s){', compiled' if s['compile'] else ''}, network {s['net']}; "
             f"rounds: {len(record['rounds'])}"]
    for case in first:
        if case != 'machine':
            lines += ['', case, columns(TABLES[record['measurement']](record, case))]
        if record['measurement'] == 'growth' and len(whole(record, case)) > 1:
            lines.append('slopes: ' + ', '.join(f'{k} {v:.2f}' for k, v in slopes(record, case).items()))
    lines += ['']*('machine' in first)
    for kind, rates in first.get('machine', {}).items():
        shown = ', '.join(f'{name} {best(record, kind, name)/1e9:.1f}' for name in rates)
        lines.append(f'peak, {kind}: {shown} GFLOP/s')
    lines += [f'left out: {party} ({why})' for party, why in record['left_out'].items()]
    return '\n'.join(lines) + '\n'


# The runner.

def write(path, record):
    "Whole or not at all."
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    part.write_text(json.dumps(record, indent=1) + '\n')
    os.replace(part, path)


def settings(args):
    "What makes two runs the same measurement."
    names = ('parties', 'device', 'dtype', 'malloc', 'threads', 'compile', 'net', 'batch', 'n', 'T', 'images',
             'seconds')
    return {k: getattr(args, k) for k in names}


def path_of(args, measurement):
    parts = [measurement, args.device, args.dtype, args.malloc]
    parts += [args.net]*(args.net != 'shared') + [f'{args.threads}threads']*(args.threads > 1)
    parts += ['compile']*args.compile
    return Path(args.out)/f"{'-'.join(parts)}.json"


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
    "Parameters and operations of each party; the precision and compiling have no say in them."
    def ask(name): return pool.ask_new(name, dict(compile=False, bf16=False), do='count')
    found = answers(dict.fromkeys(p.split('+')[0] for p in args.parties), ask)
    return {p: found[p.split('+')[0]] for p in args.parties if p.split('+')[0] in found}


def measure(args, measurement):
    "Add the rounds that a record lacks, and print its tables."
    path = path_of(args, measurement)
    record, pool = opened(args, measurement, path), Pool(args)
    wanted = args.rounds or ROUNDS.get(measurement, 5)
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
    def error(self, message):
        refuse(message)


def whole_number(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number, 1 or more')
    return int(text)


def parser():
    p = Parser(description=__doc__)
    add = p.add_argument
    add('measurements', nargs='*', metavar='MEASUREMENT',
        help=f"of {', '.join(MEASUREMENTS)}; all but profile and growth unless given; `show` prints what is in --out")
    add('--peer', action='append', default=[], metavar='NAME=PATH',
        help=f"where a peer's repository is, the folder that holds its packages; of {', '.join(PEERS)}")
    add('--only', help='parties, with commas; a name may be followed by +bfloat16 and +compile; all unless given')
    add('--device', choices=('cpu', 'cuda'), default='cpu')
    add('--dtype', choices=('float32', 'bfloat16'), default='float32', help='bfloat16: by autocast')
    add('--malloc', choices=tuple(ALLOCATORS), default='tuned',
        help='the allocator of every party: as glibc has it, or told to keep its memory')
    add('--threads', type=whole_number, default=1)
    add('--compile', action='store_true', help='torch.compile for every party')
    add('--net', choices=tuple(NETS), default='shared')
    add('--batch', default='16,64', help='images in a call, with commas; train and memory take the first')
    add('--n', type=whole_number, default=8, help='images of sample')
    add('--T', type=whole_number, default=5, help='steps of sample')
    add('--images', type=whole_number, default=50_000, help='images of evaluate, most images of growth')
    add('--rounds', type=whole_number, help='5 unless given; memory, profile and growth 1, evaluate 3')
    add('--seconds', type=float, default=1., help='least time of one measurement in a round')
    add('--out', default=str(root/'results'/'speed'))
    add('--again', action='store_true', help='make anew what is there')
    return p


def peers_of(pairs):
    "{name: path}, checked."
    found = dict(pair.partition('=')[::2] for pair in pairs)
    for name, path in found.items():
        if name not in PEERS:
            refuse(f'--peer {name}: there is an adapter for {", ".join(PEERS)}')
        if not path or not Path(path).is_dir():
            refuse(f'--peer {name}: {path!r} is no folder')
    return {name: str(Path(path).resolve()) for name, path in found.items()}


def parties_of(args):
    "The parties, checked: ours, diffusers, and the peers whose repository is there."
    there = ['ours', *sorted({*args.peers, 'diffusers'})]
    parties = args.only.split(',') if args.only else there
    for party in parties:
        name, *how = party.split('+')
        if name not in there:
            refuse(f'{name!r} is no party: there are {", ".join(there)}; the others need --peer NAME=PATH')
        if not set(how) <= {'bfloat16', 'compile'}:
            refuse(f'{party!r}: a name may be followed by +bfloat16 and +compile')
    return list(dict.fromkeys(parties))


def checked(args):
    "The arguments as they are used, or a refusal."
    for m in args.measurements:
        if m not in MEASUREMENTS:
            refuse(f'{m!r} is no measurement: there are {", ".join(MEASUREMENTS)}')
    args.measurements = args.measurements or [m for m in MEASUREMENTS if m not in ('profile', 'growth')]
    args.peers = peers_of(args.peer)
    args.parties = parties_of(args)
    if not all(part.isdigit() and int(part) for part in args.batch.split(',')):
        refuse(f'--batch {args.batch!r}: it must be whole numbers, 1 or more, with commas')
    args.batch = [int(part) for part in args.batch.split(',')]
    if not args.seconds > 0:
        refuse(f'--seconds {args.seconds}: it must be above 0')
    args.counts = {}
    return args


def main():
    args = parser().parse_args()
    if args.measurements == ['show']:
        records = [json.loads(path.read_text()) for path in sorted(Path(args.out).glob('*.json'))]
        print('\n'.join(map(report, records)))
        return
    args = checked(args)
    for measurement in args.measurements:
        measure(args, measurement)


if __name__ == '__main__':
    main()

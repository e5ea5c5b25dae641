"""A process that works for one party: it reads a request, a line of JSON, does it, and answers in a line of JSON.
Started by run.py."""
import collections, contextlib, importlib, json, math, os, platform, resource, subprocess, sys, time
from pathlib import Path
from uuid import uuid4


class Clock:
    "Seconds: CPU time of this process where it has one thread, wall time otherwise; a GPU is waited for."
    def __init__(self, device, threads):
        self.cuda = device == 'cuda'
        self.tick = time.process_time if device == 'cpu' and threads == 1 else time.perf_counter

    def now(self):
        if self.cuda:
            import torch
            torch.cuda.synchronize()
        return self.tick()

    def time(self, f, calls=1):
        began = self.now()
        for _ in range(calls):
            f()
        return (self.now()-began)/calls


class Worker:
    def __init__(self, party, path, net, device, threads, bf16, compile, seconds):
        import torch
        torch.set_num_threads(threads)
        self.device, self.compile, self.seconds = device, compile, seconds
        self.clock, self.ready = Clock(device, threads), {}
        if path:
            sys.path.insert(0, path)
        if party:
            adapter = importlib.import_module(f'peers.{party}').Adapter
            self.party = adapter(net, device=device, bf16=bf16, compile=compile)

    def repeat(self, key, make):
        "Time what `make` makes, many calls at a time; it is made, warmed up and counted when it is first asked for."
        if key not in self.ready:
            f = make()
            for _ in range(3 if self.device == 'cuda' or self.compile else 1):
                f()
            self.ready[key] = f, max(1, math.ceil(self.seconds/self.clock.time(f)))
        f, calls = self.ready[key]
        return dict(seconds=self.clock.time(f, calls), calls=calls)

    def forward(self, batch):
        return self.repeat(('forward', batch), lambda: self.party.forward(batch))

    def train(self, batch):
        return self.repeat(('train', batch), lambda: self.party.train(batch))

    def sample(self, n, T):
        "Guided sampling between two halves of its floor: the calls that it makes, and nothing else."
        calls, times = self.party.calls(T)
        before = self.forward(times*n)['seconds']
        found = self.repeat(('sample', n, T), lambda: self.party.samples(n, T))
        return found | dict(floor=calls*(before + self.forward(times*n)['seconds'])/2)

    def sampler(self, n, T, step=None):
        "The sampler alone: seconds a step, the network answering zeros; `step`: another one than usual, for ours."
        self.party.step = step
        self.party.silence()
        found = self.repeat(('sampler', n, T), lambda: self.party.samples(n, T))
        return found | dict(seconds=found['seconds']/T)

    def profile(self, what, batch):
        "Seconds in each operation of one call, on the GPU or on the CPU; what is beyond the largest dozen in one sum."
        import torch
        kinds, gpu = torch.profiler.ProfilerActivity, self.device == 'cuda'
        getattr(self, what)(batch)
        with torch.profiler.profile(activities=[kinds.CPU] + [kinds.CUDA]*gpu) as found:
            self.ready[what, batch][0]()
        times = collections.Counter()
        for e in found.key_averages():
            on_gpu = e.device_type != torch.autograd.DeviceType.CPU
            if on_gpu != gpu or e.is_user_annotation:     # on a GPU kernels, not the host's names for groups of them
                continue
            name = 'compiled code' if 'ompiled' in e.key else e.key[:60]
            times[name] += (e.self_device_time_total if on_gpu else e.self_cpu_time_total)/1e6
        first = sorted(times, key=times.get, reverse=True)[:12]
        return {k: times[k] for k in first} | {'the rest': sum(times.values()) - sum(times[k] for k in first)}

    def count(self):
        "Parameters, and operations for an image: forward, and in a training step."
        parameters = sum(p.numel() for p in self.party.net.parameters())
        return dict(parameters=parameters, forward=operations(self.party.forward(2))/2,
                    train=operations(self.party.train(2))/2)

    def machine(self, dtype):
        "The rates of the machine, in operations a second: a convolution in channels_last order, a product of matrices."
        def seconds(name, make): return self.repeat((name, dtype), lambda: make(self.device, dtype))['seconds']
        return {name: work/seconds(name, make) for name, make, work in rates(self.device)}

    def memory(self, what, **about):
        "Another request, with the memory in bytes before it and at its peak."
        before = memory(self.device, fresh=True)
        return getattr(self, what)(**about) | dict(before=before, peak=memory(self.device))

    def prepare(self, job, **about):
        "Make a job ready; a small one of its kind goes before, so that nothing is loaded or set up later."
        make = getattr(self, f'{job}_job')
        make(**about | dict(images=100))()
        self.job = make(**about)
        return dict(ready=True)

    def go(self):
        "Do the job that is ready, once."
        return dict(seconds=self.clock.time(self.job))

    def once(self, **about):
        "A job, timed, with its memory."
        self.prepare(**about)
        return self.memory('go')

    def evaluate_job(self, by, images, near=4):
        "FD and IS of random images of 8x8 against as many others; `near`: of each kind for precision and recall."
        import torch
        from cfg_repro.evaluate import Classifier, evaluate, make_extractor
        torch.manual_seed(0)
        a, b = (torch.randint(256, (images, 1, 8, 8), dtype=torch.uint8) for _ in range(2))
        classifier = Classifier(1, 10).eval()
        if by == 'torch-fidelity':
            return by_torch_fidelity(a, b, classifier, self.device)
        extractor = make_extractor(classifier, device=self.device)
        return lambda: evaluate(a, b, extractor, manifold=near)

    def generate_job(self, images, T, part=(0, 1)):
        "Guided images of 8x8 by the network of the digits; of m parts the k-th."
        from cfg_repro.generate import balanced_labels, generate
        from cfg_repro.guidance import guided
        from cfg_repro.presets import DIGITS
        from cfg_repro.unet import UNet, placed
        net = placed(UNet(**DIGITS), self.device).eval()
        k, m = part
        def labels(i): return balanced_labels(i, 10)
        def call():
            own = range(images)[k::m]
            for _ in generate(guided(net, 1., null=10), own, (1, 8, 8), labels, T=T, device=self.device):
                pass
        return call

    def about(self, peers):
        "What the numbers depend on."
        import torch
        from cfg_repro.results import provenance
        from importlib.metadata import version
        commits = {name: commit(path) for name, path in peers.items()}
        found = provenance(cpu=cpu(), threads=torch.get_num_threads(), commits=commits)
        del found['command']
        with contextlib.suppress(ImportError):
            found['versions']['diffusers'] = version('diffusers')
        allocator = {k: v for k, v in os.environ.items() if k.startswith('MALLOC_')}
        return found | dict(cuda=torch.version.cuda if self.device == 'cuda' else None, allocator=allocator)


def by_torch_fidelity(a, b, classifier, device):
    "The same by torch-fidelity's own loop, for which the classifier is registered under a name."
    from cfg_repro.data import from_uint8
    from torch.utils.data import Dataset
    from torch_fidelity import calculate_metrics
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import register_feature_extractor

    class Images(Dataset):
        "Images as it reads them: uint8 (3,H,W)."
        def __init__(self, images): self.images = images
        def __len__(self): return len(self.images)
        def __getitem__(self, i): return self.images[i].expand(3, -1, -1)

    class Features(FeatureExtractorBase):
        "Features and logits of the classifier, in double precision."
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)
            self.net = classifier

        @staticmethod
        def get_provided_features_list(): return 'features', 'logits'
        @staticmethod
        def get_default_feature_layer_for_metric(metric): return 'logits' if metric == 'isc' else 'features'
        @staticmethod
        def can_be_compiled(): return False

        def forward(self, x):
            features = self.net.body(from_uint8(x[:, :1]))
            found = dict(features=features.double(), logits=self.net.head(features).double())
            return tuple(found[k] for k in self.features_list)

    name = f'benchmark-{uuid4().hex}'      # a name is taken once, and an `id` comes again
    register_feature_extractor(name, Features)
    how = dict(isc=True, fid=True, feature_extractor=name, feature_layer_isc='logits', feature_layer_fid='features',
               batch_size=500, cuda=device == 'cuda', cache=False, verbose=False)
    return lambda: calculate_metrics(input1=Images(a), input2=Images(b), **how)


def operations(f):
    """Floating-point operations of a call: convolutions, products, and attention, taken apart, as not every kernel of
    it is counted. By torch's formulas, without its tracker of modules, which stumbles over guided-diffusion."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry
    counted = []
    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            out = operation(*args, **(kwargs or {}))
            if operation.overloadpacket in flop_registry:
                formula = flop_registry[operation.overloadpacket]
                counted.append(formula(*args, **(kwargs or {}), out_val=out))
            return out
    with sdpa_kernel(SDPBackend.MATH), Counter():
        f()
    return sum(counted)


def rates(device):
    "Names, what makes the call, and its operations."
    import torch
    n, channels, side, rows = (64, 512, 64, 8192) if device == 'cuda' else (16, 128, 32, 2048)
    def random(*shape, dtype): return torch.randn(shape, device=device).to(getattr(torch, dtype))
    def convolution(device, dtype):
        def last(t): return t.to(memory_format=torch.channels_last)
        x = last(random(n, channels, side, side, dtype=dtype))
        w = last(random(channels, channels, 3, 3, dtype=dtype))
        return lambda: torch.nn.functional.conv2d(x, w, padding=1)
    def product(device, dtype):
        a, b = (random(rows, rows, dtype=dtype) for _ in range(2))
        return lambda: a@b
    return (('convolution', convolution, 2*9*channels**2*n*side**2),
            ('product', product, 2*rows**3))


def memory(device, fresh=False):
    "Peak memory of this process, or of the GPU, in bytes; `fresh`: what is there now, from which a peak is counted."
    if device == 'cuda':
        import torch
        if fresh:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def cpu():
    known = Path('/proc/cpuinfo')
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()


def commit(path):
    "The commit of a folder, if it is a repository of its own."
    def git(*words):
        return subprocess.run(['git', '-C', path, *words], capture_output=True, text=True).stdout.strip()
    top, here = git('rev-parse', '--show-toplevel'), Path(path).resolve()
    own = top and Path(top) in (here, *here.parents[:1])
    return git('rev-parse', 'HEAD') if own else 'unknown'


def serve(answers):
    "One answer a line, until there are no more requests."
    worker = Worker(**json.loads(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(worker, request.pop('do'))(**request)
        answers.write(json.dumps(answer) + '\n')
        answers.flush()


if __name__ == '__main__':
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)                             # what a party prints is no answer
    try:
        serve(answers)
    except Exception as e:
        answers.write(json.dumps(dict(error=f'{type(e).__name__}: {e}'.splitlines()[0])) + '\n')
        raise

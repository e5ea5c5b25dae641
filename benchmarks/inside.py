"""What a conditional network of the digits knows of the class, and whether its guidance is a gradient, on held-out
digits: python benchmarks/inside.py. The same line goes on where it stopped; the pages 63_inside and 64_gradient read
what it finds."""
from functools import partial
from pathlib import Path
import torch
from torch.nn.functional import nll_loss
import beyond
from cfg_repro.console import command, progress
from cfg_repro.digits import SETTINGS
from cfg_repro.files import held_record, locked, read_record, write_record
from cfg_repro.forward import diffuse, eps_from_x
from cfg_repro.gradient import jacobian
from cfg_repro.guidance import guided
from cfg_repro.inside import Inside, guided_inside, class_sum, noised_path
from cfg_repro.presets import fitting, preset
from cfg_repro.results import provenance, write_csv, write_json
from cfg_repro.runs import LOOP, new_run
from cfg_repro.schedule import alpha_sigma, logsnr_grid
from cfg_repro.sweeps import begin
from cfg_repro.training import classifier_loss, train
from cfg_repro.unet import NoisyClassifier

results = Path(__file__).resolve().parents[1]/'results'
LEVELS = (-1., 0., 1., 2.)
LENGTHS = (100, 500, 2000)      # training steps of the networks that are asked for the class
PRIOR = torch.ones(beyond.NULL)/beyond.NULL
SAMPLED = 500                   # training steps of the networks that are sampled
STRENGTHS = dict(null=(.3, .5, 1.), inside=(1., 2.))     # w by where the unconditional prediction is from


def walk():
    "Log-SNRs of a path: the paper's from -20 to -1, then half a unit at a time to 2."
    return torch.cat([logsnr_grid(16, -20., LEVELS[0]), torch.arange(-.5, 2.5, .5, dtype=torch.float64)])


def noisy_classifier(seed):
    "A classifier of noisy digits by its preset, which has learnt from the same digits; kept."
    path = beyond.kept/f'noisy-s{seed}'
    if not path.exists():
        learnt, _ = beyond.parted()
        how = {k: SETTINGS[k] for k in ('batch_size', 'lr', 'warmup', 'ema_decay')}
        p = fitting(preset('digits_classifier', **how), learnt)
        state = new_run(p, seed, 'cpu')
        for _ in train(state, learnt, seed=seed, loss=classifier_loss, **{k: p[k] for k in LOOP}):
            pass
        state.ema.module.save_pretrained(path)
    return NoisyClassifier.from_pretrained(path).eval()


def paths(x, logsnrs, seed):
    "Images noised to the last log-SNR, and their way from pure noise to there: one for each log-SNR."
    g = torch.Generator().manual_seed(seed)
    def draw(z): return torch.randn(z.shape, generator=g)
    z = diffuse(x, draw(x), logsnr=logsnrs[-1].float())
    return noised_path(z, logsnrs=logsnrs, noise=draw)


def known(log_p, c, name):
    "Accuracy and cross-entropy of a classifier."
    right = (log_p.argmax(1) == c).float().mean()
    return {f'accuracy_{name}': right.item(), f'nats_{name}': nll_loss(log_p, c).item()}


@torch.no_grad()
def place(net, classifier, z, x, c, eps, log_p, logsnr):
    "The row of one log-SNR: who knows the class, and who predicts the noise."
    each = logsnr.expand(len(z))
    noise, by_classifier = eps_from_x(z, x, logsnr=logsnr), classifier(z, each).log_softmax(1)
    guesses = dict(
        null=net(z, each, torch.full_like(c, beyond.NULL)), inside=class_sum(eps, log_p),
        classifier=class_sum(eps, by_classifier), prior=eps.mean(1), cond=eps[torch.arange(len(c)), c])
    errors = {f'error_{name}': (e-noise).square().mean().item() for name, e in guesses.items()}
    return known(log_p, c, 'inside') | known(by_classifier, c, 'classifier') | errors


@torch.no_grad()
def classes(net, classifier, seed, data):
    "The rows of one network: it walks from noise to the last of LEVELS."
    x, c = data[torch.arange(len(data))]
    logsnrs, inside, rows = walk(), Inside(net, PRIOR, beyond.V, clip=1.), []
    for z, logsnr in zip(paths(x, logsnrs, seed), logsnrs):
        eps, log_p = inside(z, logsnr)
        if logsnr.item() in LEVELS:
            at = dict(logsnr=logsnr.item())
            rows.append(at | place(net, classifier, z, x, c, eps, log_p, logsnr.float()))
    return rows


def norms(J, name):
    "Squared norms of Jacobians, and of their antisymmetric parts."
    return {f'all_{name}': J.square().sum().item(), f'odd_{name}': ((J-J.mT)/2).square().sum().item()}


def of_guess(J, logsnr):
    "What a network adds to the Jacobian of eps, minus alpha/sigma times that of its guess of x: z itself puts I/sigma there."
    _, sigma = alpha_sigma(logsnr)
    return J - torch.eye(J.shape[-1]).to(J)/sigma


def turns(net, seed, data, n):
    """The Jacobians of a network's predictions, of its guess of x, and of the guidance vector, at noisy digits: a row for
    each log-SNR."""
    x, c = data[torch.arange(n)]
    net, g, rows = net.double(), torch.Generator().manual_seed(seed), []
    z_eps = torch.randn(x.shape, generator=g, dtype=torch.float64)
    for level in LEVELS:
        logsnr = torch.tensor(level, dtype=torch.float64)
        z = diffuse(x.double(), z_eps, logsnr=logsnr)
        def predicted(labels): return jacobian(lambda z: net(z, logsnr.expand(n), labels), z)
        with_class, without = predicted(c), predicted(torch.full_like(c, beyond.NULL))
        fields = dict(cond=with_class, null=without, guess=of_guess(with_class, logsnr), d=with_class-without)
        rows.append(dict(logsnr=level) | {k: v for name, J in fields.items() for k, v in norms(J, name).items()})
    return rows


def guidance(net, seed, by, w):
    "A row of samples that are guided away from the null class, or from the sum over all classes."
    model = guided(net, w, null=beyond.NULL)
    if by == 'inside':
        model = guided_inside(net, w, prior=PRIOR, v=beyond.V, clip=1.)
    return [beyond.judged(beyond.sampled(model, seed))]


def part(out, name, of, make):
    "The rows of one part of the work, made unless they are there."
    path = out/'parts'/f'{name}-{"-".join(map(str, of.values()))}.json'
    if held_record(path) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, dict(rows=[of | row for row in make()]))
    return read_record(path)['rows']


def jobs(out, seed, n):
    "The parts of one seed: the file that each goes to, and how to make it."
    _, held = beyond.parted()
    for steps in LENGTHS:
        of = dict(seed=seed, steps=steps)
        yield 'classes', of, lambda steps=steps: classes(
            beyond.network(seed, steps), noisy_classifier(seed), seed, held)
    for steps in beyond.STEPS:
        of = dict(seed=seed, steps=steps)
        yield 'gradient', of, lambda steps=steps: turns(beyond.network(seed, steps), seed, held, n)
    for by, w in [(by, w) for by, ws in STRENGTHS.items() for w in ws]:
        of = dict(seed=seed, by=by, w=w)
        yield 'samples', of, lambda by=by, w=w: guidance(beyond.network(seed, SAMPLED), seed, by, w)


@command
def inside(
    out:str=str(results/'inside'), # Directory of the result
    seeds:int=3, # Networks, each with its own seed
    n:int=16, # Digits at which Jacobians are taken
):
    "The classifier inside a network, and the gradient that it is not. Stop it, and the same line resumes."
    torch.set_num_threads(1)
    out, tables = Path(out), dict(classes=[], gradient=[], samples=[])
    settings = dict(n=n, levels=LEVELS, walk=walk().tolist(), v=beyond.V, T=beyond.T, N=beyond.N)
    with locked(out/'parts'):
        begin(out, settings)
        work = [job for seed in range(seeds) for job in jobs(out, seed, n)]
        for name, of, make in progress(work, unit=' parts'):
            tables[name] += part(out, name, of, make)
    for name, rows in tables.items():
        write_csv(out/f'{name}.csv', rows)
    write_json(out/'provenance.json', provenance(settings=settings, seeds=seeds))


if __name__ == '__main__':
    inside.console()

"""What guidance mends, on the digits: FD, IS, precision, recall and the distance within a class by training steps and w;
the density that guidance promises, as real digits weighted by p(c|x)^w; and the strength at each log-SNR that denoises
that density best, fitted and sampled: python benchmarks/mends.py. The same line goes on where it stopped; the page
65_mends reads what it finds."""
from functools import partial
from pathlib import Path
import torch
from torch.nn.functional import cross_entropy
import beyond
from cfg_repro.console import command, progress
from cfg_repro.data import MemorySet
from cfg_repro.digits import SETTINGS
from cfg_repro.evaluate import fit_classifier
from cfg_repro.files import held_record, locked, read_record, write_record
from cfg_repro.forward import diffuse
from cfg_repro.guidance import guided
from cfg_repro.results import provenance, write_csv, write_json
from cfg_repro.schedule import logsnr_grid
from cfg_repro.sweeps import begin

results = Path(__file__).resolve().parents[1]/'results'
LENGTHS = beyond.STEPS[1:]
MUCH, LITTLE = (0., .5, .7, 1., 1.5, 2., 4.), (0., .1, .2, .3, .5, .7, 1., 4.)
W = {100: MUCH, 200: MUCH, 500: LITTLE, 1000: LITTLE, 2000: LITTLE}
PROMISED = (0., 1., 4.)
FOLDS, DRAWS, EACH, FITTED = 5, 5, 60, 600
TEMPERATURES = torch.logspace(-1, 1, 401, dtype=torch.float64)


def within(images, labels):
    "The mean distance of two images of one class, in [-1,1], over the classes."
    x = images.flatten(1).double()/127.5
    pairs = [torch.pdist(x[labels == k]) for k in labels.unique()]
    return torch.stack([apart.mean() for apart in pairs]).mean().item()


def looked_at(images, labels):
    "What is measured of some images."
    return beyond.judged(images) | dict(within=within(images, labels))


def temperature(logits, labels):
    "What to divide logits by so that their probabilities fit the labels best."
    losses = torch.stack([cross_entropy(logits/t, labels) for t in TEMPERATURES])
    return TEMPERATURES[losses.argmin()]


def crossed(data):
    "Logits of a set, each by a classifier of the other four fifths; the same divided by a temperature of these."
    fold = torch.arange(len(data)) % FOLDS
    logits = torch.zeros(len(data), beyond.NULL, dtype=torch.float64)
    for k in range(FOLDS):
        rest = MemorySet(data.x[fold != k], data.labels[fold != k], data.settings)
        net = fit_classifier(rest, beyond.NULL, steps=SETTINGS['classifier_steps'], seed=k)
        with torch.no_grad():
            logits[fold == k] = net(data.x[fold == k]).double()
    cooled = logits.clone()
    for k in range(FOLDS):
        cooled[fold == k] /= temperature(logits[fold != k], data.labels[fold != k])
    return logits, cooled


def believed():
    "A row for each digit to learn from: its class, log p of that class before and after the temperature, the top class."
    data = beyond.parted()[0]
    raw, cooled = (logits.log_softmax(1) for logits in crossed(data))
    def row(i, c):
        top, name = cooled[i].max(0)
        return dict(label=c, raw=raw[i, c].item(), log_p=cooled[i, c].item(), top=top.item(), right=int(name == c))
    return [row(i, c) for i, c in enumerate(data.labels.tolist())]


def own_class(rows):
    "log p of their own class, of the digits to learn from."
    return torch.tensor([row['log_p'] for row in rows], dtype=torch.float64)


def promised(log_p, w, seed):
    "Digits to learn from, as many of each class, kept with probability p(c|x)^w: bytes and labels."
    data, draw = beyond.parted()[0], torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=draw)
    kept = order[torch.rand(len(data), generator=draw, dtype=torch.float64) < (w*log_p[order]).exp()]
    found = torch.cat([kept[data.labels[kept] == k][:EACH] for k in range(beyond.NULL)])
    return data.bytes(found), data.labels[found]


def predictions(net, x, c, logsnr, eps):
    "With the class and without, for images at one log-SNR."
    def ask(c):
        at = torch.full((len(x),), logsnr.item())
        z = diffuse(x, eps, logsnr=logsnr.float())
        parts = zip(z.split(300), at.split(300), c.split(300))
        return torch.cat([net(*part) for part in parts]).double()
    with torch.no_grad():
        return ask(c), ask(torch.full_like(c, beyond.NULL))


def products(net, x, c, weights, logsnr, draw):
    "At one log-SNR, for each weighting of images: E|eps-e_c|^2, E|d|^2 and E<eps-e_c,d>, a pixel."
    eps = torch.randn(x.shape, generator=draw)
    e_c, e_u = predictions(net, x, c, logsnr, eps)
    left, d = eps.double()-e_c, e_c-e_u
    of = dict(error=left*left, d2=d*d, aligned=left*d)
    each = {name: product.flatten(1).mean(1) for name, product in of.items()}
    return [{name: (share @ value).item() for name, value in each.items()} for share in weights]


def fitted(net, which, log_p, ws, seed):
    "A row for each log-SNR of the sampler and each w: the products, over 600 digits weighted by p(c|x)^w."
    data, draw = beyond.parted()[which == 'held'], torch.Generator().manual_seed(seed)
    x, c = data[torch.arange(FITTED)]
    weights = [(w*log_p[:FITTED]).softmax(0) for w in ws]
    found = []
    for logsnr in logsnr_grid(beyond.T):
        rows = products(net, x, c, weights, logsnr, draw)
        found += [dict(digits=which, w=w, logsnr=logsnr.item()) | row for w, row in zip(ws, rows)]
    return found


def owed(rows, w):
    "The fitted strength as a function of log-SNR, on the sampler's grid: E<eps-e_c,d>/E|d|^2."
    some = [row for row in rows if row['w'] == w and row['digits'] == 'learnt']
    grid = torch.tensor([row['logsnr'] for row in some])
    strengths = torch.tensor([row['aligned']/row['d2'] for row in some])
    def strength(logsnr):
        nearest = (logsnr.cpu().float()[:, None]-grid).abs().argmin(1)
        return strengths[nearest].to(logsnr)
    return strength


def measured(net, seed, rule, w, strength):
    "The row of one sample of a network."
    images = beyond.sampled(guided(net, strength, null=beyond.NULL), seed)
    return dict(rule=rule, w=w) | looked_at(images, beyond.labels(range(len(images))))


def of_network(seed, steps, log_p):
    "All that is measured of one network: rows of samples, and rows of fits."
    net = beyond.network(seed, steps)
    fits = fitted(net, 'learnt', log_p, PROMISED, seed) + fitted(net, 'held', log_p, (0.,), seed)
    cells = [measured(net, seed, 'plain', w, w) for w in W[steps]]
    cells += [measured(net, seed, 'owed', w, owed(fits, w)) for w in PROMISED]
    about = dict(seed=seed, steps=steps)
    return dict(cells=[about | row for row in cells], fits=[about | row for row in fits])


def of_digits():
    "The same of real digits: those to learn from, weighted as promised; the distance within the held-out classes."
    held = beyond.parted()[1]
    images = held.bytes(torch.arange(len(held)))
    own = dict(rule='held', w=0., seed=0, **dict.fromkeys(beyond.MEASURED, ''), within=within(images, held.labels))
    beliefs = believed()
    log_p = own_class(beliefs)
    drawn = [dict(rule='promised', w=w, seed=seed) | looked_at(*promised(log_p, w, seed))
             for w in PROMISED for seed in range(DRAWS)]
    return dict(cells=[own, *drawn], beliefs=beliefs)


def part(path, make):
    "What was kept there, or what is made now and kept."
    if held_record(path) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, make())
    return read_record(path)


@command
def mends(
    out:str=str(results/'mends'), # Directory of the result
    seeds:int=5, # Networks of each length of training, each with its own seed
    lengths:tuple[int,...]=LENGTHS, # Training steps, each one at which networks are kept
):
    "What guidance mends on the digits. Stop it, and the same line resumes."
    torch.set_num_threads(1)
    out, settings = Path(out), dict(promised=PROMISED, fitted=FITTED, n=beyond.N, T=beyond.T, v=beyond.V)
    with locked(out/'parts'):
        begin(out, settings)
        real = part(out/'parts'/'digits.json', of_digits)
        log_p, jobs = own_class(real['beliefs']), [(seed, steps) for seed in range(seeds) for steps in lengths]
        found = [part(out/'parts'/'networks'/f'{seed}-{steps}.json', partial(of_network, seed, steps, log_p))
                 for seed, steps in progress(jobs, unit=' networks')]
    for name in ('cells', 'fits'):
        write_csv(out/f'{name}.csv', [row for one in found for row in one[name]])
    write_csv(out/'digits.csv', real['cells'])
    write_csv(out/'beliefs.csv', real['beliefs'])
    write_json(out/'provenance.json', provenance(settings=settings, seeds=seeds, lengths=lengths))


if __name__ == '__main__':
    mends.console()

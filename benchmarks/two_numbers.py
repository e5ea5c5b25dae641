"""One number a noise level or two, on the digits: the two factors that denoise best the density that guidance promises, and
ReCFG's, fitted on digits that were learnt from, and sampled: python benchmarks/two_numbers.py, after benchmarks/mends.py,
whose rows of one number and of none stand beside these. The same line goes on where it stopped; the page 61_owed reads what
it finds."""
from functools import partial
from pathlib import Path
import torch
import beyond
from mends import FITTED, LENGTHS, PROMISED, W, looked_at, own_class, part
from cfg_repro.console import command, progress
from cfg_repro.files import locked
from cfg_repro.owed import by_level, cross_ratio, owed_pair, owed_strength, weighed
from cfg_repro.results import provenance, read_csv, write_csv, write_json
from cfg_repro.schedule import logsnr_grid
from cfg_repro.sweeps import begin

results = Path(__file__).resolve().parents[1]/'results'


def grid():
    "The log-SNRs at which the sampler calls."
    return logsnr_grid(beyond.T)


def noised(seed):
    "Digits that were learnt from, their noise and their classes."
    x, c = beyond.parted()[0][torch.arange(FITTED)]
    return x, torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)), c


def promised(fit, net, log_p, seed):
    "What is fitted to each promise, by least squares on digits that are weighted by p(c|x)^w: w -> (T, ...)."
    of = noised(seed)
    return {w: fit(net, *of, grid(), null=beyond.NULL, weights=(w*log_p[:FITTED]).softmax(0)) for w in PROMISED}


def ratios(net, seed):
    "ReCFG's ratio at each level, over all digits and over each class alone: (T,), (classes,T)."
    x, eps, c = noised(seed)
    fit = partial(cross_ratio, net, logsnrs=grid(), null=beyond.NULL)
    alone = [fit(x[c == k], eps[c == k], c[c == k]) for k in range(beyond.NULL)]
    return fit(x, eps, c), torch.stack(alone)


def of_pair(net, factors):
    "The model of two factors that are given at each level."
    of_class, of_all = (by_level(grid(), column) for column in factors.unbind(1))
    return weighed(net, of_class, of_all, null=beyond.NULL)


def of_ratio(net, rho, w):
    "ReCFG's model: (1+w) eps(z,c) - w rho eps(z)."
    ratio = by_level(grid(), rho)
    return weighed(net, 1+w, lambda logsnr: -w*ratio(logsnr), null=beyond.NULL)


def at_start(log_p, w):
    "What w* is at high noise, by the means of digits alone: the sums over classes of the quotient's two parts."
    x, c = beyond.parted()[0][torch.arange(FITTED)]
    x, weights = x.flatten(1).double(), (w*log_p[:FITTED]).exp()
    above, below = 0., 0.
    for k in range(beyond.NULL):
        mine = c == k
        m_c, m_w = x[mine].mean(0), weights[mine] @ x[mine]/weights[mine].sum()
        share, d = mine.double().mean(), m_c-x.mean(0)
        above, below = above + share*(m_w-m_c) @ d, below + share*d @ d
    return (above/below).item()


def of_network(seed, steps, log_p):
    "All that is measured of one network: rows of samples, and rows of fits."
    net = beyond.network(seed, steps)
    best, one = (promised(fit, net, log_p, seed) for fit in (owed_pair, owed_strength))
    rho, alone = ratios(net, seed)
    models = [('best two', w, of_pair(net, best[w])) for w in PROMISED]
    models += [('ReCFG', w, of_ratio(net, rho, w)) for w in W[steps] if w]
    about, cells = dict(seed=seed, steps=steps), []
    for rule, w, model in models:
        images = beyond.sampled(model, seed)
        cells.append(about | dict(rule=rule, w=w) | looked_at(images, beyond.labels(range(len(images)))))
    fits = [about | dict(w=w, logsnr=l, of_class=a, of_all=b, one=v) for w in PROMISED
            for l, (a, b), v in zip(grid().tolist(), best[w].tolist(), one[w].tolist())]
    ratio = [about | dict(logsnr=l, rho=r, least=a, most=b) for l, r, a, b in zip(
        grid().tolist(), rho.tolist(), alone.amin(0).tolist(), alone.amax(0).tolist())]
    return dict(cells=cells, fits=fits, ratios=ratio)


@command
def two_numbers(
    out:str=str(results/'two_numbers'), # Directory of the result
    seeds:int=5, # Networks of each length of training, each with its own seed
    lengths:tuple[int,...]=LENGTHS, # Training steps, each one at which networks are kept
):
    "One number a noise level or two, on the digits. Stop it, and the same line resumes."
    torch.set_num_threads(1)
    out, settings = Path(out), dict(promised=PROMISED, fitted=FITTED, n=beyond.N, T=beyond.T, v=beyond.V)
    log_p, jobs = own_class(read_csv(results/'mends'/'beliefs.csv')), [(k, n) for k in range(seeds) for n in lengths]
    with locked(out/'parts'):
        begin(out, settings)
        found = [part(out/'parts'/f'{seed}-{steps}.json', partial(of_network, seed, steps, log_p))
                 for seed, steps in progress(jobs, unit=' networks')]
    for name in ('cells', 'fits', 'ratios'):
        write_csv(out/f'{name}.csv', [row for one in found for row in one[name]])
    starts = {f'{w:g}': at_start(log_p, w) for w in PROMISED}
    write_json(out/'provenance.json', provenance(settings=settings, seeds=seeds, lengths=lengths, starts=starts))


if __name__ == '__main__':
    two_numbers.console()

"""The road from a run to a number, walked by hand.

Weights are read by safetensors, noise is numpy's Philox, Algorithm 2 and every measure are written out from their formulas, in
double precision but for the networks themselves. Of the package only the networks' classes are used: what stands between an option
and a number (runs, samples, evaluation, sweeps) is not.
"""
import json, math
from pathlib import Path
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from cfg_repro.unet import NoisyClassifier, UNet


def checkpoint(run):
    "The newest checkpoint's directory, and the settings that stand in it."
    path = max(Path(run).glob('step-*'))
    return path, json.loads((path/'state.json').read_text())['settings']


def network(run):
    "The network with the averaged weights, in evaluation mode."
    path, settings = checkpoint(run)
    net = {'unet': UNet, 'classifier': NoisyClassifier}[settings['network']](**settings['net'])
    net.load_state_dict(load_file(path/'ema.safetensors'))
    return net.eval()


def noise(seed, indices, t, shape):
    "Of step t, for each image: Philox with the key (seed, index), its last counter word t."
    def one(i): return np.random.Generator(np.random.Philox(key=[seed, i], counter=[0, 0, 0, t])).standard_normal(shape, np.float32)
    return torch.from_numpy(np.stack([one(i) for i in indices])).double()


def grid(T):
    "lambda = -2 log tan(a u + b) at T values of u from 1 down to 0, between -20 and 20."
    b, end = math.atan(math.exp(-10)), math.atan(math.exp(10))
    return [-2*math.log(math.tan((end-b)*u + b)) for u in np.linspace(1, 0, T)]


def eps_free(net, z, lam, c, w, null):
    "Eq. (6), from two calls."
    def eps(c): return net(z.float(), torch.full((len(z),), lam), c).double()
    with torch.no_grad(): return (1+w)*eps(c) - w*eps(torch.full_like(c, null))


def eps_classifier(net, noisy, z, lam, c, w):
    "eps - w sigma grad log p(c|z), Section 3.1."
    with torch.no_grad(): eps = net(z.float(), torch.full((len(z),), lam), c).double()
    z = z.float().requires_grad_()
    logp = noisy(z, torch.full((len(z),), lam)).log_softmax(1)[torch.arange(len(z)), c].sum()
    return eps - w*math.sqrt(1/(1+math.exp(lam)))*torch.autograd.grad(logp, z)[0].double()


def walk(run, c, *, w, T, v, seed, noisy=None):
    "Algorithm 2 on images of these classes: z and the clipped x at each step; w may be a function of lambda."
    net, (_, settings) = network(run), checkpoint(run)
    classes, shape = settings['net']['n_classes'], (settings['net'].get('in_channels', 3), *[settings['net']['size']]*2)
    c, lams, every = torch.as_tensor(c), grid(T), range(len(c))
    z = noise(seed, every, 0, shape)
    for t, lam in enumerate(lams, 1):
        strength = w(lam) if callable(w) else w
        eps = eps_classifier(net, noisy, z, lam, c, strength) if noisy else eps_free(net, z, lam, c, strength, classes)
        alpha, sigma = math.sqrt(1/(1+math.exp(-lam))), math.sqrt(1/(1+math.exp(lam)))
        x = ((z-sigma*eps)/alpha).clamp(-1, 1)
        yield z, x
        if t == T: return
        after = lams[t]
        alpha_after, var_after = math.sqrt(1/(1+math.exp(-after))), 1/(1+math.exp(after))
        r = math.exp(lam-after)
        mean = r*alpha_after/alpha*z + (1-r)*alpha_after*x
        var = ((1-r)*var_after)**(1-v) * ((1-r)*sigma**2)**v
        z = mean + math.sqrt(var)*noise(seed, every, t, shape)


def as_bytes(x): return ((x+1)*127.5).round().clamp(0, 255).to(torch.uint8)


def images(run, n, *, w, T, v, seed, noisy=None):
    "The last of that walk, on n images of classes 0, 1, 2, ... in turn, as bytes."
    c = torch.arange(n) % checkpoint(run)[1]['net']['n_classes']
    *_, (_, x) = walk(run, c, w=w, T=T, v=v, seed=seed, noisy=noisy)
    return as_bytes(x)


def judge(path):
    "The features and the probabilities that a classifier's file gives images, from its tensors: three convolutions, a mean, a matrix."
    w = load_file(path)
    def look(images):
        h = images.float()/127.5 - 1
        for layer, stride in (('body.0', 1), ('body.2', 2), ('body.4', 1)): h = F.conv2d(h, w[f'{layer}.weight'], w[f'{layer}.bias'], stride, 1).relu()
        h = h.mean((2, 3))
        return h.double().numpy(), (h@w['head.weight'].T + w['head.bias']).double().softmax(1).numpy()
    return look


def frechet(a, b):
    "|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)); the trace of the root is the sum of the roots of the eigenvalues."
    A, B = np.cov(a.T), np.cov(b.T)
    root = np.sqrt(np.linalg.eigvals(A@B).real.clip(0)).sum()
    return float(((a.mean(0)-b.mean(0))**2).sum() + np.trace(A) + np.trace(B) - 2*root)


def inception_score(p):
    "exp of the mean divergence of p(y|x) from its mean."
    return float(np.exp((p*(np.log(p)-np.log(p.mean(0)))).sum(1).mean()))


def within(a, b, k=3):
    "The share of b that lies in a ball around some a which reaches to its k-th neighbour."
    def far(u, v): return np.sqrt(((u[:, None]-v[None])**2).sum(-1))
    radius = np.sort(far(a, a), 1)[:, k]
    return float((far(b, a) <= radius).any(1).mean())


def row(images, real, look):
    "What an evaluation says of images: fd, is_mean, precision, recall."
    (a, p), (b, _) = look(images), look(real)
    return dict(fd=frechet(a, b), is_mean=inception_score(p), precision=within(b, a), recall=within(a, b))

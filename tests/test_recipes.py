"The recipes of page 55, run as they stand, against the same by hand. (In the README's environment: test_newcomer.)"
import ast, re
import numpy as np
import pytest
import torch
from torch.testing import assert_close
import recipes
from cfg_repro.adapters import discrete_logsnrs
from cfg_repro.data import from_uint8


def run(*titles):
    "The names that recipes leave behind."
    names = {}
    exec('\n'.join(map(recipes.code, titles)), names)
    return names


def level(n): return torch.linspace(-3, 3, n)


def is_guided(r, net, w, z, c, none):
    "Eq. (6) from two calls of the network."
    with torch.no_grad():
        by_hand = (1+w)*net(z, level(len(z)), c) - w*net(z, level(len(z)), none)
        assert_close(r['model'](z, level(len(z)), c), by_hand, rtol=1e-4, atol=1e-5)


def test_labels():
    "Guided as the paper says, within the range of images; and the network has learnt from images without a label."
    r = run('Labels')
    z, c = torch.randn(5, 1, 8, 8), torch.tensor([3, 1, 4, 1, 5])
    is_guided(r, r['net'], 1., z, c, torch.full((5,), 10))
    assert r['samples'].shape == (5, 1, 8, 8) and r['samples'].abs().max() <= 1
    moments = r['state'].opt.state[r['state'].net.told.weight]['exp_avg']
    assert (moments.abs().sum(1) > 0).all() and len(moments) == 11      # every class was seen, and none


def test_text():
    "A scale of 7.5 in others' words; the row for no text stands for each of them."
    r = run('Labels', 'Text')
    z = torch.randn(2, 1, 8, 8)
    is_guided(r, r['net'], 6.5, z, r['texts'][:2], r['empty'].expand(2, 7, 32))
    with torch.no_grad():
        one, other = (r['net'](z, level(2), c) for c in (r['texts'][:2], r['empty'].expand(2, 7, 32)))
    assert not torch.allclose(one, other) and r['samples'].shape == (2, 1, 8, 8)


@pytest.mark.parametrize('titles, shape, told', [(['By label'], (3, 3, 8, 8), 'class_labels'),
                                                 (['By label', 'By text'], (2, 4, 8, 8), 'encoder_hidden_states')])
def test_diffusers(titles, shape, told):
    "At a time step of its own the model says what the network says; and the last thing sampled has the network's shape."
    r = run(*titles)
    found = r['latents'] if told == 'encoder_hidden_states' else r['samples']
    assert found.shape == shape and found.isfinite().all()
    z, n = torch.randn(shape), shape[0]
    c = r['texts'] if told == 'encoder_hidden_states' else torch.tensor([0, 5, 9])
    logsnr = discrete_logsnrs(r['scheduler'].betas)[[700]].expand(n)
    assert len(r['steps']) == 16 and (r['steps'].diff() > 0).all()
    with torch.no_grad():
        assert_close(r['model'](z, logsnr, c), r['unet'](z, 700, **{told: c}).sample, rtol=1e-3, atol=1e-4)


def test_judged():
    "The distance by the formula of Heusel et al., from the features of the classifier that the recipe fitted."
    r = run('An array')
    def moments(images):
        with torch.no_grad(): f = r['own'].body(from_uint8(images)).double().numpy()
        return f.mean(0), np.cov(f, rowvar=False)
    (m, C), (n, D) = moments(r['made']), moments(r['real'].bytes(torch.arange(len(r['real']))))
    shared = np.sqrt(np.linalg.eigvals(C @ D).real.clip(0)).sum()          # the trace of the root
    by_hand = ((m-n)**2).sum() + np.trace(C + D) - 2*shared
    assert abs(r['found']['fd'] - by_hand) < 0.01*by_hand and by_hand > 1
    assert 0 < r['found']['precision'] < 1 and 0 < r['found']['recall'] < 1


def test_they_are_short():
    "About ten lines from a network, or from pictures, to what is wanted: what is not yours to bring."
    own = {title: [source for _, source in recipes.cells(title)][-1] for title in ('Labels', 'Text', 'By label', 'By text', 'An array')}
    assert all(len(source.splitlines()) <= 10 for source in own.values()), own
    assert len(recipes.commands()) == 3


def test_imports_stand_alone():
    "Each group of recipes brings all that it uses: nothing is left over from the page."
    for title in ('Your own network', 'A model of diffusers', 'An array'):
        tree = ast.parse(recipes.code(title))
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        bound = {a.asname or a.name for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names}
        bound |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        bound |= {n.name for n in ast.walk(tree) if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
        bound |= {a.arg for n in ast.walk(tree) if isinstance(n, ast.arguments) for a in n.args}
        assert used - bound <= set(dir(__builtins__)) | set(__builtins__ if isinstance(__builtins__, dict) else ()), used-bound
        assert re.search(r'^from cfg_repro import ', recipes.code(title), re.M)

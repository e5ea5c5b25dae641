"What makes no sense is refused in one sentence that names the value, and nothing is touched: every public function, every command."
import json, math, os, shutil
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nan, tensor, zeros
import test_measures
from cfg_repro.adapters import cosine_betas, discrete_logsnrs, discrete_model, linear_betas, logsnr_at, time_of, visited
from cfg_repro.checkpoints import load_checkpoint, read_checkpoint, save_checkpoint, steps_taken, train_run
from cfg_repro.checks import Refusal
from cfg_repro.classifier_guidance import classifier_grad, classifier_guide, classifier_guided
from cfg_repro.classifier_guidance import classifier_guided_step, shift_mean
from cfg_repro.data import Glyphs, MemorySet, digits, draw_glyph, from_uint8, to_uint8
from cfg_repro.digits import cfg_digits
from cfg_repro.evaluate import Classifier, Statistics, check_images, dinov2_weights, evaluate, fit_classifier, inception_weights
from cfg_repro.evaluate import load_statistics, make_extractor, save_statistics
from cfg_repro.files import file_hash, intact, read_record, write_manifest, write_record
from cfg_repro.from_diffusers import diffusers_model, scheduler_logsnrs
from cfg_repro.gaussians import Gaussians, exact_moments
from cfg_repro.forward import diffuse, eps_from_score, eps_from_x, score_from_eps, transition, x_from_eps
from cfg_repro.generate import balanced_labels, generate, image_noise, random_labels
from cfg_repro.gradient import asymmetry, jacobian
from cfg_repro.guidance import guide, guided, implicit_classifier_grad, limited
from cfg_repro.hardware import pick, spread
from cfg_repro.inside import Inside, bayes_step, class_sum, every_class, guided_inside
from cfg_repro.judge import cfg_evaluate, judgeable, judging, own_classifier
from cfg_repro.mixture import Mixture, guided_log_prob
from cfg_repro.conditions import composed
from cfg_repro.objective import drop_class, eps_loss, kl_step, stratified_u
from cfg_repro.parametrisations import as_flow, as_v, edm_labels, from_x, interval, logsnr_of_flow_time, logsnr_of_sigma, step_interval
from cfg_repro.pictures import board, film, writable
from cfg_repro.archives import downsampled_npz, fetched, idx_folder
from cfg_repro.prepare import adm_resize, area_resize, cfg_prepare, class_folders, prepare
from cfg_repro.presets import DIGITS, fitting, level_sizes, preset
from cfg_repro.results import Table, write_csv
from cfg_repro.reverse import ancestral_step, posterior, reverse_moments
from cfg_repro.rules import cfgpp_step, cfgpp_strength, characteristic, corrected, effective_share, feynman_kac, resample, step_weight
from cfg_repro.runs import cfg_train
from cfg_repro.samples import cfg_export, cfg_sample, class_numbers, guidable, load_guide, load_run, maker
from cfg_repro.sampling import denoise, sample
from cfg_repro.schedule import angles, logsnr_density, logsnr_grid, logsnr_of, u_of
from cfg_repro.sets import ImageSet, open_data, teachable, write_set
from cfg_repro.sliders import curve_slider, density_slider, image_slider, path_slider, write_strengths
from cfg_repro.solvers import ddim_step, even_grid, sde_dpmpp_2m_step
from cfg_repro.sweeps import cfg_sweep, sweep_cells
from cfg_repro.laboratory import Laboratory, Settings, Subject, subject_of, walk
from cfg_repro.langevin import langevin_step
from cfg_repro.one_pass import LateUNet, StrengthUNet, distillation_loss, guidance_free_loss, late_guided, told
from cfg_repro.owed import by_level, cross_ratio, owed_pair, owed_strength, weighed
from cfg_repro.tradeoff import truncated_normal
from cfg_repro.training import new_state, step_generator, train
from cfg_repro.worse import guided_by
from cfg_repro.variants import mixed, projected, ramp, rescaled, still
from cfg_repro.unet import (
    Attention, AttentionPool, NoisyClassifier, ResBlock, UNet, load_adm, load_weights, time_embedding)

z, c = zeros(5, 1, 8, 8), zeros(5, dtype=torch.long)
low, high = tensor(-1.), tensor(1.)
images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
more = images.repeat(2, 1, 1, 1)
pets = dict(net=dict(n_classes=2), data=dict(classes=['cat', 'dog']))
small = dict(in_channels=1, channels=4, mult=(1,), blocks=1, attention=(), head_channels=4, groups=2)


def net(): return UNet(8, 10, **small)
def judge(): return make_extractor(Classifier(1, 10))
def model(z, logsnr, c): return z
def wrote(path): path.write_text('mine'); return path
def saved(path): torch.save(dict(cls_token=zeros(1, 1, 4)), path); return path
pets_at_hand = Subject(model, (1, 8, 8), ['cat', 'dog'])
def narrow(z, logsnr, c): return z[..., :7]
def logits(z, logsnr): return z.flatten(1)
def steps(**changes): return list(train(new_state(net()), digits(), **dict(steps=2, batch_size=4) | changes))
def kept(folder, **changes):
    save_statistics(folder/'s.npz', Statistics(**dict(mu=np.zeros(3), sigma=np.eye(3), features=np.zeros((2, 3)), extractor='x') | changes))
    return folder/'s.npz'
def npz(folder, **arrays):
    np.savez(folder/'train_data_batch_1.npz', **arrays)
    return folder
def pictures(folder, *names):
    for name in names: (folder/name).parent.mkdir(exist_ok=True); Image.fromarray(draw_glyph(0, 16)).save(folder/name)
    return folder
def of_format(folder, path, version):
    "A checkpoint as another version of the package would have written it."
    about = read_record(path/'state.json') | dict(format=version)
    write_record(path/'state.json', {k: v for k, v in about.items() if v is not None})
    hashes = read_record(path/'manifest.json')
    write_record(path/'manifest.json', hashes | {'state.json': file_hash(path/'state.json')})
    return path
def of_config(folder, **changes):
    "A network in a directory, with other arguments beside its weights."
    net().save_pretrained(folder); (folder/'manifest.json').unlink()
    (folder/'config.json').write_text(json.dumps(net().config | changes))
    return folder
def strip(folder):
    write_strengths(folder, zeros(2, 1, 1, 4, 4, dtype=torch.uint8), dict(w=[0., 1.], classes=['a']))
    return folder
def a_set(folder, settings=dict(n_classes=3), **batch):
    batch = dict(images=zeros(4, 1, 8, 8, dtype=torch.uint8), labels=tensor([0, 1, 2, 0])) | batch
    for _ in write_set(folder/'set', lambda indices: [batch], 4, settings): pass
    return folder/'set'


# A sentence's beginning or its telling part, and what must say it; `d` is an empty directory
FUNCTIONS = {
    # the laboratory
    'w is 9: it must be a number from -1 to 8': lambda d: Laboratory(pets_at_hand, w=9),
    'interval is (3, 3): it must be two log-SNRs from -20 to 20': lambda d: Laboratory(pets_at_hand, interval=(3, 3)),
    'T is 10: it must be one of 2, 4, 8': lambda d: Laboratory(pets_at_hand, T=10),
    'n is 13: it must be a whole number from 1 to 12': lambda d: Laboratory(pets_at_hand, n=13),
    'label is 2: it must be a whole number from 0 to 1': lambda d: Laboratory(pets_at_hand, label=2),
    "label is 'cat': it must be a whole number": lambda d: next(walk(pets_at_hand, Settings(label='cat'))),
    'n is 0: it must be a whole number, 1 or more': lambda d: next(walk(pets_at_hand, Settings(n=0))),
    "grid is 'odd': it must be one of": lambda d: next(walk(pets_at_hand, Settings(grid='odd'))),
    "step is 'euler': it must be one of": lambda d: next(walk(pets_at_hand, Settings(step='euler'))),
    'classifier makes no images: a laboratory needs a run that does': lambda d: subject_of(Path(__file__).parents[1]/'results/fashion/classifier'),
    # schedule
    'logsnr_min is 1.0, logsnr_max is -1.0': lambda d: angles(1., -1.),
    'logsnr_min is 2.0, logsnr_max is 2.0': lambda d: logsnr_grid(4, 2., 2.),
    'logsnr_min is nan': lambda d: logsnr_of(tensor(.5), nan, 1.),
    "logsnr_min is '-20', logsnr_max is 20.0: they must be numbers": lambda d: angles('-20', 20.),
    'logsnr_max is nan': lambda d: u_of(tensor(.5), -1., nan),
    'logsnr_min is 20.0': lambda d: logsnr_density(tensor(0.), 20., -20.),
    'u runs from -0.5': lambda d: logsnr_of(tensor([-.5, .5])),
    'to 1.5': lambda d: logsnr_of(tensor([.5, 1.5])),
    'u runs from nan': lambda d: logsnr_of(tensor([nan])),
    'T is 1: it must be a whole number, 2 or more': lambda d: logsnr_grid(1),
    'T is 2.5': lambda d: logsnr_grid(2.5),
    'T is nan': lambda d: logsnr_grid(nan),
    'T is -4': lambda d: logsnr_grid(-4),
    'T is 1.5': lambda d: even_grid(1.5),
    'logsnr_min is 8.0, logsnr_max is -8.0': lambda d: even_grid(4, 8., -8.),
    "T is '4': it must be a whole number": lambda d: logsnr_grid('4'),
    "even_grid: T is '4'": lambda d: even_grid('4'),
    'logsnr_min is -inf, logsnr_max is 8.0: equal steps need finite bounds': lambda d: even_grid(4, -math.inf, 8.),
    'logsnr_min is -8.0, logsnr_max is inf': lambda d: even_grid(4, -8., math.inf),
    # forward and reverse
    'diffuse: logsnr is (5,), the images are (5, 1, 8, 8): it must be () or (5, 1, 1, 1)':
        lambda d: diffuse(z, z, logsnr=zeros(5)),
    'x_from_eps: logsnr is (5,)': lambda d: x_from_eps(z, z, logsnr=zeros(5)),
    'eps_from_x: logsnr is (5,)': lambda d: eps_from_x(z, z, logsnr=zeros(5)),
    'score_from_eps: logsnr is (5,)': lambda d: score_from_eps(z, logsnr=zeros(5)),
    'eps_from_score: logsnr is (5,)': lambda d: eps_from_score(z, logsnr=zeros(5)),
    'transition: logsnr is (8,)': lambda d: transition(z, logsnr=zeros(8), logsnr_next=zeros(8)+1),
    'posterior: logsnr is (8, 8)': lambda d: posterior(z, z, logsnr=zeros(8, 8), logsnr_next=zeros(8, 8)+1),
    'ddim_step: logsnr is (5,)': lambda d: ddim_step(z, z, logsnr=zeros(5), logsnr_next=zeros(5)+1),
    'transition: logsnr is 1.0, logsnr_next is -1.0: the first must not be above the second':
        lambda d: transition(z, logsnr=high, logsnr_next=low),
    'posterior: logsnr is 1.0, logsnr_next is -1.0': lambda d: posterior(z, z, logsnr=high, logsnr_next=low),
    'ancestral_step: logsnr is 1.0, logsnr_next is -1.0':
        lambda d: ancestral_step(z, z, logsnr=high, logsnr_next=low, noise=z),
    'kl_step: logsnr is 1.0, logsnr_next is -1.0': lambda d: kl_step(z, z, logsnr=high, logsnr_next=low),
    'logsnr_next is nan': lambda d: posterior(z, z, logsnr=low, logsnr_next=tensor(nan)),
    'v is 1.5: it must be in [0,1]': lambda d: reverse_moments(z, z, logsnr=low, logsnr_next=high, v=1.5),
    'v is -0.1': lambda d: ancestral_step(z, z, logsnr=low, logsnr_next=high, noise=z, v=-.1),
    'v is nan': lambda d: sde_dpmpp_2m_step(z, z, logsnr=low, logsnr_next=high, noise=z, v=nan),
    "v is '0.3'": lambda d: ancestral_step(z, z, logsnr=low, logsnr_next=high, noise=z, v='0.3'),
    'v is 2': lambda d: classifier_guided_step(logits, c, s=1., v=2)(z, z, logsnr=low, logsnr_next=high, noise=z),
    # the mixture
    'means are [1.0, 2.0]': lambda d: Mixture([1., 2.], [1., 1.]),
    'means are [[nan]]': lambda d: Mixture([[nan]], [1.]),
    'stds are [0.0]': lambda d: Mixture([[0.]], [0.]),
    'stds are [1.0]: they must be 2': lambda d: Mixture([[0.], [1.]], [1.]),
    'weights are [1.0, -1.0]': lambda d: Mixture([[0.], [1.]], [1., 1.], [1., -1.]),
    'labels run from 7 to 7: they must be in [0,1]':
        lambda d: Mixture([[0.]], [1.])(zeros(1, 1), zeros(1), tensor([7])),
    'labels run from -1': lambda d: Mixture([[0.]], [1.])(zeros(1, 1), zeros(1), tensor([-1])),
    'weights are [1.0, 0.0]': lambda d: Mixture([[0.], [1.]], [1., 1.], [1., 0.]),
    'sample: labels run from 0 to 2': lambda d: Mixture([[0.]], [1.]).sample(tensor([0, 2])),
    'log_prob: labels run from 5 to 5': lambda d: Mixture([[0.]], [1.]).log_prob(zeros(1, 1), zeros(1), tensor([5])),
    'labels run from -3 to 7': lambda d: Mixture([[0.]], [1.])(zeros(2, 1), zeros(2), tensor([-3, 7])),
    'means are tensor([], size=(0, 2)': lambda d: Mixture(zeros(0, 2), []),
    'z is (2, 1): it must be (B,2)': lambda d: Mixture(zeros(3, 2), [1.]*3)(zeros(2, 1), zeros(2), tensor([0, 1])),
    'classifier: z is (2, 1)': lambda d: Mixture(zeros(3, 2), [1.]*3).classifier(zeros(2, 1), zeros(2)),
    'c is (1,), z is (2, 2): there must be one class':
        lambda d: Mixture(zeros(3, 2), [1.]*3)(zeros(2, 2), zeros(2), tensor([0])),
    'guided_log_prob: labels run from 3':
        lambda d: guided_log_prob(Mixture(zeros(3, 2), [1.]*3), zeros(2, 2), tensor([3, 3]), 1., logsnr=zeros(2)),
    # the objective
    'p_uncond is 1.5': lambda d: drop_class(c, 1.5, null=10),
    'p_uncond is -0.1': lambda d: drop_class(c, -.1, null=10),
    'p_uncond is nan': lambda d: drop_class(c, nan, null=10),
    'n is 0: it must be a whole number, 1 or more': lambda d: stratified_u(0),
    'n is 2.5': lambda d: stratified_u(2.5),
    'x is (5, 1, 8, 8), eps is (5, 1, 8, 7): they must have one shape':
        lambda d: eps_loss(model, z, c, logsnr=zeros(5), eps=z[..., :7]),
    'logsnr is (): it must be (5,), one for each image': lambda d: eps_loss(model, z, c, logsnr=zeros(()), eps=z),
    'eps_hat is (1, 1, 8, 8), eps is (5, 1, 8, 8)':
        lambda d: eps_loss(lambda z, logsnr, c: z[:1], z, c, logsnr=zeros(5), eps=z),
    'kl_step: eps_hat is (1, 1, 8, 8)': lambda d: kl_step(z[:1], z, logsnr=low, logsnr_next=high),
    "p_uncond is '0.1': a probability": lambda d: drop_class(c, '0.1', null=10),
    'c is (4,) torch.int64: it must be one class, or one row of a tensor, for each of 5': lambda d: eps_loss(model, z, c[:4], logsnr=zeros(5), eps=z),
    # conditions and latents in training
    'the network has no n_classes: say by `null`': lambda d: next(train(new_state(torch.nn.Linear(1, 1)), [0], steps=1)),
    'images hold numbers that are not finite: no set is made':
        lambda d: list(write_set(d/'s', lambda i: [dict(images=zeros(1, 1, 2, 2)/0, labels=c[:1])], 1, {})),
    'the set holds latents, which are no images: decode them first': lambda d: ImageSet(a_set(d, images=zeros(4, 1, 2, 2))).bytes(0),
    # guidance
    'guidance strength w is nan': lambda d: guided(model, nan, null=10),
    'guidance strength w is inf': lambda d: guided(model, math.inf, null=10),
    "guidance strength w is 'much'": lambda d: guided(model, 'much', null=10),
    'guided: w is nan: it must be a finite number': lambda d: guided(model, lambda l: l*nan, null=10)(z, zeros(5), c),
    'w is 1j: it must be a finite number': lambda d: guide(z, z, 1j),
    'w is torch.complex64': lambda d: guided(model, tensor(1j), null=10),
    'w is (8,), the images are (5, 1, 8, 8): it must be one number, or (5,)': lambda d: guide(z, z, zeros(8)),
    'guided: w is (4,), the images are (5, 1, 8, 8)': lambda d: guided(model, zeros(4), null=10)(z, zeros(5), c),
    'guided: labels run from 0 to 12': lambda d: guided(model, 1., null=10)(z, zeros(5), c+tensor([0, 0, 0, 0, 12])),
    'null is None: it must say what stands for no condition': lambda d: guided(model, 1., null=None)(z, zeros(5), c),
    'null is (3,) torch.float32 and c (5, 4) torch.float32: it must be (4,)': lambda d: guided(model, 1., null=zeros(3))(z, zeros(5), zeros(5, 4)),
    'null is 10 and c a tuple of 2: there must be one in the place of each condition': lambda d: guided(model, 1., null=10)(z, zeros(5), (c, c)),
    'p_uncond is a tuple of 2 and c a dict of 1': lambda d: drop_class(dict(a=c), (.1, .1), null=dict(a=10)),
    "guided: w is ['a', 'b']: it must hold numbers": lambda d: guided(model, ['a', 'b'], null=10),
    'guided: c is (4,) torch.int64': lambda d: guided(model, 1., null=10)(z, zeros(5), c[:4]),
    'guided: eps is (10, 1, 8, 7), z (10, 1, 8, 8)': lambda d: guided(narrow, 1., null=10)(z, zeros(5), c),
    'guided: eps is (5, 1, 8, 7), z (5, 1, 8, 8)': lambda d: guided(narrow, 0., null=10)(z, zeros(5), c),
    # several conditions
    "composed: given is 'all': it must be one of others, before, nothing": lambda d: composed(model, (1., 1.), null=(10, 10), given='all'),
    'composed: guidance strength w is nan': lambda d: composed(model, (1., nan), null=(10, 10)),
    'composed: w is a tuple of 1 and c a tuple of 2: there must be one in the place of each condition':
        lambda d: composed(model, (1.,), null=(10, 10))(z, zeros(5), (c, c)),
    'composed: c is (5,) torch.int64: it must be several conditions, a tuple or a dict': lambda d: composed(model, (1.,), null=10)(z, zeros(5), c),
    # the classifier inside, and gradients
    'prior is [0.5, -0.5]: it must be a row of numbers, 0 or more, not all of them 0': lambda d: Inside(model, [.5, -.5]),
    'prior is [0.0, 0.0]': lambda d: guided_inside(model, 1., prior=[0., 0.]),
    'prior is [[1.0]]': lambda d: Inside(model, [[1.]]),
    'prior is [nan, 1.0]': lambda d: Inside(model, [nan, 1.]),
    'guided_inside: guidance strength w is inf': lambda d: guided_inside(model, math.inf, prior=[1, 1]),
    'logsnr runs from -1 to 1: all images of a walk are at one log-SNR':
        lambda d: guided_inside(model, 1., prior=[1, 1])(z, tensor([-1., 0., 0., 0., 1.]), c),
    'guided_inside: labels run from 2 to 2: they must be in [0,1]': lambda d: guided_inside(model, 1., prior=[1, 1])(z, zeros(5), c+2),
    'n_classes is 0: it must be a whole number, 1 or more': lambda d: every_class(model, z, 0, logsnr=low),
    'every_class: eps is (10, 1, 8, 7), z (10, 1, 8, 8)': lambda d: every_class(narrow, z, 2, logsnr=low),
    'z is (5, 1, 8, 8), z_next (4, 1, 8, 8)':
        lambda d: bayes_step(zeros(5, 2), z, zeros(5, 2, 1, 8, 8), z[:4], logsnr=low, logsnr_next=high),
    'bayes_step: v is 2': lambda d: bayes_step(zeros(5, 2), z, zeros(5, 2, 1, 8, 8), z, logsnr=low, logsnr_next=high, v=2),
    'eps is (5, 3), log_p (5, 2)': lambda d: class_sum(zeros(5, 3, 1, 8, 8), zeros(5, 2)),
    'J is (3,): it must be (D,D) or (B,D,D)': lambda d: asymmetry(zeros(3)),
    'J is (4, 3)': lambda d: asymmetry(zeros(4, 3)),
    'field is (5, 64), z (5, 1, 8, 8)': lambda d: jacobian(lambda z: z.flatten(1), z),
    'eps_cond is (5, 1, 8, 8), eps_uncond (5, 1, 8, 7)': lambda d: guide(z, z[..., :7], 1.),
    'implicit_classifier_grad: eps_uncond (1, 1, 8, 8)': lambda d: implicit_classifier_grad(z, z[:1], logsnr=low),
    'implicit_classifier_grad: logsnr is (5,)': lambda d: implicit_classifier_grad(z, z, logsnr=zeros(5)),
    'classifier_grad: labels run from 64 to 64': lambda d: classifier_grad(logits, z, c+64, logsnr=c),
    'classifier_grad: c is (4,) torch.int64': lambda d: classifier_grad(logits, z, c[:4], logsnr=c),
    'classifier_guide: logsnr is (5,)': lambda d: classifier_guide(z, z, logsnr=zeros(5), w=1.),
    'classifier_guide: w is (8,)': lambda d: classifier_guide(z, z, logsnr=low, w=zeros(8)),
    'classifier_guide: grad_logp (1, 1, 8, 8)': lambda d: classifier_guide(z, z[:1], logsnr=low, w=1.),
    'classifier_guided: guidance strength w is nan': lambda d: classifier_guided(model, logits, nan),
    'classifier_guided: w is (4,)': lambda d: classifier_guided(model, logits, lambda l: l[:4])(z, zeros(5), c),
    'classifier_guided: eps is (5, 1, 8, 7)': lambda d: classifier_guided(narrow, logits, 1.)(z, zeros(5), c),
    'classifier_guided_step: gradient scale s is nan': lambda d: classifier_guided_step(logits, c, s=nan),
    'shift_mean: gradient scale s is nan': lambda d: shift_mean(z, low, z, s=nan),
    'shift_mean: gradient scale s is (8,)': lambda d: shift_mean(z, low, z, s=zeros(8)),
    # sampling
    'sample: T is 1': lambda d: sample(model, z, c, T=1),
    "sample: T is '4': it must be a whole number": lambda d: sample(model, z, c, T='4'),
    'logsnrs go from 1.0 to 0.0: they must increase': lambda d: sample(model, z, c, logsnrs=tensor([1., 0.])),
    'logsnrs go from 0.0 to nan': lambda d: sample(model, z, c, logsnrs=tensor([0., nan, 1.])),
    'logsnrs go from -inf to nan': lambda d: sample(model, z, c, logsnrs=[nan]),
    'logsnrs are (0,): they must be one row': lambda d: sample(model, z, c, logsnrs=tensor([])),
    'logsnrs are (2, 3)': lambda d: sample(model, z, c, logsnrs=zeros(2, 3)),
    "logsnrs are '4': they must be numbers": lambda d: sample(model, z, c, logsnrs='4'),
    'clip is 0': lambda d: sample(model, z, c, clip=0.), 'clip is -1': lambda d: sample(model, z, c, clip=-1.),
    "clip is '1'": lambda d: sample(model, z, c, clip='1'), 'clip is nan': lambda d: sample(model, z, c, clip=nan),
    'sample: null is 10 and c (5,) torch.float32: a number stands for no class': lambda d: sample(guided(model, 1., null=10), z, c.float()),
    'c is of type str: it must hold numbers': lambda d: sample(model, z, 'cat'),
    'c is (3,) torch.int64': lambda d: sample(model, z, c[:3]),
    'z is torch.float16': lambda d: sample(model, z.half(), c),
    'z is torch.int64': lambda d: sample(model, z.long(), c),
    'z is torch.bfloat16': lambda d: sample(model, z.bfloat16(), c),
    'sample: eps is (5, 1, 8, 7), z (5, 1, 8, 8)': lambda d: sample(narrow, z, c, T=2),
    'denoise: eps is (5, 1, 8, 7), z (5, 1, 8, 8)': lambda d: denoise(narrow, z, c, logsnr=low),
    'noise is (1, 1, 8, 8), z (5, 1, 8, 8)': lambda d: sample(model, z, c, T=2, noise=lambda t: z[:1]),
    # other roads
    'psi is 0': lambda d: truncated_normal((3,), 0.), 'psi is nan': lambda d: truncated_normal((3,), nan), 'step_size is -1.0': lambda d: langevin_step(z, z, step_size=-1., noise=z), 'step_size is nan': lambda d: langevin_step(z, z, step_size=nan, noise=z),
    # beyond the paper
    's is 0': lambda d: Gaussians(0., 0., 1.), 'S is nan': lambda d: Gaussians(0., 1., nan),
    'S is inf': lambda d: Gaussians(0., 1., math.inf), "s is '1'": lambda d: Gaussians(0., '1', 1.),
    'mu is nan: it must be finite numbers': lambda d: Gaussians(nan, 1., 1.),
    'w is -2.0: there is no guided density': lambda d: Gaussians(0., 1., 2.).promised(-2.),
    'promised: guidance strength w is nan': lambda d: Gaussians(0., 1., 2.).promised(nan),
    'ended: guidance strength w is inf': lambda d: Gaussians(0., 1., 2.).ended(math.inf, 1.),
    'stirring is -1.0: it must be 0 or more': lambda d: Gaussians(0., 1., 2.).ended(1., -1.),
    'stirring is nan': lambda d: Gaussians(0., 1., 2.).ended(1., nan),
    'labels run from 2 to 2': lambda d: Gaussians(0., 1., 2.)(z, low, c+2),
    'the model must be affine in z': lambda d: exact_moments(guided(Mixture([[-1.], [1.]], [.6, .6]), 1., null=2), tensor([-1., 1.])),
    'by_level: logsnrs are (2,), values (3,): they must be two rows': lambda d: by_level(zeros(2), zeros(3)),
    'by_level: logsnrs are (1,), values (1,)': lambda d: by_level(zeros(1), zeros(1)),
    'logsnrs are [0.0, 0.0]: they must increase': lambda d: by_level(zeros(2), zeros(2)),
    **{f'{f.__name__}: eps is (3, 1, 8, 8)'.replace('eps is', 'x is (5, 1, 8, 8), eps'): lambda d, f=f: f(model, z, z[:3], c, zeros(2), null=3)
       for f in (owed_strength, owed_pair, cross_ratio)},
    'owed_strength: labels run from 4 to 4': lambda d: owed_strength(model, z, z, c+4, zeros(2), null=3),
    'weighed: labels run from 4 to 4': lambda d: weighed(model, 1., 1., null=3)(z, zeros(5), c+4),
    'weighed: guidance strength w is nan': lambda d: weighed(model, 1., nan, null=3)(z, zeros(5), c),
    # rules
    'step_weight: v is 2.0: it must be in [0,1]': lambda d: step_weight(z, z, 1., logsnr=low, logsnr_next=high, v=2.),
    'step_weight: guidance strength w is nan': lambda d: step_weight(z, z, nan, logsnr=low, logsnr_next=high),
    'step_weight: eps is (5, 1, 8, 7): they must have one shape': lambda d: step_weight(z, z[..., :7], 1., logsnr=low, logsnr_next=high),
    'log_weight is (5, 1): it must be (B,)': lambda d: effective_share(zeros(5, 1)),
    'log_weight is (0,): it must be (B,)': lambda d: effective_share(zeros(0)),
    'the largest of log_weight is nan: it must be a finite number': lambda d: effective_share(tensor([0., nan])),
    'the largest of log_weight is inf': lambda d: resample(tensor([0., math.inf])),
    'feynman_kac: guidance strength w is inf': lambda d: feynman_kac(model, math.inf, null=10),
    'labels run from 0 to 4: images that take each other': lambda d: feynman_kac(model, 1., null=10)[0](z, zeros(5), torch.arange(5)),
    'feynman_kac: labels run from 11 to 11': lambda d: feynman_kac(model, 1., null=10)[0](z, zeros(5), c+11),
    'rounds is 0: it must be a whole number, 1 or more': lambda d: characteristic(model, 1., null=10, rounds=0),
    'characteristic: guidance strength w is nan': lambda d: characteristic(model, nan, null=10),
    'characteristic: labels run from 11 to 11': lambda d: characteristic(model, 1., null=10)(z, zeros(5), c+11),
    'omega is nan: it must be a finite number': lambda d: cfgpp_strength(nan, [0., 1.]),
    'cfgpp_strength: logsnrs go from 1.0 to 0.0': lambda d: cfgpp_strength(.5, [1., 0.]),
    'logsnr is 0.5: it must be one of those that the sampler visits': lambda d: cfgpp_strength(.5, [0., 1.])(tensor([0., .5])),
    'cfgpp_step: eps is (5, 1, 8, 7), z (5, 1, 8, 8)': lambda d: cfgpp_step(narrow, null=10)(z, z, logsnr=low, logsnr_next=high),
    'k is -1: it must be a whole number, 0 or more': lambda d: corrected(model, c, k=-1),
    'size is -0.5: it must be a number, 0 or more': lambda d: corrected(model, c, k=1, size=-.5),
    "size is 'small'": lambda d: corrected(model, c, k=1, size='small'),
    # data
    'images hold numbers that are not finite': lambda d: to_uint8(z+nan),
    'images are torch.float32: they must be bytes': lambda d: from_uint8(z),
    'images are (5, 8, 8) torch.float32: they must be (n,C,H,W), floating point': lambda d: MemorySet(z[:, 0], c, {}),
    'images are (5, 1, 8, 8) torch.uint8': lambda d: MemorySet(to_uint8(z), c, {}),
    'labels are (4,) torch.int64: they must be (5,) torch.int64': lambda d: MemorySet(z, c[:4], {}),
    'labels are (5,) torch.int32': lambda d: MemorySet(z, c.int(), {}),
    'images run from 2.0 to 2.0: they must be in [-1,1]': lambda d: MemorySet(z+2, c, {}),
    'images run from nan to nan': lambda d: MemorySet(z+nan, c, {}),
    'Glyphs: n is 0: it must be a whole number, 1 or more': lambda d: Glyphs(0),
    'Glyphs: n is 2.5': lambda d: Glyphs(2.5),
    'Glyphs: size is 4: it must be a whole number, 8 or more': lambda d: Glyphs(3, 4),
    'Glyphs: seed is -1': lambda d: Glyphs(3, 8, -1),
    'draw_glyph: i is -1': lambda d: draw_glyph(-1),
    'draw_glyph: size is 3': lambda d: draw_glyph(0, 3),
    # files and sets
    'nowhere is missing': lambda d: read_record(d/'nowhere'),
    'd is not a set of images': lambda d: ImageSet(d),
    'nowhere is not a set of images': lambda d: open_data(d/'nowhere'),
    'write_set: shard_size is 0': lambda d: list(write_set(d/'s', None, 3, {}, 0)),
    'write_set: n is 0': lambda d: list(write_set(d/'s', None, 0, {})),
    'write_set: n is True': lambda d: list(write_set(d/'s', None, True, {})),
    'set holds a set with other settings (n: 4, not 5; mine: nothing, not 1; n_classes: 3, not nothing)':
        lambda d: next(write_set(a_set(d), None, 5, dict(mine=1))),
    'labels from 0 to 5: they must be in [0,3)': lambda d: ImageSet(a_set(d, labels=tensor([0, 1, 2, 5]))),
    'labels from -1 to 2': lambda d: ImageSet(a_set(d, labels=tensor([0, 1, 2, -1]))),
    'images (4, 1, 8, 8) torch.int32': lambda d: ImageSet(a_set(d, images=zeros(4, 1, 8, 8, dtype=torch.int32))),
    'labels (3,)': lambda d: ImageSet(a_set(d, labels=tensor([0, 1, 2]))),
    'images (4, 8, 8)': lambda d: ImageSet(a_set(d, images=zeros(4, 8, 8, dtype=torch.uint8))),
    'do not say how many classes': lambda d: teachable(open_data(a_set(d, dict(transform='area')))),
    'no image of class 2': lambda d: teachable(open_data(a_set(d, labels=tensor([0, 1, 1, 0])))),
    # preparation
    "resize is 'lanczos'": lambda d: next(prepare('digits', d/'o', size=8, resize='lanczos')),
    "fit is 'squeeze': it must be one of crop, pad": lambda d: next(prepare('digits', d/'o', fit='squeeze')),
    'digits holds images that are taken as they are': lambda d: next(prepare('digits', d/'o', grey=True)),
    'size is 0: it must be from 1 to 4096': lambda d: next(prepare('digits', d/'o', size=0)),
    'size is 5000': lambda d: next(prepare('digits', d/'o', size=5000)),
    "size is '8'": lambda d: next(prepare('digits', d/'o', size='8')),
    'holds images of 8x8: size is 16': lambda d: next(prepare('digits', d/'o', size=16)),
    'n is 5: only glyphs': lambda d: next(prepare('digits', d/'o', size=8, n=5)),
    'prepare: n is 0: it must be a whole number': lambda d: next(prepare('glyphs', d/'o', size=8, n=0)),
    "split is 'val'": lambda d: next(prepare('digits', d/'o', split='val')),
    "split is 'test': digits has no parts": lambda d: next(prepare('digits', d/'o', split='test')),
    'word is': lambda d: fetched('mnist'),
    'idx3-ubyte is missing': lambda d: idx_folder(d),
    'workers is 0': lambda d: next(prepare('digits', d/'o', size=8, workers=0)),
    'prepare: shard_size is 0': lambda d: next(prepare('digits', d/'o', size=8, shard_size=0)),
    'an image is 2001x2: no side may be 1000 times the other': lambda d: adm_resize(Image.new('L', (2001, 2)), 8),
    'an image is 2x2001: no side may be 1000 times the other': lambda d: area_resize(Image.new('L', (2, 2001)), 8, 'pad'),
    'holds 1.png and a/2.png: put each picture': lambda d: class_folders(pictures(d, '1.png', 'a/2.png')),
    'd holds no images': lambda d: next(prepare(d, d.parent/'o', size=8)),
    'nowhere does not exist': lambda d: next(prepare(d/'nowhere', d/'o', size=8)),
    'holds 3 images and labels (3,) float64: they must be (3,) whole numbers':
        lambda d: downsampled_npz(npz(d, data=np.zeros((3, 48), np.uint8), labels=np.ones(3))),
    'data (3, 48) float64': lambda d: downsampled_npz(npz(d, data=np.zeros((3, 48)), labels=np.ones(3, int))),
    'data (3, 47) uint8': lambda d: downsampled_npz(npz(d, data=np.zeros((3, 47), np.uint8), labels=np.ones(3, int))),
    'holds labels from 0: they count from 1':
        lambda d: downsampled_npz(npz(d, data=np.zeros((3, 48), np.uint8), labels=np.zeros(3, int))),
    'labels (2,)': lambda d: downsampled_npz(npz(d, data=np.zeros((3, 48), np.uint8), labels=np.ones(2, int))),
    'it must hold data and labels': lambda d: downsampled_npz(npz(d, data=np.zeros((3, 48), np.uint8))),
    'd holds no npz of images for training': lambda d: downsampled_npz(d),
    'downsampled_npz: d holds no images':
        lambda d: downsampled_npz(npz(d, data=np.zeros((0, 48), np.uint8), labels=np.ones(0, int))),
    # the network
    'size is 10: it must be a multiple of 4': lambda d: UNet(10, 10, channels=8, mult=(1, 2, 2)),
    'size is 8.0': lambda d: UNet(8., 10, **small),
    'n_classes is 0': lambda d: UNet(8, 0, **small),
    'channels is 7': lambda d: UNet(8, 10, **small | dict(channels=7)),
    'mult is ()': lambda d: UNet(8, 10, **small | dict(mult=())),
    'mult is 5': lambda d: UNet(8, 10, **small | dict(mult=5)),
    "mult is '12'": lambda d: UNet(8, 10, **small | dict(mult='12')),
    'blocks is 0': lambda d: UNet(8, 10, **small | dict(blocks=0)),
    'blocks is 65': lambda d: UNet(8, 10, **small | dict(blocks=65)),
    'attention is 8': lambda d: UNet(8, 10, **small | dict(attention=8)),
    'attention is 5': lambda d: UNet(8, 10, **small | dict(attention=5)),
    'attention is (0,)': lambda d: UNet(8, 10, **small | dict(attention=(0,))),
    'dropout is 1.5': lambda d: UNet(8, 10, **small | dict(dropout=1.5)),
    "dropout is 'a'": lambda d: UNet(8, 10, **small | dict(dropout='a')),
    'head_channels is 0': lambda d: UNet(8, 10, **small | dict(head_channels=0)),
    'heads is 0': lambda d: UNet(8, 10, **small | dict(heads=0)),
    "heads is '2'": lambda d: UNet(8, 10, **small | dict(heads='2')),
    'out_channels is 0': lambda d: UNet(8, 10, **small | dict(out_channels=0)),
    'out_channels is -1': lambda d: UNet(8, 10, **small | dict(out_channels=-1)),
    'groups is 0': lambda d: UNet(8, 10, **small | dict(groups=0)),
    "resblock_updown is 'no'": lambda d: UNet(8, 10, **small | dict(resblock_updown='no')),
    'checkpoint is 2': lambda d: UNet(8, 10, **small | dict(checkpoint=2)),
    'there are 3 attention heads for 4 channels': lambda d: UNet(8, 10, **small | dict(heads=3)),
    'head_channels is 64: it must divide the 96 channels':
        lambda d: UNet(8, 10, **small | dict(channels=96, head_channels=64)),
    'NoisyClassifier: head_channels is 64: it must divide the 96':
        lambda d: NoisyClassifier(8, 10, **small | dict(channels=96, head_channels=64)),
    'NoisyClassifier: channels is 7': lambda d: NoisyClassifier(8, 10, **small | dict(channels=7)),
    'Attention: heads is 0': lambda d: Attention(4, 0),
    'AttentionPool: n_out is 0': lambda d: AttentionPool(2, 4, 1, 0),
    'ResBlock: ch_out is 0': lambda d: ResBlock(4, 0),
    'time_embedding: dim is 7': lambda d: time_embedding(zeros(5), 7),
    'UNet: z is (5, 1, 8, 7)': lambda d: net()(z[..., :7], zeros(5), c),
    'UNet: z is (5, 3, 8, 8)': lambda d: net()(z.expand(-1, 3, -1, -1), zeros(5), c),
    'and logsnr (4,)': lambda d: net()(z, zeros(4), c),
    'and logsnr ()': lambda d: net()(z, zeros(()), c),
    'c is (5,) torch.float32: it must be (5,), whole numbers': lambda d: net()(z, zeros(5), c.float()),
    'c is (4,) torch.int64: it must be (5,)': lambda d: net()(z, zeros(5), c[:4]),
    'UNet: labels run from 0 to 11': lambda d: net()(z, zeros(5), c+tensor([0, 0, 0, 0, 11])),
    'NoisyClassifier: z is (5, 1, 8, 7)': lambda d: NoisyClassifier(8, 10, **small)(z[..., :7], zeros(5)),
    'load_weights: these are weights of another network: label.weight is (12, 16)':
        lambda d: load_weights(net(), UNet(8, 11, **small).state_dict()),
    'load_adm: these are weights of another network: time.0.weight is missing': lambda d: load_adm(net(), {}),
    'load_adm: these are weights of another network: mid.1.qkv.bias is (7,)':
        lambda d: load_adm(net(), net().state_dict() | {'mid.1.qkv.bias': zeros(7)}, legacy_attention=True),
    # training
    'train: p_uncond is 2': lambda d: steps(p_uncond=2),
    'lr is inf': lambda d: steps(lr=math.inf),
    'lr is 0': lambda d: steps(lr=0),
    'train: batch_size is 0': lambda d: steps(batch_size=0),
    'batch_size is 1.5': lambda d: steps(batch_size=1.5),
    'steps is 0': lambda d: steps(steps=0),
    'micro_batch is 0': lambda d: steps(micro_batch=0),
    'warmup is -1': lambda d: steps(warmup=-1),
    'ema_decay is 1': lambda d: steps(ema_decay=1.),
    'grad_clip is 0': lambda d: steps(grad_clip=0),
    "flip is 'yes'": lambda d: steps(flip='yes'),
    'seed is -1': lambda d: steps(seed=-1),
    'weight_decay is -0.1: it must be 0 or more and finite': lambda d: new_state(net(), -.1),
    'the data set is empty': lambda d: list(train(new_state(net()), MemorySet(z[:0], c[:0], {}), steps=1)),
    'train: labels run from': lambda d: list(train(new_state(UNet(8, 3, **small)), digits(), steps=1)),
    'step_generator: seed is 1.5': lambda d: step_generator(1.5, 0),
    'seed is 9223372036854775808': lambda d: step_generator(2**63, 0),
    # checkpoints and hardware
    'save_every is 0': lambda d: list(train_run(new_state(net()), digits(), d, {}, steps=1, save_every=0)),
    'max_skipped is 0': lambda d: list(train_run(new_state(net()), digits(), d, {}, steps=1, max_skipped=0)),
    'keep is 0: it must be a whole number': lambda d: list(train_run(new_state(net()), digits(), d, {}, steps=1, keep=0)),
    'load_checkpoint: step-00000000 was trained with another seed':
        lambda d: (save_checkpoint(new_state(net()), d, dict(seed=1)), load_checkpoint(new_state(net()), d, dict(seed=2))),
    'steps_taken: step-00000000 was trained with another seed':
        lambda d: (save_checkpoint(new_state(net()), d, dict(seed=1)), steps_taken(d, dict(seed=2))),
    'is a checkpoint of format 1: this version of the package reads format 2':
        lambda d: read_checkpoint(of_format(d, save_checkpoint(new_state(net()), d, {}), None)),
    'is a checkpoint of format 3': lambda d: read_checkpoint(of_format(d, save_checkpoint(new_state(net()), d, {}), 3)),
    'a.txt is damaged: its hash is not the manifest\'s':
        lambda d: (wrote(d/'a.txt'), write_manifest(d, 'a.txt'), (d/'a.txt').write_text('yours'), intact(d, 'a.txt')),
    'intact: manifest.json is missing': lambda d: intact(d, 'a.txt'),
    # a network in a directory
    'from_pretrained: config.json is missing': lambda d: UNet.from_pretrained(d/'nowhere'),
    'd holds notes: a network needs a directory of its own': lambda d: (wrote(d/'notes'), net().save_pretrained(d)),
    'd holds no UNet (channels is 7': lambda d: UNet.from_pretrained(of_config(d, channels=7)),
    "d holds no UNet (UNet.__init__() got an unexpected keyword argument 'hue'": lambda d: UNet.from_pretrained(of_config(d, hue=7)),
    'd holds no UNet (these are weights of another network': lambda d: UNet.from_pretrained(of_config(d, n_classes=7)),
    'd holds no NoisyClassifier (': lambda d: NoisyClassifier.from_pretrained(of_config(d)),
    'mult is (1, 1, 1': lambda d: UNet(2**40, 3, mult=(1,)*33),
    'processes is 0: it must': lambda d: spread(0, 'cfg_train', d),
    'processes is 3: several need a terminal': lambda d: spread(3, 'cfg_train', d),
    # generation
    'image_noise: seed is -1': lambda d: image_noise(-1, [0], (1, 2, 2)),
    'indices go down to -3': lambda d: image_noise(0, [-3], (1, 2, 2)),
    'n_classes is 0: it must': lambda d: balanced_labels([0], 0),
    'random_labels: n_classes is -1': lambda d: random_labels([0], -1),
    'random_labels: seed is 0.5': lambda d: random_labels([0], 3, .5),
    'generate: batch_size is 0': lambda d: next(generate(model, range(3), (1, 8, 8), c, batch_size=0)),
    # samples
    'load_guide: nowhere holds no checkpoint': lambda d: load_guide('nowhere', {}),
    "maker: w is '1': it must be a finite number": lambda d: maker(model, {}, w='1', T=2, v=0.),
    'the interval is 2.0 to -2.0: it must be two numbers, the first below the second': lambda d: limited(1., 2., -2.),
    'limited: guidance strength w is nan': lambda d: limited(nan, -2., 2.),
    "shared is 4: it must be a whole number from 0 to 3": lambda d: LateUNet(**DIGITS, shared=4),
    'late_guided: guidance strength w is nan': lambda d: late_guided(LateUNet(**DIGITS), nan)(z, zeros(5), c),
    'late_guided: labels run from 12 to 12': lambda d: late_guided(LateUNet(**DIGITS), 1.)(z, zeros(5), c+12),
    'w is -0.5: it must be 0 or more, for the network is told 1/(1+w)': lambda d: told(StrengthUNet(**DIGITS), -.5)(z, zeros(5), c),
    'the largest strength is 0: it must be a number above 0': lambda d: guidance_free_loss(0),
    'the largest strength is nan': lambda d: distillation_loss(model, nan),
    'guided_by: guidance strength w is nan': lambda d: guided_by(model, model, nan),
    'guided_by: w is (4,), the images are (5, 1, 8, 8)': lambda d: guided_by(model, model, lambda l: l[:4])(z, zeros(5), c),
    'guided_by: c is (4,) torch.int64': lambda d: guided_by(model, model, 1.)(z, zeros(5), c[:4]),
    'guided_by: eps is (5, 1, 8, 7), z (5, 1, 8, 8)': lambda d: guided_by(model, narrow, 1.)(z, zeros(5), c),
    'mixed: guidance strength w is inf': lambda d: mixed(model, rescaled, math.inf, null=10),
    'mixed: labels run from 12 to 12: they must be in [0,10]': lambda d: mixed(model, rescaled, 1., null=10)(z, zeros(5), c+12),
    "shape is 'sine': it must be one of linear, cosine": lambda d: ramp(1., 'sine'),
    'ramp: guidance strength w is nan': lambda d: ramp(nan),
    'least is inf: it must be a number below infinity': lambda d: ramp(1., least=math.inf),
    'phi is 1.5: it must be a number from 0 to 1': lambda d: rescaled(z, z, 1., z=z, logsnr=low, phi=1.5),
    'phi is nan': lambda d: rescaled(z, z, 1., z=z, logsnr=low, phi=nan),
    'an image is (1, 1, 1): one number has no standard deviation':
        lambda d: rescaled(z[..., :1, :1], z[..., :1, :1], 1., z=z[..., :1, :1], logsnr=low),
    'eta is inf: it must be a finite number': lambda d: projected(z, z, 1., z=z, logsnr=low, eta=math.inf),
    'r is 0.0: it must be above 0': lambda d: projected(z, z, 1., z=z, logsnr=low, r=0.),
    'r is nan': lambda d: projected(z, z, 1., z=z, logsnr=low, r=nan),
    'until is nan: it must be a number': lambda d: still(model, nan),
    'w is 1: this run has one class, so its label says nothing': lambda d: guidable(1., dict(net=dict(n_classes=1), p_uncond=.1)),
    'w is -1: this run was trained with p_uncond 0': lambda d: guidable(-1., dict(net=dict(n_classes=2), p_uncond=0.)),
    "there is no class 'cta'; did you mean cat?": lambda d: class_numbers(('cta',), pets),
    "there is no class '2'; classes have numbers from 0 to 1": lambda d: class_numbers(('2',), pets),
    'classes are cat,0: one of them is there twice': lambda d: class_numbers(('cat', 0), pets),
    # sliders
    'w is 4.5: it must be in [-1,4]': lambda d: density_slider(Mixture([[0., 1.]], [1.]), 4.5),
    'w is nan: it must be in [-1,4]': lambda d: density_slider(Mixture([[0., 1.]], [1.]), nan),
    'w is 2.5: it must be in [-1,2]': lambda d: path_slider(Mixture([[0., 1.]], [1.]), w=2.5),
    'the mixture has 4 classes in 2 dimensions: it must have at most 3, in 2': lambda d: density_slider(Mixture(zeros(4, 2), [1.]*4)),
    'the mixture has 1 classes in 3 dimensions': lambda d: path_slider(Mixture(zeros(1, 3), [1.])),
    'c is 1: it must be a class, 0 to 0': lambda d: path_slider(Mixture([[0., 1.]], [1.]), 1),
    'point is 60: it must be below 60, the points on their way': lambda d: path_slider(Mixture([[0., 1.]], [1.]), point=60),
    'T is 0: it must be a whole number, 2 or more': lambda d: density_slider(Mixture([[0., 1.]], [1.]), T=0),
    'each is 0: it must be a whole number, 1 or more': lambda d: density_slider(Mixture([[0., 1.]], [1.]), each=0),
    'w is 0.05: it must be one of 0.0, 1.0': lambda d: image_slider(strip(d), 'Images', .05),
    'images.png is damaged': lambda d: image_slider(wrote(strip(d)/'images.png').parent, 'Images'),
    'manifest.json is missing': lambda d: image_slider(d, 'Images'),
    'w is 2: it must be one of 0, 1': lambda d: curve_slider([dict(w=w, p_uncond=.1, is_mean=1., fd=1., precision=1., recall=1.) for w in (0, 1)], 'a', dict(x=[0, 2], y=[1, 2]), w=2),
    "ending is '.mp4': it must be one of .gif, .png": lambda d: film([board([images[:1]])], '.mp4'),
    'a.jpg is to be a picture: its name must end in .gif or .png': lambda d: writable(d/'a.jpg', ('.gif', '.png')),
    'nowhere is no directory': lambda d: writable(d/'nowhere'/'a.png', ('.png',)),
    'maker: T is 1': lambda d: maker(model, {}, w=1., T=1, v=0.),
    'it makes no images': lambda d: maker(model, dict(network='classifier'), w=1., T=2, v=0.),
    # evaluation
    'images are (40, 1, 8, 8) torch.float32': lambda d: evaluate(images.float(), images, judge()),
    'images are (40, 8, 8) torch.uint8': lambda d: evaluate(images[:, 0], images, judge()),
    'reference: images are (40, 1, 8, 8) torch.float32': lambda d: evaluate(images, images.float(), judge()),
    'images have 2 channels': lambda d: evaluate(images.expand(-1, 2, -1, -1), images, judge()),
    'there are 40 images: a covariance of 64': lambda d: evaluate(images, images, judge()),
    'there are 1 images': lambda d: evaluate(images[:1], images, judge(), splits=1),
    'there are 40 images: a covariance of 2048': lambda d: check_images(images),
    'splits is 0': lambda d: evaluate(images, images, judge(), splits=0),
    'splits is 41: there are 40 images': lambda d: evaluate(images, images, judge(), splits=41),
    'groups is 1: it must be 2 or more, or 0': lambda d: evaluate(images, images, judge(), groups=1),
    'groups is 41: there are 40 images': lambda d: evaluate(images, images, judge(), groups=41),
    'manifold is 2': lambda d: evaluate(images, images, judge(), manifold=2),
    'kid is 1: it must be 2 or more, or 0 for none': lambda d: evaluate(more, more, judge(), splits=1, kid=1),
    'kid is -2': lambda d: evaluate(more, more, judge(), splits=1, kid=-2),
    "kid is '9'": lambda d: evaluate(more, more, judge(), splits=1, kid='9'),
    'kid is 81: of 80 images features are kept': lambda d: evaluate(more, more, judge(), splits=1, kid=81),
    'kid is 50: of 49 images features are kept': lambda d: evaluate(more, more, judge(), splits=1, kid=50, manifold=49),
    'kid is 70: of 66 images of the reference features are kept': lambda d: evaluate(more, more[:66], judge(), splits=1, kid=70),
    'of class 0 features of 80 images are kept, and of 5 of the reference: by class it must be 6 or more of each':
        lambda d: evaluate(MemorySet(from_uint8(more), c.repeat(16), {}), MemorySet(from_uint8(more), (torch.arange(80) > 4).long(), {}), judge(), by_class=True),
    'the reference does not say of which classes its images are': lambda d: evaluate(more, load_statistics(kept(d)), judge(), by_class=True),
    'd.pth is missing': lambda d: make_extractor(dinov2=d/'d.pth'),
    'd.safetensors is damaged': lambda d: dinov2_weights(wrote(d/'d.safetensors')),
    'dinov2_weights: holds no DINOv2 as its authors name it': lambda d: dinov2_weights(saved(d/'d.pth')),
    'beside DINOv2 the reference must be a set': lambda d: judging(kept(d), dinov2='d.pth'),
    'evaluate: batch_size is 0': lambda d: evaluate(images, images, judge(), batch_size=0),
    'the reference is by x with 3 features': lambda d: evaluate(more, load_statistics(kept(d)), judge()),
    'steps had no finite gradient': lambda d: fit_classifier(torch.utils.data.TensorDataset(z+nan, c), 10, steps=2),
    'holds sigma (2, 2) float64: it must hold numbers mu (D,)': lambda d: load_statistics(kept(d, sigma=np.eye(2))),
    'holds features (2, 4)': lambda d: load_statistics(kept(d, features=np.zeros((2, 4)))),
    'holds n () <U4': lambda d: load_statistics(kept(d, n='many')),
    'holds labels (3,) int64': lambda d: load_statistics(kept(d, labels=np.zeros(3, int))),
    'holds version () float64': lambda d: load_statistics(kept(d, version=1.)),
    's.npz holds numbers that are not finite': lambda d: load_statistics(kept(d, mu=np.array([0, 1, nan]))),
    'nowhere.npz is missing': lambda d: load_statistics(d/'nowhere.npz'),
    'it must hold mu and sigma': lambda d: load_statistics(npz(d, data=np.zeros(3))/'train_data_batch_1.npz'),
    'nowhere.pth is missing': lambda d: make_extractor(weights=d/'nowhere.pth'),
    'mine.pth is damaged': lambda d: inception_weights(wrote(d/'mine.pth')),
    'own does not exist: without images none': lambda d: own_classifier(d/'own'),
    'own_classifier: fit_steps is 0': lambda d: own_classifier(d/'own', digits(), 0),
    'judging: there is no --reference': lambda d: judging(None),
    'judgeable: there is no --reference': lambda d: judgeable(digits(), None),
    'there are 1797 images: a covariance of 2048': lambda d: judgeable(digits(), 'digits'),
    # experiments
    'level_sizes: size is 0': lambda d: level_sizes(0), 'size is 97: it can be halved only down to 97': lambda d: level_sizes(97),
    "'chanels' is no field of the preset: did you mean channels?": lambda d: preset('tiny', chanels=3),
    'attention is [8, 3]: the levels have sides of 8, 4': lambda d: fitting(preset('digits', attention=(8, 3)), digits()),
    "preset is 'imagenet256'": lambda d: preset('imagenet256'), "'widht' is no field": lambda d: preset('tiny', widht=3), 'preset: T is 1': lambda d: preset('tiny', T=1), 'preset: v is 2': lambda d: preset('tiny', v=2), "p_uncond is 'x'": lambda d: preset('tiny', p_uncond='x'),
    'there are no rows': lambda d: write_csv(d/'x.csv', []), 'table is 3': lambda d: sweep_cells([], 3), 'sweep_cells: w is nan': lambda d: sweep_cells([], 1, ws=(nan,)), 'sweep_cells: T is 1': lambda d: sweep_cells([], 2, Ts=(1,)), 'sweep_cells: v is 7': lambda d: sweep_cells([], 1, v=7),
    'rows, forms and groups of a table are [1, 2] wide: each must be as wide as its head, 2': lambda d: Table(['a', 'b'], [[1]]),
    'sweep_cells: n is 0': lambda d: sweep_cells([], 1, n=0), 'device is tpu': lambda d: pick('tpu'), "precision is 'float16'": lambda d: pick('cpu', 'float16'), 'holds no checkpoint': lambda d: load_run(d),
    # adapters
    'betas reach from 0 to 0.5': lambda d: discrete_logsnrs([0., .5]),
    'betas reach from 0.1 to 1': lambda d: discrete_logsnrs([.1, 1.]),
    'betas are (1,): they must be a row of two or more': lambda d: discrete_logsnrs([.1]),
    'betas are of type str': lambda d: discrete_logsnrs('linear'),
    'logsnrs are (1,): they must be a row of two or more': lambda d: time_of(zeros(3), [0.]),
    'channels is 0': lambda d: discrete_model(model, linear_betas(), 0),
    'visited: T is 1': lambda d: visited(linear_betas(100), 1),
    "T is '4': it must be a whole number from 2": lambda d: visited(linear_betas(100), '4'),
    'T is 200: it must be a whole number from 2 to 100': lambda d: visited(linear_betas(100), 200),
    'linear_betas: n is 20': lambda d: linear_betas(20), 'cosine_betas: n is 1': lambda d: cosine_betas(1),
    't runs from -1 to -1: it must be in [0,1]': lambda d: logsnr_at(-1, [1., 0.]),
    # diffusers
    'the scheduler is SimpleNamespace: it must have alphas_cumprod': lambda d: scheduler_logsnrs(SimpleNamespace(config={})),
    "prediction_type is 'energy': it must be one of epsilon, sample, v_prediction":
        lambda d: diffusers_model(model, SimpleNamespace(config={'prediction_type': 'energy'}, alphas_cumprod=tensor([.9, .1]))),
    # parametrisations
    'sigma is as low as -1: it must be 0 or more': lambda d: logsnr_of_sigma([1., -1.]),
    't runs from 0.5 to 1.5: it must be in [0,1]': lambda d: logsnr_of_flow_time([.5, 1.5]),
    'prediction is (5, 2), z (5, 1, 8, 8)': lambda d: from_x(lambda z, logsnr, c: zeros(5, 2))(z, zeros(5), c),
    'prediction is (5,), z (5, 1, 8, 8)': lambda d: as_v(lambda z, logsnr, c: zeros(5))(z, zeros(5), c),
    't is 1: it must be below 1': lambda d: as_flow(model)(z, tensor(1.), c),
    'edm_labels: n is 0': lambda d: edm_labels(model, 0),
    'labels run from 3 to 3: they must be in [0,2]': lambda d: edm_labels(model, 2)(z, zeros(5), c+3),
    'the interval is 1.0 to 1.0': lambda d: interval(1., 1., logsnr_of_sigma), 'the interval is nan to 1.0': lambda d: interval(nan, 1., logsnr_of_sigma),
    'sigma is as low as -2': lambda d: interval(-2., 1., logsnr_of_sigma),
    'the steps are 3 to 2: they must be whole numbers from 0 to 4': lambda d: step_interval(zeros(5), 3, 2),
}


@pytest.mark.parametrize('words', FUNCTIONS)
def test_function(tmp_path, words):
    "A ValueError of one sentence."
    folder = tmp_path/'d'; folder.mkdir()
    with pytest.raises(ValueError) as refused: FUNCTIONS[words](folder)
    function, _, rest = words.partition(': ')                       # a function's name comes first where the words alone would name two cases
    said = str(refused.value)
    assert (rest if function.isidentifier() else words) in said and '\n' not in said and len(said) < 400, said


def call(command, *args, **kwargs):
    "Exit status, what was printed, and the errors."
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try: command(*args, **kwargs); code = 0
        except (Refusal, OSError) as e: print(f'{command.__name__}: {e}', file=err); code = 2     # as in a terminal
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "Sets, runs, samples and a sweep, whole ones and others."
    lab, here = tmp_path_factory.mktemp('lab'), os.getcwd(); os.chdir(lab)
    def do(*args, **kwargs): code, _, err = call(*args, **kwargs); assert code == 0, err
    try:
        do(cfg_train, 'digits', out='run', steps=2, device='cpu')
        for name, n in (('letters', 60), ('more_letters', 61)): do(cfg_prepare, 'glyphs', name, size=16, n=n)
        do(cfg_prepare, 'glyphs', 'small_letters', size=8, n=70)
        do(cfg_train, 'tiny', data='letters', out='tiny', steps=1, device='cpu')
        do(cfg_sample, 'run', out='samples', n=70, T=2, device='cpu')
        do(cfg_evaluate, 'samples', 'digits', classifier='own.safetensors', fit_steps=2, splits=1, device='cpu')
        do(cfg_sweep, ['run'], 'digits', out='sweep', n=70, w=(0.,), T=(2,), classifier='own.safetensors', splits=1, device='cpu')
        for name in ('digits/parts', 'nothing', 'half/a', 'half/b', 'classless', 'gap', 'few', 'foreign'): Path(name).mkdir(parents=True)
        Path('a_file').write_text('mine'); write_record('digits/parts/sweep.json', dict(seeds=9))
        pictures(Path('half'), 'a/1.png'); Path('mixed').mkdir(); pictures(Path('mixed'), '1.png', 'a/2.png')
        shutil.copytree('letters', 'cut'); shard = Path('cut/shard-00000.safetensors'); shard.write_bytes(shard.read_bytes()[:-1])
        coloured = zeros(4, 3, 16, 16, dtype=torch.uint8)
        a_set(Path('classless'), {}, images=coloured); a_set(Path('gap'), dict(n_classes=4), images=coloured); a_set(Path('few'))
        save_checkpoint(new_state(net()), 'foreign', dict(mine=True))
        save_file(test_measures.dinov2(128), 'large.safetensors')
        np.savez('adm.npz', mu=np.zeros(2048), sigma=np.eye(2048)); np.savez('arrays.npz', x=np.zeros(3))
        yield lab
    finally: os.chdir(here)


def sampled(**changes): return cfg_sample, ('run',), dict(out='new', n=4, T=2, device='cpu') | changes
def trained(experiment='digits', **changes): return cfg_train, (experiment,), dict(out='new', steps=4, device='cpu') | changes
def evaluated(**changes): return cfg_evaluate, (changes.pop('samples', 'samples'),), dict(reference='digits', classifier='own.safetensors', splits=1, device='cpu', out='new.json') | changes
def swept(**changes): return cfg_sweep, (changes.pop('runs', ['run']),), dict(reference='digits', out='new', n=70, w=(0.,), T=(2,), classifier='own.safetensors', splits=1, device='cpu') | changes
def prepared(source='glyphs', dest='new', **changes): return cfg_prepare, (source, dest), dict(size=16, workers=1) | changes


COMMANDS = [
    # cfg_prepare
    (prepared('nowhere'), 'nowhere does not exist'), (prepared('a_file'), 'a_file is no tar'), (prepared('nothing'), 'nothing holds no images'), (prepared('half'), 'half has no image of b'), (prepared(size=0), 'size is 0'), (prepared(size=4), 'size is 4'),
    (prepared(size=10_000), 'size is 10000'), (prepared(resize='best'), "resize is 'best'"), (prepared(n=0), 'n is 0'), (prepared(workers=0), 'workers is 0'), (prepared('digits'), 'digits holds images of 8x8'), (prepared('half', n=3), 'n is 3'),
    (prepared(fit='best'), "fit is 'best'"), (prepared(grey=True), 'glyphs holds images that are taken as they are'), (prepared('mixed'), 'mixed holds 1.png and a/2.png'),
    (prepared(dest='a_file', n=30), 'a_file'), (prepared(dest='letters', n=30), 'letters holds a set with other settings'),
    # cfg_train
    (trained('imagenet32'), "preset is 'imagenet32'"), (trained('tiny'), 'tiny needs --data'), (trained('tiny', data='nowhere'), 'nowhere is not a set'), (trained('tiny', data='run'), 'run is not a set'), (trained('tiny', data='cut'), 'cut/shard-00000.safetensors is damaged'),
    (trained('tiny', data='small_letters'), 'images are [3, 8, 8]: this preset takes [3, 16, 16]'), (trained('glyphs16', data='gap/set'), 'the data has 4 classes'), (trained('tiny', data='gap/set'), 'no image of class 3'), (trained('tiny', data='classless/set'), 'do not say how many classes'),
    (trained(steps=0), 'steps is 0'), (trained(p_uncond=1.5), 'p_uncond is 1.5'), (trained(p_uncond=-1.), 'p_uncond is -1'), (trained(p_uncond=nan), 'p_uncond is nan'), (trained(lr=0.), 'lr is 0'), (trained(lr=nan), 'lr is nan'), (trained(lr=-1.), 'lr is -1'),
    (trained(batch_size=0), 'batch_size is 0'), (trained(micro_batch=0), 'micro_batch is 0'), (trained(seed=-1), 'seed is -1'), (trained(seed=2**63), 'seed is 9223372036854775808'), (trained(workers=-1), 'workers is -1'), (trained(grid_every=-1), 'grid_every is -1'),
    (trained(log_every=0), 'log_every is 0'), (trained(save_every=0), 'save_every is 0'), (trained(max_skipped=0), 'max_skipped is 0'), (trained(device='tpu'), 'device is tpu'), (trained(precision='float16'), "precision is 'float16'"),
    (trained(processes=0), 'processes is 0'), (trained(processes=2), 'processes is 2: several need a terminal'), (trained(set=['widht=3']), "'widht' is no field"), (trained(set=['channels']), "'channels' is not name=value"), (trained(set=['channels=7']), 'channels is 7'),
    (trained(max_skipped=0), 'max_skipped is 0'), (trained(keep=0), 'keep is 0'),
    (trained(steps=7, set=['steps=5']), 'steps is set twice, to 7 by --steps and to 5 by --set'),
    (trained(set=['lr=.1']), "'lr=.1' is not name=value"), (trained(set=['lr=0.1', 'lr=0.2']), 'lr is set twice'),
    (trained(set=['lr=-0.1']), 'lr is -0.1'), (trained(set=['warmup=1.5']), 'warmup is 1.5'),
    (trained(set=['name=3']), "'name' is no field"), (trained(set=['net=3']), "'net' is no field"),
    (trained(set=['network=3']), "'network' is no field"), (trained(set=['attention=5']), 'attention is 5'),
    (trained(set=['mult=5']), 'mult is 5'), (trained(set=['dropout="a"']), "dropout is 'a'"),
    (trained(set=['weight_decay=-1']), 'weight_decay is -1'), (trained(set=['p_uncond=null']), 'p_uncond is None'),
    (trained('digits_classifier', p_uncond=.1), 'p_uncond is 0.1: a classifier has no null class'),
    (trained(steps=None, minutes=0.), 'minutes is 0.0: it must be above 0 and finite'), (trained(steps=None, minutes=nan), 'minutes is nan'),
    (trained(minutes=5.), 'minutes is 5 and steps is 4: a run ends by one of them'),
    (trained(steps=None, minutes=5., set=['steps=3']), 'minutes is 5 and steps is 3'),
    (trained('auto'), 'auto needs --data'), (trained('auto', data='few/set', set=['chanels=8']), 'did you mean channels?'),
    (trained('auto', data='letters', set=['attention=[7]']), 'attention is [7]: the levels have sides of 16, 8; say --set attention=[8]'),
    (trained('auto', data='letters', set=['size=97']), 'size is 97: it can be halved only down to 97'),
    (trained('auto', data='letters', set=['size="a"']), "size is 'a'"), (trained('auto', data='letters', set=['channels="a"']), "is 'a'"),
    (trained('tiny', data='small_letters'), 'say auto, which suits itself to the data, or --set size=8'),
    (trained('tiny', data='letters', set=['out_channels=2']), 'out_channels is 2: the network predicts the noise of images of 3'),
    (trained('digits_classifier', grid_every=5), 'grid_every is 5: a classifier'),
    (trained('digits_classifier', checkpoint=True), 'checkpoint is True: a classifier'),
    (trained(set=['T=1']), 'T is 1'), (trained(set=['v=2']), 'v is 2'), (trained(set=['dropout=1']), 'dropout is 1'), (trained(set=['mult=[]']), 'mult is []'), (trained(set=['n_classes=3']), 'the data has 10 classes'), (trained(set=['ema_decay=1']), 'ema_decay is 1'),
    (trained(out='a_file'), 'a_file'), (trained(out='run', seed=7), 'trained with another seed'), (trained(out='run', lr=.1), 'trained with another lr'), (trained(out='run', batch_size=7), 'trained with another batch_size'), (trained(out='foreign'), 'trained with another preset, seed'),
    (trained('tiny', data='letters', out='run'), 'trained with another preset'), (trained('tiny', data='more_letters', out='tiny'), 'trained with another data'), (trained('tiny', data='letters', out='tiny', p_uncond=.5), 'trained with another p_uncond'),
    # cfg_export
    ((cfg_export, ('nowhere', 'new'), {}), 'nowhere holds no checkpoint'), ((cfg_export, ('letters', 'new'), {}), 'letters holds no checkpoint'),
    ((cfg_export, ('foreign', 'new'), {}), 'cfg_train makes those that can'), ((cfg_export, ('run', 'new'), dict(ema=0.5)), 'ema is 0.5: beside its own average'),
    ((cfg_export, ('run', 'letters'), {}), 'letters holds something else: export to another directory'), ((cfg_export, ('run', 'tiny'), {}), 'tiny holds something else'),
    ((cfg_export, ('run', 'a_file'), {}), 'a_file'),
    # cfg_sample
    ((cfg_sample, ('nowhere',), {}), 'nowhere holds no checkpoint'),
    ((cfg_sample, ('letters',), {}), 'letters holds no checkpoint'),
    ((cfg_sample, ('foreign',), {}), 'cfg_train makes those that can'),
    (sampled(w=nan), 'w is nan'), (sampled(w=math.inf), 'w is inf'), (sampled(T=1), 'T is 1'), (sampled(v=1.5), 'v is 1.5'),
    (sampled(v=nan), 'v is nan'), (sampled(n=0), 'n is 0'), (sampled(n=-3), 'n is -3'), (sampled(seed=-1), 'seed is -1'),
    (sampled(step='euler'), "step is 'euler'"), (sampled(grid='karras'), "grid is 'karras'"),
    (sampled(labels='all'), "labels is 'all'"), (sampled(batch_size=0), 'batch_size is 0'),
    (sampled(step='ddim', v=.3), 'v is 0.3: it is for the ancestral step, ddim has none'),
    (sampled(shard_size=0), 'shard_size is 0'), (sampled(device='cuda:99'), 'device is cuda:99'),
    (sampled(precision='half'), "precision is 'half'"), (sampled(processes=0), 'processes is 0'),
    (sampled(out='samples', w=3.), 'samples holds a set with other settings (n: 70, not 4; w: 0.0, not 3.0)'),
    (sampled(out='a_file'), 'a_file'), (sampled(guide_by='nowhere'), 'nowhere holds no checkpoint'),
    (sampled(guide_by='run'), 'run holds no noisy classifier, so it cannot guide'),
    (sampled(w=(1., 1.)), 'w is 1,1: it must be a number, or several that differ'), (sampled(w=(1., nan)), 'w is nan'),
    (sampled(classes=('10',)), "there is no class '10'; classes have numbers from 0 to 9"),
    (sampled(classes=('3', '3')), 'classes are 3,3: one of them is there twice'),
    (sampled(w=1., interval=(1.,)), 'interval is 1.0: it must be two log-SNRs'),
    (sampled(w=1., interval=(3., 1.)), 'the interval is 3.0 to 1.0'), (sampled(w=1., interval=(1., 2.)), 'interval is 1,2: no step has'),
    (sampled(picture='a.jpg'), 'a.jpg is to be a picture: its name must end in .png'),
    (sampled(film='a.mp4'), 'a.mp4 is to be a picture'), (sampled(film='nowhere/a.gif'), 'nowhere is no directory'),
    (sampled(out='samples', n=70, w=(0., 1.), picture='run'), 'run is to be a picture'),
    # cfg_evaluate
    (evaluated(reference=None), 'there is no --reference'), (evaluated(reference='nowhere'), 'nowhere is not a set'),
    (evaluated(samples='nowhere'), 'nowhere is not a set'), (evaluated(samples='cut'), 'cut/shard-00000.safetensors is damaged'),
    (evaluated(reference='cut'), 'cut/shard-00000.safetensors is damaged'), (evaluated(splits=0), 'splits is 0'),
    (evaluated(splits=71), 'splits is 71: there are 70 images'), (evaluated(groups=1), 'groups is 1'),
    (evaluated(kid=1), 'kid is 1'), (evaluated(kid=71), 'kid is 71: of 70 images'), (evaluated(kid=60, manifold=50), 'kid is 60: of 50 images'), (evaluated(manifold=3), 'manifold is 3'),
    (evaluated(by_class=True, manifold=30), 'by class it must be 6 or more of each'), (evaluated(reference='adm.npz', dinov2='a_file'), 'adm.npz holds statistics by one network'), (evaluated(dinov2='a_file'), 'a_file is damaged'),
    (evaluated(dinov2='nowhere.pth'), 'nowhere.pth is missing'),
    (evaluated(groups=-2), 'groups is -2'), (evaluated(groups=71), 'groups is 71'), (evaluated(batch_size=0), 'batch_size is 0'),
    (evaluated(classifier='a_file'), 'a_file is damaged'),
    (evaluated(classifier='new.safetensors', fit_steps=0), 'fit_steps is 0'),
    (evaluated(reference='a_file'), 'a_file is damaged'), (evaluated(reference='arrays.npz'), 'it must hold mu and sigma'),
    (evaluated(reference='adm.npz'), 'the reference is by'), (evaluated(device='tpu'), 'device is tpu'),
    (evaluated(classifier=None), 'there are 70 images: a covariance of 2048'),
    (evaluated(classifier='new.safetensors', reference='adm.npz'), 'new.safetensors does not exist'),
    (evaluated(samples='small_letters'), '3 channels'), (evaluated(samples='few/set'), 'there are 4 images'),
    (evaluated(samples='few/set', classifier='new.safetensors'), 'there are 4 images'),
    (evaluated(reference='few/set'), 'there are 4 images'), (evaluated(out='nowhere/new.json'), 'nowhere is no directory'),
    # cfg_sweep
    (swept(table=3), 'table is 3'), (swept(reference=None), 'there is no --reference'), (swept(runs=['nowhere']), 'nowhere holds no checkpoint'), (swept(w=(nan,)), 'w is nan'), (swept(T=(1,)), 'T is 1'), (swept(v=-1.), 'v is -1'), (swept(n=0), 'n is 0'), (swept(splits=0), 'splits is 0'),
    (swept(batch_size=0), 'batch_size is 0'), (swept(shard_size=0), 'shard_size is 0'), (swept(device='tpu'), 'device is tpu'), (swept(processes=0), 'processes is 0'), (swept(out='sweep', n=71), 'holds a sweep with n 70, not 71'), (swept(out='sweep', table=2), 'holds a sweep with table 1, not 2'),
    (swept(out='a_file'), 'a_file'), (swept(reference='nowhere'), 'nowhere is not a set'),
    (swept(kid=71), 'kid is 71: of 70 images'), (swept(kid=1), 'kid is 1'), (swept(kid=-1), 'kid is -1'), (swept(n=99, kid=65, reference='few/set'), 'kid is 65: of 4 images of the reference'), (swept(dinov2='a_file'), 'a_file is damaged'),
    (swept(reference='adm.npz', dinov2='a_file'), 'beside DINOv2 the reference must be a set'), (swept(dinov2='large.safetensors'), "n is 70: a covariance of DINOv2's 128 features needs more"),
    (evaluated(dinov2='large.safetensors'), 'there are 70 images: a covariance of 128'),
    # cfg_digits
    ((cfg_digits, (), dict(seeds=0)), 'seeds is 0'), ((cfg_digits, (), dict(workers=0)), 'workers is 0'), ((cfg_digits, (), dict(device='tpu')), 'device is tpu'), ((cfg_digits, (), dict(out='a_file')), 'a_file'), ((cfg_digits, (), dict(out='digits')), 'holds a sweep with version None, not 1'),
]


def held(folder): return {str(p): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file() and p.name != '.lock'}


@pytest.mark.slow
@pytest.mark.parametrize('case, words', COMMANDS, ids=[f'{case[0].__name__}: {words}' for case, words in COMMANDS])
def test_command(lab, case, words):
    "One sentence, exit 2, and every file as it was."
    (command, args, kwargs), before = case, held(lab)
    code, out, err = call(command, *args, **kwargs)
    assert code == 2 and out == '' and 'Traceback' not in err
    said = err.splitlines()[-1]                                    # bars may come before
    assert said.startswith(f'{command.__name__}: ') and words in said, err
    assert held(lab) == before


def test_as_many_as_was_asked(): assert len(FUNCTIONS) + len(COMMANDS) > 250

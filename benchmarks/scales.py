"""What each library calls the strength of guidance, asked of the library itself:
python benchmarks/scales.py FOLDER. Page 54_questions shows what it finds.

Each library's own line is run on two predictions that are known, a with the condition and b without it. What it makes
of them is b + s (a - b), and s is read off. FOLDER holds checkouts of those that are in no registry."""
import ast, subprocess, sys, warnings
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock
import torch
from cfg_repro.checks import Refusal
from cfg_repro.classifier_guidance import classifier_grad
from cfg_repro.console import command
from cfg_repro.results import provenance, write_csv, write_json

results = Path(__file__).resolve().parents[1]/'results'
VALUES = 0., 0.5, 1., 1.5, 3., 7.5
draw = torch.Generator().manual_seed(0)
A, B = torch.randn(2, 1, 4, 2, 2, dtype=torch.float64, generator=draw)      # (1,4,2,2) each


def scale_of(mixed, a=A, b=B):
    "The s of b + s (a - b); refused where a mixture is none."
    s = ((mixed-b)*(a-b)).sum()/((a-b)**2).sum()
    if not torch.allclose(mixed, b + s*(a-b), rtol=1e-5, atol=1e-5):
        raise Refusal("what came out is no mixture of the two predictions")
    return s.item()


# From the registry

def diffusers_pipeline(guidance_scale):
    "A whole call of DiTPipeline in one step; its network answers what is known, its scheduler is asked what it got."
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
    seen = []

    class Scheduler(DDIMScheduler):
        def step(self, predicted, *args, **kw):
            seen.append(predicted)
            return super().step(predicted, *args, **kw)

    def answer(z, timestep, class_labels):
        return SimpleNamespace(sample=torch.cat([B if c == 1000 else A for c in class_labels]).float())

    net = DiTTransformer2DModel(num_attention_heads=1, attention_head_dim=4, in_channels=4, out_channels=4, num_layers=1, sample_size=2, patch_size=1, norm_num_groups=1)
    net.forward = answer
    pipe = DiTPipeline(net, AutoencoderKL(block_out_channels=(4,), norm_num_groups=1, latent_channels=4), Scheduler())
    pipe.set_progress_bar_config(disable=True)
    pipe([1], guidance_scale=guidance_scale, num_inference_steps=1, output_type='np')
    return scale_of(seen[0][:1].double())


def diffusers_guider(guidance_scale, original=False):
    "The guider of its modular pipelines, by either of its two formulations."
    from diffusers.guiders import ClassifierFreeGuidance
    guider = ClassifierFreeGuidance(guidance_scale, use_original_formulation=original)
    guider.set_state(step=0, num_inference_steps=1, timestep=torch.tensor(0))
    return scale_of(guider.forward(A, B if guider.num_conditions == 2 else None).pred)


def diffusers_original(guidance_scale):
    return diffusers_guider(guidance_scale, original=True)


def lucidrains(cond_scale):
    "Its projection, which is on by default and is another rule, switched off."
    from denoising_diffusion_pytorch.classifier_free_guidance import Unet

    class Network(Unet):
        def __init__(self): torch.nn.Module.__init__(self)
        def forward(self, z, cond_drop_prob): return B if cond_drop_prob else A

    found = Network().forward_with_cond_scale(A, cond_scale=cond_scale, remove_parallel_component=False)
    return scale_of(found if torch.is_tensor(found) else found[0])


def smalldiffusion(cfg_scale):
    from smalldiffusion.model import ModelMixin

    class Network(ModelMixin):
        cond_embed = SimpleNamespace(null_cond=10)
        def predict_eps(self, x, sigma, cond): return torch.cat([B if c == 10 else A for c in cond])

    return scale_of(Network().predict_eps_cfg(A, torch.tensor(1.), torch.tensor([1]), cfg_scale))


def labml(uncond_scale):
    sys.modules.setdefault('labml', MagicMock())
    from labml_nn.diffusion.stable_diffusion.sampler import DiffusionSampler
    sampler = DiffusionSampler.__new__(DiffusionSampler)
    sampler.model = lambda x, t, c: torch.cat([A if known else B for known in c])
    return scale_of(sampler.get_eps(A, torch.zeros(1), torch.ones(1), uncond_scale=uncond_scale, uncond_cond=torch.zeros(1)))


# From a repository

def module(folder, name):
    "A module of a checkout, imported afresh; what it needs and is not here is left out."
    sys.path.insert(0, str(folder))
    try:
        for known in ('models', 'sampling', 'generate_images', 'dnnlib', 'torch_utils', 'guided_diffusion'):
            for part in [part for part in sys.modules if part.split('.')[0] == known]:
                del sys.modules[part]
        return import_module(name)
    finally:
        sys.path.remove(str(folder))


def inside(path, name, **around):
    "A function that stands inside another one, with what stands around it."
    tree = ast.parse(path.read_text(encoding='utf-8'))
    (node,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == name)
    exec(compile(ast.Module([node], []), str(path), 'exec'), around)
    return around[name]


def denoiser(answer):
    "A network as EDM's: what it answers stands in for the guess of x."
    net = lambda x, t, labels=None: answer
    net = MagicMock(side_effect=net, sigma_min=0., sigma_max=1e9)
    net.round_sigma = lambda sigma: torch.as_tensor(sigma)
    return net


def edm2(folder, guidance):
    "One step to no noise: what comes out is the guided guess."
    sampler = module(folder, 'generate_images').edm_sampler
    return scale_of(sampler(denoiser(A), A, gnet=denoiser(B), guidance=guidance, num_steps=2, sigma_max=80., sigma_min=1e-12, dtype=torch.float64))


def interval(folder, G):
    sampler = module(folder, 'sampling.edm_sampler').edm_sampler
    return scale_of(sampler(denoiser(A), A, denoiser(B), G=G, num_steps=2, sigma_min=1e-12).double())


def transformer(folder, cfg_scale, channels=slice(3)):
    "DiT's and SiT's; they guide the first three channels, and hand the others on."
    name = folder.name
    net = SimpleNamespace(forward=lambda z, t, y: torch.cat([A, B]), in_channels=4)
    found = getattr(module(folder, 'models'), name).forward_with_cfg(net, torch.cat([A, A]), None, None, cfg_scale)
    return scale_of(found[:1, channels], A[:, channels], B[:, channels])


def fourth(folder, cfg_scale):
    return transformer(folder, cfg_scale, slice(3, 4))


def k_diffusion(folder, cfg_scale):
    "A function within its training script, which has no guidance else."
    make = inside(folder/'train.py', 'make_cfg_model_fn', torch=torch, cfg_scale=cfg_scale, num_classes=10)
    model = lambda x, sigma, class_cond: torch.cat([B if c == 10 else A for c in class_cond])
    guided = make(model)
    return scale_of(guided(A, torch.ones(1), class_cond=torch.tensor([1])) if guided is not model else A)


def adm(folder, classifier_scale):
    "Guidance by a classifier, s = 1 + w where the network knows the class: w as `classifier_guide` counts it."
    import torch.nn.functional as F
    diffusion = module(folder, 'guided_diffusion.gaussian_diffusion')
    classifier = lambda z, t: (z.flatten(1)**2)[:, :5]
    around = dict(th=torch, F=F, classifier=classifier, args=SimpleNamespace(classifier_scale=classifier_scale))
    cond_fn = inside(folder/'scripts'/'classifier_sample.py', 'cond_fn', **around)
    betas = diffusion.get_named_beta_schedule('linear', 1000)
    kinds = [next(iter(getattr(diffusion, kind))) for kind in ('ModelMeanType', 'ModelVarType', 'LossType')]
    process = diffusion.GaussianDiffusion(betas=betas, model_mean_type=kinds[0], model_var_type=kinds[1], loss_type=kinds[2])
    t, y = torch.tensor([500]), torch.tensor([1])
    eps = lambda x: process._predict_eps_from_xstart(A.float(), t, x)
    found = process.condition_score(cond_fn, dict(pred_xstart=B.float()), A.float(), t, model_kwargs=dict(y=y))
    plain, guided = eps(B.float()), eps(found['pred_xstart'])
    sigma = torch.tensor(float(process.sqrt_one_minus_alphas_cumprod[500]))
    slope = classifier_grad(lambda z, logsnr: classifier(z, None), A.float(), y, logsnr=torch.zeros(()))
    return scale_of(guided, plain - sigma*slope, plain) + 1


REGISTRY = {'diffusers': ('guidance_scale', 'DiTPipeline', diffusers_pipeline),
            'diffusers, guider': ('guidance_scale', 'ClassifierFreeGuidance', diffusers_guider),
            'diffusers, guider, original': ('guidance_scale', 'ClassifierFreeGuidance(use_original_formulation=True)', diffusers_original),
            'denoising-diffusion-pytorch': ('cond_scale', 'Unet.forward_with_cond_scale', lucidrains),
            'smalldiffusion': ('cfg_scale', 'ModelMixin.predict_eps_cfg', smalldiffusion),
            'labml-nn': ('uncond_scale', 'DiffusionSampler.get_eps', labml)}
SOURCES = {'edm2': ('guidance', 'generate_images.py', edm2),
           'guidance-interval': ('G', 'sampling/edm_sampler.py', interval),
           'DiT': ('cfg_scale', 'models.py', transformer),
           'SiT': ('cfg_scale', 'models.py', transformer),
           'DiT, fourth channel': ('cfg_scale', 'models.py', fourth),
           'SiT, fourth channel': ('cfg_scale', 'models.py', fourth),
           'k-diffusion': ('cfg_scale', 'train.py', k_diffusion),
           'guided-diffusion': ('classifier_scale', 'scripts/classifier_sample.py', adm)}


def rows(sources):
    "A row for each library and value of its parameter."
    found = []
    for name, (parameter, place, probe) in REGISTRY.items():
        made_by = version(name.split(',')[0])
        found += [dict(library=name, version=made_by, place=place, parameter=parameter, value=value, s=probe(value)) for value in VALUES]
    for name, (parameter, place, probe) in SOURCES.items():
        folder = Path(sources)/name.split(',')[0]
        made_by = commit(folder)
        found += [dict(library=name, version=made_by, place=place, parameter=parameter, value=value, s=probe(folder, value)) for value in VALUES]
    return found


def commit(folder):
    "Which one a checkout is at."
    done = subprocess.run(['git', '-C', str(folder), 'rev-parse', 'HEAD'], capture_output=True, text=True)
    if done.returncode:
        raise Refusal(f"{folder} is no checkout of git: there must be one for each of {', '.join(SOURCES)}")
    return done.stdout[:10]


@command
def scales(
    sources:str, # Folder with a checkout of each that is in no registry
    out:str=str(results/'scales'), # Directory of the result
):
    "The guidance scale of each library as s = 1 + w, measured on its own code."
    warnings.simplefilter('ignore')
    found = rows(sources)
    Path(out).mkdir(parents=True, exist_ok=True)
    write_csv(Path(out)/'scales.csv', found)
    write_json(Path(out)/'provenance.json', provenance(values=VALUES))
    for row in found: print(f"{row['library']:28} {row['parameter']:17} {row['value']:4} s = {row['s']:.4f}")


if __name__ == '__main__':
    scales.console()

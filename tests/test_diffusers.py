"diffusers' own pipelines, whole, on small random networks: the same latents from the same start, with guidance on."
import json, string
import pytest
import torch
from diffusers import (AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel, DPMSolverMultistepScheduler, EulerDiscreteScheduler,
                       FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline,
                       UNet2DConditionModel)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
import project
from cfg_repro.from_diffusers import diffusers_model, scheduler_logsnrs
from cfg_repro.guidance import guided, limited
from cfg_repro.parametrisations import step_interval
from cfg_repro.sampling import sample, trajectory
from cfg_repro.schedule import alpha_sigma
from cfg_repro.solvers import ddim_step, dpmpp_2m_step

sd = dict(beta_schedule='scaled_linear', beta_start=.00085, beta_end=.012, steps_offset=1)      # Stable Diffusion's
heads = dict(num_attention_heads=2, attention_head_dim=8, num_layers=2, patch_size=2)
random = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=random)


def shaken(net):
    "A network in double precision none of whose weights is zero."
    for p in net.double().eval().requires_grad_(False).parameters():
        p += .05*draw(*p.shape)
    return net


@pytest.fixture(scope='module')
def vae():
    torch.manual_seed(1)
    return shaken(AutoencoderKL(latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4, down_block_types=('DownEncoderBlock2D',)*2,
                                up_block_types=('UpDecoderBlock2D',)*2, shift_factor=0.))


@pytest.fixture(scope='module')
def by_text():
    torch.manual_seed(2)
    return shaken(UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, cross_attention_dim=8, norm_num_groups=8, block_out_channels=(16, 32), layers_per_block=1,
        attention_head_dim=4, down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'), up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D')))


def stable(unet, vae, scheduler, **parts):
    "Stable Diffusion of these parts."
    rest = dict(text_encoder=None, tokenizer=None, safety_checker=None, feature_extractor=None, requires_safety_checker=False) | parts
    pipe = StableDiffusionPipeline(vae=vae, unet=unet, scheduler=scheduler, **rest)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def exact(scheduler):
    "Its table in double precision, so that rounding hides nothing."
    scheduler.alphas_cumprod = (1-scheduler.betas.double()).cumprod(0)
    if scheduler.config.get('set_alpha_to_one') is False:
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    return scheduler


def off(ours, theirs):
    "The largest difference, of the largest value."
    return ((ours-theirs).abs().max()/theirs.abs().max()).item()


text, nothing = draw(2, 5, 8), draw(2, 5, 8)


def run(pipe, latents, s=4.):
    return pipe(prompt_embeds=text, negative_prompt_embeds=nothing, latents=latents, num_inference_steps=8, guidance_scale=s, output_type='latent').images


@pytest.mark.parametrize('kind', ['epsilon', 'v_prediction', 'sample'])
@pytest.mark.parametrize('spacing', ['leading', 'trailing'])
def test_stable_diffusion_by_ddim(by_text, vae, kind, spacing):
    "Its published scheduler ends at the first time step's noise level, where our trajectory passes."
    scheduler = exact(DDIMScheduler(**sd, prediction_type=kind, timestep_spacing=spacing, clip_sample=False, set_alpha_to_one=False))
    z = draw(2, 4, 8, 8)
    theirs = run(pipe := stable(by_text, vae, scheduler), z)
    bar = pipe.scheduler.alphas_cumprod[:1]
    logsnrs = torch.cat([scheduler_logsnrs(pipe.scheduler), bar.log()-(1-bar).log()])
    w = guided(diffusers_model(by_text, pipe.scheduler), 3., null=nothing)
    assert len(logsnrs) == 9
    *_, (ours, _) = trajectory(w, z, text, logsnrs=logsnrs, step=ddim_step, clip=None)
    assert off(ours, theirs) < 1e-9


@pytest.mark.parametrize('scheduler, step', [(EulerDiscreteScheduler(**sd, timestep_spacing='leading'), ddim_step),
                                             (EulerDiscreteScheduler(**sd, use_karras_sigmas=True), ddim_step),
                                             (DPMSolverMultistepScheduler(**sd, timestep_spacing='trailing'), dpmpp_2m_step),
                                             (DPMSolverMultistepScheduler(**sd, timestep_spacing='trailing', prediction_type='v_prediction'), dpmpp_2m_step)])
def test_stable_diffusion_by_others(by_text, vae, scheduler, step):
    "These compute in single precision. Euler's images are in EDM's coordinates, where the pipeline puts the latents that it is given."
    latents = draw(2, 4, 8, 8)
    theirs = run(stable(by_text, vae, scheduler), latents)
    logsnrs = scheduler_logsnrs(scheduler)
    scale = alpha_sigma(logsnrs[0])[0]*scheduler.init_noise_sigma if step is ddim_step else 1.
    ours = sample(guided(diffusers_model(by_text, scheduler), 3., null=nothing), latents*scale, text, logsnrs=logsnrs, step=step, clip=None)
    assert off(ours, theirs) < 1e-5


def test_stable_diffusion_xl(vae):
    "A condition with parts in a part: the network's added_cond_kwargs."
    torch.manual_seed(8)
    net = shaken(UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, cross_attention_dim=8, norm_num_groups=8, block_out_channels=(16, 32), layers_per_block=1,
        attention_head_dim=4, down_block_types=('DownBlock2D', 'CrossAttnDownBlock2D'), up_block_types=('CrossAttnUpBlock2D', 'UpBlock2D'),
        addition_embed_type='text_time', addition_time_embed_dim=8, projection_class_embeddings_input_dim=6*8+8))
    scheduler = exact(DDIMScheduler(**sd, clip_sample=False))
    parts = ['text_encoder', 'tokenizer', 'text_encoder_2', 'tokenizer_2']
    pipe = StableDiffusionXLPipeline(unet=net, vae=vae, scheduler=scheduler, add_watermarker=False, **dict.fromkeys(parts))
    pipe.set_progress_bar_config(disable=True)
    pooled, no_pooled, z = draw(2, 8), draw(2, 8), draw(2, 4, 8, 8)
    told = dict(prompt_embeds=text, pooled_prompt_embeds=pooled, negative_prompt_embeds=nothing, negative_pooled_prompt_embeds=no_pooled)
    theirs = pipe(**told, latents=z, num_inference_steps=5, guidance_scale=4., height=16, width=16, output_type='latent').images
    ids = torch.tensor([[16., 16., 0., 0., 16., 16.]]).double().expand(2, 6)       # size, crop and size again, as the pipeline tells them
    named = lambda text, pooled: dict(encoder_hidden_states=text, added_cond_kwargs=dict(text_embeds=pooled, time_ids=ids))
    model = guided(diffusers_model(net, pipe.scheduler), 3., null=named(nothing, no_pooled))
    ours = sample(model, z, named(text, pooled), logsnrs=scheduler_logsnrs(pipe.scheduler), step=ddim_step, clip=None)
    assert off(ours, theirs) < 1e-9


def test_dit(vae):
    "Labels, a learned variance, and the whole way to the picture."
    torch.manual_seed(3)
    dit = shaken(DiTTransformer2DModel(in_channels=4, out_channels=8, sample_size=8, num_embeds_ada_norm=1000, **heads))
    scheduler = exact(DDIMScheduler(clip_sample=False))
    pipe = DiTPipeline(transformer=dit, vae=vae, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    seeded = lambda: torch.Generator().manual_seed(4)
    theirs = pipe(class_labels=[207, 360], guidance_scale=4., num_inference_steps=5, generator=seeded(), output_type='pt').images
    z = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=seeded())
    model = guided(diffusers_model(dit, pipe.scheduler), 3., null=1000)
    latents = sample(model, z, torch.tensor([207, 360]), logsnrs=scheduler_logsnrs(pipe.scheduler), step=ddim_step, clip=None)
    ours = (vae.decode(latents/vae.config.scaling_factor).sample/2 + .5).clamp(0, 1)
    assert theirs.std() > .01 and off(ours, theirs) < 1e-9


@pytest.mark.parametrize('start, logsnr_min, allowed', [(.97, -20., 1e-5), (1., -20., 1e-3), (1., -30., 1e-5)])
def test_stable_diffusion_3(vae, start, logsnr_min, allowed):
    "A flow, and a condition of two parts. Where it begins at pure noise, the nearer to it we begin the nearer we come."
    torch.manual_seed(5)
    net = shaken(SD3Transformer2DModel(in_channels=4, out_channels=4, sample_size=8, joint_attention_dim=8, caption_projection_dim=16,
                                       pooled_projection_dim=8, pos_embed_max_size=8, **heads))
    parts = ['text_encoder', 'tokenizer', 'text_encoder_2', 'tokenizer_2', 'text_encoder_3', 'tokenizer_3']
    pipe = StableDiffusion3Pipeline(transformer=net, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.), **dict.fromkeys(parts))
    pipe.set_progress_bar_config(disable=True)
    pooled, no_pooled, latents = draw(2, 8), draw(2, 8), draw(2, 4, 8, 8)
    told = dict(prompt_embeds=text, pooled_prompt_embeds=pooled, negative_prompt_embeds=nothing, negative_pooled_prompt_embeds=no_pooled)
    theirs = pipe(**told, latents=latents, sigmas=torch.linspace(start, .1, 6).tolist(), guidance_scale=4., height=16, width=16, output_type='latent').images
    logsnrs = scheduler_logsnrs(pipe.scheduler, logsnr_min)
    alpha, sigma = alpha_sigma(logsnrs[0])
    c, null = dict(encoder_hidden_states=text, pooled_projections=pooled), dict(encoder_hidden_states=nothing, pooled_projections=no_pooled)
    ours = sample(guided(diffusers_model(net, pipe.scheduler), 3., null=null), (alpha+sigma)*latents, c, logsnrs=logsnrs, step=ddim_step, clip=None)
    assert off(ours, theirs) < allowed


def snippet():
    "The example at the top of the page, without the line that loads a pipeline."
    page = json.loads((project.root/'nbs/37_from_diffusers.ipynb').read_text(encoding='utf-8'))
    text = '\n'.join(''.join(cell['source']) for cell in page['cells'] if cell['cell_type'] == 'markdown')
    (load, *lines) = text.split('```python\n')[1].split('```')[0].splitlines()
    assert load.startswith('pipe = StableDiffusionPipeline.from_pretrained(')
    return '\n'.join(lines)


def test_the_example_of_the_page(by_text, vae):
    "As it stands there, on a small pipeline with a text encoder and a tokenizer of letters; and by hand, step by step, where it guides and where not."
    letters = [*string.ascii_lowercase, *(a+'</w>' for a in string.ascii_lowercase), '<|startoftext|>', '<|endoftext|>']
    tokenizer = CLIPTokenizer(vocab={a: i for i, a in enumerate(letters)}, merges=[], model_max_length=12)
    torch.manual_seed(6)
    encoder = CLIPTextModel(CLIPTextConfig(vocab_size=54, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                                           max_position_embeddings=12, bos_token_id=52, eos_token_id=53, pad_token_id=53))
    scheduler = DDIMScheduler(**sd, clip_sample=False)
    pipe = stable(by_text.float(), vae.float(), scheduler, text_encoder=shaken(encoder).float(), tokenizer=tokenizer)
    here = dict(pipe=pipe, torch=torch, diffusers_model=diffusers_model, scheduler_logsnrs=scheduler_logsnrs, limited=limited, guided=guided,
                step_interval=step_interval, sample=sample, ddim_step=ddim_step)
    try:
        torch.manual_seed(7)
        exec(snippet(), here)
        torch.manual_seed(7)
        y, text, nothing = torch.randn(1, 4, 64, 64), here['text'], here['nothing']
        with torch.no_grad():
            for k, t in enumerate(scheduler.timesteps):
                without, with_it = pipe.unet(torch.cat([y, y]), t, torch.cat([nothing, text])).sample.chunk(2)
                eps = without + (7.5 if 5 <= k <= 39 else 1.)*(with_it-without)
                y = scheduler.step(eps, t, y).prev_sample
            images = vae.decode(y/vae.config.scaling_factor).sample
        assert off(here['latents'], y) < 1e-3 and off(here['images'], images) < 1e-3
        assert here['images'].shape == (1, 3, 128, 128) and not torch.equal(text, nothing)
    finally:
        by_text.double(), vae.double()

"""openai/guided-diffusion. Its loop is called in parts, without MPI and without its log; guidance and dropped labels
are added here."""
import torch
from party import KEEP, STRENGTH, Party


class Adapter(Party):
    def make(self, size, n_classes, channels, mult, blocks, attention, head_channels):
        from guided_diffusion import logger
        from guided_diffusion.script_util import create_gaussian_diffusion
        from guided_diffusion.unet import UNetModel
        logger.Logger.CURRENT = logger.Logger(dir=None, output_formats=[])
        self.diffusion = create_gaussian_diffusion()
        return UNetModel(
            image_size=size, in_channels=3, model_channels=channels, out_channels=3, num_res_blocks=blocks,
            attention_resolutions=tuple(size//a for a in attention), channel_mult=tuple(mult),
            num_classes=n_classes+1, num_head_channels=head_channels, use_scale_shift_norm=True,
            resblock_updown=True, use_new_attention_order=True)

    def arguments(self, z, u, c):
        return z, 1000*u, c

    def loss(self, x, c):
        t = torch.randint(1000, (len(x),), device=x.device)
        return self.diffusion.training_losses(self.net, x, t, model_kwargs=dict(y=self.dropped(c)))['loss'].mean()

    def optimizer(self):
        from guided_diffusion.fp16_util import MixedPrecisionTrainer
        self.trainer = MixedPrecisionTrainer(model=self.net)
        return torch.optim.AdamW(self.trainer.master_params, lr=1e-4)

    def update(self, loss):
        with self.autocast():          # its checkpoints run forward once more here
            self.trainer.backward(loss)
        self.trainer.optimize(self.opt)
        self.trainer.zero_grad()
        self.average()

    def average(self):
        from guided_diffusion.nn import update_ema
        update_ema(self.averaged, self.trainer.master_params, rate=KEEP)

    def sample(self, z, c, T):
        from guided_diffusion.script_util import create_gaussian_diffusion
        def guided(x, t, y):
            labels = torch.cat([y, torch.full_like(y, self.null)])
            cond, uncond = self.net(torch.cat([x, x]), torch.cat([t, t]), labels).chunk(2)
            return ((1+STRENGTH)*cond - STRENGTH*uncond).float()
        diffusion = create_gaussian_diffusion(timestep_respacing=str(T))
        return diffusion.p_sample_loop(guided, z.shape, noise=z, model_kwargs=dict(y=c), device=z.device)

"""yuanchenyang/smalldiffusion (needs einops): its U-Net, loss, schedule and sampler. A simpler network of nearly the
same size: one head, no norm by the embedding, strided convolutions. Labels are dropped inside it."""
import torch
from party import DROP, STRENGTH, Party


class Adapter(Party):
    def make(self, size, n_classes, channels, mult, blocks, attention, head_channels):
        from accelerate import Accelerator
        from smalldiffusion import CondEmbedderLabel, Scaled, ScheduleDDPM, Unet
        self.schedule, self.accelerator = ScheduleDDPM(), Accelerator(cpu=self.device.type == 'cpu')
        return Scaled(Unet)(
            size, 3, 3, ch=channels, ch_mult=tuple(mult), num_res_blocks=blocks, attn_resolutions=tuple(attention),
            dropout=0., cond_embed=CondEmbedderLabel(4*channels, n_classes, DROP))

    def arguments(self, z, u, c):
        return z, u[:, None, None, None], c

    def loss(self, x, c):
        from smalldiffusion import generate_train_sample
        x, sigma, eps, c = generate_train_sample((x, c), self.schedule, conditional=True)
        return self.net.get_loss(x, sigma, eps, cond=c)

    def sample(self, z, c, T):
        from smalldiffusion import samples
        sigmas = self.schedule.sample_sigmas(T)
        *_, x = samples(self.net, sigmas, mu=0.5, cfg_scale=STRENGTH, xt=z*sigmas[0], cond=c,
                        accelerator=self.accelerator)
        return x

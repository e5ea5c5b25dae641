"""huggingface/diffusers from the registry: UNet2DModel, DDPMScheduler, EMAModel. The loop and guidance are left to the
user there, so they are here."""
import torch
from torch.nn import functional as F
from party import KEEP, STRENGTH, Party


class Adapter(Party):
    def make(self, size, n_classes, channels, mult, blocks, attention, head_channels):
        from diffusers import DDPMScheduler, UNet2DModel
        self.scheduler = DDPMScheduler(1000)
        seen = [size//2**level in attention for level in range(len(mult))]
        down = ['AttnDownBlock2D' if a else 'ResnetDownsampleBlock2D' for a in seen]
        up = ['AttnUpBlock2D' if a else 'ResnetUpsampleBlock2D' for a in reversed(seen)]
        return UNet2DModel(
            sample_size=size, in_channels=3, out_channels=3, block_out_channels=[channels*m for m in mult],
            layers_per_block=blocks, down_block_types=down, up_block_types=up, downsample_type='resnet',
            upsample_type='resnet', attention_head_dim=head_channels, resnet_time_scale_shift='scale_shift',
            num_class_embeds=n_classes+1)

    def arguments(self, z, u, c):
        return z, 1000*u, c, False

    def loss(self, x, c):
        t, eps = torch.randint(1000, (len(x),), device=x.device), torch.randn_like(x)
        z = self.scheduler.add_noise(x, eps, t)
        return F.mse_loss(self.net(z, t, self.dropped(c)).sample.float(), eps)

    def train(self, n):
        from diffusers.training_utils import EMAModel
        step = super().train(n)
        self.ema = EMAModel(self.net.parameters(), decay=KEEP)
        return step

    def average(self):
        self.ema.step(self.net.parameters())

    def sample(self, z, c, T):
        self.scheduler.set_timesteps(T)
        both = torch.cat([c, torch.full_like(c, self.null)])
        for t in self.scheduler.timesteps:
            cond, uncond = self.net(torch.cat([z, z]), t, both, False)[0].chunk(2)
            z = self.scheduler.step((1+STRENGTH)*cond - STRENGTH*uncond, t, z).prev_sample
        return z

    def silence(self):
        self.net.forward = lambda z, *args, **kwargs: (torch.zeros_like(z),)

"""lucidrains/denoising-diffusion-pytorch (needs einops and ema-pytorch): its classifier-free guidance. Another network:
linear attention on every level, so `channels` grow by a quarter to match the cost; guidance takes two calls."""
from functools import cache
from party import DROP, STRENGTH, Party


class Adapter(Party):
    def make(self, size, n_classes, channels, mult, blocks, attention, head_channels):
        from denoising_diffusion_pytorch.classifier_free_guidance import Unet
        self.size = size
        net = Unet(dim=channels*5//4, num_classes=n_classes, cond_drop_prob=DROP, dim_mults=tuple(mult),
                   attn_dim_head=head_channels)
        return net

    @cache
    def diffusion(self, T):
        from denoising_diffusion_pytorch import classifier_free_guidance as module
        module.tqdm = lambda steps, **kwargs: steps       # no progress bar
        return module.GaussianDiffusion(self.net, image_size=self.size, sampling_timesteps=T).to(self.device)

    def arguments(self, z, u, c):
        return z, 1000*u, c

    def forward(self, n):
        self.net.cond_drop_prob = 0.
        return super().forward(n)

    def train(self, n):
        self.net.cond_drop_prob = DROP
        return super().train(n)

    def loss(self, x, c):
        return self.diffusion(1000)((x+1)/2, classes=c)

    def calls(self, T):
        return 2*T, 1

    def sample(self, z, c, T):
        return self.diffusion(T).sample(c, cond_scale=1+STRENGTH, rescaled_phi=0.)

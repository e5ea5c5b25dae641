"""NVlabs/edm2: its magnitude-preserving network, loss and sampler. Another network of about the same cost; guidance
there means two networks, here one network called twice."""
import torch
from torch import nn
from torch.nn import functional as F
from party import STRENGTH, Party


class Adapter(Party):
    def make(self, size, n_classes, channels, mult, blocks, attention, head_channels):
        from training.networks_edm2 import Precond
        from training.training_loop import EDM2Loss
        self.precond = Precond(
            size, 3, n_classes, use_fp16=False, model_channels=channels, channel_mult=list(mult), num_blocks=blocks,
            attn_resolutions=list(attention), channels_per_head=head_channels)
        for name, p in self.precond.named_parameters():
            if name.endswith('gain'):
                nn.init.constant_(p, 0.1)
        self.edm_loss = EDM2Loss()
        self.precond.unet.register_forward_hook(lambda net, given, out: out.float())
        self.precond.to(self.device)
        return self.precond.unet

    def labels(self, c):
        return F.one_hot(c, self.null+1)[:, :-1].float()

    def arguments(self, z, u, c):
        return z, u, self.labels(c)

    def loss(self, x, c):
        return self.edm_loss(self.precond, x, self.labels(self.dropped(c))).sum()/len(x)

    def calls(self, T):
        return 2*(2*self.steps(T)-1), 1

    def steps(self, T):
        return (T+1)//2

    def sample(self, z, c, T):
        from generate_images import edm_sampler
        def uncond(x, t, labels): return self.precond(x, t, torch.zeros_like(labels))
        return edm_sampler(self.precond, z, self.labels(c), gnet=uncond, num_steps=self.steps(T), guidance=1+STRENGTH)

"""NVlabs/edm: DhariwalUNet, EDMLoss and edm_sampler, which takes 2 calls a step and 1 in the last. Guidance is added
here. Its heads have 64 channels, whatever is asked."""
import torch
from torch.nn import functional as F
from party import DROP, STRENGTH, Party


class Guided:
    "Two predictions in one call, with what the sampler asks of a network."
    sigma_min, sigma_max = 0, float('inf')

    def __init__(self, precond): self.precond = precond
    def round_sigma(self, sigma): return torch.as_tensor(sigma)
    def __call__(self, x, sigma, c):
        cond, uncond = self.precond(torch.cat([x, x]), sigma, torch.cat([c, torch.zeros_like(c)])).chunk(2)
        return (1+STRENGTH)*cond - STRENGTH*uncond


class Adapter(Party):
    def make(self, size, n_classes, channels, mult, blocks, attention, head_channels):
        from training.loss import EDMLoss
        from training.networks import EDMPrecond
        self.precond = EDMPrecond(
            size, 3, n_classes, model_channels=channels, channel_mult=list(mult), num_blocks=blocks,
            attn_resolutions=list(attention), dropout=0., label_dropout=DROP)
        # It insists on its own precision.
        self.precond.model.register_forward_hook(lambda net, given, out: out.float())
        self.edm_loss = EDMLoss()
        return self.precond.model

    def labels(self, c):
        return F.one_hot(c, self.null+1)[:, :-1].float()

    def arguments(self, z, u, c):
        return z, u, self.labels(c)

    def loss(self, x, c):
        return self.edm_loss(self.precond, x, self.labels(c)).sum()/len(x)

    def calls(self, T):
        return 2*self.steps(T)-1, 2

    def steps(self, T):
        return (T+1)//2

    def sample(self, z, c, T):
        from generate import edm_sampler
        return edm_sampler(Guided(self.precond), z, self.labels(c), num_steps=self.steps(T))

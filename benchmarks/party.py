"What a benchmark asks of a party: a network, a training step, guided sampling. The adapters in peers/ fill it in."
from contextlib import nullcontext
from copy import deepcopy
import torch
from torch import nn

DROP, KEEP = 0.1, 0.9999       # probability that a label is dropped; decay of the moving average
STRENGTH = 1.                  # of guidance, the paper's w


def awaken(net):
    "Small weights for the layers that start at zero: they would make the work lighter than it is after training."
    for p in net.parameters():
        if p.dim() > 1 and not p.any():
            nn.init.normal_(p, std=0.02)


class Party:
    "A network as its authors built it, with their loss and sampler. What a repository leaves to its user is here."
    def __init__(self, settings, device='cpu', bf16=False, compile=False):
        torch.manual_seed(0)
        self.settings, self.device, self.bf16 = settings, torch.device(device), bf16
        self.null = settings['n_classes']
        self.net = self.make(**settings).to(self.device)
        awaken(self.net)
        if compile:
            self.net.compile()

    # An adapter has these four.
    def make(self, size, n_classes, channels, mult, blocks, attention, head_channels):
        "The network that is nearest to ADM's of these sizes."
        raise NotImplementedError

    def arguments(self, z, u, c):
        "What the network is called with, for noisy images z, times u in (0,1) and labels c, some of them null."
        raise NotImplementedError

    def loss(self, x, c):
        "The loss of a batch of images in [-1,1] and their labels, ()."
        raise NotImplementedError

    def sample(self, z, c, T):
        "Guided samples from noise z, by T calls of the network or as `calls` says."
        raise NotImplementedError

    # The rest may stay as it is.
    def calls(self, T):
        "How often `sample` calls the network, and with how many times its images: 2 where predictions share a call."
        return T, 2

    def optimizer(self):
        return torch.optim.AdamW(self.net.parameters(), lr=1e-4)

    def average(self):
        "Move the averaged weights."
        with torch.no_grad():
            torch._foreach_lerp_(self.averaged, list(self.net.parameters()), 1-KEEP)

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def images(self, n):
        "Random images in [-1,1] and labels."
        x = torch.rand(n, 3, self.settings['size'], self.settings['size'], device=self.device)*2 - 1
        return x, torch.randint(self.null, (n,), device=self.device)

    def dropped(self, c):
        return c.masked_fill(torch.rand(c.shape, device=c.device) < DROP, self.null)

    def forward(self, n):
        "The network on n images, as a function of nothing."
        self.net.eval()
        x, c = self.images(n)
        given = self.arguments(x, torch.rand(n, device=self.device)*0.98 + 0.01, c)
        def call():
            with torch.no_grad(), self.autocast():
                return self.net(*given)
        return call

    def train(self, n):
        "A training step on n images, as a function of nothing."
        self.net.train()
        x, c = self.images(n)
        self.averaged = list(deepcopy(self.net).requires_grad_(False).parameters())
        self.opt = self.optimizer()
        def step():
            with self.autocast():
                loss = self.loss(x, c)
            self.update(loss)
        return step

    def update(self, loss):
        loss.backward()
        self.opt.step()
        self.opt.zero_grad()
        self.average()

    def samples(self, n, T):
        "Guided sampling of n images, as a function of nothing."
        self.net.eval()
        z, c = self.images(n)
        def call():
            with torch.no_grad(), self.autocast():
                return self.sample(torch.randn_like(z), c, T)
        return call

    def silence(self):
        "From now on the network answers zeros at once, so that only the sampler's own work is left."
        self.net.forward = lambda z, *args, **kwargs: torch.zeros_like(z)

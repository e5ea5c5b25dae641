"cfg_repro: the network, the loop and the sampler as its pages use them."
import torch
from party import DROP, KEEP, STRENGTH, Party


class Images:
    "A data set in memory."
    def __init__(self, x, c): self.x, self.c = x, c
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i], self.c[i]


class Adapter(Party):
    def __init__(self, settings, device='cpu', bf16=False, compile=False):
        super().__init__(settings, device)
        self.how, self.models, self.step = dict(bf16=bf16, compile=compile), {}, None

    @property
    def model(self):
        "The network as the commands call it: for training or for sampling."
        from cfg_repro.hardware import prepared
        if self.net.training not in self.models:
            self.models[self.net.training] = prepared(self.net, **self.how)
        return self.models[self.net.training]

    def make(self, **settings):
        from cfg_repro.unet import UNet, placed
        return placed(UNet(**settings), self.device)

    def arguments(self, z, u, c):
        from cfg_repro.schedule import logsnr_of
        return z, logsnr_of(u).float(), c

    def forward(self, n):
        self.net.eval()
        x, c = self.images(n)
        given, model = self.arguments(x, torch.rand(n, device=self.device), c), self.model
        def call():
            with torch.no_grad():
                return model(*given)
        return call

    def train(self, n):
        "The whole of Algorithm 1, with its draws and its loader."
        from cfg_repro.training import new_state, train
        self.net.train()
        x, c = self.images(4*n)
        steps = train(new_state(self.net), Images(x.cpu(), c.cpu()), steps=10**9, batch_size=n,
                      p_uncond=DROP, ema_decay=KEEP, model=self.model)
        return lambda: next(steps)

    def sample(self, z, c, T):
        from cfg_repro.guidance import guided
        from cfg_repro.reverse import ancestral_step
        from cfg_repro.sampling import sample
        from cfg_repro.solvers import ddim_step
        steps = {None: ancestral_step, 'ddim_step': ddim_step}
        return sample(guided(self.model, STRENGTH, null=self.null), z, c, T=T, step=steps[self.step])

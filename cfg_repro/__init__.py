"""Classifier-free diffusion guidance: the paper as a library

What most people want is at hand here: `from cfg_repro import guided, sample, UNet`.
"""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING

# Looked up when first asked for, so that to import the package costs nothing.
# `digits` and `evaluate` are names of modules too, and have to stay where they are.
PLACES = dict(
    conditions='composed',
    data='MemorySet from_uint8 to_uint8',
    evaluate='make_extractor',
    from_diffusers='diffusers_model scheduler_logsnrs',
    guidance='guide guided limited',
    mixture='Mixture',
    presets='DIGITS',
    samples='load_run',
    sampling='sample trajectory',
    schedule='logsnr_grid',
    sets='ImageSet open_data',
    solvers='ddim_step dpmpp_2m_step',
    training='new_state train',
    unet='UNet')
PLACE_OF = {name: module for module, names in PLACES.items() for name in names.split()}
__all__ = [*PLACE_OF]

if TYPE_CHECKING:       # the same names, for who reads and does not run: editors, mypy
    from .conditions import composed as composed
    from .data import MemorySet as MemorySet
    from .data import from_uint8 as from_uint8, to_uint8 as to_uint8
    from .evaluate import make_extractor as make_extractor
    from .from_diffusers import diffusers_model as diffusers_model
    from .from_diffusers import scheduler_logsnrs as scheduler_logsnrs
    from .guidance import guide as guide, guided as guided, limited as limited
    from .mixture import Mixture as Mixture
    from .presets import DIGITS as DIGITS
    from .samples import load_run as load_run
    from .sampling import sample as sample, trajectory as trajectory
    from .schedule import logsnr_grid as logsnr_grid
    from .sets import ImageSet as ImageSet, open_data as open_data
    from .solvers import ddim_step as ddim_step, dpmpp_2m_step as dpmpp_2m_step
    from .training import new_state as new_state, train as train
    from .unet import UNet as UNet
else:
    def __getattr__(name):
        "A name from its module; help() shows the words of its parameters then."
        if name not in PLACE_OF:
            raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
        found = getattr(import_module(f'.{PLACE_OF[name]}', __name__), name)
        if callable(found):
            import_module('.console', __name__).helped(found)
        globals()[name] = found
        return found

    def __dir__():
        "What is here, and what can be asked for."
        return sorted({*globals(), *__all__})

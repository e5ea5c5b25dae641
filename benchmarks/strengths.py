"""The same garments from the same noise at each strength from -1 to 4:
python benchmarks/strengths.py. Page 38_sliders shows them.

Two images of each class, by the network that results/fashion holds, eight calls each; a row of the picture is a strength."""
from pathlib import Path
from cfg_repro.console import command
from cfg_repro.results import provenance
from cfg_repro.samples import load_run
from cfg_repro.sliders import same_noise, write_strengths

results = Path(__file__).resolve().parents[1]/'results'
WS = [k/10 for k in range(-10, 41)]


@command
def strengths(
    run:str=str(results/'fashion'/'p0.1'), # The network, a run or what cfg_export leaves
    out:str=str(results/'strengths'), # Where the picture and its record go
    n:int=20, # Images at each strength
    w:tuple[float,...]=tuple(WS), # The strengths, at equal steps
):
    "The same images at each strength, as one picture."
    model, s = load_run(run)
    images = same_noise(model, s, w, n)
    Path(out).mkdir(parents=True, exist_ok=True)
    write_strengths(out, images, provenance(
        w=list(w), T=8, step='sde_dpmpp_2m', weights=s['weights'], p_uncond=s['p_uncond'], classes=s['data']['classes']))


if __name__ == '__main__':
    strengths.console()

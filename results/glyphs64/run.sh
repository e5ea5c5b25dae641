#!/usr/bin/env bash
# The mid-scale experiment on one GPU: glyphs at 64x64, three p_uncond, Table 1; and ADM's U-Net at full size, for
# images a second, memory and the share of the GPU's own rate. Nothing is downloaded. Run it again after any
# interruption: finished work is kept, and the last line says `done`. Results come to rest beside this file.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
here=${OUT:-$here}
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
work=${WORK:-runs/glyphs64} device=${DEVICE:-cuda}
read -ra more <<<"${MORE:---compile}"       # tests/test_commands.py tries the script itself on a CPU
mkdir -p "$work"
cat >"$work/cfg.py" <<'PY'
import sys
from cfg_repro.prepare import cfg_prepare
from cfg_repro.runs import cfg_train
from cfg_repro.sweeps import cfg_sweep
if __name__ == '__main__':
    command = dict(prepare=cfg_prepare, train=cfg_train, sweep=cfg_sweep)[sys.argv[1]]
    sys.argv[:2] = [command.__name__]     # as it stands in what provenance notes
    command.console()
PY
cfg() { python "$work/cfg.py" "$@"; }

[ -e "$work/data/set.json" ] || cfg prepare glyphs "$work/data" --size "${SIZE:-64}" --n "${N:-60000}"

# ADM's U-Net for 64x64, with 26 classes for its 1000: the same operations. The steps after the first are timed.
if [ ! -e "$here/full_size.json" ]; then
  cfg train "${FULL:-imagenet64}" --data "$work/data" --out "$work/full" --set n_classes=26 \
      --steps "${FULL_STEPS:-30}" --batch_size 256 --micro_batch 128 \
      --device "$device" --log_every 10 --save_every 1000000 "${more[@]}"
  rm -rf "$work"/full/step-*
  python - "$work/full/provenance.json" "$device" >"$here/full_size.json.new" <<'PY'
import json, sys
from cfg_repro.hardware import matmul_rate
from cfg_repro.presets import flops
about, device = json.load(open(sys.argv[1])), sys.argv[2]
_, both = flops(about['settings']['net'])
rate = matmul_rate(device) if device != 'cpu' else matmul_rate('cpu', size=512)
achieved = both*about['images_per_second']
speed = dict(flops_per_image=both, achieved_flops=achieved, matmul_flops=rate, share_of_matmul=achieved/rate)
print(json.dumps(about | speed, indent=1))
PY
  mv "$here/full_size.json.new" "$here/full_size.json"
fi

for p in 0.1 0.2 0.5; do
  cfg train "${PRESET:-glyphs64}" --data "$work/data" --out "$work/p$p" --p_uncond $p \
      --device "$device" --save_every 500 --grid_every 2500 "${more[@]}"
  cp "$work/p$p/provenance.json" "$here/train-p$p.json"
  cp "$work/p$p/log.jsonl" "$here/log-p$p.jsonl"
done
cfg sweep "$work/p0.1" "$work/p0.2" "$work/p0.5" --reference "$work/data" --out "$work/table1" \
    --classifier "$work/own.safetensors" --fit_steps "${FIT:-4000}" --splits 1 --batch_size 500 --device "$device" \
    --w "${W:-0,0.1,0.3,0.5,1,2,3,4}" --T "${T:-64}" --n "${SAMPLES:-2000}"
cp "$work"/table1/{cells.csv,table1.csv,provenance.json} "$here/"
echo done

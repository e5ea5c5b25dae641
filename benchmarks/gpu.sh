#!/usr/bin/env bash
# What speed on a GPU is to be judged by, in about half an hour: bash benchmarks/gpu.sh [--peer NAME=PATH ...]
# It goes on where it stopped. `python benchmarks/run.py show` prints what there is; page 50_speed reads it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python -m pytest -q -m "not slow" tests                                       # on this machine, too, it does what it should
on=(--device "${DEVICE:-cuda}")                                               # DEVICE=cpu tries the script out
run() { python benchmarks/run.py "$@" "${on[@]}" "${PEERS[@]}"; }
PEERS=("$@")
[ -n "${NET:-}" ] || NET=imagenet64
BATCH=${BATCH:-128}
# the paper's network: of the rate of a matrix product, how much do training and sampling reach?
run forward train --dtype bfloat16 --net "$NET" --batch "$BATCH" --only ours,ours+compile ${ROUNDS:+--rounds "$ROUNDS"}
run sample --dtype bfloat16 --net "$NET" --n "$((BATCH/2))" --T 8 --only ours,ours+compile ${ROUNDS:+--rounds "$ROUNDS"}
run profile memory --dtype bfloat16 --net "$NET" --batch "$BATCH" --only ours,ours+compile
# beside the peers, all in eager mode
run forward train --net shared --batch 256 --dtype bfloat16 ${ROUNDS:+--rounds "$ROUNDS"}
# a network so small that it waits for the host: eager against CUDA graphs
run sample --net digits --n 256 --T "${T:-256}" --only ours,ours+compile ${ROUNDS:+--rounds "$ROUNDS"}
python benchmarks/run.py show

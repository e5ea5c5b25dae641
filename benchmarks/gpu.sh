#!/usr/bin/env bash
# Speed on a GPU, in about half an hour: bash benchmarks/gpu.sh [--peer NAME=PATH ...]
# The same line goes on where it stopped. To try the script without a GPU:
# DEVICE=cpu NET=tiny SHARED=shared SMALL=digits BATCH=2 T=2 ROUNDS=1 PARTIES=ours MORE='--seconds 0.001' OUT=/tmp/speed bash benchmarks/gpu.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
BATCH=${BATCH:-128} ROUNDS=${ROUNDS:-5} OUT=${OUT:-results/speed}
read -ra more <<<"${MORE:-}"
run() { python benchmarks/run.py "$@" "${more[@]}" --device "${DEVICE:-cuda}" --rounds "$ROUNDS" --out "$OUT"; }
both=(--only "${PARTIES:-ours,ours+compile}")

# The paper's network: which share of the rate of a matrix product do training and sampling reach, and what takes the rest?
run forward train memory --dtype bfloat16 --net "${NET:-imagenet64}" --batch "$BATCH" "${both[@]}"
run sample --dtype bfloat16 --net "${NET:-imagenet64}" --n "$((BATCH/2))" --T 8 --batch "$BATCH" "${both[@]}"
python benchmarks/run.py profile "${more[@]}" --device "${DEVICE:-cuda}" --out "$OUT" --dtype bfloat16 --net "${NET:-imagenet64}" --batch "$BATCH" "${both[@]}"
# A network that is so small that the GPU waits for the host: one by one, and as a CUDA graph.
run sample --net "${SMALL:-digits}" --n "$((2*BATCH))" --T "${T:-256}" "${both[@]}"
# Beside the peers, nobody compiled.
run forward train --dtype bfloat16 --net "${SHARED:-shared}" --batch "$BATCH" "$@"

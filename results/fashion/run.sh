#!/usr/bin/env bash
# The paper's tables on Fashion-MNIST, on a CPU or a GPU. Run it again after any interruption: what is finished is
# kept, here beside this file: the networks that were trained, the judge, and each row of each table.
# One part alone: bash results/fashion/run.sh table1    (networks, calls, table1, table2, guides)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
here=$(realpath --relative-to=. "${OUT:-$here}")
work=${WORK:-runs/fashion}
source=${SOURCE:-fashion-mnist}      # downloaded; or a folder with the four files
read -ra device <<<"${DEVICE:-}"     # such as: --device cuda --compile
parts=${*:-networks table1 calls table2 guides}
ps=${P:-0.1 0.5 0.2}                 # the networks: an hour each on one core
seed=${SEED:-0}                      # another: SEED=1 bash results/fashion/run.sh networks table1
of=${SEED:+-s$SEED}                  # what its files are called by; its weights stay in $work
nets=$here
[ -z "$of" ] || nets=$work/kept

for split in train test; do
  [ -e "$work/$split/set.json" ] || cfg_prepare "$source" "$work/$split" --split $split
done
judged=(--reference "$work/test" --fit_on "$work/train" --classifier "$here/judge.safetensors"
        --fit_steps "${FIT:-18000}" --splits 1 --groups 10)
few=(--step "${STEP:-dpmpp_2m}" --grid even --T "${T:-8}")    # STEP=sde_dpmpp_2m: with noise
ws=${W:-0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1,2,3,4}

# Networks: trained in $work, and left here as weights with what there is to know of them.
network() {    # name, preset, and options of cfg_train
  local name=$1 preset=$2
  [ -e "$nets/$name/config.json" ] && return
  cfg_train "$preset" --data "$work/train" --out "$work/$name" --log_every 50 "${@:3}" "${device[@]}"
  cp "$work/$name/provenance.json" "$here/train-$name.json"
  cp "$work/$name/log.jsonl" "$here/log-$name.jsonl"
  cfg_export "$work/$name" "$nets/$name"
}
read -ra more <<<"${MORE:-}"         # for a trial: --steps 3
for p in $ps; do
  network p$p$of "${PRESET:-fashion}" --p_uncond $p --seed $seed "${more[@]}"
done

for part in $parts; do
  case $part in
    networks)  # and what the first draws
      cfg_sample "$nets/p0.1$of" --w 0,1,3 --n 80 "${few[@]}" --out "$work/pictures" --picture "$here/samples$of.png" "${device[@]}" ;;
    table1)    # the paper's Table 1, by few calls; a directory for each network
      for p in $ps; do
        cfg_sweep "$nets/p$p$of" "${judged[@]}" "${few[@]}" --w "$ws" --n "${N:-2500}" \
          --out "$here/table1${STEP:+-$STEP}$of/p$p" "${device[@]}"
      done ;;
    calls)     # whether few calls are enough: the paper's sampler at its T, and two others at few steps
      cfg_sweep "$nets/p0.1$of" "${judged[@]}" --w 0,1,3 --T "${LONG:-256}" --n "${SOME:-500}" --out "$here/calls-long" "${device[@]}"
      for step in dpmpp_2m sde_dpmpp_2m; do
        cfg_sweep "$nets/p0.1$of" "${judged[@]}" "${few[@]}" --step $step --w 0,1,3 --n "${SOME:-500}" --out "$here/calls-$step" "${device[@]}"
      done ;;
    table2)    # the paper's Table 2: its sampler, from few steps to many
      cfg_sweep "$nets/p0.1$of" "${judged[@]}" --table 2 --v 0.3 --w 0,0.5,1,2,4 --T "${TS:-8,16,64,256}" --n "${SOME:-500}" \
        --out "$here/table2" "${device[@]}" ;;
    guides)    # guidance by a noisy classifier, by the same sampler
      network classifier "${GUIDE:-fashion_classifier}" "${more[@]}"
      cfg_sweep "$nets/p0.1$of" "${judged[@]}" "${few[@]}" --guide_by "$nets/classifier" --w "$ws" --n "${SOME:-500}" \
        --out "$here/guides" "${device[@]}" ;;
    *) echo "$part is no part: networks, table1, calls, table2, guides" >&2; exit 2 ;;
  esac
done
echo done

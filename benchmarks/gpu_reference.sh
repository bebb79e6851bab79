#!/usr/bin/env bash
# What is published of one GPU: its roofs, the quickstart's techniques on trained small weights and on Qwen2.5-0.5B, long
# enough for the energy counter, whether that counter is honest, what the meters cost, and the contracts. Run it in a
# quiet machine's checkout (about 40 minutes); each part can be run alone.
#
#     benchmarks/gpu_reference.sh [results folder]
set -euo pipefail
results="${1:-results/reference/$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr ' ' '_')}"
python3 -m harness doctor
python3 -m pytest tests/gpu -q
python3 -m harness calibrate --results "$results"
python3 -m harness run sweep=quickstart model=small_llama_trained,qwen2_5_0_5b protocol=standard run.results="$results"
python3 -m harness reproduce last --results "$results" --times 3
python3 -m harness report --results "$results"
PYTHONPATH=. python3 benchmarks/energy_counter.py --out "$results/energy_counter"
PYTHONPATH=. python3 benchmarks/disturbance.py --device cuda --output "$results/disturbance.json"

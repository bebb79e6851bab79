#!/usr/bin/env bash
# The published rows of one GPU: the quickstart's techniques on trained small weights and on Qwen2.5-0.5B, long enough
# for the energy counter. Run it in a quiet machine's checkout; then `results/reference/<part>/` holds rows and report.
#
#     benchmarks/gpu_reference.sh [results folder]
set -euo pipefail
results="${1:-results/reference/$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr ' ' '_')}"
python3 -m harness doctor
python3 -m harness run sweep=quickstart model=small_llama_trained,qwen2_5_0_5b protocol=standard run.results="$results"
python3 -m harness report --results "$results"
python3 -m pytest tests/gpu -q

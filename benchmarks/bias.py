"""Does measuring disturb? The same tiny Llama, measured by the harness and by a bare perf_counter loop, interleaved.

Each round runs both in fresh processes in random order; the ratio of each round's medians is free of slow drift.

    python benchmarks/bias.py [--rounds 12]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile

import harness

PROMPT_TOKENS = 128
STEPS = 120

BARE = f"""
import json, statistics, time, torch, yaml
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
torch.manual_seed(0)
facts = json.loads(input())
model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**facts), attn_implementation="sdpa").eval()
tokens = torch.randint(0, 256, (1, {PROMPT_TOKENS}))
times = []
with torch.no_grad():
    for step in range({STEPS} + 20):
        cache = DynamicCache(config=model.config)
        start = time.perf_counter()
        model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        times.append(time.perf_counter() - start)
print(statistics.median(times[20:]))
"""


def bare(architecture: dict) -> float:
    """Median seconds of a prefill step in a loop of its own."""
    done = subprocess.run([sys.executable, "-c", BARE], input=json.dumps(architecture), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout)


def ours(seed: int, results: str) -> tuple[float, dict]:
    """Median seconds of the same step by the harness, and the architecture that it used."""
    row = harness.run_trial(
        "model=tiny_llama",
        "workload=prefill",
        f"workload.prompt_tokens={PROMPT_TOKENS}",
        f"protocol.minimum_samples={STEPS}",
        f"seed={seed}",
        results=results,
    )
    return row["latency_p50_seconds"], json.loads(row["trial_json"])["model"]["options"]["architecture"]


def main() -> None:
    """Print each round and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as results:
        _, architecture = ours(-1, results)  # starts the server, which later rounds find warm
        for number in range(options.rounds):
            first = random.random() < 0.5
            before = bare(architecture) if first else None
            measured, _ = ours(number, results)
            loop = before if before is not None else bare(architecture)
            ratios.append(measured / loop)
            print(f"round {number}: harness {measured * 1e3:.3f} ms, loop {loop * 1e3:.3f} ms, ratio {ratios[-1]:.4f}")
    quarters = statistics.quantiles(ratios, n=4)
    middle = statistics.median(ratios)
    print(f"ratio: median {middle:.4f}, quartiles {quarters[0]:.4f} to {quarters[2]:.4f}, n={len(ratios)}")


if __name__ == "__main__":
    main()

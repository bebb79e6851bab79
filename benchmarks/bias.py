"""Does measuring disturb? The same tiny Llama, measured by the harness and by a bare perf_counter loop, interleaved.

The loop lives in a plain interpreter that builds the model anew for each round, so that the two sides of a round lie a
second apart; their order is random. Printed are each round, the ratio of the two medians over all rounds, and the
median and quartiles of the rounds' ratios.

    python benchmarks/bias.py [--rounds 40]
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
STEPS = 200

BARE = f"""
import json, statistics, time, torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
facts = json.loads(input())
while input() == "again":
    torch.manual_seed(0)
    config = AutoConfig.for_model(**json.loads(json.dumps(facts)))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    tokens = torch.randint(0, 256, (1, {PROMPT_TOKENS}))
    times = []
    with torch.no_grad():
        for step in range({STEPS} + 20):
            cache = DynamicCache(config=model.config)
            start = time.perf_counter()
            model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            times.append(time.perf_counter() - start)
    print(statistics.median(times[20:]), flush=True)
"""


class Bare:
    """A plain interpreter with the loop above."""

    def __init__(self, architecture: dict) -> None:
        command = [sys.executable, "-c", BARE]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._say(json.dumps(architecture))

    def median(self) -> float:
        """Median seconds of a prefill step, of a model built anew."""
        self._say("again")
        assert self.process.stdout is not None
        return float(self.process.stdout.readline())

    def end(self) -> None:
        """Let the interpreter go."""
        self._say("enough")
        self.process.wait()

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


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
    """Print each round and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    measured: list[float] = []
    looped: list[float] = []
    with tempfile.TemporaryDirectory() as results:
        _, architecture = ours(-1, results)  # starts the server, which later rounds find warm
        bare = Bare(architecture)
        bare.median()  # its imports and first model
        for number in range(options.rounds):
            for side in random.sample(("harness", "loop"), 2):
                if side == "loop":
                    looped.append(bare.median())
                else:
                    measured.append(ours(number, results)[0])
            print(f"round {number}: harness {measured[-1] * 1e3:.3f} ms, loop {looped[-1] * 1e3:.3f} ms")
        bare.end()
    ratios = [a / b for a, b in zip(measured, looped, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    whole = statistics.median(measured) / statistics.median(looped)
    print(
        f"ratio of medians {whole:.4f}; rounds: median {middle:.4f}, quartiles {low:.4f} to {high:.4f}, n={len(ratios)}"
    )


if __name__ == "__main__":
    main()

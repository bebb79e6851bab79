"""The paper's six metrics against values worked out by hand."""

import math

import pytest

from harness.report.efficientllm import nominal_bits, six_metrics, why_null
from harness.report.entries import entries_of
from harness.report.frame import newest


def metrics(frame, rows):
    entries = entries_of(newest(frame(rows)))
    return six_metrics(entries).set_index(entries["technique"])


def test_memory_is_of_the_gpu_where_it_is_counted(frame, row):
    found = metrics(frame, [row(mean_allocated_bytes=7e9), row("a")])
    assert (found.loc["none", "amu_bytes"], found.loc["none", "amu_source"]) == (7e9, "GPU tensors")
    assert (found.loc["a", "amu_bytes"], found.loc["a", "amu_source"]) == (300e6, "host process")


def test_training_throughput_per_parameter(frame, row):
    found = metrics(frame, [row(token_kind="trained")]).loc["none"]
    # Eq. 4: 1000 tokens/s over 1e6 parameters; Eq. 5: 10 samples/s over the same.
    assert found["tt_tokens_per_parameter_per_second"] == pytest.approx(1e-3)
    assert found["st_samples_per_parameter_per_second"] == pytest.approx(1e-5)
    assert math.isnan(found["it_tokens_per_second"])


def test_inference_throughput_counts_generated_tokens_only(frame, row):
    assert metrics(frame, [row(token_kind="output")]).loc["none", "it_tokens_per_second"] == 1000
    prompt = metrics(frame, [row(token_kind="prompt")]).loc["none"]
    assert math.isnan(prompt["it_tokens_per_second"])
    assert math.isnan(prompt["tt_tokens_per_parameter_per_second"])
    assert "generates none" in why_null("it_tokens_per_second", {"token_kind": "prompt"})


def test_latency_busy_share_and_power(frame, row):
    found = metrics(frame, [row(gpu_busy_ratio=0.9, gpu_power_mean_watts=350.0)]).loc["none"]
    assert (found["al_seconds"], found["pcu_ratio"], found["aec_watts"]) == (0.1, 0.9, 350.0)
    assert math.isnan(metrics(frame, [row()]).loc["none", "aec_watts"])


def test_compression_rate_by_the_papers_bits_and_by_bytes(frame, row):
    base = row(weights_dtype="Parameter[bfloat16]")
    int4 = row("a", weights_dtype="Params4bit[uint8]", weights_bytes=16e6, quality_bits_per_byte=5.0)
    found = metrics(frame, [base, int4]).loc["a"]
    # Eq. 9: 16 bits over 4, times (1 / 5.0) / (1 / 4.0).
    assert found["mcr_ratio"] == pytest.approx(4 * 0.8)
    assert found["mcr_stored_ratio"] == pytest.approx(40 / 16 * 0.8)


def test_no_baseline_no_compression_rate(frame, row):
    assert math.isnan(metrics(frame, [row("a")]).loc["a", "mcr_ratio"])


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        ("Parameter[float32]", 32),
        ("Parameter[bfloat16]", 16),
        ("Int8Tensor[float32]/Parameter[float32]", 8),
        ("Params4bit[uint8]/Parameter[float16]", 4),
    ],
)
def test_nominal_bits(dtype, bits):
    assert nominal_bits(dtype) == bits


def test_unknown_dtype_has_no_bits():
    assert math.isnan(nominal_bits(None))

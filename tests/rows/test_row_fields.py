"""What a row records so that others can judge and repeat it: every field is there, or null with its reason."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import harness
from harness.commands.explain import explain
from harness.machine import environment, gpu, host
from harness.rows.store import Results, write_row
from harness.run import framework

#: By group: the field, and where a row has it. `column`, `environment.key`, `facts.key` or `trial.key`.
FIELDS = {
    "identity": {
        "schema version": "schema_version",
        "run": "row_id",
        "trial": "trial_id",
        "configuration's hash": "config_id",
        "pairing": "block",
        "order in the schedule": "order_index",
        "sweep": "sweep",
        "code": "code_revision",
        "git and local changes": "git_revision",
        "full configuration": "trial_json",
        "command line": "command",
        "seed": "seed",
        "status": "status",
        "reason of a failure": "reason",
        "start": "started_at",
    },
    "system": {
        "processor": "environment.cpu_model",
        "logical processors": "environment.cpu_count",
        "threads per core": "environment.cpu_threads_per_core",
        "threads per socket": "environment.cpu_threads_per_socket",
        "host memory": "environment.memory_total_bytes",
        "swap": "environment.swap_total_bytes",
        "accelerator": "device_name",
        "machine": "environment.machine_product",
        "cooling": "environment.cooling",
        "network": "environment.network",
        "operating system": "environment.operating_system",
        "framework's commit": "facts.framework.torch_commit",
    },
    "GPU, static": {
        name: f"environment.gpu.{key}"
        for name, key in {
            "UUID": "uuid",
            "PCI id": "pci_bus_id",
            "PCI Express generation": "pcie_generation",
            "PCI Express width": "pcie_width",
            "count": "count",
            "VBIOS": "vbios",
            "driver": "driver_version",
            "CUDA": "cuda_driver_version",
            "power limit": "power_limit_watts",
            "default power limit": "default_power_limit_watts",
            "highest SM clock": "maximum_sm_clock_hertz",
            "highest memory clock": "maximum_memory_clock_hertz",
            "memory": "memory_total_bytes",
            "persistence": "persistence_mode",
            "MIG": "mig_mode",
            "ECC": "ecc_mode",
            "compute mode": "compute_mode",
        }.items()
    },
    "GPU, per window": {
        "SM clock": "sm_clock_hertz",
        "lowest SM clock": "sm_clock_minimum_hertz",
        "memory clock": "memory_clock_hertz",
        "lowest memory clock": "memory_clock_minimum_hertz",
        "clock within a step": "in_sample_sm_clock_hertz",
        "temperature at the start": "gpu_temperature_begin_celsius",
        "temperature at the end": "gpu_temperature_end_celsius",
        "highest temperature": "gpu_temperature_celsius",
        "memory temperature": "gpu_memory_temperature_celsius",
        "power cap": "power_capped_ratio",
        "software thermal slowdown": "software_thermal_slowdown_seconds",
        "hardware thermal slowdown": "hardware_thermal_slowdown_seconds",
        "power brake": "hardware_power_brake_seconds",
        "foreign processes": "foreign_process_count",
        "foreign memory": "foreign_memory_bytes",
        "mean power": "gpu_power_mean_watts",
        "highest power": "gpu_power_maximum_watts",
        "busy": "gpu_busy_ratio",
        "SM activity": "sm_active_ratio",
        "tensor activity": "tensor_active_ratio",
        "memory activity": "dram_active_ratio",
    },
    "host, per window": {
        "load before the trial": "environment.load_average",
        "load at the start": "load_average_begin_count",
        "load at the end": "load_average_end_count",
        "processor's clock at the start": "cpu_clock_begin_hertz",
        "processor's clock at the end": "cpu_clock_end_hertz",
        "peak of child processes": "peak_host_children_bytes",
        "processor busy": "machine_busy_ratio",
        "processor taken by others": "others_busy_ratio",
        "processor's clock": "environment.cpu_frequency_hertz",
        "highest clock": "environment.cpu_frequency_maximum_hertz",
        "governor": "environment.cpu_governor",
        "steal": "steal_ratio",
        "memory limit": "environment.cgroup_memory_limit",
        "processor limit": "environment.cgroup_cpu_limit",
        "peak": "peak_host_bytes",
        "affinity": "environment.cpu_affinity",
        "memory nodes": "environment.numa_nodes",
        "allowed memory nodes": "environment.numa_memory_nodes",
        "container": "environment.container",
        "virtual machine": "environment.virtual_machine",
        "huge pages": "environment.transparent_huge_pages",
        "address space randomization": "environment.address_space_randomization",
    },
    "software": {
        "versions": "versions_json",
        "all packages": "environment.packages_sha256",
        "accelerator libraries": "environment.accelerator_packages",
        "torch build": "facts.framework.torch_cuda",
        "cuDNN": "facts.framework.cudnn_version",
        "allocator": "facts.framework.allocator",
        "TF32 in products": "facts.framework.tf32_matmul",
        "TF32 in cuDNN": "facts.framework.tf32_cudnn",
        "float32 precision": "facts.framework.float32_matmul_precision",
        "bfloat16 reductions": "facts.framework.bf16_reduced_precision_reduction",
        "compiled": "facts.framework.compiled_frames",
        "attention backends": "facts.framework.attention_backends",
        "attention chosen": "trial.model.options.attention",
        "determinism": "facts.framework.deterministic_algorithms",
        "cuDNN determinism": "facts.framework.cudnn_deterministic",
        "cuDNN search": "facts.framework.cudnn_benchmark",
        "threads": "facts.framework.threads",
        "environment variables": "environment.environment_variables",
    },
    "method": {
        "warm-up rule": "trial.protocol.settle_ratio",
        "warm-up settled": "warmup_settled",
        "warm-up samples": "warmup_step_seconds",
        "stop reason": "stop_reason",
        "converged": "converged",
        "samples": "step_count",
        "raw samples": "step_seconds",
        "device samples": "device_step_seconds",
        "counter's period": "gpu_counter_period_seconds",
        "energy source": "energy_source",
        "energy's uncertainty": "gpu_energy_uncertainty_joules",
        "idle power": "gpu_idle_power_watts",
        "idle power after": "gpu_idle_power_after_watts",
        "caches": "trial.protocol.cache",
        "own time beside the measurement": "trial_seconds",
    },
    "energy and carbon": {
        "GPU energy": "gpu_energy_joules",
        "processor energy": "cpu_energy_joules",
        "processor energy, estimated": "cpu_energy_estimated_joules",
        "memory energy, estimated": "memory_energy_estimated_joules",
        "measured energy": "sci_energy_joules",
        "estimated energy": "sci_energy_estimated_joules",
        "PUE": "facts.pue",
        "grid intensity": "grid_intensity_grams_per_kilowatt_hour",
        "embodied share": "embodied_grams",
        "carbon": "carbon_estimated_grams",
        "carbon of a token": "sci_grams_per_token",
    },
}
ALL = [(group, field, place) for group, fields in FIELDS.items() for field, place in fields.items()]
#: Null in a row that went well, and what that says.
NULL_MEANS = {"reason": "nothing failed", "sweep": "no named sweep", "git_revision": "not run from a checkout"}


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory, quick: Callable[..., list[str]]) -> dict[str, Any]:
    return harness.run_trial(*quick("generate"), results=str(tmp_path_factory.mktemp("fields")))


def look_up(row: dict[str, Any], place: str) -> tuple[Any, str | None]:
    """The field's value, and the reason that the row gives where it is null."""
    head, _, path = place.partition(".")
    if not path:
        return row.get(place), json.loads(row["reasons_json"]).get(place) or NULL_MEANS.get(place)
    value: Any = json.loads(row[f"{head}_json"])
    reasons = value.get("reasons", {})
    for key in path.split("."):
        reasons = {**reasons, **(value or {}).get("reasons", {})}
        value = (value or {}).get(key)
    return value, reasons.get(path) or reasons.get(path.split(".")[0]) or reasons.get(path.split(".")[-1])


@pytest.mark.parametrize(("group", "field", "place"), ALL, ids=[f"{group}: {field}" for group, field, _ in ALL])
def test_every_field_is_there_or_null_with_a_reason(row: dict[str, Any], group: str, field: str, place: str):
    value, reason = look_up(row, place)
    if place == "device_step_seconds":  # a list of none, whose median says why
        reason = json.loads(row["reasons_json"])["device_latency_p50_seconds"]
    assert value not in (None, []) or reason


def test_every_null_fact_of_the_environment_has_a_reason(row: dict[str, Any]):
    for facts in (json.loads(row["environment_json"]), json.loads(row["facts_json"])["framework"]):
        assert {name for name, value in facts.items() if value is None} <= facts["reasons"].keys()
        assert all(facts["reasons"].values())


class SilentDriver:
    """NVIDIA's library on a driver that answers next to nothing."""

    NVML_CLOCK_SM = NVML_CLOCK_MEM = 0
    NVMLError = LookupError

    def __init__(self, **answers: Any) -> None:
        self.answers = {"SystemGetDriverVersion": "580.1", "SystemGetCudaDriverVersion": 12080, "DeviceGetCount": 1}
        self.answers |= {"DeviceGetHandleByIndex": 0, **answers}

    def __getattr__(self, name: str) -> Any:
        def answer(*_: Any) -> Any:
            if name.removeprefix("nvml") not in self.answers:
                raise LookupError("Not Supported")
            return self.answers[name.removeprefix("nvml")]

        return answer


def test_what_a_driver_does_not_tell_is_null_with_a_reason(monkeypatch: pytest.MonkeyPatch):
    address = SimpleNamespace(busId=b"00000000:1B:00.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(gpu, "nvml", lambda: SilentDriver(DeviceGetPciInfo=address, DeviceGetMaxPcieLinkWidth=16))
    facts = environment.machine_facts("cuda")
    told = {name: value for name, value in facts["gpu"].items() if value is not None}
    assert told == {
        "pci_bus_id": "00000000:1B:00.0",
        "pcie_width": 16,
        "count": 1,
        "driver_version": "580.1",
        "cuda_driver_version": "12.8",
    }
    for _, _, place in ALL:
        head, _, key = place.partition("environment.gpu.")
        if not head:
            assert key in facts["gpu"]
            assert key in told or facts["reasons"][f"gpu.{key}"]


def test_without_any_file_of_the_kernel_every_fact_is_null_with_a_reason(monkeypatch: pytest.MonkeyPatch):
    def absent(*_: Any, **__: Any) -> Any:
        raise OSError("no such file")

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr("builtins.open", absent)
    monkeypatch.setattr(os, "getloadavg", absent)
    monkeypatch.delenv("container", raising=False)
    facts = host.host_facts()
    empty = {name for name, value in facts.items() if value is None}
    assert {"cpu_affinity", "numa_nodes", "memory_total_bytes", "load_average", "cgroup_cpu_limit"} <= empty
    assert empty <= host.REASONS.keys()
    environment.machine_facts("cpu")


def test_no_secret_is_recorded(monkeypatch: pytest.MonkeyPatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(name, "do-not-tell")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    facts = environment.machine_facts("cpu")
    assert facts["environment_variables"]["OMP_NUM_THREADS"] == "3"
    assert "do-not-tell" not in json.dumps(facts)


def test_a_switch_that_was_set_is_recorded():
    import torch

    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.deterministic
    try:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.deterministic = True
        facts = framework.framework_facts("cuda")
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.deterministic = before[1]
    assert (facts["float32_matmul_precision"], facts["tf32_matmul"], facts["cudnn_deterministic"]) == (
        "high",
        True,
        True,
    )


def test_without_torch_there_is_a_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(framework.sys.modules, "torch")
    assert framework.framework_facts("cpu") == {"reasons": {"torch": "this trial loaded no torch"}}


def test_the_packages_hash_moves_with_any_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "site-packages"
    (folder / "torch-1.dist-info").mkdir(parents=True)
    monkeypatch.setattr(host.sys, "path", [str(folder)])
    one = host.packages.__wrapped__()
    (folder / "torch-1.dist-info").rename(folder / "torch-2.dist-info")
    other = host.packages.__wrapped__()
    assert (one[0], other[0]) == (["torch-1"], ["torch-2"])
    assert one[1] != other[1]


@pytest.mark.parametrize(("text", "count"), [("0", 1), ("0-3", 4), ("0-3,8", 5), ("0,2-3,64-127", 67), (None, None)])
def test_lists_of_processors_are_counted(text: str | None, count: int | None):
    assert host._listed(text) == count


def test_a_limit_of_the_nearest_control_group_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = {
        "/proc/self/cgroup": "0::/slice/job\n",
        "/sys/fs/cgroup/slice/job/memory.max": "1073741824\n",
        "/sys/fs/cgroup/memory.max": "max\n",
        "/sys/fs/cgroup/cpu.max": "150000 100000\n",
    }
    monkeypatch.setattr(host, "_read", lambda path: files.get(str(path), "").strip() or None)
    assert host._cgroup("memory", "memory.max", "memory.limit_in_bytes") == "1073741824"
    assert host._cgroup("cpu", "cpu.max", "cpu.cfs_quota_us") == "150000 100000"
    files["/proc/self/cgroup"] = "4:memory:/job\n1:cpu,cpuacct:/\n"
    files["/sys/fs/cgroup/memory/job/memory.limit_in_bytes"] = "42\n"
    assert host._cgroup("memory", "memory.max", "memory.limit_in_bytes") == "42"


def test_a_failed_row_says_why_it_has_no_numbers(row: dict[str, Any], tmp_path: Path):
    failed = {name: value for name, value in row.items() if not isinstance(value, float | list | bool)}
    write_row(Results(tmp_path), {**failed, "status": "oom", "reason": "no room", "flags": []})
    assert "no numbers: no room" in explain(tmp_path, "last")

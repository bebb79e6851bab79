"""The file that `harness calibrate` writes and a row reads: the rates that this very device reached."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.machine.environment import cpu_model
from harness.machine.gpu import nvml, nvml_handle
from harness.run.worker import ROOFS_VARIABLE, write_whole

ADVICE = "run `harness calibrate`"


@dataclass(frozen=True)
class Rate:
    """One kind of work at its best size, FLOPs or bytes per second; all None, with a reason, where it does not run."""

    median_per_second: float | None = None
    lower_quartile_per_second: float | None = None
    upper_quartile_per_second: float | None = None
    #: The datasheet's peak, where one is kept for this part.
    datasheet_per_second: float | None = None
    #: Edge of the square matrices, or bytes of the tensor.
    size: int | None = None
    repeat_count: int | None = None
    #: Median of NVML's readings during the repeats.
    sm_clock_hertz: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        rates = (self.lower_quartile_per_second, self.median_per_second, self.upper_quartile_per_second)
        known = [rate for rate in rates if rate is not None]
        if len(known) not in (0, 3) or known != sorted(known) or not all(0 < rate < math.inf for rate in known):
            raise ValueError(f"quartiles {rates} are no rates")
        if not known and not self.reason:
            raise ValueError("a rate is absent without a reason")


@dataclass(frozen=True)
class MeasuredRoofs:
    """What one device reached, and under which conditions."""

    key: str
    device_name: str
    measured_at: str
    torch_version: str
    thread_count: int | None
    power_limit_watts: float | None
    #: The last level's; what fits in it need not come from memory.
    cache_bytes: int | None
    quiet: str
    #: Matrix products, by dtype.
    flops_per_second: dict[str, Rate]
    #: Copy (bytes read and written) and read (bytes read).
    bytes_per_second: dict[str, Rate]

    def memory_bytes_per_second(self) -> float | None:
        """The best rate at which memory was moved, however it was used."""
        return max((rate.median_per_second or 0.0 for rate in self.bytes_per_second.values()), default=0.0) or None


def device_stem(device: str) -> str:
    """What a device's files begin with: the GPU's UUID, or the processor's model and usable cores."""
    name = str(nvml().nvmlDeviceGetUUID(nvml_handle())) if device == "cuda" else cpu_model().lower()
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


def device_key(device: str) -> str | None:
    """The stem of this very device's file. A processor's rates hold for one number of threads, torch's in this process;
    None where this process does not use torch."""
    if device == "cuda":
        return device_stem(device)
    torch = sys.modules.get("torch")
    return torch and f"{device_stem(device)}-{torch.get_num_threads()}-threads"


def roofs_folder() -> Path:
    """Beside the rows of the sweep that started this process, else below the results folder of every command."""
    return Path(os.environ.get(ROOFS_VARIABLE, "results/roofs"))


def write(folder: Path, roofs: MeasuredRoofs) -> Path:
    """Write whole or not at all; an earlier file of the device is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{roofs.key}.json"
    write_whole(path, json.dumps(asdict(roofs), indent=2) + "\n")
    return path


def read(device: str) -> tuple[MeasuredRoofs | None, str]:
    """This device's measured roofs, or None and why there are none that can be used."""
    key = device_key(device)
    if key is None:
        return None, "measured roofs are torch's, which this trial does not use"
    return _usable(roofs_folder() / f"{key}.json")


def _usable(path: Path) -> tuple[MeasuredRoofs | None, str]:
    try:
        found = _parsed(path)
    except FileNotFoundError:
        return None, f"no roofs of this very device were measured: {ADVICE}"
    except (OSError, ValueError) as error:
        what = " ".join(str(error).split())[:200]
        return None, f"{path} cannot be used ({what}): {ADVICE} again"
    if found.quiet != "quiet":  # a rate that others held down is nobody's roof
        return None, f"{path} was measured on a machine that was {found.quiet}: {ADVICE} again"
    return found, ""


def _parsed(path: Path) -> MeasuredRoofs:
    from pydantic import TypeAdapter

    found = TypeAdapter(MeasuredRoofs).validate_json(path.read_bytes())
    if found.key != path.stem:
        raise ValueError(f"it is of {found.key}")
    return found


def availability(device: str) -> str:
    """For `harness doctor`, without loading torch: which files rows would use, or what to do."""
    paths = sorted(roofs_folder().glob(f"{device_stem(device)}*.json"))
    states = {path: _usable(path) for path in paths}
    good = [f"{path}, of {found.measured_at}" for path, (found, _) in states.items() if found]
    faults = [reason for _, reason in states.values() if reason]
    return "; ".join(good) or f"unavailable: {'; '.join(faults) or ADVICE}"


def facts(roofs: MeasuredRoofs, dtype: str) -> Mapping[str, object]:
    """What a row says of the roof it was held against."""
    rate = roofs.flops_per_second.get(dtype)
    return {
        "flops_per_second": rate and rate.median_per_second,
        "bytes_per_second": roofs.memory_bytes_per_second(),
        "measured_at": roofs.measured_at,
        "torch_version": roofs.torch_version,
    }

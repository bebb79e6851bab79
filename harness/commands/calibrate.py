"""`harness calibrate`: each meter's roofs of this very device, as a file that rows are held against."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from harness.commands.doctor import meters
from harness.errors import UserError
from harness.machine.measured_roofs import MeasuredRoofs, Rate, write
from harness.rows.store import Results, disk_message, locked

#: Seconds that a calibration may take where nobody says otherwise: enough for large products of every dtype.
DEFAULT_SECONDS = {"cuda": 20.0, "cpu": 30.0}


def calibrate(
    results: Results, device: str, seconds: float | None, say: Callable[[str], object]
) -> tuple[MeasuredRoofs, Path]:
    """Measure and write the file, while no sweep uses the results folder. UserError for bad input or a full disk."""
    seconds = DEFAULT_SECONDS[device] if seconds is None else seconds
    if not 0 < seconds < math.inf:
        raise UserError(f"--seconds {seconds:g}: give a time above 0, such as {DEFAULT_SECONDS[device]:g}")
    with locked(results):
        found = (meter.calibrate(device, seconds, lambda name: say(f"measuring {name}")) for meter in meters().values())
        roofs: MeasuredRoofs = next(filter(None, found))
        try:
            path = write(results.root / "roofs", roofs)
        except OSError as error:
            raise UserError(disk_message(error, results.root)) from error
    if roofs.quiet != "quiet":
        say(f"the machine was {roofs.quiet}; rows will not use these rates: calibrate again when it is quiet")
    return roofs, path


def show(roofs: MeasuredRoofs, path: Path, as_json: bool) -> str:
    """The file's content, or a table for people."""
    if as_json:
        return json.dumps(asdict(roofs), indent=2)
    head = ["", "median", "quartiles", "size", "repeats", "of datasheet"]
    lines = [head, *(_line(name, rate, "FLOP/s", "") for name, rate in roofs.flops_per_second.items())]
    lines += [_line(name, rate, "B/s", " B") for name, rate in roofs.bytes_per_second.items()]
    widths = [max(len(line[column]) for line in lines if len(line) == len(head)) for column in range(len(head))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in lines]
    threads = f", {roofs.thread_count} threads" if roofs.thread_count else ""
    return "\n".join([f"{roofs.device_name}{threads}, torch {roofs.torch_version}, {roofs.quiet}", *table, str(path)])


def _line(name: str, rate: Rate, unit: str, size_unit: str) -> list[str]:
    low, median, high = rate.lower_quartile_per_second, rate.median_per_second, rate.upper_quartile_per_second
    if low is None or median is None or high is None:
        return [name, f"none: {rate.reason}"]
    scale, prefix = (1e12, "T") if median >= 1e12 else (1e9, "G")
    share = f"{median / rate.datasheet_per_second:.1%}" if rate.datasheet_per_second else "-"
    rates = [f"{median / scale:.4g} {prefix}{unit}", f"{low / scale:.4g} to {high / scale:.4g}"]
    return [name, *rates, f"{rate.size:,}{size_unit}", str(rate.repeat_count), share]

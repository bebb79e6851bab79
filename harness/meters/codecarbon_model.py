"""codecarbon's models and tables, for `_estimated_` columns; its tracker would cost each trial seconds and threads."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from functools import cache
from importlib import metadata
from pathlib import Path

from harness.errors import UserError

#: Carries the looked-up TDP from a sweep to its trials.
TDP_VARIABLE = "HARNESS_CPU_TDP_WATTS"


def cpu_power_watts(load: float) -> float | None:
    """TDP x (0.1 + 0.9 load^3): codecarbon's model of a machine whose load is `load` (0 to 1), without a counter.

    Source: codecarbon, `CPU._get_power_from_cpu_load` in machine mode; the TDP is its table's or 4 W a thread.
    """
    tdp = tdp_watts()
    return None if tdp is None else tdp * (0.1 + 0.9 * load**3)


@cache
def tdp_watts() -> float | None:
    """The processor's TDP by codecarbon's table, or its fallback. Takes seconds once, so a sweep asks it once."""
    known = os.environ.get(TDP_VARIABLE)
    if known:
        return float(known)
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    from codecarbon.core.cpu import TDP

    found = TDP().tdp
    return None if found is None else float(found)


@cache
def memory_power_watts() -> float | None:
    """codecarbon's constant for the memory modules that it guesses from the machine's size."""
    from codecarbon.external.ram import RAM

    return RAM().total_power().W


def grid_grams_per_kilowatt_hour(country_iso_code: str) -> float:
    """Yearly mean carbon intensity of a country's grid by codecarbon's table; UserError for an unknown country."""
    mix = json.loads((_package_folder() / "data" / "private_infra" / "global_energy_mix.json").read_text())
    if country_iso_code not in mix:
        raise UserError(f"country_iso_code: {country_iso_code!r} is not in codecarbon's table; use FRA, USA, ...")
    return float(mix[country_iso_code]["carbon_intensity"])


def grid_source() -> str:
    """Where the grid's intensity comes from, with its version."""
    return f"codecarbon {metadata.version('codecarbon')}, global_energy_mix.json, yearly mean"


def _package_folder() -> Path:
    """The installed package's folder, without importing it: configurations are checked where that would take long."""
    found = importlib.util.find_spec("codecarbon")
    if found is None or found.origin is None:
        raise UserError("country_iso_code: codecarbon, whose table it names, is not installed")
    return Path(found.origin).parent

"""How numbers are written, in the units of their columns."""

from __future__ import annotations

import math
from typing import Any

DASH = "\N{EM DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
MINUS = "\N{MINUS SIGN}"
#: Between a number and its unit, so that no line breaks there.
JOIN = "\N{NO-BREAK SPACE}"


def missing(value: Any) -> bool:
    """Whether a cell holds nothing."""
    return value is None or value != value


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits, thousands separated, never in powers of ten above a ten-thousandth."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits - 1}e}" if abs(value) < 1e-4 else f"{value:,.{places}f}"


def scaled(value: float, unit: str, steps: tuple[tuple[float, str], ...]) -> str:
    """In the largest of `steps` (factor, name) that leaves a number of at least one."""
    for factor, prefix in steps:
        if abs(value) >= factor:
            return f"{number(value / factor)}{JOIN}{prefix}{unit}"
    factor, prefix = steps[-1]
    return f"{number(value / factor)}{JOIN}{prefix}{unit}"


def amount(value: Any, metric: str) -> str:
    """A value of the column `metric`, by the unit its name ends in; a dash for null."""
    if missing(value):
        return DASH
    if metric.endswith("_bytes"):
        return scaled(value, "B", ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")))
    if metric.endswith("_bits_per_byte"):
        return f"{value:.3f}"
    if metric.endswith("_joules"):
        return scaled(value, "J", ((1, ""), (1e-3, "m"), (1e-6, "\N{MICRO SIGN}")))
    if metric.endswith("_per_second"):
        return f"{number(value, 4)}/s" if value < 1000 else f"{value:,.0f}/s"
    if metric.endswith("_seconds"):
        return scaled(value, "s", ((1, ""), (1e-3, "m"), (1e-6, "\N{MICRO SIGN}")))
    return number(value)


def ratio(value: Any) -> str:
    """`1.42x`; more digits below a tenth."""
    if missing(value):
        return DASH
    return f"{value:.2f}{TIMES}" if value >= 0.1 else f"{value:.3f}{TIMES}"


def percent(value: Any, signed: bool = True) -> str:
    """`+1.2%`, with a true minus sign."""
    if missing(value):
        return DASH
    text = f"{100 * value:+.1f}%" if signed else f"{100 * value:.1f}%"
    return text.replace("-0.0%", "0.0%").replace("+0.0%", "0.0%").replace("-", MINUS)


def listing(items: list[str], most: int = 6) -> str:
    """`a, b and c`; the rest as a count."""
    if len(items) > most:
        return ", ".join(items[:most]) + f" and {len(items) - most} more"
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def plural(count: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"

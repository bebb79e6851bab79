"""What is other software between two rows, or between a row and today."""

from __future__ import annotations

import json


def differences(then: str | None, then_code: str | None, now: str | None, now_code: str | None) -> list[str]:
    """`torch 2.11.0 -> 2.13.0` for each package of two `versions_json`, and this program's own code."""
    before, after = json.loads(then or "{}"), json.loads(now or "{}")
    found = [
        f"{name} {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
    if then_code != now_code:
        found.append(f"harness code {then_code} -> {now_code}")
    return found

"""Which technique of a stack acts in a moment that only one can hold."""

from __future__ import annotations

from collections.abc import Iterable

from harness.interfaces import Technique, moments


def acting(techniques: Iterable[Technique], moment: str) -> Technique | None:
    """The technique that overrides `moment`, or None."""
    return next((technique for technique in techniques if moment in moments(technique)), None)

"""What a step really executes, recomputation included, and how much of its time the count covers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from harness.interfaces import Meter, Metric, Readings, Session, Window
from harness.machine.environment import device_name
from harness.meters.operators import Operator, operators_of
from harness.meters.roofs import roof_of

#: Above this share of operator time without a formula there is no HFU. What is missed below it could at most have run
#: at the roof, so HFU is too low by less than this.
UNCOUNTED_RATIO = 0.05
#: Rows keep so many operators, and so many names of those without a formula.
KEPT, NAMED = 20, 10

RATIOS = ("flops_coverage_time_ratio", "flops_uncounted_time_ratio")


class ExecutedFlops(Meter):
    """Executed FLOPs and HFU, from a step of their own after the window.

    HFU counts whatever an implementation chose to do, so it says how busy the products kept the part; what a method
    gained from that is in MFU and in the time.
    """

    metrics: ClassVar = (
        Metric("step_executed_flops", "FLOPs that one step ran, by shapes: recomputation and masked attention count"),
        Metric("step_dense_model_flops", "FLOPs that the method requires, the masked half of attention included"),
        Metric("hfu_ratio", "executed FLOPs over the datasheet's dense peak in the weights' dtype"),
        Metric("flops_coverage_time_ratio", "share of operator time in operators whose FLOPs are counted"),
        Metric("flops_uncounted_time_ratio", "share of operator time in operators whose FLOPs nobody counts", "lower"),
    )

    def open(self, device: str) -> None:
        """Note the part."""
        self.device, self.part = device, device_name(device)
        self.operators: list[Operator] = []
        self.reason = "no step was run to count"
        self.untimed = ""

    def probe(self, session: Session) -> None:
        """Run a step under the counter; a step that cannot run so costs these readings and not the row."""
        if "torch" not in sys.modules:
            self.reason = "the step does not use torch"
            return
        try:
            self.operators, self.untimed = operators_of(session, self.device)
        except Exception as error:
            self.reason = f"the step does not run under the counter: {type(error).__name__}: {error}"[:300]
        else:
            self.reason = "" if self.operators else "the step runs no torch operator"

    def readings(self, window: Window) -> Readings:
        """Executed FLOPs where every operator is known, HFU where nearly all of the time is, and what the rest is."""
        values: dict[str, float | None] = {"step_dense_model_flops": window.work.dense_model_flops}
        reasons: dict[str, str] = {"step_dense_model_flops": "no closed form for this model and method"}
        if self.reason:
            return Readings(values, reasons | dict.fromkeys(("step_executed_flops", "hfu_ratio", *RATIOS), self.reason))
        shares = _shares(self.operators)
        if shares is None:
            reasons |= dict.fromkeys(RATIOS, self.untimed or "the operators took no time that was seen")
        else:
            values |= {RATIOS[0]: shares["counted"], RATIOS[1]: shares["uncounted"]}
        if self._uncounted():
            reasons["step_executed_flops"] = f"operators without a FLOP formula ran: {self._names()}"
        else:
            values["step_executed_flops"] = self._counted()
        values["hfu_ratio"], reasons["hfu_ratio"] = self._hfu(shares, window)
        return Readings(values, {name: why for name, why in reasons.items() if why}, self._facts())

    def availability(self, device: str) -> Mapping[str, str]:
        """Sources on this machine."""
        part = device_name(device)
        time = "kernels, by the profiler" if device == "cuda" else "operators, by the host's clock"
        return {
            "executed FLOPs": f"torch's formulas in a step of its own; time of {time}",
            "HFU": "datasheet" if roof_of(part) else f"unavailable: no datasheet peak for {part!r}",
        }

    def _hfu(self, shares: Mapping[str, float] | None, window: Window) -> tuple[float | None, str]:
        roof, dtype = roof_of(self.part), window.work.dtype
        if roof is None:
            return None, f"no datasheet peak is kept for {self.part!r}"
        if dtype not in roof.flops_per_second:
            return None, f"no peak for {dtype} on this part"
        if shares is None:
            return None, self.untimed or "the operators took no time that was seen"
        if shares["uncounted"] > UNCOUNTED_RATIO:
            share = f"{shares['uncounted']:.0%} of the operator time"
            return None, f"operators without a FLOP formula took {share}: {self._names()}"
        return self._counted() * window.steps / sum(window.step_seconds) / roof.flops_per_second[dtype], ""

    def _counted(self) -> float:
        return sum(operator.flops for operator in self.operators)

    def _names(self) -> str:
        return ", ".join(operator.name for operator in self._uncounted()[:NAMED])

    def _uncounted(self) -> list[Operator]:
        found = [operator for operator in self.operators if operator.kind == "uncounted"]
        return sorted(found, key=lambda operator: operator.seconds or 0.0, reverse=True)

    def _facts(self) -> dict[str, Any]:
        total = sum(operator.seconds or 0.0 for operator in self.operators)
        longest = sorted(self.operators, key=lambda item: (item.seconds or 0.0, item.flops), reverse=True)
        return {
            "counted_flops": self._counted(),
            "operators": [
                {
                    "name": operator.name,
                    "group": operator.group,
                    "kind": operator.kind,
                    "flops": operator.flops if operator.kind != "uncounted" else None,
                    "seconds": operator.seconds,
                    "calls": operator.calls,
                }
                for operator in longest[:KEPT]
            ],
            "flops_uncounted_operators": {
                operator.name: None if operator.seconds is None or not total else operator.seconds / total
                for operator in self._uncounted()[:NAMED]
            },
        }


def _shares(operators: list[Operator]) -> dict[str, float] | None:
    """Shares of the operators' time by kind, or None where it is unknown."""
    total = sum(operator.seconds or 0.0 for operator in operators)
    if not total:
        return None
    return {
        kind: sum(operator.seconds or 0.0 for operator in operators if operator.kind == kind) / total
        for kind in ("counted", "zero", "uncounted")
    }

"""The thread that lets meters read while steps run."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from harness.interfaces import Meter


class sampling:
    """Calls every meter's `sample` at its period from one thread while the block runs."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        self.meters = [meter for meter in meters if meter.period_seconds is not None]
        self.done = threading.Event()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._loop, name="meters", daemon=True)
        self.times: dict[int, list[float]] = {id(meter): [] for meter in self.meters}

    def mean_seconds(self) -> dict[str, float]:
        """Meter to the mean seconds between its samples; none that sampled less than twice."""
        found = {type(meter).__name__.lower(): self.times[id(meter)] for meter in self.meters}
        return {name: (times[-1] - times[0]) / (len(times) - 1) for name, times in found.items() if len(times) > 1}

    def __enter__(self) -> None:
        if self.meters:
            self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        if self.meters:
            self.thread.join()
        if self.failure is not None:
            raise self.failure

    def _loop(self) -> None:
        try:
            self._sample_until_done()
        except BaseException as failure:  # a thread's exception would be printed and lost
            self.failure = failure

    def _sample_until_done(self) -> None:
        due = {id(meter): time.perf_counter() for meter in self.meters}
        while True:
            now = time.perf_counter()
            for meter in self.meters:
                if due[id(meter)] <= now:
                    self.times[id(meter)].append(now)
                    meter.sample()
                    due[id(meter)] = max(now, due[id(meter)]) + (meter.period_seconds or 0.0)
            if self.done.wait(max(0.0, min(due.values()) - time.perf_counter())):
                return

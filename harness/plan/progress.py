"""What a sweep shows while it runs: a bar on a terminal, a line for each trial elsewhere."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

MARKS = {"ok": "[green]ok[/]", "skipped": "[dim]skipped[/]"}


class Progress:
    """Counts trials by status and shows the current one, the time left, and each result."""

    def __init__(self, total: int) -> None:
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self.statuses: Counter[str] = Counter()
        self.total = total
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("sweep", total=total, counts="")

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def say(self, line: str) -> None:
        """One line about the sweep."""
        self.console.print(line, markup=False)

    def begin(self, label: str) -> None:
        """A trial starts."""
        self.bar.update(self.task, description=label)

    def end(self, label: str, row: dict[str, Any]) -> None:
        """A trial has a row."""
        self.statuses[row["status"]] += 1
        counts = ", ".join(f"{count} {status}" for status, count in self.statuses.most_common())
        self.bar.update(self.task, advance=1, counts=counts)
        mark = MARKS.get(row["status"], f"[red]{row['status']}[/]")
        self.console.print(
            f"{sum(self.statuses.values()):>4}/{self.total} {mark} {label.replace('[', chr(92) + '[')}{result(row)}"
        )


def result(row: dict[str, Any]) -> str:
    """The few numbers or the reason worth a line."""
    if row["status"] != "ok":
        return f": {str(row.get('reason') or '').replace('[', chr(92) + '[')}"
    text = f": {row['latency_p50_seconds'] * 1e3:.2f} ms"
    text += f", {row['throughput_tokens_per_second']:,.0f} {row['token_kind']} tokens/s"
    if row.get("quality_bits_per_byte") is not None:
        text += f", {row['quality_bits_per_byte']:.3f} bits/byte"
    if not row["converged"]:
        text += f" [dim]({row['stop_reason']})[/]"
    quiet = row.get("facts", {}).get("quiet", "quiet")
    if quiet != "quiet":
        text += f" [yellow]({quiet})[/]"
    if row["flags"]:
        text += f" [yellow]({'; '.join(row['flags']).replace('[', chr(92) + '[')})[/]"
    return text

"""What is asked of a board, and the answers that its runs bear."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from harness.report.boards import Board
from harness.report.entries import BASELINE
from harness.report.metrics import ENERGY, LATENCY, MEMORY, QUALITY, high_column, low_column, ratio_column
from harness.report.quality import quality_gains
from harness.report.wording import amount, listing, percent, ratio


@dataclass(frozen=True)
class Question:
    """What a reader asks of a board: in words, by which number, and what the figure's unit is called."""

    words: str
    metric: str
    unit: str
    #: How the number is introduced, and what is said when nothing beats the baseline.
    what: str
    nothing: str


FASTEST = Question("Fastest", LATENCY, "speed", "Step", "Nothing here is separably faster than the baseline.")
LEANEST = Question("Least memory", MEMORY, "memory", "Peak", "Nothing here needs separably less than the baseline.")
CHEAPEST = Question(
    "Least energy", ENERGY, "energy", "A token, by GPU counter:", "Nothing here needs separably less than the baseline."
)


@dataclass(frozen=True)
class Finding:
    """One line of a verdict: the question, what won (empty when nothing did), by how much, and the small print."""

    question: str
    answer: str
    figure: str
    unit: str
    detail: str


def answer(board: Board, question: Question) -> Finding:
    """The best entry that keeps quality, and all that runs cannot tell from it but can tell from the baseline."""
    base = board.baseline
    assert base is not None
    fit = [entry for entry in board.ranked if entry["keeps_quality"]] if board.quality_known else board.ranked
    entries = _sorted(fit, question)
    best = entries[0]
    if best["technique"] == BASELINE or not board.sign(best, base, question.metric):
        return Finding(question.words, "", _figure([base], question), question.unit, question.nothing)
    ties = [entry for entry in entries[1:] if not board.sign(best, entry, question.metric)]
    shared = [best, *(entry for entry in ties if board.sign(entry, base, question.metric) < 0)]
    names = " or ".join(entry["label"] for entry in shared[:3]) + (
        f" or {len(shared) - 3} more" if len(shared) > 3 else ""
    )
    lead = f"{best['label']}: " if len(shared) > 1 else ""
    detail = lead + _detail(best, base, question) + _tie_words(shared, ties) + _beyond(board, best, question)
    return Finding(question.words, names, _figure(shared, question), question.unit, detail)


def _sorted(entries: list[dict], question: Question) -> list[dict]:
    column = ratio_column(question.metric)
    return sorted((entry for entry in entries if not pd.isna(entry[column])), key=lambda entry: entry[column])


def _figure(entries: list[dict], question: Question) -> str:
    values = [entry[ratio_column(question.metric)] for entry in entries]
    ends = sorted(1 / value if question.metric == LATENCY else value for value in (min(values), max(values)))
    shown = [ratio(end) for end in ends]
    return shown[0] if shown[0] == shown[1] else f"{shown[0][:-1]}\N{EN DASH}{shown[1]}"


def _detail(best: dict, base: dict, question: Question) -> str:
    metric = question.metric
    text = f"{question.what} {amount(best[metric], metric)} against the baseline's {amount(base[metric], metric)}"
    low, high = best[low_column(metric)], best[high_column(metric)]
    if pd.isna(low) or ratio(low) == ratio(high):
        return text + "."
    low, high = (1 / high, 1 / low) if metric == LATENCY else (low, high)
    return f"{text}; 95% interval {ratio(low)} to {ratio(high)}."


def _tie_words(shared: list[dict], ties: list[dict]) -> str:
    if not ties:
        return ""
    who = "One run cannot" if all(entry["pairs"] < 2 for entry in [shared[0], *ties]) else "The runs cannot"
    rest = [entry["label"] for entry in ties if entry not in shared]
    also = f" {shared[0]['label']} from {listing(rest)}" if rest and len(shared) == 1 else " these apart"
    return f" {who} tell{also}."


def _beyond(board: Board, best: dict, question: Question) -> str:
    """The entry that would win if quality did not matter, where it is better by a tenth or more."""
    column = ratio_column(question.metric)
    lost = [entry for entry in _sorted(board.ranked, question) if entry["keeps_quality"] is False]
    if not lost or lost[0][column] > 0.9 * best[column]:
        return ""
    other = lost[0]
    figure, change = _figure([other], question), percent(_change(other), signed=False)
    return f" {other['label']} reaches {figure}, but its loss is {change} higher."


def _change(entry: dict) -> float:
    change = entry["quality_change_bits_per_byte"]
    return change / (entry[QUALITY] - change)


def best_quality(board: Board) -> list[Finding]:
    """The lowest loss, where it is lower than the baseline's by more than chance; else nothing."""
    entries = quality_gains(board.ranked)
    if not entries:
        return []
    best = min(entries, key=lambda entry: entry[QUALITY])
    detail = f"{amount(best[QUALITY], QUALITY)} bits per byte, at {ratio(1 / best[ratio_column(LATENCY)])} the speed."
    return [Finding("Best quality", best["label"], percent(_change(best)), "loss", detail)]

"""Figures: drawn where there is data, a line where there is none."""

import re

import pytest

from harness.report.memory_bars import causes_of
from harness.report.plots import drawings_of, energy_against_throughput


def board_of(contents, rows):
    (board,) = contents(rows).boards
    return board


def test_three_figures_in_both_forms(contents, row):
    drawn, silent = drawings_of(board_of(contents, [row(), row("a$b$", peak_allocated_bytes=50e6)]))
    assert not silent
    assert len(drawn) == 3
    for drawing in drawn:
        assert drawing.png.startswith(b"\x89PNG")
        assert drawing.svg.startswith("<svg")
        assert not re.search(r"http|<metadata|<style|#1c1b1a", drawing.svg)
        assert drawing.alt in drawing.svg


def test_no_data_gives_a_line_and_no_empty_plot(contents, row):
    bare = {"quality_bits_per_byte": None, "energy_per_token_estimated_joules": None, "peak_allocated_bytes": None}
    drawn, silent = drawings_of(board_of(contents, [row(**bare), row("a", **bare)]))
    assert not drawn
    assert len(silent) == 3


def test_the_axis_says_what_is_estimated(contents, row):
    estimated = energy_against_throughput(board_of(contents, [row(), row("a")]))
    assert "Energy, estimated [" in estimated.svg
    energy = {"gpu_energy_per_token_joules": 0.5}
    measured = energy_against_throughput(board_of(contents, [row(**energy), row("a", **energy)]))
    assert "by counter" in measured.svg
    assert "estimated" not in measured.svg


def test_hostile_labels_stay_text(contents, row):
    drawn, _ = drawings_of(board_of(contents, [row(), row("<script>x</script>"), row("$\\frac{")]))
    assert all("<script" not in drawing.svg for drawing in drawn)


def test_memory_causes_add_up_to_the_peak(contents, row):
    board = board_of(contents, [row(gradient_bytes=5e6, optimizer_state_bytes=20e6)])
    causes = causes_of(board.measured).iloc[0]
    assert causes["rest"] == pytest.approx(100e6 - 40e6 - 5e6 - 20e6 - 10e6)
    assert causes.sum() == pytest.approx(100e6)


def test_a_peak_that_was_taken_apart_shows_its_parts(contents, row):
    parts = {"weights": 40e6, "gradient": 5e6, "optimizer_state": 20e6, "kv_cache": 0.0, "activation": 25e6}
    columns = {f"peak_{part}_bytes": size for part, size in {**parts, "workspace": 8e6}.items()}
    board = board_of(contents, [row(**columns, gradient_bytes=50e6), row("a")])
    causes = causes_of(board.measured).set_index(board.measured["technique"])
    assert causes.loc["none", "gradients"] == 5e6, "at the peak, not after the step"
    assert causes.loc["none", "activations"] == 25e6
    assert causes.loc["a", "activations"] == 0
    assert causes.sum(axis=1).tolist() == pytest.approx([100e6, 100e6])

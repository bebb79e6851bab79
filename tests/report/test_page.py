"""What the page and the Markdown file show, and what they never let through."""

import json
import re

import pytest

from harness.report.columns import columns_of
from harness.report.command import command_of
from harness.report.html_top import period
from harness.report.markdown import markdown_of
from harness.report.markup import Html, join, script_json, tag
from harness.report.metrics import ESTIMATE, METRICS
from harness.report.page_html import page_of
from harness.report.raw_rows import sparkline

EVIL = "<script>alert(1)</script>"


def data_in(page):
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    return json.loads(text)


def test_everything_is_escaped(contents, row, failed):
    rows = [row(), row(EVIL), failed("b", reason=f"{EVIL}<!-- ]]>"), row("c", flags=[EVIL], model=EVIL)]
    page = page_of(contents(rows))
    assert "alert(1)" in page
    assert EVIL not in page
    # The data element, the one script, and nothing else.
    assert len(re.findall(r"<script", page)) == 2
    assert any(EVIL in text for text in data_in(page)["pool"])


def test_markup_escapes_text_and_attributes():
    assert tag("a", "<b>", title='"x"') == '<a title="&quot;x&quot;">&lt;b&gt;</a>'
    assert join("<", Html("<br>"), ["&", None]) == "&lt;<br>&amp;"
    assert "</" not in script_json(json.dumps("</script><!--"))
    assert json.loads(script_json(json.dumps("</script>&\u2028"))) == "</script>&\u2028"


def test_the_page_asks_no_network(contents, row, failed):
    page = page_of(contents([row(), row("a"), failed("b", reason="see https://example.org/x")]))
    assert not re.findall(r"""(?:src|href|action|url|@import)\s*[=(]?\s*["']?\s*(?:https?:)?//""", page)
    assert "xmlns" not in page
    assert "default-src 'none'" in page


def test_the_policy_names_the_scripts_hash(contents, row):
    import base64
    import hashlib

    page = page_of(contents([row()]))
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in page


def test_measured_and_estimated_never_share_a_column(contents, row):
    rows = [row(gpu_energy_per_token_joules=0.5), row("a", gpu_energy_per_token_joules=None)]
    (board,) = contents(rows).boards
    columns = {column.key: column for column in columns_of(board)}
    assert columns["gpu_energy_per_token_joules"].kind == "measured"
    assert columns[ESTIMATE].kind == "estimated"
    entry = board.entries.set_index("technique").loc["a"].to_dict()
    assert columns["gpu_energy_per_token_joules"].cell(entry).main == "\u2014"
    assert columns[ESTIMATE].cell(entry).main == "2.00\u00a0mJ"
    assert [name for name, shown in METRICS.items() if shown.source == "estimated"] == [ESTIMATE]
    assert all("estimated" in name for name in [ESTIMATE])
    assert "estimated by a model" in page_of(contents(rows))


def test_a_null_shows_a_dash_and_its_reason(contents, row):
    rows = [row(), row("a", kv_cache_bytes=None, reasons={"kv_cache_bytes": "the cache hides"})]
    assert re.search(r'title="the cache hides"[^>]*>.{0,40}\u2014', page_of(contents(rows)))


def test_a_column_without_any_number_is_left_out_with_its_reason(contents, row):
    page = page_of(contents([row(), row("a")]))
    assert "Energy, measured (no GPU)" in page


def test_one_run_says_that_it_has_no_interval(contents, row):
    page = page_of(contents([row(), row("a")]))
    assert "1 run each: no interval between processes" in page
    assert "not a confidence interval" in page


def test_flagged_older_and_unreadable_are_said(contents, frame, row):
    from harness.report.contents import contents_of

    rows = [row(number=2), row("a", flags=["mfu_ratio is 2"]), row("b", versions_json='{"torch": "2.0"}', number=1)]
    page = page_of(contents_of(frame(rows), ["x.parquet.corrupt could not be read"]))
    assert "flagged" in page
    assert "mfu_ratio is 2" in page
    assert "older software" in page
    assert "torch 2.0 \u2192 2.13.0" in page
    assert "x.parquet.corrupt could not be read" in page


def test_the_page_links_rows_that_its_data_holds(contents, row, failed):
    page = page_of(contents([row(), row("a"), failed("b")]))
    ids = {one[0] for one in data_in(page)["rows"]}
    linked = set(re.findall(r'href="#row-([^"]+)"', page))
    assert linked
    assert linked <= ids


def test_replaced_rows_are_marked(contents, row):
    data = data_in(page_of(contents([row(number=1), row(number=2)])))
    ages = [data["pool"][one[2]["age"]] if "age" in one[2] else "" for one in data["rows"]]
    assert ages == ["replaced by a newer row of the same trial", ""]


def test_numbers_that_are_not_numbers_do_not_break_the_data(contents, row):
    page = page_of(contents([row(), row("a", quality_standard_error_bits_per_byte=float("nan"))]))
    assert data_in(page)["rows"]


def test_markdown_is_escaped_and_says_the_same(contents, row, failed):
    text = markdown_of(contents([row(), row("fast", latency_p50_seconds=0.05), failed("x|y", reason=EVIL)]))
    assert "**fast, 2.00\u00d7 speed**" in text
    assert "x\\|y" in text
    assert "<script" not in text
    assert "not measured)" in text


def test_the_command_repeats_the_trial():
    part = {"target": "x.Y", "options": {"width": 1, "architecture": {"hidden_size": 96}}}
    trial = {
        "model": {"name": "tiny", "changes": ["hidden_size=96"], **part},
        "workload": {"name": "prefill", "changes": [], **part},
        "corpus": {"name": "text", "changes": ["width=a b"], **part},
        "techniques": [{"name": "nf4", "changes": [], **part}, {"name": "lora", "changes": ["width=4"], **part}],
        "protocol": {"minimum_samples": 10},
        "device": "cpu",
        "seed": 3,
    }
    assert command_of(json.dumps(trial)) == (
        "harness run model=tiny 'technique=[nf4,lora]' workload=prefill corpus=text model.architecture.hidden_size=96 "
        "'corpus.width=a b' technique.lora.width=4 device=cpu seed=3 protocol.minimum_samples=10"
    )
    assert command_of(None) == ""


def test_sparklines_keep_the_slowest_step():
    seconds = [0.1] * 500
    seconds[250] = 0.9
    assert len(sparkline(seconds)) == 60
    assert max(sparkline(seconds)) == 0.9
    assert sparkline(None) == []


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ("2026-11-23T12:57:27+00:00", "2026-11-23T13:00:51+00:00", "23 Nov 2026, 12:57 to 13:00 UTC"),
        ("2026-11-23T12:57:27+00:00", "2026-12-01T13:00:51+00:00", "23 Nov 2026 to 1 Dec 2026"),
        ("then", "now", "then to now"),
    ],
)
def test_period(first, last, expected):
    assert period(first, last) == expected

"""The page: one file that opens from disk, asks no network for anything, and lets no other script run."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from string import Template

from harness.report.contents import Contents
from harness.report.html_against import against_section
from harness.report.html_boards import boards_section
from harness.report.html_efficientllm import efficientllm_section
from harness.report.html_matrix import matrix_section
from harness.report.html_top import filters, heading, notices, verdicts_section
from harness.report.markup import join, script_json
from harness.report.raw_rows import data_of


def page_of(contents: Contents) -> str:
    """The whole page. Its policy allows the one script by its hash, so nothing inside a row can ever run."""
    script = _read("page.js")
    data = data_of(contents.rows, contents.stale, contents.replaced)
    return Template(_read("template.html")).substitute(
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        # Many boards are laid out only when they come into view.
        size="many" if len(contents.boards) > 20 else "few",
        style=_read("style.css"),
        heading=heading(contents),
        notices=notices(contents),
        verdicts=verdicts_section(contents),
        filters=filters(contents),
        boards=join(boards_section(contents), against_section(contents)),
        matrix=matrix_section(contents),
        efficientllm=efficientllm_section(contents),
        data=script_json(json.dumps(data, separators=(",", ":"), allow_nan=False)),
        script=script,
    )


def _read(name: str) -> str:
    return resources.files("harness.report").joinpath("page", name).read_text("utf-8")

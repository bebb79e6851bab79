"""What papers claim, as plain data, and what the rows of a results folder say of it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from harness.errors import UserError
from harness.plan.building import build
from harness.plan.config import config_folder
from harness.rows.store import Results, read_rows

if TYPE_CHECKING:
    from harness.report.claims import Claim, Judgement

WIDTH = 120
ABOUT = """\
Ratios are A over B from n pairs of runs. Intervals are 95% of each claim by itself: of twenty comparisons without any
difference one may show some. Sources, caveats and the numbers of every board: --json."""


def claims(results: Path, user_folder: str | None = None) -> list[Judgement]:
    """Every claim of the configuration folders, judged by the rows below `results`; UserError without such a folder."""
    from harness.report.claims import judged
    from harness.report.frame import frame_of, newest

    if not Results(results).rows.is_dir():
        raise UserError(f"no rows in {str(results)!r}; measure some with `harness run`, or name a folder by --results")
    found = read_rows(Results(results))
    for line in found.unreadable:
        print(f"harness: {line}", file=sys.stderr)
    known = read_claims(user_folder)
    if not found.table.num_rows:
        raise UserError(f"no readable row in {str(results)!r}; measure some with `harness run`")
    rows = newest(frame_of(found.table))
    return [judged(claim, rows) for claim in known]


def read_claims(user_folder: str | None = None) -> list[Claim]:
    """All claims below `claim/` of the configuration folders, by file; UserError for one that cannot be read."""
    from harness.report.claims import Claim

    folders = [config_folder(), *([Path(user_folder)] if user_folder else [])]
    found = [
        build(Claim, data, f"{path.name}: claim {data.get('id', '?')}")
        for folder in folders
        for path in sorted((folder / "claim").glob("*.yaml"))
        for data in yaml.safe_load(path.read_text())
    ]
    twice = [name for name, count in Counter(claim.id for claim in found).items() if count > 1]
    if twice:
        raise UserError(f"two claims are called {twice[0]!r}; give each an id of its own")
    return found


def show(judgements: Sequence[Judgement], as_json: bool = False) -> str:
    """JSON with everything, or a line for each claim and a count."""
    if as_json:
        return json.dumps([_plain(item) for item in judgements], indent=2)
    columns = [[item.claim.id for item in judgements], [item.verdict for item in judgements]]
    narrow = [max(map(len, column), default=0) for column in columns]
    left = WIDTH - sum(narrow) - 2 * 3
    said = max((len(item.claim.words) for item in judgements), default=0)
    claimed = min(said, left // 2)
    lines = [
        f"{item.claim.id:{narrow[0]}}  {item.verdict:{narrow[1]}}  {_cut(item.claim.words, claimed):{claimed}}  "
        f"{_cut(_found(item), left - claimed)}".rstrip()
        for item in judgements
    ]
    counts = Counter(item.verdict for item in judgements)
    summary = ", ".join(f"{counts[verdict]} {verdict}" for verdict in counts)
    return "\n".join([*lines, "", f"{len(judgements)} claims: {summary}.", ABOUT])


def _found(item: Judgement) -> str:
    """The ratio with its interval and number of pairs, then why: `1.98x (1.90 to 2.06), n=5`."""
    numbers = item.shown
    if numbers is None or numbers.low is None or numbers.high is None:
        return item.reason
    found = f"{numbers.ratio:.3g}x ({numbers.low:.3g} to {numbers.high:.3g}), n={numbers.runs}"
    return f"{found}: {item.reason}" if item.reason else found


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _plain(item: Judgement) -> dict[str, Any]:
    evidence = [asdict(each) for each in item.evidence]
    return {**asdict(item.claim), "verdict": item.verdict, "reason": item.reason, "evidence": evidence}

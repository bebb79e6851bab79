"""The command line: run, report, list, doctor."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError

USAGE = """harness COMMAND [OPTIONS]

  run      measure: Hydra overrides such as `model=small_llama technique=none,lora workload=train_step`,
           or a named sweep (`sweep=quickstart`); the same command again runs only what is missing
  report   write results/report/ (LEADERBOARD.md, index.html) from the rows
  list     techniques, models, workloads, corpora, protocols, meters or sweeps [--json]
  doctor   what this machine can measure, with which source, and what it cannot and why [--json]
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one command; the exit code is 0, 2 for bad input, 130 after an interrupt."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if given else 2
    command, *rest = given
    commands = {"run": _run, "report": _report, "list": _list, "doctor": _doctor}
    try:
        if command not in commands:
            from harness.building import nearest

            raise UserError(
                f"unknown command {command!r}.{nearest(command, commands)} There are: {', '.join(commands)}."
            )
        return commands[command](rest)
    except UserError as error:
        print(f"harness: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("harness: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(rest: list[str]) -> int:
    from harness.hydra_entry import run

    return run(rest)


def _report(rest: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="harness report")
    parser.add_argument("--results", default="results", help="folder with rows/ (default: results)")
    options = parser.parse_args(rest)
    from harness.report.write import write_report

    for path in write_report(Path(options.results)):
        print(path)
    return 0


def _list(rest: list[str]) -> int:
    from harness.listing import GROUPS, listing, show

    parser = argparse.ArgumentParser(prog="harness list")
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--config-dir", help="a folder with options of your own")
    options = parser.parse_args(rest)
    print(show(listing(options.group, options.config_dir), options.json))
    return 0


def _doctor(rest: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="harness doctor")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(rest)
    from harness.doctor import examine, show

    print(show(examine(), options.json))
    return 0

"""The command line: run, reproduce, compare, aa, report, claims, explain, list, calibrate, doctor."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UserError
from harness.plan.settings import COMMAND_VARIABLE

USAGE = """harness COMMAND [OPTIONS]

  run      measure: Hydra overrides such as `model=small_llama technique=none,lora workload=train_step`,
           or a named sweep (`sweep=quickstart`); the same command again runs only what is missing
  reproduce  measure a stored row again from what it stores alone, and show old against new
  compare  two variants in random AB/BA pairs of fresh processes: `harness compare technique=none,lora`
  aa       the harness tests itself: one configuration on both sides of many comparisons, how often called different
  report   write results/report/ (LEADERBOARD.md, index.html) from the rows
  claims   what papers claim, held against the rows: confirmed, refuted, or why neither [--json]
  explain  one row: where each number came from, what is missing and why, and whether it adds up
  list     techniques, models, workloads, corpora, protocols, meters or sweeps [--json]
  calibrate  the best matrix-product and memory rates that this machine reaches, for MFU and MBU [--json]
  doctor   what this machine can measure, with which source, and what it cannot and why [--json]
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one command; the exit code is 0, 2 for bad input, 130 after an interrupt."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if given else 2
    command, *rest = given
    commands = {
        "run": _run,
        "reproduce": _reproduce,
        "compare": _compare,
        "aa": _aa,
        "report": _report,
        "claims": _claims,
        "explain": _explain,
        "list": _list,
        "calibrate": _calibrate,
        "doctor": _doctor,
    }
    os.environ[COMMAND_VARIABLE] = shlex.join(["harness", *given])
    try:
        if command not in commands:
            from harness.plan.building import nearest

            raise UserError(
                f"unknown command {command!r}.{nearest(command, commands)} There are: {', '.join(commands)}."
            )
        return commands[command](rest)
    except UserError as error:
        print(f"harness: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "; what is measured is kept: give the same command to go on" if command in ("compare", "aa") else ""
        print(f"harness: stopped{kept}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(rest: list[str]) -> int:
    from harness.plan.hydra_entry import run

    return run(rest)


def _reproduce(rest: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="harness reproduce")
    parser.add_argument("row", help="a row's id, a part of it, or `last`")
    parser.add_argument("--results", default="results", help="folder with rows/ (default: results)")
    parser.add_argument("--times", type=int, default=1, help="fresh processes; two or more give an interval")
    parser.add_argument("--config-dir", help="the folder with options of your own that the row was made with")
    options = parser.parse_args(rest)
    from harness.commands.reproduce import reproduce

    print(reproduce(Path(options.results), options.row, options.times, options.config_dir))
    return 0


def _compare(rest: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="harness compare")
    parser.add_argument("--pairs", type=int, default=10, help="fresh processes of each variant (default: 10)")
    parser.add_argument("--same-within", type=float, default=0.02, help="ratio that counts as equal (default: 0.02)")
    parser.add_argument("--config-dir", help="a folder with options of your own")
    parser.add_argument("overrides", nargs="+", help="as for run; exactly one key has exactly two values")
    options = parser.parse_args(rest)
    if options.pairs < 2:
        raise UserError("--pairs must be at least 2: one pair has no interval")
    from harness.commands.compare import compare, show
    from harness.plan.single import user_folder

    overrides = [*options.overrides, *user_folder(options.config_dir)]
    print(show(*compare(overrides, options.pairs, options.same_within)))
    return 0


def _aa(rest: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="harness aa")
    parser.add_argument("--comparisons", type=int, default=400, help="of the configuration with itself (default: 400)")
    parser.add_argument("--pairs", type=int, default=6, help="pairs of fresh processes in each (default: 6)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--config-dir", help="a folder with options of your own")
    parser.add_argument("overrides", nargs="*", help="as for run, of one configuration; rows go to results/aa")
    options = parser.parse_args(rest)
    if options.comparisons < 1 or options.pairs < 2:
        raise UserError("--comparisons must be at least 1, and --pairs at least 2: one pair has no interval")
    from harness.commands.aa import plain, run, show
    from harness.plan.single import user_folder

    found = run([*options.overrides, *user_folder(options.config_dir)], options.comparisons, options.pairs)
    print(json.dumps(plain(found), indent=2) if options.json else show(found))
    return 0


def _report(rest: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="harness report")
    parser.add_argument("--results", default="results", help="folder with rows/ (default: results)")
    parser.add_argument("--against", type=Path, help="another results folder: do both rank and claim the same?")
    options = parser.parse_args(rest)
    from harness.report.write import write_report

    for path in write_report(Path(options.results), options.against):
        print(path)
    return 0


def _claims(rest: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="harness claims")
    parser.add_argument("--results", default="results", help="folder with rows/ (default: results)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--config-dir", help="a folder with claims of your own, below claim/")
    options = parser.parse_args(rest)
    from harness.commands.claims import claims, show

    print(show(claims(Path(options.results), options.config_dir), options.json))
    return 0


def _explain(rest: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="harness explain")
    parser.add_argument("row", help="a row's id, a part of it, or `last`")
    parser.add_argument("--results", default="results", help="folder with rows/ (default: results)")
    options = parser.parse_args(rest)
    from harness.commands.explain import explain

    print(explain(Path(options.results), options.row))
    return 0


def _list(rest: list[str]) -> int:
    from harness.commands.listing import GROUPS, listing, show

    parser = argparse.ArgumentParser(prog="harness list")
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--config-dir", help="a folder with options of your own")
    options = parser.parse_args(rest)
    print(show(listing(options.group, options.config_dir), options.json))
    return 0


def _calibrate(rest: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="harness calibrate")
    parser.add_argument("--results", default="results", help="folder to write roofs/ in (default: results)")
    parser.add_argument("--seconds", type=float, help="about how long to measure (default: 20 on a GPU, 30 without)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(rest)
    from harness.commands.calibrate import calibrate, show
    from harness.machine.environment import resolve_device
    from harness.rows.store import Results

    roofs, path = calibrate(
        Results(Path(options.results)),
        resolve_device("auto"),
        options.seconds,
        lambda line: print(f"harness: {line}", file=sys.stderr),
    )
    print(show(roofs, path, options.json))
    return 0


def _doctor(rest: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="harness doctor")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(rest)
    from harness.commands.doctor import examine, show

    print(show(examine(), options.json))
    return 0

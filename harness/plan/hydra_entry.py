"""`harness run`: Hydra reads the command line; its errors become one line each."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.errors import UserError
from harness.plan.building import nearest
from harness.plan.config import GROUPS, KEYS, config_folder
from harness.plan.overrides import force

FLAGS_WITH_A_VALUE = (
    "--config-dir -cd --config-path -cp --config-name -cn --package -p --cfg -c --shell-completion -sc".split()
)


def run(arguments: list[str]) -> int:
    """Run Hydra over `arguments`, always as a sweep: a single trial is a sweep of one."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    # Without this Hydra prints its own traceback and exits with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    add_user_folder(arguments)
    own = [] if {"-m", "--multirun"} & set(arguments) or _asks_for_information(arguments) else ["--multirun"]
    before, sys.argv = sys.argv, ["harness run", *own, *map(force, flags_first(arguments))]
    entry = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")(_one_trial)
    try:
        with _terminable():
            entry()
    except KeyboardInterrupt:
        print("harness: stopped; what is measured is kept: give the same command to go on", file=sys.stderr)
        return 130
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error
    except OSError as error:
        raise UserError(
            f"{error.strerror or error}: {error.filename!r}; choose another results folder with run.results=FOLDER"
        ) from error
    finally:
        sys.argv = before
    return 0


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Hydra's parser takes flags before overrides only; people write them anywhere."""
    flags, overrides, rest = [], [], iter(arguments)
    for item in rest:
        if not item.startswith("-"):
            overrides.append(item)
            continue
        flags.append(item)
        if item in FLAGS_WITH_A_VALUE:
            flags += [value for value in (next(rest, None),) if value is not None]
    return [*flags, *overrides]


def _one_trial(config: object) -> None:
    """What another launcher calls for one job: the same path, for one configuration."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from harness.plan.config import to_trials
    from harness.plan.sweep import run_sweep

    choices = dict(HydraConfig.get().runtime.choices)
    plain = OmegaConf.to_container(config, resolve=True)  # type: ignore[arg-type]
    assert isinstance(plain, dict)
    trials, settings = to_trials(
        {"config": plain, "choices": choices, "overrides": list(HydraConfig.get().overrides.task)}
    )
    run_sweep(trials, settings)


def explain(error: Exception) -> str:
    """Hydra's message as one line: what is wrong, the nearest name, what there is."""
    text = str(error)
    options = getattr(error, "options", None)
    missing = getattr(error, "missing_cfg_file", None)
    if missing and options is not None:
        group, _, name = str(missing).rpartition("/")
        names = sorted(options)
        return f"no {group or 'configuration'} is called {name!r}.{nearest(name, names)} There are: {', '.join(names)}."
    unknown = re.search(r"Could not load '([^']+)/([^'/]+)'", text)
    if unknown:  # in a list of options Hydra does not say what there is
        names = sorted(path.stem for path in (config_folder() / unknown[1]).glob("*.yaml"))
        return f"no {unknown[1]} is called {unknown[2]!r}.{nearest(unknown[2], names)} There are: {', '.join(names)}."
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        head = key[1].split("@")[0]
        return f"unknown key {head!r}.{nearest(head, [*GROUPS, *KEYS])} The configuration has: {', '.join(KEYS)}."
    return " ".join(text.split())


def add_user_folder(arguments: list[str]) -> None:
    """Modules beside a stranger's `--config-dir` can be named in `_target_`."""
    for index, item in enumerate(arguments):
        flag, _, value = item.partition("=")
        if flag in ("--config-dir", "-cd"):
            folder = Path(value or (arguments[index + 1] if index + 1 < len(arguments) else "")).resolve()
            if not folder.is_dir():
                raise UserError(f"--config-dir {str(folder)!r} is not a folder")
            sys.path[:0] = [str(folder), str(folder.parent)]


def _asks_for_information(arguments: list[str]) -> bool:
    flags = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version", "--shell-completion", "-sc")
    return any(item.partition("=")[0] in flags for item in arguments)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM behaves like Ctrl-C while the block runs."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

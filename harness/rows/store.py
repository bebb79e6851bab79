"""Rows on disk: one Parquet file each, written whole or not at all, and read back as one table."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import UserError
from harness.rows.schema import check_schema, flatten, schema_of


@dataclass(frozen=True)
class Results:
    """The folders of one results folder."""

    root: Path

    @property
    def rows(self) -> Path:
        """Parquet files."""
        return self.root / "rows"

    @property
    def logs(self) -> Path:
        """One folder for each row: its specification and what the process printed."""
        return self.root / "logs"

    @property
    def cache(self) -> Path:
        """What is made once and used by many trials."""
        return self.root / "cache"

    @property
    def report(self) -> Path:
        """What `harness report` writes."""
        return self.root / "report"


@dataclass(frozen=True)
class Rows:
    """A table of rows, and the files that could not be read."""

    table: pa.Table
    unreadable: list[str] = field(default_factory=list)


def write_row(results: Results, row: Mapping[str, Any]) -> Path:
    """Write one row under its id; a row that is there already is replaced by itself. UserError when disk refuses."""
    flat = flatten(row)
    path = results.rows / f"{flat['row_id']}.parquet"
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        results.rows.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([flat], schema=schema_of(flat)), unfinished, compression="zstd")
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise UserError(disk_message(error, results.root)) from error
    return path


def read_rows(results: Results, columns: list[str] | None = None) -> Rows:
    """All rows as one table. A file that cannot be read is renamed to `*.corrupt`, named, and left out."""
    tables, unreadable = [], []
    for path in sorted(results.rows.glob("*.parquet")):
        try:
            tables.append(_read(path, columns))
        except (pa.ArrowException, OSError, ValueError) as error:
            unreadable.append(_set_aside(path, error))
    if not tables:
        return Rows(pa.table({}), unreadable)
    return Rows(pa.concat_tables(tables, promote_options="permissive"), unreadable)


def _read(path: Path, columns: list[str] | None) -> pa.Table:
    # ParquetFile reads one file as it is; the dataset machinery of read_table costs ten times as much for one row.
    with pq.ParquetFile(path) as file:
        check_schema(file.schema_arrow)
        known = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        return file.read(columns=known)


def _set_aside(path: Path, error: Exception) -> str:
    aside = path.with_suffix(".parquet.corrupt")
    with suppress(OSError):
        os.replace(path, aside)
    return f"{aside} could not be read ({str(error).splitlines()[0]}); it was set aside, the other rows are used"


def disk_message(error: OSError, root: Path) -> str:
    """One line for a disk that refuses."""
    what = {
        errno.ENOSPC: "no space is left on the disk; free some",
        errno.EDQUOT: "the disk quota is used up; free some space",
        errno.EACCES: "it is not writable; choose another with run.results=FOLDER",
        errno.EPERM: "it is not writable; choose another with run.results=FOLDER",
        errno.EROFS: "it is on a read-only disk; choose another with run.results=FOLDER",
        errno.ENOTDIR: "a part of the path is a file; choose another with run.results=FOLDER",
        errno.EEXIST: "a file of that name is in the way; choose another with run.results=FOLDER",
    }.get(error.errno or 0, str(error))
    return f"results folder {str(root)!r}: {what}"


@contextmanager
def locked(results: Results) -> Iterator[None]:
    """Hold the results folder alone: two sweeps at once would disturb each other's measurements."""
    try:
        for folder in (results.rows, results.logs, results.cache):
            folder.mkdir(parents=True, exist_ok=True)
        lock = (results.root / ".lock").open("w")
    except OSError as error:
        raise UserError(disk_message(error, results.root)) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"results folder {str(results.root)!r}: another sweep is writing to it; wait for it to end"
            ) from error
        yield

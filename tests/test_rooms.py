"""The architecture's rules, read from the sources: who imports what, and how long a file may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "harness"

SHELVES = ("models", "techniques", "workloads", "meters", "corpora")
HEAVY = ("torch", "transformers", "peft", "torchao")
#: Modules of torch: they load it at their top, so nobody else loads them at theirs.
NETWORKS = ("decoder",)
CORE = ("plan", "run", "rows", "machine", "commands")
READ_ONLY_LIBRARIES = ("hydra", "omegaconf", "pandas", "pyarrow", "matplotlib")
LONGEST = 170


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files(*places: str) -> list[Path]:
    return sorted(path for place in places for path in PACKAGE.joinpath(place).rglob("*.py"))


def core() -> list[Path]:
    return sorted(PACKAGE.glob("*.py")) + files(*CORE)


def planning() -> list[Path]:
    return [path for path in core() if path.parent.name != "run"]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports(tree: ast.AST, inside_functions: bool) -> Iterator[str]:
    """Dotted names that a module imports, at its top level only or anywhere."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant))
        if is_type_checking(node):
            continue
        if inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports(node, inside_functions)


def forbidden(path: Path, names: tuple[str, ...], inside_functions: bool = True) -> list[str]:
    """The imports of `path` that are one of `names` or below it."""
    found = imports(ast.parse(path.read_text()), inside_functions)
    return [item for item in found if any(item == name or item.startswith(name + ".") for name in names)]


def code_lines(path: Path) -> int:
    """Lines that hold code: blank lines, comments and docstrings left out."""
    tree = ast.parse(path.read_text())
    prose: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            prose |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(path.read_text().splitlines(), start=1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in prose for number, line in lines
    )


def test_the_rooms_are_all_there():
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == {
        *CORE,
        *SHELVES,
        *NETWORKS,
        "report",
        "stats",
    }


@pytest.mark.parametrize("path", planning(), ids=name_of)
def test_the_planning_side_loads_no_model_library_at_its_top(path: Path):
    assert forbidden(path, HEAVY, inside_functions=False) == []


@pytest.mark.parametrize("path", files("run", *SHELVES), ids=name_of)
def test_the_running_side_never_imports_what_plans_or_reads(path: Path):
    assert forbidden(path, READ_ONLY_LIBRARIES) == []
    readers = ("plan.config", "plan.sweep", "plan.hydra_entry", "rows.store", "report", "commands")
    assert forbidden(path, tuple(f"harness.{name}" for name in readers)) == []


@pytest.mark.parametrize("path", files("report"), ids=name_of)
def test_the_report_knows_rows_only(path: Path):
    shelves = tuple(f"harness.{shelf}" for shelf in SHELVES)
    assert forbidden(path, (*HEAVY, "hydra", "omegaconf", *shelves)) == []


@pytest.mark.parametrize("path", core(), ids=name_of)
def test_the_core_never_imports_a_shelf(path: Path):
    assert forbidden(path, tuple(f"harness.{shelf}" for shelf in SHELVES)) == []


@pytest.mark.parametrize("path", core(), ids=name_of)
def test_the_core_never_asks_which_technique_it_runs(path: Path):
    names = {yaml.stem for yaml in (ROOT / "conf" / "technique").glob("*.yaml")} - {"none"}
    strings = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    assert not names & strings


@pytest.mark.parametrize("path", files(*SHELVES), ids=name_of)
def test_a_shelf_loads_no_model_library_at_its_top(path: Path):
    assert forbidden(path, HEAVY, inside_functions=False) == []


@pytest.mark.parametrize("path", [*core(), *files(*SHELVES, "report", "stats")], ids=name_of)
def test_nobody_loads_a_network_at_its_top(path: Path):
    assert forbidden(path, tuple(f"harness.{name}" for name in NETWORKS), inside_functions=False) == []


@pytest.mark.parametrize("path", files(*NETWORKS), ids=name_of)
def test_a_network_knows_neither_shelves_nor_who_plans_or_reads(path: Path):
    others = (*SHELVES, "plan", "rows", "report", "commands", "machine")
    assert forbidden(path, (*READ_ONLY_LIBRARIES, *(f"harness.{name}" for name in others))) == []


@pytest.mark.parametrize("path", core(), ids=name_of)
def test_no_file_of_the_core_grows_past_reading_in_one_go(path: Path):
    assert code_lines(path) <= LONGEST


def in_a_fresh_interpreter(modules: list[str], unwanted: tuple[str, ...]) -> list[str]:
    code = f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
    code += f"print(*sorted({{name.partition('.')[0] for name in sys.modules}} & set({unwanted!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.split()


def test_importing_every_module_loads_no_model_library():
    networks = files(*NETWORKS)
    all_files = sorted(set(PACKAGE.rglob("*.py")) - set(networks))
    modules = [name_of(path) for path in all_files if path.stem not in ("preload", "__main__")]
    assert len(modules) > 40
    assert in_a_fresh_interpreter(modules, HEAVY) == []


def test_importing_the_running_side_loads_neither_hydra_nor_a_table_library():
    modules = [name_of(path) for path in files("run", *SHELVES) if path.stem != "preload"]
    assert in_a_fresh_interpreter(modules, READ_ONLY_LIBRARIES) == []

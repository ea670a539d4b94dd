"""Who may enter which room: the picture in docs/architecture.md, held against the imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lrscope

ROOT = Path(lrscope.__file__).parent

LEAVES = {"schedules", "linalg", "records", "errors", "_version"}
"""Rooms that know only the errors, never each other."""
ENTERS = {
    "isolation": set(),
    "wrapping": {"errors"},
    "params": {"errors", "wrapping"},
    "objective": {"errors", "isolation", "params", "records", "wrapping"},
    "optimizers": {"errors", "params", "schedules"},
    "tasks": {"errors", "isolation", "objective", "params", "records"},
    "curvature": {"errors", "isolation", "linalg", "objective", "params", "records", "wrapping"},
    "solvable": {"errors", "linalg", "params", "records"},
    "training": {"errors", "isolation", "objective", "optimizers", "params", "records", "schedules", "tasks"},
    "stability": {
        "curvature",
        "errors",
        "isolation",
        "objective",
        "optimizers",
        "params",
        "records",
        "schedules",
        "tasks",
        "training",
        "wrapping",
    },
    "planning": {"errors", "optimizers", "records", "schedules", "stability", "tasks", "training"},
    "similarity": {
        "errors",
        "isolation",
        "records",
        "wrapping",
    },
    "landscape": {
        "curvature",
        "errors",
        "isolation",
        "linalg",
        "objective",
        "optimizers",
        "params",
        "records",
        "tasks",
        "training",
        "wrapping",
    },
    "sweeps": {
        "curvature",
        "errors",
        "isolation",
        "objective",
        "optimizers",
        "params",
        "records",
        "reports",
        "schedules",
        "stability",
        "tasks",
        "training",
    },
    "studies": {
        "errors",
        "isolation",
        "landscape",
        "objective",
        "optimizers",
        "params",
        "records",
        "reports",
        "schedules",
        "similarity",
        "stability",
        "tasks",
        "training",
    },
    "papers": {
        "_version",
        "curvature",
        "errors",
        "isolation",
        "landscape",
        "linalg",
        "objective",
        "optimizers",
        "params",
        "planning",
        "records",
        "schedules",
        "similarity",
        "solvable",
        "stability",
        "studies",
        "sweeps",
        "tasks",
        "training",
    },
    "adapters": {
        "errors",
        "isolation",
        "objective",
        "optimizers",
        "params",
        "records",
        "schedules",
        "stability",
        "tasks",
    },
    "reports": {"errors", "records"},
    "cli": {
        "_version",
        "adapters",
        "errors",
        "landscape",
        "optimizers",
        "papers",
        "planning",
        "records",
        "reports",
        "schedules",
        "similarity",
        "stability",
        "studies",
        "sweeps",
        "tasks",
        "training",
    },
    "__main__": {"cli"},
}


def room_of(path: Path) -> str:
    inside = path.relative_to(ROOT)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(path: Path) -> set[str]:
    """Rooms of lrscope that a file imports, wherever in the file; type-only imports count too."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names = [f"{module}.{a.name}" for a in node.names] if module == "lrscope" else [module]
        rooms |= {name.split(".")[1] for name in names if name.startswith("lrscope.")}
    return rooms


FILES = sorted(p for p in ROOT.rglob("*.py") if p.name != "__init__.py" or p.parent != ROOT)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downward(path):
    room = room_of(path)
    allowed = {"errors"} if room in LEAVES else ENTERS[room]
    assert imports(path) - {room} <= allowed


def test_the_picture_has_no_cycle_and_names_every_room():
    rooms = {room_of(p) for p in FILES}
    assert rooms == LEAVES | set(ENTERS)
    order: list[str] = []

    def visit(room, above=()):
        assert room not in above, f"cycle: {' -> '.join([*above, room])}"
        for lower in ENTERS.get(room, ()):
            visit(lower, (*above, room))
        order.append(room)

    for room in ENTERS:
        visit(room)


def test_the_docs_draw_the_same_picture():
    docs = Path(__file__).parents[2] / "docs" / "architecture.md"
    text = docs.read_text()
    for room, lower in ENTERS.items():
        if room in ("__main__",):
            continue
        line = next(row for row in text.splitlines() if row.startswith(f"| `{room}`"))
        written = {cell.strip("` ") for cell in line.split("|")[3].split(",")} - {"", "-"}
        assert written == lower - {"errors", "_version"}, room


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("lrscope", ["torch", "matplotlib", "numpy"]),
        ("lrscope.schedules", ["torch", "matplotlib"]),
        ("lrscope.records", ["torch", "matplotlib", "pyarrow"]),
        ("lrscope.reports", ["torch", "matplotlib"]),
        ("lrscope.cli", ["torch", "matplotlib", "numpy", "pyarrow"]),
        ("lrscope.training", ["matplotlib", "pyarrow", "sklearn", "lrscope.curvature"]),
    ],
)
def test_importing_a_room_stays_light(module, banned):
    code = f"import {module}, sys; print(sorted(set({banned!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_there():
    for name in lrscope.__all__:
        assert getattr(lrscope, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lrscope.nothing  # noqa: B018

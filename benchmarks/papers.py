"""What the papers state, run: writes docs/papers/outcomes.json and the tables of the pages beside it.

    OMP_NUM_THREADS=1 python benchmarks/papers.py                       # everything, 20 minutes of one core
    python benchmarks/papers.py li2019 kalra2024/14                     # a paper, a check
    python benchmarks/papers.py --pages                                 # the pages from the outcomes, no run

Each check runs with the settings of the fact sheets; its outcome replaces the one before as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from lrscope.papers import PAPERS, Check, checks
from lrscope.records import environment

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "papers"
OUTCOMES = DOCS / "outcomes.json"
BEGIN, END = "<!-- outcomes: written by benchmarks/papers.py -->\n", "<!-- end of outcomes -->\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="papers and checks, such as li2019 or kalra2024/14")
    parser.add_argument("--pages", action="store_true", help="write the pages only")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if not options.pages:
        for check in checks(*options.names).values():
            outcome = check()
            print(outcome, f"[{outcome.seconds:.0f} s]", flush=True)
            record(outcome.to_dict())
    write_pages()
    return 0


def record(found: dict[str, Any]) -> None:
    stored = outcomes()
    versions = {key: value for key, value in environment().items() if key != "command"}
    stored[found.pop("id")] = found | {"environment": versions | {"commit": _commit()}}
    ordered = {id: stored[id] for id in checks() if id in stored}
    OUTCOMES.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


def outcomes() -> dict[str, Any]:
    return json.loads(OUTCOMES.read_text(encoding="utf-8")) if OUTCOMES.exists() else {}


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def write_pages() -> None:
    for paper in PAPERS:
        page = DOCS / f"{paper}.md"
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(before + BEGIN + rendered(paper) + END + after, encoding="utf-8")


def rendered(paper: str) -> str:
    """A table of the paper's checks, and what each of them is and measured."""
    stored = outcomes()
    lines = ["", "| check | claim | verdict | seeds | seconds |", "|---|---|---|---|---|"]
    sections: list[str] = []
    for id, check in checks(paper).items():
        found = stored.get(id)
        number = id.partition("/")[2]
        if found is None:
            lines.append(f"| {number} | {check.claim} | not run | | |")
            continue
        lines.append(
            f"| [{number}](#{_anchor(id)}) | {check.claim} | {found['verdict']} | {_seeds(found)} | {found['seconds']:.0f} |"
        )
        sections += _section(id, check, found)
    return "\n".join([*lines, "", *sections])


def _section(id: str, check: Check, found: dict[str, Any]) -> list[str]:
    lines = [f"({_anchor(id)})=", f"### {id}", "", f"{check.claim}. {found['verdict'].capitalize()}.", ""]
    lines += [_prose(check.setting), "", "| criterion | holds |", "|---|---|"]
    lines += [f"| {words} | {'yes' if good else '**no**'} |" for words, good in found["holds"].items()]
    lines.append("")
    for name, value in found["numbers"].items():
        if isinstance(value, dict) and all(isinstance(v, dict) and "values" not in v for v in value.values()):
            lines += [f"- {_words(name)}:", *(f"  - {_words(k)}: {condensed(v)}" for k, v in value.items())]
        else:
            lines.append(f"- {_words(name)}: {condensed(value)}")
    return [*lines, ""]


def _prose(docstring: str) -> str:
    """Sphinx roles and double backquotes as Markdown has them."""
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", docstring).replace("``", "`")


def _anchor(id: str) -> str:
    return id.replace("/", "-").lower()


def _seeds(found: dict[str, Any]) -> str:
    seeds = found["settings"].get("seeds")
    return "-" if seeds is None else str(seeds if isinstance(seeds, int) else len(seeds))


def _words(name: str) -> str:
    return name.replace("_", " ")


def condensed(value: Any) -> str:
    """Numbers for the eye: a mean with its standard error, a few values, or the range of many."""
    if isinstance(value, dict):
        if {"mean", "stderr", "values"} <= set(value):
            extra = "".join(
                f", {_words(k)} {condensed(v)}" for k, v in value.items() if k not in ("mean", "stderr", "values")
            )
            return f"{_number(value['mean'])} ± {_number(value['stderr'])} ({condensed(value['values'])}){extra}"
        return "; ".join(f"{_words(k)}: {condensed(v)}" for k, v in value.items())
    if isinstance(value, list):
        if not value:
            return "none"
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            if len(value) <= 6:
                return ", ".join(map(_number, value))
            return f"{_number(min(value))} to {_number(max(value))} (median {_number(statistics.median(value))})"
        if all(isinstance(v, dict) for v in value):  # a table: its columns
            return condensed({key: [row[key] for row in value if key in row] for key in value[0]})
        return " / ".join(condensed(v) for v in value)
    return _number(value) if isinstance(value, int | float) else str(value)


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

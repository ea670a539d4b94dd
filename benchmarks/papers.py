"""What papers state, run: writes docs/papers/ledger.json, the tables of the pages beside it, and their figures.

    python benchmarks/papers.py                                         # everything, 20 minutes of one core
    python benchmarks/papers.py li2019 kalra2024/gi-adam-boundary       # a paper, a claim
    python benchmarks/papers.py --pages                                 # pages and figures again, no run

Each claim runs with its own settings; its outcome joins those of earlier versions in the ledger as soon as it is
there, in the place of one of the same commit. Outcomes that ``lrscope reproduce`` has left in its directory are
taken from there; curves are kept nowhere else, so a figure is drawn only of a claim that it knows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lrscope.papers import PAPERS, Claim, claims
from lrscope.papers.claim import FIGURES as DRAWN
from lrscope.papers.claim import Outcome, draw
from lrscope.papers.reproduce import ask, kept, reproduce
from lrscope.records import environment
from lrscope.reports.claims_figures import save_figure
from lrscope.reports.claims_words import SURE, condensed, measured, prose, words
from lrscope.reports.claims_words import seeds as seeds_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "papers"
LEDGER, FIGURES = DOCS / "ledger.json", DOCS / "figures"
README = ROOT / "README.md"
BEGIN, END = "<!-- outcomes: written by benchmarks/papers.py -->\n", "<!-- end of outcomes -->\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="papers and claims, such as li2019 or kalra2024/thresholds")
    parser.add_argument("--pages", action="store_true", help="write the pages only")
    parser.add_argument("--engine", choices=["processes", "serial"], default="processes", help="one per core, or one")
    parser.add_argument("--out", type=Path, default=Path("lrscope-runs/reproduce"), help="as of lrscope reproduce")
    options = parser.parse_args(arguments)
    if not options.pages:
        for news in reproduce(ask(claims(*options.names).values()), options.out, engine=options.engine):
            if news.outcome is not None:
                print(news.outcome, f"[{news.outcome.seconds:.0f} s]", flush=True)
                record(news.outcome)
            elif news.error:
                print(news.id, news.error, flush=True)
    write_figures(options.names, options.out)
    write_pages(dict.fromkeys(id.partition("/")[0] for id in claims(*options.names)))
    write_summary()
    return 0


def record(outcome: Outcome) -> None:
    stored = ledger()
    versions = {key: value for key, value in environment().items() if key != "command"} | {"commit": _commit()}
    entry = {key: value for key, value in outcome.to_dict().items() if key != "id"} | {"environment": versions}
    before = [old for old in stored.get(outcome.id, []) if old["environment"]["commit"] != versions["commit"]]
    stored[outcome.id] = [*before, entry]
    # Claims that this process does not know stay: another one of newer code may be running.
    ordered = {id: stored[id] for id in [*claims(), *stored] if id in stored}
    LEDGER.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


def ledger() -> dict[str, list[dict[str, Any]]]:
    """Of each claim its outcomes, the newest last."""
    return json.loads(LEDGER.read_text(encoding="utf-8")) if LEDGER.exists() else {}


def latest() -> dict[str, dict[str, Any]]:
    return {id: entries[-1] for id, entries in ledger().items()}


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def write_figures(names: list[str], out: Path) -> None:
    """Draw what ``out`` knows, and say of what it does not; committed figures of those stay.

    A claim without a figure of its own shows its statistic, which the ledger holds.
    """
    asked = ask(claims(*names).values())
    stored = latest()
    plain = [one.claim for one in asked if one.claim.id not in DRAWN and one.claim.id in stored]
    known = {claim.id: claim.tell(_outcome(claim.id, stored[claim.id])) for claim in plain} | kept(asked, out)
    for outcome in known.values():
        save_figure(outcome, draw, figure_of(outcome.id))
    if missing := [one.claim.id for one in asked if one.claim.id not in known]:
        print("not drawn, as not run by this code:", ", ".join(missing), flush=True)


def figure_of(id: str) -> Path:
    return FIGURES / f"{id.replace('/', '-')}.svg"


def write_pages(papers: Iterable[str] = PAPERS) -> None:
    for paper in papers:
        page = DOCS / f"{paper}.md"
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(before + BEGIN + rendered(paper) + END + after, encoding="utf-8")


def write_summary() -> None:
    """The short table of the README."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + summary() + END + after, encoding="utf-8")


def summary() -> str:
    """Verdicts of each paper's claims in numbers, and its main statements."""
    lines = [
        "| paper | claims | reproduced | not | open | main statements that were measured |",
        "|---|---|---|---|---|---|",
    ]
    stored = latest()
    for paper in PAPERS:
        found = claims(paper)
        verdicts = [stored[id]["verdict"] for id in found if id in stored]
        each = [verdicts.count(verdict) for verdict in ("reproduced", "not reproduced", "inconclusive")]
        marks = {"reproduced": "", "not reproduced": " (**not reproduced**)", "inconclusive": " (open)"}
        main = "; ".join(
            claim.statement + marks[stored[id]["verdict"]]
            for id, claim in found.items()
            if claim.headline and id in stored
        )
        lines.append(
            f"| [{paper}](docs/papers/{paper}.md) | {len(verdicts)} | " + " | ".join(map(str, each)) + f" | {main} |"
        )
    return "\n".join([*lines, ""])


def rendered(paper: str) -> str:
    """A table of the paper's claims, and what each of them is and measured."""
    stored = latest()
    lines = ["", "| claim | statement | verdict | seeds | seconds |", "|---|---|---|---|---|"]
    sections: list[str] = []
    for id, claim in claims(paper).items():
        found = stored.get(id)
        if found is None:
            lines.append(f"| {claim.name} | {claim.statement} | not run | | |")
            continue
        row = (claim.statement, found["verdict"], seeds_of(_outcome(id, found)), f"{found['seconds']:.0f}")
        lines.append(f"| [{claim.name}](#{_anchor(id)}) | " + " | ".join(row) + " |")
        sections += _section(id, claim, found)
    return "\n".join([*lines, "", *sections])


def _section(id: str, claim: Claim, found: dict[str, Any]) -> list[str]:
    lines = [f"({_anchor(id)})=", f"### {claim.name}", "", f"{claim.statement}. {found['verdict'].capitalize()}.", ""]
    lines += [f"Where: {claim.where} ({SURE[claim.sure]}). Code: `{claim.code}`.", ""]
    lines += [prose(claim.setting, "`{}`"), "", *_figure(id, claim), "| criterion | holds |", "|---|---|"]
    says = {True: "yes", False: "**no**", None: "open"}
    lines += [f"| {words} | {says[good]} |" for words, good in found["holds"].items()]
    lines += ["", *(f"- **{line.replace(': ', '**: ', 1)}" for line in measured(_outcome(id, found)).splitlines())]
    for name, value in found["numbers"].items():
        if name in found["shows"]:
            continue
        if isinstance(value, dict) and all(isinstance(v, dict) and "values" not in v for v in value.values()):
            lines += [f"- {words(name)}:", *(f"  - {words(k)}: {condensed(v)}" for k, v in value.items())]
        else:
            lines.append(f"- {words(name)}: {condensed(value)}")
    return [*lines, ""]


def _outcome(id: str, found: dict[str, Any]) -> Outcome:
    return Outcome.from_dict({"id": id, **found})


def _figure(id: str, claim: Claim) -> list[str]:
    path = figure_of(id)
    return [f"![{claim.statement}](figures/{path.name})", ""] if path.exists() else []


def _anchor(id: str) -> str:
    return id.replace("/", "-").lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

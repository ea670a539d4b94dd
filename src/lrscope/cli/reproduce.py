"""``lrscope reproduce``: what papers state, measured here."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from lrscope.cli.app import BAD_ANSWER, FAILED
from lrscope.cli.options import Json
from lrscope.cli.workspace import ROOT
from lrscope.records import strict_json

if TYPE_CHECKING:
    from rich.table import Table

    from lrscope.papers import Claim, Outcome
    from lrscope.papers.reproduce import News

WIDTH = 100
"""Columns of the table where there is no terminal."""
LONG = 220
"""Characters of a measured number that the table shows; the page has all of it."""


def reproduce(
    *names: Annotated[
        str, Parameter(help="Papers (kalra2024) and claims (li2019/equivalence); default: all of all papers.")
    ],
    quick: Annotated[
        bool, Parameter(help="Main statements only, at least one of each paper, in minutes.", negative=())
    ] = False,
    listing: Annotated[
        bool, Parameter(name="--list", help="Print what is claimed, and run nothing.", negative=())
    ] = False,
    num_seeds: Annotated[
        int | None, Parameter(name="--seeds", help="Seeds of each claim; default: those its criterion was set for.")
    ] = None,
    engine: Annotated[
        Literal["processes", "serial"], Parameter(help="Claims side by side, one per core, or one after the other.")
    ] = "processes",
    out: Annotated[Path, Parameter(help="Directory of outcomes and pages; what is there is not run again.")] = ROOT
    / "reproduce",
    ledger: Annotated[
        Path | None, Parameter(help="Recorded runs to compare with; default: docs/papers/ledger.json of a checkout.")
    ] = None,
    fresh: Annotated[bool, Parameter(help="Run everything again.", negative=())] = False,
    scale: Annotated[
        Literal["small", "paper"],
        Parameter(
            help="Small networks on the CPU, or the papers' own settings, of some claims, on your GPU and data."
        ),
    ] = "small",
    data: Annotated[Path | None, Parameter(help="With --scale paper: the folder of CIFAR-10's binary files.")] = None,
    device: Annotated[str, Parameter(help="With --scale paper: cpu, cuda, cuda:1 …")] = "cpu",
    estimate: Annotated[
        bool, Parameter(help="With --scale paper: time a few steps and say what all would take.", negative=())
    ] = False,
    json: Json = False,
) -> int:
    """Run the claims of papers; print statement, measurement and verdict, and write a page per paper.

    Exit code 3 if a claim that is usually reproduced was not, 1 if one could not be run.
    """
    from lrscope.papers import claims

    if scale == "paper":
        from lrscope.cli.paper_scale import at_paper_scale

        return at_paper_scale(
            names, data=data, device=device, num_seeds=1 if num_seeds is None else num_seeds, out=out,
            estimate=estimate, json=json,
        )  # fmt: skip
    for flag, given in {"--data": data is not None, "--device": device != "cpu", "--estimate": estimate}.items():
        if given:
            raise ValueError(
                f"{flag}: is for --scale paper; at small scale claims run on the CPU and bring their data"
            )
    found = [claim for claim in claims(*names).values() if claim.headline or not quick]
    if not found:
        raise ValueError(f"--quick: none of {', '.join(names)} is a main statement that is measured in seconds")
    if listing:
        _print_list(found, json)
        return 0
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: {out} is a file; give a directory")
    recorded = _recorded(ledger)
    outcomes, errors = _run(found, num_seeds, engine, out, fresh)
    surprises = [outcome.id for outcome in outcomes if outcome.surprising]
    differs = _differences(outcomes, recorded)
    if not json:
        _print_table(found, outcomes, errors, differs)
    pages = _write_pages(outcomes, differs, out)
    if json:
        told = {"outcomes": [o.to_dict() for o in outcomes], "surprises": surprises, "errors": errors}
        print(strict_json(told | {"differences": differs, "pages": [str(page) for page in pages]}))
    else:
        for page in pages:
            print(f"page: {page}")
    if errors:
        return FAILED
    return BAD_ANSWER if surprises else 0


def _recorded(ledger: Path | None) -> Any:
    from lrscope.papers.ledger import find_ledger, read_ledger

    if ledger is not None:
        try:
            return read_ledger(ledger)
        except ValueError as error:
            raise ValueError(f"--{error}") from None
    place = find_ledger()
    return {} if place is None else read_ledger(place)


def _differences(outcomes: list[Outcome], recorded: Any) -> dict[str, list[str]]:
    from lrscope.papers.ledger import differences

    said = {outcome.id: differences(outcome, recorded) for outcome in outcomes}
    return {id: lines for id, lines in said.items() if lines}


def _run(
    found: list[Claim], num_seeds: int | None, engine: Any, out: Path, fresh: bool
) -> tuple[list[Outcome], dict[str, str]]:
    from lrscope.cli.failures import working
    from lrscope.papers.reproduce import ask
    from lrscope.papers.reproduce import reproduce as run

    try:
        asked = ask(found, seeds=num_seeds)
    except ValueError as error:
        raise ValueError(f"--{error}") from None
    outcomes: dict[str, Outcome] = {}
    errors: dict[str, str] = {}
    with working(out), Board([claim.id for claim in found]) as board:
        for news in run(asked, out, engine=engine, fresh=fresh):
            board.tell(news)
            if news.outcome is not None:
                outcomes[news.id] = news.outcome
            elif news.kind == "failed":
                errors[news.id] = news.error
    for id, error in errors.items():
        print(f"lrscope: {id}:\n{error}", file=sys.stderr)
    return [outcomes[claim.id] for claim in found if claim.id in outcomes], errors


class Board:
    """What each claim is doing, on stderr: a live table in a terminal, a plain line for each elsewhere.

    Args:
        ids: Of the claims that are to run.
    """

    def __init__(self, ids: list[str]) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._ids, self._live = ids, None
        self._running: dict[str, float] = {}
        self._done: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, get_renderable=self.table, refresh_per_second=2)
            self._live.start()
        else:
            self._print(f"{len(self._ids)} claims")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, news: News) -> None:
        """Show that a claim began, came out, was found from an earlier run, or raised."""
        if news.kind == "began":
            self._running[news.id] = time.monotonic()
        else:
            self._running.pop(news.id, None)
            said = "could not be run" if news.outcome is None else news.outcome.verdict
            if news.kind == "kept":
                said += ", kept"
            elif news.outcome is None:
                said += f": {news.error.strip().splitlines()[-1]}"
            seconds = 0.0 if news.outcome is None else news.outcome.seconds
            self._done[news.id] = said, seconds
            if self._live is None:
                self._print(f"{len(self._done)} of {len(self._ids)}  {news.id}: {said} ({seconds:.0f} s)")

    def table(self) -> Table:
        """Running claims with their seconds, then those done, the newest first, as many as there is room for."""
        from rich.table import Table

        waiting = len(self._ids) - len(self._running) - len(self._done)
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("claim")
        table.add_column("state")
        table.add_column("seconds", justify="right")
        for id, began in self._running.items():
            table.add_row(id, "[bold]running", f"{time.monotonic() - began:.0f}")
        room = max(3, self._console.height - len(self._running) - 5)
        for id, (said, seconds) in list(reversed(self._done.items()))[:room]:
            tone = {"reproduced": "green", "not reproduced": "yellow", "inconclusive": "yellow"}
            table.add_row(id, f"[{tone.get(said.partition(',')[0], 'red')}]{said}", f"{seconds:.0f}")
        table.add_row(f"[dim]{len(self._done)} of {len(self._ids)} done, {waiting} waiting", "", "")
        return table

    def _print(self, text: str) -> None:
        print(f"lrscope: {text}", file=sys.stderr, flush=True)


def _print_list(found: list[Claim], json: bool) -> None:
    if json:
        rows = [{"id": c.id, "statement": c.statement, "where": c.where, "sure": c.sure} for c in found]
        print(strict_json({"claims": rows}))
        return
    for claim in found:
        print(f"{claim.id}: {claim.statement} ({claim.where}; {claim.sure})")


def _print_table(
    found: list[Claim], outcomes: list[Outcome], errors: dict[str, str], differs: dict[str, list[str]]
) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_lines=True, padding=(0, 1), expand=True)
    table.add_column("claim", ratio=24, overflow="fold")
    table.add_column("statement, and what was measured", ratio=56)
    table.add_column("verdict", ratio=20)
    by_id = {outcome.id: outcome for outcome in outcomes}
    paper = ""
    for claim in found:
        if claim.paper != paper:
            paper = claim.paper
            table.add_row(f"[bold]{paper}", "", "")
        outcome = by_id.get(claim.id)
        if outcome is None:
            table.add_row(claim.name, escape(claim.statement), "could not be run")
            continue
        table.add_row(claim.name, *map(escape, _told(claim, outcome)))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table, highlight=False)
    good = sum(outcome.verdict == "reproduced" for outcome in outcomes)
    surprises = [outcome.id for outcome in outcomes if outcome.surprising]
    print(
        f"{good} of {len(found)} claims reproduced"
        + (f"; unexpectedly not: {', '.join(surprises)}" if surprises else "")
    )
    if errors:
        print(f"{len(errors)} could not be run: {', '.join(errors)}")
    for lines in differs.values():
        for line in lines:
            print(f"differs from the recorded run: {line}")


def _told(claim: Claim, outcome: Outcome) -> tuple[str, str]:
    """The middle and the right cell of a claim's row."""
    from lrscope.reports.claims_words import measured

    lines = [line if len(line) <= LONG else f"{line[:LONG]} ..." for line in measured(outcome).splitlines()]
    lines += [f"not: {words}" for words in outcome.failed]
    lines += [f"open: {words}" for words, good in outcome.holds.items() if good is None]
    usual = bool(claim.unlike) and outcome.verdict == claim.expected
    return "\n".join([claim.statement, *lines]), outcome.verdict + (" (as usual here)" if usual else "")


def _write_pages(outcomes: list[Outcome], differs: dict[str, list[str]], out: Path) -> list[Path]:
    """A page per paper: what came out now, and what earlier runs left here of its other claims."""
    from lrscope.papers import get
    from lrscope.papers.claim import draw
    from lrscope.papers.reproduce import ask, kept
    from lrscope.reports.claims import write_claims

    new = {outcome.id: outcome for outcome in outcomes}
    pages = []
    for paper in dict.fromkeys(outcome.paper for outcome in outcomes):
        about = get(paper)
        known = kept(ask(about.claims.values()), out) | new
        shown = [known[id] for id in about.claims if id in known]
        notes = [line for outcome in shown for line in differs.get(outcome.id, [])]
        pages.append(write_claims(out, about.title, shown, draw, notes))
    return pages

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
    from lrscope.papers import Claim, Outcome


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
    out: Annotated[Path, Parameter(help="Directory of the outcomes; what is there is not run again.")] = ROOT
    / "reproduce",
    fresh: Annotated[bool, Parameter(help="Run everything again.", negative=())] = False,
    json: Json = False,
) -> int:
    """Run the claims of papers at small scale and print statement, measurement and verdict.

    Exit code 3 if a claim that is usually reproduced was not, 1 if one could not be run.
    """
    from lrscope.papers import claims

    found = [claim for claim in claims(*names).values() if claim.headline or not quick]
    if not found:
        raise ValueError(f"--quick: none of {', '.join(names)} is a main statement that is measured in seconds")
    if listing:
        _print_list(found, json)
        return 0
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out: {out} is a file; give a directory")
    outcomes, errors = _run(found, num_seeds, engine, out, fresh)
    surprises = [outcome.id for outcome in outcomes if outcome.surprising]
    if json:
        print(strict_json({"outcomes": [o.to_dict() for o in outcomes], "surprises": surprises, "errors": errors}))
    else:
        _print_table(found, outcomes, errors)
    if errors:
        return FAILED
    return BAD_ANSWER if surprises else 0


def _run(
    found: list[Claim], num_seeds: int | None, engine: Any, out: Path, fresh: bool
) -> tuple[list[Outcome], dict[str, str]]:
    from lrscope.cli.failures import working
    from lrscope.cli.progress import Progress
    from lrscope.papers.reproduce import ask
    from lrscope.papers.reproduce import reproduce as run

    try:
        asked = ask(found, seeds=num_seeds)
    except ValueError as error:
        raise ValueError(f"--{error}") from None
    outcomes: dict[str, Outcome] = {}
    errors: dict[str, str] = {}
    running: dict[str, float] = {}
    with working(out), Progress() as progress:
        progress.stage(f"{len(found)} claims")
        for news in run(asked, out, engine=engine, fresh=fresh):
            if news.kind == "began":
                running[news.id] = time.monotonic()
            else:
                running.pop(news.id, None)
            if news.outcome is not None:
                outcomes[news.id] = news.outcome
                if news.kind == "done":
                    progress.say(f"{news.id}: {news.outcome.verdict} ({news.outcome.seconds:.0f} s)")
            elif news.kind == "failed":
                errors[news.id] = news.error
                progress.say(f"{news.id}: could not be run: {news.error.strip().splitlines()[-1]}")
            progress.update((len(outcomes) + len(errors)) / len(found), ", ".join(running))
    for id, error in errors.items():
        print(f"lrscope: {id}:\n{error}", file=sys.stderr)
    return [outcomes[claim.id] for claim in found if claim.id in outcomes], errors


def _print_list(found: list[Claim], json: bool) -> None:
    if json:
        rows = [{"id": c.id, "statement": c.statement, "where": c.where, "sure": c.sure} for c in found]
        print(strict_json({"claims": rows}))
        return
    for claim in found:
        print(f"{claim.id}: {claim.statement} ({claim.where}; {claim.sure})")


def _print_table(found: list[Claim], outcomes: list[Outcome], errors: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from lrscope.reports.claims_words import measured

    table = Table("claim", "statement", "measured", "verdict", title=None, show_lines=True)
    by_id = {outcome.id: outcome for outcome in outcomes}
    for claim in found:
        outcome = by_id.get(claim.id)
        if outcome is None:
            table.add_row(claim.id, claim.statement, "", "could not be run")
            continue
        failed = "".join(f"\nnot: {words}" for words in outcome.failed)
        usual = f"\nas usual here: {claim.unlike}" if claim.unlike and outcome.verdict == claim.expected else ""
        table.add_row(claim.id, claim.statement, measured(outcome), outcome.verdict + failed + usual)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table, highlight=False)
    good = sum(outcome.verdict == "reproduced" for outcome in outcomes)
    surprises = [outcome.id for outcome in outcomes if outcome.surprising]
    print(
        f"{good} of {len(found)} claims reproduced"
        + (f"; unexpectedly not: {', '.join(surprises)}" if surprises else "")
    )
    if errors:
        print(f"{len(errors)} could not be run: {', '.join(errors)}")

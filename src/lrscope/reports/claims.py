"""The page of a paper: what it states, what was measured, the verdict, and a figure for each claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lrscope.records.outcome import Outcome
from lrscope.reports.claims_figures import Draw, inline_figure
from lrscope.reports.claims_words import HOLDS, SURE, condensed, measured, prose, seeds, tally, words
from lrscope.reports.document import document
from lrscope.reports.markup import Markup, table, tag

WRAP = "display:inline-block;vertical-align:top;white-space:normal;min-width:{}rem"
"""A cell of prose in a table whose cells do not break."""


def claims_page(about: str, outcomes: Sequence[Outcome], draw: Draw, *, notes: Sequence[str] = ()) -> str:
    """The whole page as text: offline, light and dark.

    Args:
        about: Authors, title and year in the first paragraph; then what differs from the paper's setting.
        outcomes: Of one paper, in the order shown.
        draw: How an outcome is drawn into a matplotlib figure.
        notes: What else there is to say, such as where this run differs from the recorded one.

    Cost: a tenth of a second per figure.
    """
    title, *rest = [" ".join(part.split()) for part in about.split("\n\n")]
    return document(
        f"{outcomes[0].paper}, checked" if outcomes else "Claims",
        tag(
            "header",
            tag("p", "What a paper states, measured here", class_="eyebrow"),
            tag("h1", title.split(", arXiv")[0].rstrip(".")),
            tag("p", tally(outcomes), class_="lead"),
            tag("p", title, class_="note") if ", arXiv" in title else None,
        ),
        _notes(notes),
        _overview(outcomes),
        _unlike(outcomes),
        _setting(rest),
        tag("section", tag("h2", "Claim by claim"), [_claim(outcome, draw) for outcome in outcomes]),
        data=[outcome.to_dict() for outcome in outcomes],
    )


def write_claims(out: Path, about: str, outcomes: Sequence[Outcome], draw: Draw, notes: Sequence[str] = ()) -> Path:
    """Write ``OUT/PAPER.html`` and return its path.

    Raises:
        ValueError: No outcomes, or those of several papers.
        OSError: It cannot be written.
    """
    papers = {outcome.paper for outcome in outcomes}
    if len(papers) != 1:
        raise ValueError(f"outcomes: expected those of one paper, got {len(papers)}: {', '.join(sorted(papers))}")
    path = out / f"{papers.pop()}.html"
    path.write_text(claims_page(about, outcomes, draw, notes=notes), encoding="utf-8")
    return path


def _notes(notes: Sequence[str]) -> Markup | None:
    if not notes:
        return None
    return tag("aside", tag("h2", "Against the recorded run"), tag("ul", [tag("li", note) for note in notes]))


def _overview(outcomes: Sequence[Outcome]) -> Markup:
    rows = [
        [
            tag("a", outcome.name, href=f"#{_anchor(outcome)}"),
            tag("span", outcome.statement, style=WRAP.format(14)),
            tag("span", _verdict(outcome), style=WRAP.format(6)),
            seeds(outcome),
            f"{outcome.seconds:.0f}",
        ]
        for outcome in outcomes
    ]
    header = ["Claim", "Statement", "Verdict", "Seeds", "Seconds"]
    return tag("section", tag("h2", "In short"), table(header, rows, numeric=3))


def _unlike(outcomes: Sequence[Outcome]) -> Markup | None:
    odd = [outcome for outcome in outcomes if outcome.verdict != "reproduced"]
    if not odd:
        return None
    items = [
        tag(
            "li",
            tag("a", outcome.name, href=f"#{_anchor(outcome)}"),
            f" ({outcome.verdict}): ",
            _sentence(outcome.unlike) if _usual(outcome) else f"not as usual. {_sentence(_which(outcome))}",
        )
        for outcome in odd
    ]
    return tag("section", tag("h2", "What did not follow, and why"), tag("ul", items))


def _setting(paragraphs: Sequence[str]) -> Markup | None:
    if not paragraphs:
        return None
    return tag("section", tag("h2", "What differs from the paper"), [tag("p", text) for text in paragraphs])


def _claim(outcome: Outcome, draw: Draw) -> Markup:
    parts = [[tag("span", part, style=WRAP.format(16)), HOLDS[good]] for part, good in outcome.holds.items()]
    facts = [f"Where: {outcome.where} ({SURE[outcome.sure]}).", f"Code: {outcome.code}.", f"{outcome.seconds:.0f} s."]
    explained = outcome.verdict != "reproduced" and _usual(outcome)
    return tag(
        "article",
        tag("h3", f"{outcome.name}: {_verdict(outcome)}"),
        tag("p", tag("strong", _sentence(outcome.statement))),
        [tag("p", text) for text in prose(outcome.setting).split("\n\n")],
        _figure(outcome, draw),
        table(["Criterion", "Holds"], parts),
        tag("ul", [tag("li", text) for text in measured(outcome).splitlines()], class_="notes"),
        tag("p", tag("strong", "Why not. "), _sentence(outcome.unlike)) if explained else None,
        tag("p", " ".join(facts), class_="note"),
        _rest(outcome),
        id=_anchor(outcome),
    )


def _figure(outcome: Outcome, draw: Draw) -> Markup:
    drawing = tag("div", Markup(inline_figure(outcome, draw)), style="min-width:36rem")
    return tag("figure", tag("div", drawing, class_="scroll", tabindex="0"))


def _rest(outcome: Outcome) -> Markup | None:
    rest = {name: value for name, value in outcome.numbers.items() if name not in outcome.shows}
    if not rest:
        return None
    items = [tag("li", f"{words(name)}: {condensed(value)}") for name, value in rest.items()]
    return tag("details", tag("summary", "Other numbers"), tag("ul", items, class_="notes"))


def _verdict(outcome: Outcome) -> str:
    return outcome.verdict + (" (not as usual)" if outcome.surprising else "")


def _usual(outcome: Outcome) -> bool:
    return bool(outcome.unlike) and outcome.verdict == outcome.expected


def _which(outcome: Outcome) -> str:
    said: Mapping[str, list[str]] = {
        "does not hold": outcome.failed,
        "is open": [part for part, good in outcome.holds.items() if good is None],
    }
    return "; ".join(f"{part} {what}" for what, parts in said.items() for part in parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _anchor(outcome: Outcome) -> str:
    return outcome.id.replace("/", "-")


__all__ = ["claims_page", "write_claims"]

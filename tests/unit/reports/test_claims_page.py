"""The page of a paper's claims, from outcomes alone: whole, offline, and honest about what did not follow."""

import math
from dataclasses import replace

import pytest

import report_html
from lrscope.records.outcome import Outcome
from lrscope.reports.claims import claims_page, write_claims
from lrscope.reports.claims_words import condensed, measured, prose, seeds, tally

GOOD = Outcome(
    id="demo2020/good",
    statement="Numbers <are> small",
    holds={"below 2": True},
    numbers={"size": {"mean": 1.0, "interval": [0.5, 1.5], "values": [0.9, 1.1]}, "seen_at": [math.inf, 3]},
    shows=("size",),
    expected="reproduced",
    settings={"seeds": [0, 1]},
    seconds=1.2,
    where="Fig. 1",
    setting="Two of :class:`~a.b.Thing`, ``n`` = 2.\n\nAnd more.",
    code="demo.good",
)
BAD = replace(
    GOOD, id="demo2020/bad", holds={"below 2": False, "odd": None}, expected="not reproduced", unlike="too small"
)
ODD = replace(GOOD, id="demo2020/odd", holds={"below 2": None}, unlike="never so far")


def draw(outcome, figure):
    ax = figure.subplots()
    ax.plot([1, 2], [3, outcome.seconds], "C0")
    ax.set_title(outcome.name)


def test_a_page_tells_every_claim_and_is_whole(tmp_path):
    path = write_claims(tmp_path, "Demo et al., A demo, 2020, arXiv 1.2\n\nSmall\nnetworks.", [GOOD, BAD, ODD], draw)
    assert path == tmp_path / "demo2020.html"
    page = report_html.check(path)
    assert {"demo2020-good", "demo2020-bad", "demo2020-odd"} <= set(page.ids)
    text = " ".join(page.text.split())
    assert "1 of 3 claims reproduced; 1 not reproduced, 1 inconclusive." in text
    assert "Numbers <are> small" in text
    assert "What differs from the paper Small networks." in text
    assert "size: 1 [0.5, 1.5] (n = 2)" in text
    assert "Why not. Too small." in text
    assert "not as usual. Below 2 is open." in text
    assert "Code: demo.good." in text
    assert "Two of Thing, n = 2." in text
    assert text.count("inconclusive (not as usual)") == 2
    assert "var(--planned)" in path.read_text()
    assert "Against the recorded run" not in text


def test_what_differs_from_the_recorded_run_leads_the_page():
    page = claims_page("Demo, 2020", [GOOD], draw, notes=["demo2020/good: was not"])
    assert page.index("was not") < page.index("In short")
    assert "What did not follow" not in page
    assert "What differs from the paper" not in page


def test_a_page_is_of_one_paper(tmp_path):
    with pytest.raises(ValueError, match="outcomes: expected those of one paper, got 2: a, demo2020"):
        write_claims(tmp_path, "Demo", [GOOD, replace(GOOD, id="a/b")], draw)
    with pytest.raises(ValueError, match="got 0"):
        write_claims(tmp_path, "Demo", [], draw)


def test_numbers_are_said_in_short():
    assert condensed(math.inf) == "∞"
    assert condensed([1.0, math.nan]) == "1, –"
    assert condensed(list(range(10))) == "0 to 9 (median 4.5)"
    assert condensed({"None": [], "b_c": "x"}) == "without: none; b c: x"
    assert condensed([{"a": 1, "b": 2.5}, {"a": 3, "b": 4.5}]) == "a: 1, 3; b: 2.5, 4.5"
    assert (
        condensed({"mean": 1.0, "stderr": 0.1, "interval": [0, 2], "values": [1.0], "median": 7})
        == "1 (n = 1), median 7"
    )
    assert measured(GOOD) == "size: 1 [0.5, 1.5] (n = 2)"
    assert (seeds(GOOD), seeds(replace(GOOD, settings={})), seeds(replace(GOOD, settings={"seeds": 4}))) == (
        "2",
        "-",
        "4",
    )
    assert tally([GOOD]) == "1 of 1 claims reproduced."
    assert prose("a :func:`~b.c.d` and ``e``", "`{}`") == "a `d` and `e`"

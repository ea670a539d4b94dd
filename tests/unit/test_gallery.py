"""The gallery: complete, and everything it says is what the code does."""

import importlib.util
import inspect
import json
import re
import shlex
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import lrscope.schedules as lrs
from lrscope.cli.app import call
from lrscope.schedules import parse

DOCS = Path(__file__).parents[2] / "docs"
spec = importlib.util.spec_from_file_location("gallery", DOCS / "gallery.py")
gallery = sys.modules["gallery"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gallery)

ENTRIES = {entry.name: entry for section in gallery.load() for entry in section.entries}
COVERED = {name for entry in ENTRIES.values() for name in entry.covers}
READERS = {"parse", "from_spec"}
"""They return what was written elsewhere."""
ELSEWHERE = {"AutoEnsemble", "TwoPhase"}
"""They listen to a whole training, and have pages of their own: docs/listening.md, docs/two_regimes.md."""
IN_WORDS = {"Plateau"}
"""A rule that listens: its docstring tells it in words."""

each = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)


def makes_schedules(value):
    """Whether this is a kind of schedule, or a function that returns one."""
    if inspect.isclass(value):
        return issubclass(value, lrs.Schedule | lrs.FeedbackSchedule | lrs.Replanned) and not inspect.isabstract(
            value
        )
    classes = {n for n in lrs.__all__ if inspect.isclass(c := getattr(lrs, n)) and makes_schedules(c)}
    returned = re.findall(r"\w+", str(inspect.signature(value).return_annotation))
    return not {*classes, "Schedule", "Ramp"}.isdisjoint(returned)


def test_every_public_schedule_and_recipe_has_an_entry():
    public = {n for n in lrs.__all__ if callable(getattr(lrs, n)) and makes_schedules(getattr(lrs, n))}
    assert {"Cosine", "wsd", "one_cycle", "Plateau", "texp", "replan"} <= public  # the rule finds what it should
    assert public - READERS - ELSEWHERE <= COVERED


def test_every_operation_has_an_entry():
    methods = {n for n, f in vars(lrs.Schedule).items() if inspect.isfunction(f) and makes_schedules(f)}
    products = dict.fromkeys(("__mul__", "__rmul__", "__truediv__", "__neg__"), "Product")
    dunder = products | dict.fromkeys(("__add__", "__radd__", "__sub__", "__rsub__"), "Sum")
    assert {"then", "clip", "shift", "with_end", "__mul__"} <= methods
    for name in methods:
        assert dunder.get(name, f"Schedule.{name}") in COVERED


def test_entries_are_about_things_that_exist_and_can_be_linked_to():
    assert all(gallery.documented(name) is not None for name in COVERED)
    anchors = [entry.anchor for entry in ENTRIES.values()]
    assert len(set(anchors)) == len(anchors)


@each
def test_the_text_of_an_entry_is_its_code(entry):
    schedules = gallery.schedules(gallery.run(entry))
    texts = gallery.texts(entry)
    assert schedules or entry.covers == ["Plateau"]
    assert set(entry.text) <= set(schedules)
    for name, text in texts.items():
        if text is not None:
            assert parse(text) == schedules[name]


@each
def test_the_command_of_an_entry_shows_its_picture(entry, capsys):
    schedules = gallery.schedules(gallery.run(entry))
    for name, text in gallery.texts(entry).items():
        if text is None:
            continue
        prompt, *arguments = shlex.split(gallery.command(text, schedules[name], entry.steps))
        assert prompt == "$"
        assert call([*arguments[1:], "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert [schedules[name](t) for t in shown["steps"]] == shown["values"]


@each
def test_what_an_entry_says_in_numbers_holds(entry):
    names = {name: getattr(lrs, name) for name in lrs.__all__} | gallery.run(entry)
    for claim in entry.holds:
        assert eval(claim, names | {"drawn": gallery.panels(entry)}), claim


@each
def test_an_entry_says_when_and_when_not(entry):
    for words in (entry.when, entry.misleads):
        assert len(words.split()) >= 5
        assert words.strip().endswith((".", ".)"))


@each
def test_an_entry_has_a_formula_from_a_docstring(entry):
    names = [*(entry.tells or entry.covers), *entry.built_of]
    found = [(name, formula) for name in names for formula in gallery.formulas(name)]
    assert found or IN_WORDS & set(entry.covers)
    page = gallery._entry(entry)
    for name, formula in found:
        source = inspect.getsource(gallery.documented(name))
        for line in filter(None, map(str.strip, formula.splitlines())):
            assert line in source
            assert line in page


@each
def test_a_picture_is_whole_and_follows_the_page(entry):
    svg = gallery.svg(entry)
    ElementTree.fromstring(svg)
    assert not re.search(r"#[0-9a-fA-F]{6}\b", re.sub(r'aria-label="[^"]*"', "", svg))  # colours are variables
    used = set(re.findall(r"var\(--([\w-]+)\)", svg))
    assert used <= set(gallery.USED)
    assert {"planned", "ink", "muted"} & used


def test_the_table_at_the_top_is_computed():
    rises = {name: gallery.rises_again(next(iter(next(iter(gallery.panels(e).values())).values())))
             for name, e in ENTRIES.items()}  # fmt: skip
    assert rises["Cosine wave"] == rises["Triangular cycles"] == rises["Cosine with warm restarts"] == "yes"
    assert rises["Linear decay"] == rises["One cycle"] == rises["Linear warmup"] == "no"
    assert gallery.needs_length(lrs.Cosine(1.0, 0.0, 10)) == "yes"
    assert gallery.needs_length(lrs.InverseSqrt(1.0, 10)) == "no"
    assert gallery.needs_length(lrs.warmup(10)) == "no, its own"


def test_the_page_is_written_once_and_the_same_each_time(tmp_path):
    page = gallery.write(tmp_path)
    first, when = page.read_bytes(), page.stat().st_mtime_ns
    gallery.write(tmp_path)
    assert page.read_bytes() == first
    assert page.stat().st_mtime_ns == when
    assert all(f"### {name}" in first.decode() for name in ENTRIES)

"""Each claim is drawn, in words that do not touch or leave the figure, from what it measures and from what is kept."""

import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path

import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lrscope.papers import claims
from lrscope.papers.claim import FIGURES, draw, plain
from lrscope.records.outcome import POINTS, Outcome, thinned
from lrscope.reports.claims_figures import HEIGHT, WIDTH, inline_figure, save_figure
from lrscope.reports.figures.style import settings as look

ROOT = Path(__file__).parents[3]
LEDGER = json.loads((ROOT / "docs" / "papers" / "ledger.json").read_text(encoding="utf-8"))
ONE = {"seeds": (0,)}
FRESH = {
    "kalra2024/thresholds": {"steps": 600},
    "kalra2024/sign-rule": {"steps": 500},
    "kalra2024/adam-edge": ONE | {"steps": 60},
    "kalra2024/adam-fails-quietly": ONE | {"steps": 3},
    "kalra2024/longer-warmup-milder": ONE | {"warmups": (4, 8), "after": 3},
    "leclerc2020/large-steps-bounce": ONE | {"epochs": 1},
    "lewkowycz2020/three-phases": {"widths": (100,), "seeds": 1, "steps": 200},
    "lewkowycz2020/catapult-time": {},
    "lewkowycz2020/full-model-phases": {"widths": (300,), "seeds": 1, "steps": 300},
    "lewkowycz2020/relu-catapult": ONE | {"width": 32, "steps": 12},
    "lewkowycz2020/edge-at-4": {"widths": (100, 1000), "seeds": 1, "steps": 100},
    "lewkowycz2020/width-drops-out": {"steps": 30},
    "lewkowycz2020/needs-no-noise": ONE | {"width": 32, "steps": 30},
    "li2019/last-layer": ONE | {"steps": 1000},
    "li2019/never-settles": {"steps": 1000},
    "li2019/intrinsic-lr": ONE | {"steps": 450},
    "li2019/relative-clipping": ONE | {"steps": 500},
    "li2019/clipping-is-relative": ONE | {"steps": 300},
    "li2019/texp": ONE,
    "gotmare2018/different-recipes": ONE | {"recipes": ("A batch 500",)},
}
"""Those whose figures draw curves, with settings that make them quick; the others draw numbers of the ledger."""
LONG = {
    "li2019/texp-without-drops": ONE,
    "kalra2024/natural-sharpening": ONE | {"steps": 20},
    "leclerc2020/momentum-is-a-rate": ONE | {"epochs": 4},
    "kalra2024/persistent-catapult": ONE | {"cs": (32.0,), "steps": 30},
    "kalra2024/gi-adam-identity": ONE | {"steps": 10},
    "li2019/instant-drop": ONE,
    "li2019/equilibrium-angle": ONE,
    "li2019/equilibrium-forgets": ONE,
    "gotmare2018/bezier-too": ONE | {"recipes": ("A batch 500", "B Adam", "E init x 3", "F no augmentation")},
    "gotmare2018/restart-barriers": ONE,
    "gotmare2018/no-barrier-at-drops": ONE,
    "gotmare2018/high-rates-do-it-alone": ONE,
    "gotmare2018/not-two-basins": ONE,
    "gotmare2018/better-between": ONE,
    "gotmare2018/shallow-layers-stay": ONE,
    "gotmare2018/convolutional": ONE,
    "gotmare2018/warmup-rescues": {"seeds": (20,)},
    "gotmare2018/warmup-keeps-the-last-layer": {"seeds": (20,)},
    "gotmare2018/warmup-limits-movement": {"seeds": (20,)},
    "gotmare2018/freezing-instead": {"seeds": (20,)},
    "gotmare2018/not-the-shallow-layers": {"seeds": (20,)},
    "gotmare2018/knowledge-in-deep-layers": ONE,
    "gotmare2018/with-labels-too": ONE,
}


def test_every_claim_has_a_figure_of_its_own():
    assert set(FIGURES) >= set(claims())


def words_of(figure):
    """Every text that is seen, with its box in pixels."""
    for legend in figure.legends:
        yield from legend.get_texts()
    for ax in figure.axes:
        yield from (ax._left_title, ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts)
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if low <= tick.get_loc() <= high:
                    yield tick.label1


def laid_out(outcome):
    """The figure as reports draw it, and the boxes of its words."""
    with rc_context(look() | {"figure.dpi": 72}):
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained")
        draw(outcome, figure)
        FigureCanvasAgg(figure).draw()
        seen = [t for t in words_of(figure) if t.get_visible() and t.get_text().strip()]
        return figure, [(t.get_text(), t.get_window_extent()) for t in seen]


def check(outcome):
    figure, words = laid_out(outcome)
    assert figure.axes
    assert sum(ax.has_data() for ax in figure.axes) == len(figure.axes)
    outer = figure.bbox
    for text, box in words:
        inside = box.x0 > -1 and box.y0 > -1 and box.x1 < outer.x1 + 1 and box.y1 < outer.y1 + 1
        assert inside, f"{outcome.id}: {text!r} is cut off"
    for (a, one), (b, other) in itertools.combinations(words, 2):
        wide = min(one.x1, other.x1) - max(one.x0, other.x0)
        high = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert wide < 1.5 or high < 1.5, f"{outcome.id}: {a!r} touches {b!r}"


def stored(id):
    known = LEDGER[id][-1]
    return claims(id)[id].tell(Outcome.from_dict({"id": id, **known}))


@pytest.mark.parametrize("id", [id for id in claims() if id not in FRESH | LONG])
def test_numbers_of_the_ledger_are_drawn(id):
    check(stored(id))


@pytest.mark.parametrize("id", [*FRESH, *(pytest.param(id, marks=pytest.mark.slow) for id in LONG)])
def test_what_was_just_measured_is_drawn_as_what_was_kept(id):
    outcome = claims(id)[id](**(FRESH | LONG)[id])
    assert outcome.curves
    check(outcome)
    kept = json.loads(json.dumps(outcome.to_dict() | {"curves": plain(outcome.curves)}, allow_nan=False))
    again = claims(id)[id].tell(Outcome.from_dict(kept))
    svg = inline_figure(again, draw)
    assert len(svg) < 250_000
    assert not re.search(r"\bnan\b|\binf\b|None", re.sub(r'd="[^"]*"', "", svg))
    assert plain(again.curves) == plain(outcome.curves)


def lines(value):
    """Every list of numbers in it."""
    if isinstance(value, dict):
        return [line for part in value.values() for line in lines(part)]
    if isinstance(value, list):
        nested = [line for part in value if isinstance(part, dict | list) for line in lines(part)]
        return nested or [value]
    return []


def test_lines_are_thinned_in_pairs_and_keep_their_ends():
    x, y = list(range(2001)), [float(i**2) for i in range(2001)]
    found = thinned({"x": x, "of": {"y": [y, y[:50]]}, "block": 10})
    assert len(found["x"]) == POINTS
    assert (found["x"][0], found["x"][-1]) == (0, 2000)
    assert found["of"]["y"][0] == [float(i**2) for i in found["x"]]
    assert found["of"]["y"][1] == y[:50]
    assert found["block"] == 10
    outcome = claims("kalra2024/sign-rule")["kalra2024/sign-rule"](steps=3000)
    assert max(map(len, lines(outcome.curves))) <= POINTS


@pytest.mark.parametrize("id", ["kalra2024/final-norm", "lewkowycz2020/largest-rate", "li2019/equilibrium-forgets"])
def test_a_claim_without_a_figure_of_its_own_is_drawn_as_its_statistic(id, monkeypatch):
    monkeypatch.delitem(FIGURES, id)
    check(stored(id))


def test_a_saved_figure_is_small_and_the_same_every_time(tmp_path):
    outcome = stored("lewkowycz2020/largest-rate")
    first, second = (save_figure(outcome, draw, tmp_path / f"{k}.svg").read_text() for k in range(2))
    assert first == second
    assert "smallest c that diverges" in first
    peaks = save_figure(stored("kalra2024/gi-adam-boundary"), draw, tmp_path / "map.svg").read_text()
    assert all(f">{peak}<" in peaks for peak in (0.004, 0.064, 2.048))  # numbers that are read are not shortened
    assert save_figure(outcome, draw, tmp_path / "deep" / "a.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "papers" / "figures").glob("*.svg")), ids=lambda p: p.stem)
def test_committed_figures_are_small(path):
    assert path.stat().st_size < 100_000


def test_drawing_loads_no_torch_and_leaves_the_users_style_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    inline_figure(stored("lewkowycz2020/largest-rate"), draw)
    assert dict(mpl.rcParams) == before
    assert "lrscope.papers.drawing" in sys.modules
    assert importlib.util.find_spec("lrscope.papers.words") is None

"""Claims of papers: the one form, and what is recorded of them."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev

from lrscope import papers
from lrscope.papers import claims
from lrscope.papers.claim import CLAIMS, FIGURES, Claim, Outcome, Sure, beyond, claim, plain, spread

ROOT = Path(__file__).parents[3]
spec = importlib.util.spec_from_file_location("papers_benchmark", ROOT / "benchmarks" / "papers.py")
runner = sys.modules["papers_benchmark"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)
RECORDED = runner.latest()
LEAST = {"gotmare2018": 10, "kalra2024": 15, "leclerc2020": 6, "lewkowycz2020": 10, "li2019": 10}
"""Claims of each paper, at least."""
QUICK = {
    "kalra2024/sharpness-solver": {"seeds": (0,)},
    "kalra2024/gi-adam-identity": {"seeds": (0,), "steps": 60},
    "kalra2024/sign-rule": {},
    "lewkowycz2020/catapult-time": {},
    "lewkowycz2020/kernel-is-hessian": {},
    "lewkowycz2020/width-drops-out": {},
    "li2019/intrinsic-lr": {"steps": 600, "seeds": (0,)},
    "li2019/clipping-is-relative": {"steps": 600, "seeds": (0,)},
}
"""Those that take about a second, with the settings that make them so."""


def test_every_paper_has_its_claims_and_a_headline_first():
    assert set(papers.PAPERS) <= set(LEAST)
    for paper in papers.PAPERS:
        least = LEAST[paper]
        found = list(papers.get(paper).claims.values())
        assert len(found) >= least
        assert found[0].headline
        assert papers.get(paper).title


@pytest.mark.parametrize("id", claims())
def test_a_claim_says_what_it_states_and_does(id):
    found = claims(id)[id]
    assert not found.statement[0].islower()
    assert not found.statement.endswith(".")
    assert len(found.statement) <= 110
    assert found.setting
    assert found.where
    assert found.sure in get_args(Sure)
    assert set(found.shows) <= set(RECORDED[id]["numbers"])
    seeds = found.defaults.get("seeds")
    assert seeds is None or (seeds if isinstance(seeds, int) else len(seeds)) >= 3


def test_claims_are_found_by_paper_and_by_name():
    names = ["li2019/texp", "leclerc2020/gradient-turns"]
    assert list(claims(*names)) == names
    assert {c.paper for c in claims("leclerc2020").values()} == {"leclerc2020"}
    with pytest.raises(ValueError, match=r"names: no paper 'li2020' \(did you mean 'li2019'\?\); there are"):
        claims("li2020")
    with pytest.raises(
        ValueError, match=r"no claim 'li2019/equivalent' \(did you mean 'li2019/equivalence'\?\); there"
    ):
        claims("li2019/equivalent")
    with pytest.raises(ValueError, match="no paper 'nothing'"):
        papers.get("nothing")


def test_the_room_imports_no_paper_before_it_is_asked_for():
    code = "import lrscope.papers, sys; print([m for m in sys.modules if m.startswith('lrscope.papers.')], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['lrscope.papers.drawing', 'lrscope.papers.claim'] False"


DEMO = {"where": "Fig. 1", "sure": "source", "shows": ["largest"]}


def test_an_outcome_tells_its_settings_its_numbers_and_what_failed(monkeypatch):
    monkeypatch.setattr(papers.claim, "CLAIMS", {})

    @claim("demo/small", "Numbers are small", **DEMO)
    def small(seeds=(0, 1), *, limit=2.0):
        """Two of them."""
        return {"largest": spread([1.0, 3.0]), "never": math.inf, 0.5: (1, 2)}, {
            "below limit": max(seeds) < limit,
            "odd": 0,
            "open": None,
        }

    outcome = small(limit=1)
    assert outcome.verdict == "not reproduced"
    assert outcome.surprising
    assert outcome.failed == ["below limit", "odd"]
    assert str(outcome) == "demo/small: not reproduced (below limit; odd): Numbers are small"
    assert small.setting == "Two of them."
    stored = json.loads(json.dumps(outcome.to_dict(), allow_nan=False))
    assert stored["settings"] == {"seeds": [0, 1], "limit": 1}
    assert stored["numbers"]["never"] == "inf"
    assert stored["numbers"]["0.5"] == [1, 2]
    assert stored["holds"] == {"below limit": False, "odd": False, "open": None}
    again = Outcome.from_dict(stored | {"environment": {}})
    assert again.to_dict() == stored
    with pytest.raises(TypeError, match="limits"):
        small(limits=1)
    with pytest.raises(ValueError, match="claim 'demo/small' exists already"):
        claim("demo/small", "Other", **DEMO)(lambda: ({}, {}))


@pytest.mark.parametrize(
    ("parts", "unlike", "verdict", "surprising"),
    [
        ([True, True], "", "reproduced", False),
        ([True, None], "", "inconclusive", True),
        ([False, None], "", "not reproduced", True),
        ([False, True], "small networks", "not reproduced", False),
        ([True, True], "small networks", "reproduced", False),
        ([True, None], "small networks", "inconclusive", False),
    ],
)
def test_one_part_that_fails_decides_and_an_open_one_leaves_it_open(monkeypatch, parts, unlike, verdict, surprising):
    monkeypatch.setattr(papers.claim, "CLAIMS", {})
    demo = claim("demo/parts", "Parts", unlike=unlike, **DEMO)(lambda: ({}, {str(i): p for i, p in enumerate(parts)}))
    assert (demo().verdict, demo().surprising) == (verdict, surprising)


def test_a_usual_verdict_may_be_inconclusive_and_is_told_with_its_reason(monkeypatch):
    monkeypatch.setattr(papers.claim, "CLAIMS", {})
    few = claim("demo/few", "Few", unlike="too few seeds", instead="inconclusive", **DEMO)(lambda: ({}, {"a": None}))
    assert few.expected == few().expected == "inconclusive"
    assert few().unlike == "too few seeds"
    assert few().where == "Fig. 1"
    assert few().code.endswith("<lambda>")


def test_a_mean_is_beyond_a_bound_if_its_interval_is():
    assert beyond(spread([1.0, 1.1, 0.9]), 0.5) is True
    assert beyond(spread([1.0, 1.1, 0.9]), 1.5) is False
    assert beyond(spread([1.0, 1.1, 0.9]), 1.01) is None
    assert beyond(spread([1.0]), 0.0) is None


def test_a_measure_may_give_curves_which_are_kept_apart_from_its_numbers(monkeypatch):
    monkeypatch.setattr(papers.claim, "CLAIMS", {})
    lines = {"loss": [float(i) for i in range(999)], "lost": [1.0, math.inf]}
    demo = claim("demo/curves", "Curves", **DEMO)(lambda: ({"largest": 1}, {"good": True}, lines))
    outcome = demo()
    assert len(outcome.curves["loss"]) == 200
    assert "curves" not in outcome.to_dict()
    kept = json.loads(json.dumps(outcome.to_dict() | {"curves": plain(outcome.curves)}, allow_nan=False))
    assert demo.tell(Outcome.from_dict(kept | {"seconds": outcome.seconds})) == outcome


def test_a_spread_has_students_interval():
    from scipy import stats

    for n in (2, 3, 6, 11):
        values = np.random.default_rng(n).normal(size=n)
        low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
        assert spread(values)["interval"] == pytest.approx([low, high], rel=1e-3)
    assert math.isnan(spread([2.0])["stderr"])
    assert math.isnan(spread([2.0])["interval"][0])


@pytest.mark.parametrize("id", QUICK)
def test_quick_checks_come_out_as_recorded(id):
    outcome = claims(id)[id](**QUICK[id])
    assert outcome.failed == [words for words, good in RECORDED[id]["holds"].items() if not good], outcome.numbers


@pytest.mark.slow
@pytest.mark.parametrize("id", claims())
def test_all_checks_come_out_as_recorded(id):
    assert CLAIMS[id]().holds == RECORDED[id]["holds"]


@pytest.mark.parametrize("paper", papers.PAPERS)
def test_the_pages_tell_every_outcome(paper):
    page = (ROOT / "docs" / "papers" / f"{paper}.md").read_text(encoding="utf-8")
    assert runner.BEGIN + runner.rendered(paper) + runner.END in page
    for id, found in claims(paper).items():
        assert RECORDED[id]["statement"] == found.statement
        plain = json.loads(json.dumps(found.defaults, default=list))
        assert RECORDED[id]["settings"] == plain, f"{id} was recorded with other settings"
        for words, good in RECORDED[id]["holds"].items():
            assert good or words in page
        figure = runner.figure_of(id)
        assert not figure.exists() or f"](figures/{figure.name})" in page


def test_the_readme_tells_how_many_hold():
    assert runner.BEGIN + runner.summary() + runner.END in runner.README.read_text(encoding="utf-8")


def test_what_does_not_reproduce_is_explained_on_the_page():
    for id, found in RECORDED.items():
        if found["verdict"] != "reproduced":
            assert claims(id)[id].unlike, id
            page = (ROOT / "docs" / "papers" / f"{id.partition('/')[0]}.md").read_text(encoding="utf-8")
            explained = page[page.index("## What did not follow") : page.index("## Outcomes")]
            assert f"**{id.partition('/')[2]}**" in explained, id


def test_every_claim_is_drawn_on_its_page():
    missing = [id for id in claims() if id in RECORDED and not runner.figure_of(id).exists()]
    assert not [id for id in missing if id in FIGURES], "run benchmarks/papers.py PAPER, which draws what it runs"


def test_but_for_eps_the_first_step_of_gi_adam_is_as_stated():
    """The explanation of kalra2024/gi-adam-first-step: in this seed some gradients are about as small as Adam's usual eps."""
    usual, tiny = (
        claims("kalra2024/gi-adam-first-step")["kalra2024/gi-adam-first-step"](seeds=(2,), eps=eps).numbers
        for eps in (1e-8, 1e-12)
    )
    ratio = "sp GI-Adam over Adam"
    assert tiny[ratio]["mean"] == pytest.approx(math.sqrt(1 - 0.999), rel=1e-3)
    assert usual[ratio]["mean"] > 0.036


# The instruments of the checks.


def test_the_kernel_built_by_layers_is_that_of_the_jacobian():
    from lrscope.papers.lewkowycz2020.networks import _net, top_eigenvalue

    for activation in ("linear", "tanh", "relu"):
        net = _net(3, 5, 7, 2, 3, activation=activation).double()
        x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        params = dict(net.named_parameters())
        J = jacrev(lambda p, net=net, x=x: functional_call(net, p, (x,)))(params)
        J = torch.cat([j.detach().flatten(2).flatten(0, 1) for j in J.values()], 1)
        true = float(torch.linalg.eigvalsh(J @ J.T)[-1]) / 12
        assert top_eigenvalue(net, x) == pytest.approx(true, rel=1e-10)


def test_angles_and_norms_of_a_run_are_those_of_its_weights():
    from lrscope.papers.li2019 import networks

    def second(steps):
        net = networks.network(0, width=8)
        seen = networks.train(net, 0, [0.1] * steps, [0.01] * steps)
        return seen, net.weights[1].detach().flatten()

    (_, before), (seen, after) = second(4), second(5)
    cosine = torch.dot(before, after) / before.norm() / after.norm()
    assert seen.angle[-1] == pytest.approx(float(torch.acos(cosine)), rel=1e-6)
    assert seen.norm[-1] == pytest.approx(float(after.norm()), rel=1e-12)
    assert seen.norm[-2] == pytest.approx(float(before.norm()), rel=1e-12)
    assert len(seen.loss) == 5


def test_the_language_model_sees_no_later_character_and_its_norm_is_the_only_difference():
    from lrscope.papers.kalra2024.text import small_text

    with_norm, without = small_text(True).model(0), small_text(False).model(0)
    shared = dict(without.named_parameters())
    extra = {name for name in dict(with_norm.named_parameters()) if name not in shared}
    assert extra == {"norm.weight", "norm.bias"}
    assert all(torch.equal(p, dict(with_norm.named_parameters())[name]) for name, p in shared.items())
    ((tokens, following),) = small_text(True).train
    assert tokens.shape == following.shape == (16, 64)
    assert torch.equal(tokens[:, 1:], following[:, :-1])
    changed = tokens[:1].clone()
    changed[0, 40] = (changed[0, 40] + 1) % 90
    a, b = with_norm(tokens[:1]), with_norm(changed)
    torch.testing.assert_close(a[:, :40], b[:, :40])
    assert not torch.allclose(a[:, 40:], b[:, 40:])


def test_a_claim_is_plain_data():
    one = claims("kalra2024/thresholds")["kalra2024/thresholds"]
    assert isinstance(one, Claim)
    assert one.defaults == {"steps": 3000}

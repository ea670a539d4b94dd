"""Mechanisms broken on purpose, one line of the library at a time: a claim must notice each of them.

The function keeps its name and its place; its code is compiled again from its source with one thing changed. With the
same quick settings and nothing changed the claim is reproduced.
"""

import inspect
import textwrap
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from lrscope.curvature import precondition
from lrscope.landscape import path
from lrscope.landscape.connect import _train
from lrscope.landscape.surface import Surface
from lrscope.optimizers import giadam
from lrscope.papers import claims
from lrscope.papers.leclerc2020 import networks as leclerc2020
from lrscope.papers.lewkowycz2020 import networks
from lrscope.schedules import WarmRestarts, exponential, tapered
from lrscope.similarity.side import mean_of
from lrscope.solvable import last_layer, phases, quadratic, scale_invariant, two_layer, uv
from lrscope.stability import critical_warmup, jump, trial
from lrscope.tasks.distill import DistillationLoss


@dataclass(frozen=True)
class Mutation:
    """What is broken, where, and who notices.

    Attributes:
        what: In words.
        where: The function.
        before, after: The code that is changed.
        claim: Which claim turns "not reproduced"; of one that never is, the part decides.
        settings: That make it quick.
        part: Words of a part of its criterion that holds, and then fails.
        slow: Whether it takes more than a few seconds.
    """

    what: str
    where: object
    before: str
    after: str
    claim: str
    settings: dict = field(default_factory=dict)
    part: str = ""
    slow: bool = False


ONE = {"seeds": (0,)}
TOY = {"widths": (100,), "seeds": 2}
EXPONENTIAL = {"seeds": (0,), "steps": 120}
RECIPE = {"seeds": (0,), "recipes": ("E init x 3",)}
MUTATIONS = [
    Mutation(
        "GI-Adam whose second moment starts at 0",
        giadam.GIAdam.initial_second_moments, "g * g for g", "0 * g for g",
        "kalra2024/gi-adam-identity", ONE | {"steps": 20}, "largest gap",
    ),
    Mutation(
        "GI-Adam without bias correction",
        giadam.GIAdam._fill, "copy_(square)", 'copy_(square); self.state[p]["step"] += 1e6',
        "kalra2024/gi-adam-identity", ONE | {"steps": 20}, "largest gap",
    ),
    Mutation(
        "a preconditioner without the square root",
        precondition._adam, ".sqrt()", "",
        "kalra2024/gi-adam-first-step", ONE, "standard: ratio in [0.030, 0.035]",
    ),
    Mutation(
        "a preconditioner without 1 - beta1^t",
        precondition._adam, "(1 - beta1**t) * ", "",
        "kalra2024/adam-starts-sharp", {"seeds": (1,), "rates": (3e-3,)}, "Adam: above 38 at the first update",
    ),
    Mutation(
        "momentum that forgets its buffer",
        quadratic.Quadratic._step, "b = self.beta * b + ", "b = 0 * b + ",
        "kalra2024/thresholds", {"steps": 600}, "momentum: 3.8",
    ),
    Mutation(
        "Adam's momentum that is no average",
        quadratic.Quadratic._step, '1 - self.beta if self.rule == "adam" else 1.0', "1.0",
        "kalra2024/thresholds", {"steps": 600}, "adam: 38",
    ),
    Mutation(
        "a search that returns the rate below the rise",
        jump.find_jump, "lr = found.high if", "lr = found.low if",
        "kalra2024/forward-search", ONE | {"nets": (("sp", 64),)}, "ratio in [0.99",
    ),
    Mutation(
        "a warmup that starts at 0 and not at the critical rate",
        critical_warmup.warmup_from_critical, "        reach = max(", "        start = 0.0\n        reach = max(",
        "kalra2024/warmup-from-critical", ONE | {"cs": (8.0,), "steps": 80}, "step of the formula",
    ),
    Mutation(
        "a threshold twice as high: half the curvature",
        phases.Phased.kernel.fget, 'self._first["kernel"]', 'self._first["kernel"] / 2',
        "lewkowycz2020/edge-at-4", TOY, "c = 3.99: none diverges",
    ),
    Mutation(
        "weights that are updated one after the other",
        uv.UV._step, "- 4 * f)", "- 4 * (f - lr * kernel * r))",
        "lewkowycz2020/three-phases", TOY, "recursion equals a torch network",
    ),
    Mutation(
        "a curvature that falls half as fast",
        uv.UV._step, "- 4 * f)", "- 2 * f)",
        "lewkowycz2020/three-phases", TOY, "recursion equals a torch network",
    ),
    Mutation(
        "a kernel for a loss without its factor 1/2",
        two_layer.TwoLayer.kernel_matrix, "/ len(self.y) + K", "/ len(self.y) / 2 + K / 2",
        "lewkowycz2020/full-model-phases", {"widths": (300,), "seeds": 1}, "c <= 1.9: loss never rises",
    ),
    Mutation(
        "a kernel of networks with the factor 1/2 twice",
        networks.top_eigenvalue, "/ (m * outputs)", "/ (2 * m * outputs)",
        "lewkowycz2020/relu-catapult", ONE | {"width": 512, "steps": 30, "c": (1.9, 3.0)}, "never exceeds its start",
    ),
    Mutation(
        "a wrong exponent: weights rescaled by the square",
        exponential._recur, "eta * scale * scale / a", "eta * scale / a",
        "li2019/equivalence", EXPONENTIAL, "recurrence: below 1e-10",
    ),
    Mutation(
        "a wrong exponent: a schedule that grows by the weights' factor and not by its square",
        tapered._grown, "alpha ** (-2 * count)", "alpha ** (-count)",
        "li2019/equivalence", EXPONENTIAL, "the theorem with its buffer", slow=True,
    ),
    Mutation(
        "TEXP that grows by the new phase alone at a switch",
        tapered._tapered, "(alphas[i] * alphas[i - 1])", "(alphas[i] * alphas[i])",
        "li2019/equivalence", EXPONENTIAL, "TEXP, corrected", slow=True,
    ),
    Mutation(
        "a buffer that is not translated with the weights",
        exponential._walk, "p = w + g * q", "p = w",
        "li2019/equivalence", EXPONENTIAL, "recurrence: below 1e-10", slow=True,
    ),
    Mutation(
        "gradients of normalised weights that do not lift the norm",
        scale_invariant.ScaleInvariant._step, "+ turn**2 / square", "+ 0 * turn",
        "li2019/never-settles", {"steps": 8000}, "at least 10 crossings",
    ),
    Mutation(
        "momentum forgotten on the way to equilibrium",
        scale_invariant.NormEquilibrium.simulate, "self.momentum * b + g", "g",
        "li2019/equilibrium-angle", ONE, "random gradients: angle",
    ),
    Mutation(
        "clipping that counts and does not clip",
        scale_invariant.NormEquilibrium.simulate, "g *= longest / g.norm()", "pass",
        "li2019/relative-clipping", ONE | {"steps": 10_000}, "C = 4: it stays within 2 %",
    ),
    Mutation(
        "clipping that does not know the norm of the weights",
        scale_invariant.NormEquilibrium.simulate, " * float(size)", "",
        "li2019/clipping-is-relative", ONE | {"steps": 2000}, "identical bit for bit",
    ),
    Mutation(
        "normalisation whose gradient keeps its radial part",
        last_layer.run_together, "torch.where(normalised, radial, 0.0)", "torch.where(normalised, 0.0 * radial, 0.0)",
        "li2019/last-layer", ONE | {"steps": 4000}, "",
    ),
    Mutation(
        "a gradient compared with itself",
        trial.Trial.probe, "_cosine(before, self._gradient(batch))", "_cosine(before, before)",
        "leclerc2020/gradient-turns", ONE, "the cosine of gradients of its own batch falls", slow=True,
    ),
    Mutation(
        "momentum that the optimizer never gets",
        leclerc2020.train, "momentum=momentum", "momentum=0.0",
        "leclerc2020/momentum-is-a-rate", ONE | {"epochs": 8}, "uncorrected D at least 1",
    ),
    Mutation(
        "a curve whose bend is never moved",
        _train, "            rule.step()", "            pass",
        "gotmare2018/different-recipes", RECIPE, "above the worse end on the chain",
    ),
    Mutation(
        "a curve that is trained at its middle alone",
        _train, ".random(steps)", ".random(steps) * 0 + 0.5",
        "gotmare2018/different-recipes", RECIPE, "above the worse end on the chain",
    ),
    Mutation(
        "a Bezier curve without its binomial coefficients",
        path.weights, "choose * t[:, None]", "t[:, None]",
        "gotmare2018/bezier-too", RECIPE, "above the worse end on the bezier",
    ),
    Mutation(
        "restarts that hardly lift the rate",
        WarmRestarts._endless, "self.peak_decay**cycle", "1e-4 ** np.minimum(cycle, 1)",
        "gotmare2018/restart-barriers", ONE, "in two of three pairs", slow=True,
    ),
    Mutation(
        "statistics of a network that stay those of another",
        Surface.evaluate, "if self.refreshes:", "if False:",
        "gotmare2018/convolutional", ONE, "on the chain at most 0.02", slow=True,
    ),
    Mutation(
        "distillation without the square of its temperature",
        DistillationLoss.__init__, "self.temperature**2 if scale else 1.0", "1.0",
        "gotmare2018/distillation-helps", {"seeds": (0, 1)}, "mean gain", slow=True,
    ),
    Mutation(
        "SVCCA of activations that are not centred",
        mean_of, "return total", "return 0 * total",
        "gotmare2018/warmup-keeps-the-last-layer", {}, "last layer higher with warmup", slow=True,
    ),
]  # fmt: skip


@contextmanager
def broken(mutation, monkeypatch):
    """The function with one thing changed, wherever it has been imported to."""
    function = mutation.where
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(mutation.before) == 1, f"{mutation.before!r} is not in {function.__qualname__} once"
    assert not function.__code__.co_freevars
    names = dict(function.__globals__)
    lines = [line for line in source.splitlines() if not line.startswith("@")]
    code = "from __future__ import annotations\n" + "\n".join(lines).replace(mutation.before, mutation.after)
    exec(compile(code, f"<{mutation.what}>", "exec"), names)
    with monkeypatch.context() as patch:
        patch.setattr(function, "__code__", names[function.__name__].__code__)
        forget(mutation)
        try:
            yield
        finally:
            forget(mutation)


def run(mutation):
    return claims(mutation.claim)[mutation.claim](**mutation.settings)


def forget(mutation):
    """What the claim's module has kept for other claims was trained with other code."""
    for kept in vars(inspect.getmodule(claims(mutation.claim)[mutation.claim].measure)).values():
        if hasattr(kept, "cache_clear"):
            kept.cache_clear()


whole = {}


@pytest.mark.parametrize(
    "mutation", [pytest.param(m, marks=pytest.mark.slow if m.slow else ()) for m in MUTATIONS], ids=lambda m: m.what
)
def test_a_broken_mechanism_is_not_reproduced(mutation, monkeypatch):
    quick = (mutation.claim, str(mutation.settings))
    if quick not in whole:
        whole[quick] = run(mutation)
    assert whole[quick].verdict == "reproduced" or whole[quick].unlike, whole[quick]
    assert any(mutation.part in words for words, good in whole[quick].holds.items() if good), whole[quick].holds
    with broken(mutation, monkeypatch):
        outcome = run(mutation)
    assert outcome.verdict == "not reproduced"
    assert any(mutation.part in words for words in outcome.failed), outcome.failed

"""What a run says of itself: status, phase, sentence, picture."""

import math

import pytest
import torch

import lrscope as lrs
from lrscope.solvable import UV, Quadratic


def test_one_rate_gives_curves_and_several_give_columns():
    uv = UV(64)
    one, three = uv.run(0.5, 20), uv.run([0.5, 1.2, 3.0], 20)
    assert one.loss.ndim == 1
    assert three.loss.shape == (21, 3)
    assert isinstance(one.status, str)
    assert three.phase == ("lazy", "catapult", "divergent")
    assert math.isinf(three.peak_ratio[2])
    assert math.isnan(three.final_loss[2])


def test_the_sentence_tells_the_story():
    uv = UV(512)
    assert "converged" in str(uv.run(0.5))
    assert "the loss never rose" in str(uv.run(0.5))
    assert "the loss rose to" in str(uv.run(1.5 * uv.critical_lr))
    assert "diverged at step" in str(uv.run(1.1 * uv.max_lr))
    assert "1 converged, 1 diverged" in str(uv.run([0.5, 1.1 * uv.max_lr]))
    assert str(UV(8, y=2.0, mup=0.5)) == "UV(width=8, y=2, mup=0.5)"


def test_the_step_named_for_divergence_is_the_first_without_a_loss():
    run = Quadratic([1.0]).run(1e200, 10)
    assert run.status == "diverged"
    assert "diverged at step 1" in str(run)
    assert torch.isnan(run.loss).tolist()[:2] == [False, True]


def test_a_library_schedule_can_be_given():
    schedule = 0.5 * lrs.schedules.warmup(10).then(lrs.schedules.Constant(1.0))
    run = UV(64).run(schedule, 40)
    assert run.lr[:41].tolist()[: run.steps] == pytest.approx([schedule(t) for t in range(run.steps)])


def test_pictures_have_a_line_for_each_rate_and_the_limit_beside_the_curvature():
    run = UV(128).run([0.5, 1.3], 50)
    assert [line.get_label() for line in run.plot().lines] == ["lr 0.5", "lr 1.3"]
    ax = run.plot(what="kernel")
    assert len(ax.lines) == 4
    assert ax.lines[1].get_ydata()[0] == pytest.approx(4.0)
    assert run.plot(ax, what="output") is ax


def test_values_after_divergence_are_nan_and_other_runs_go_on():
    run = UV(64).run([5.0, 1.2], 200)
    assert run.status == ("diverged", "converged")
    gone = torch.isnan(run.loss[:, 0])
    assert bool(gone[-1])
    assert not bool(gone[: int(gone.int().argmax())].any())
    assert not bool(torch.isnan(run.loss[:, 1]).any())

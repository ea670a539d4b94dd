"""Members collected where the rate turns up, judged one by one and together; the schedule that makes the turns."""

import itertools
import json
import math

import pytest
import torch
from torch import nn

import cases
from lrscope.errors import MeasurementError, ScheduleError, TaskError
from lrscope.optimizers import ScheduledLR
from lrscope.schedules import AutoEnsemble, Constant, CosineWave, Linear, WarmRestarts, warmup
from lrscope.tasks import BatchStream, Task
from lrscope.training import Ensemble, Snapshots, ensemble, evaluate, members_of, train

STEPS = 24


def minima(schedule, steps):
    """Where a run under these rates would be saved, by definition: at the end of each descent."""
    rates = schedule.values(steps)
    turns = [t for t in range(1, steps) if rates[t] > rates[t - 1] and any(rates[u] > rates[t - 1] for u in range(t))]
    return [t for i, t in enumerate(turns) if i == 0 or rates[t - 1] < max(rates[turns[i - 1] : t])]


def stop_after(step):
    def on_step(state):
        if state.step + 1 == step:
            raise KeyboardInterrupt

    return on_step


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (0.1 * WarmRestarts(1.0, 0.0, 8), [8, 16, 24]),
        (0.1 * CosineWave(1.0, 0.1, 8), [5, 13, 21]),
        (0.1 * warmup(6).then(Linear(1.0, 0.0, 18)), [24]),
        (Constant(0.1), [24]),
    ],
)
def test_members_are_the_models_at_the_minima_and_at_the_end(tmp_path, schedule, expected):
    task, snapshots = cases.TASKS["dict"](), Snapshots(tmp_path)
    run = train(task, "sgd", schedule, STEPS, probes=[snapshots], seed=1)
    assert [m["step"] for m in snapshots.members] == expected
    turns = [t for t in minima(schedule, STEPS) if t > 0]
    assert set(turns) <= {*expected}
    for file, step in zip(members_of(tmp_path), expected, strict=True):
        saved = torch.load(file, weights_only=True)
        assert saved["step"] == step
        assert saved["lr"] == pytest.approx(schedule.values(STEPS)[step - 1])
        # The oracle: a run of the same seed that ends there.
        shorter = train(task, "sgd", schedule, step, seed=1)
        member = task.model(0)
        member.load_state_dict(saved["model"])
        assert evaluate(task, member)["eval_loss"] == shorter.final("eval_loss")
    if len(expected) > 1:
        at, distance = run["distance"]
        assert distance[list(at).index(expected[0])] == pytest.approx(0, abs=1e-12)
        assert (distance[1:] > 0).any()


def test_the_distance_is_one_minus_the_cosine_of_all_trainable_weights(tmp_path):
    net, snapshots = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), Snapshots(tmp_path)
    net[1].bias.requires_grad_(False)
    for step, lr in enumerate([1.0, 0.5]):
        assert snapshots.look(net, step, lr) == {"distance": None}
    assert snapshots.look(net, 2, 1.0)["distance"] == pytest.approx(0, abs=1e-12)
    before = torch.cat([p.detach().flatten() for p in net.parameters() if p.requires_grad]).double()
    with torch.no_grad():
        for p in net.parameters():
            p += torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    after = torch.cat([p.detach().flatten() for p in net.parameters() if p.requires_grad]).double()
    expected = 1 - float(torch.cosine_similarity(before, after, dim=0))
    found = snapshots.look(net, 3, 1.0)
    assert found["distance"] == pytest.approx(expected, rel=1e-6)
    again = Snapshots(tmp_path)  # the reference comes from the file
    again.load_state_dict(snapshots.state_dict())
    assert again.look(net, 3, 1.0) == found


SHORT = AutoEnsemble(0.02, 0.2, members=4, window=2, epsilon=0.5, fall=0.9, rise=1.5, distance=0.001)


@pytest.mark.parametrize("schedule", [0.1 * WarmRestarts(1.0, 0.0, 7), SHORT], ids=["restarts", "auto"])
def test_stopped_anywhere_it_goes_on_to_the_bit(tmp_path, schedule):
    task = cases.TASKS["dict"]()
    whole = train(task, "sgd", schedule, STEPS, probes=[Snapshots(tmp_path / "whole")])
    expected = [torch.load(f, weights_only=True) for f in members_of(tmp_path / "whole")]
    assert len(expected) > 2
    for at in (1, 8, 15, 23):
        out = tmp_path / str(at)
        with pytest.raises(KeyboardInterrupt):
            train(task, "sgd", schedule, STEPS, probes=[Snapshots(out)], out=out, on_step=stop_after(at))
        run = train(task, "sgd", schedule, STEPS, probes=[Snapshots(out)], out=out, resume=True)
        assert run["loss"].value.tolist() == whole["loss"].value.tolist()
        assert run["lr"].value.tolist() == whole["lr"].value.tolist()
        got = [torch.load(f, weights_only=True) for f in members_of(out)]
        assert [g["step"] for g in got] == [e["step"] for e in expected]
        for g, e in zip(got, expected, strict=True):
            assert all(torch.equal(g["model"][k], e["model"][k]) for k in e["model"])


def test_members_saved_after_the_last_checkpoint_are_not_counted_twice(tmp_path):
    """A process killed between two checkpoints: the run repeats from the older one, and so do its members."""
    net, snapshots = nn.Linear(2, 2), Snapshots(tmp_path)
    rates = [1.0, 0.5, 1.0, 0.5, 1.0]
    state = None
    for step, lr in enumerate(rates):
        if step == 3:
            state = json.loads(json.dumps(snapshots.state_dict()))  # plain data
        snapshots.look(net, step, lr)
    assert [f.name for f in members_of(tmp_path)] == ["member-00000002.pt", "member-00000004.pt"]
    again = Snapshots(tmp_path)
    again.load_state_dict(state)
    assert [f.name for f in members_of(tmp_path)] == ["member-00000002.pt"]
    again.look(net, 3, 0.5)
    again.look(net, 4, 1.0)
    assert [m["step"] for m in again.members] == [2, 4]


def test_a_folder_of_another_run_is_refused_and_one_object_is_of_one_run(tmp_path):
    net, first = nn.Linear(2, 2), Snapshots(tmp_path)
    first.look(net, 0, 1.0)
    first.finish(net, 1)
    first.finish(net, 1)
    assert len(members_of(tmp_path)) == 1
    with pytest.raises(ValueError, match="has members of another run") as raised:
        Snapshots(tmp_path).look(net, 0, 1.0)
    assert "\n" not in str(raised.value)
    assert len(members_of(tmp_path)) == 1
    with pytest.raises(ValueError, match="one object belongs to one run"):
        first.look(net, 0, 1.0)
    Snapshots(tmp_path, replace=True).look(net, 0, 1.0)
    assert members_of(tmp_path) == []
    with pytest.raises(ValueError, match=r"no members\.json"):
        members_of(tmp_path / "nothing")


def test_a_diverged_run_has_no_last_member(tmp_path):
    snapshots = Snapshots(tmp_path)
    run = train(cases.TASKS["linear_squared"](), "sgd", Linear(1e6, 1e5, STEPS), STEPS, probes=[snapshots])
    assert run.status == "diverged"
    assert snapshots.members == []


# --- the schedule --------------------------------------------------------------------------------------------------


def drive(schedule, losses, distance=lambda t: 0.0):
    """States after each step of a run of these losses."""
    state, seen = schedule.init(), []
    for t, loss in enumerate(losses):
        state = schedule.update(state, t, {"loss": loss})
        state = schedule.update(state, t, {"distance": distance(t)})
        seen.append(state)
    return seen


def test_while_the_loss_falls_the_rate_falls_to_its_floor_and_no_member_comes():
    schedule = AutoEnsemble(0.05, 0.1, window=5)
    seen = drive(schedule, [0.97**t for t in range(200)])
    rates = [schedule.value(s, 0) for s in seen]
    assert rates[:3] == pytest.approx([0.099, 0.09801, 0.0970299])
    assert rates[-1] == 0.05
    assert seen[-1]["minima"] == []


def test_a_loss_that_stands_still_turns_after_three_windows_and_back_at_the_distance():
    schedule = AutoEnsemble(0.01, 0.1, window=10, members=3, distance=0.05)
    seen = drive(schedule, [1.0] * 130, distance=lambda t: 0.06 if t in (35, 80) else 0.0)
    # 30 updates down; up at the 30th (index 29); down again at 35, and 30 updates later up.
    assert seen[-1]["minima"] == [29, 65]
    rising = [t for t, s in enumerate(seen) if s["rising"]]
    assert rising == [*range(29, 35), *range(65, 80)]
    rates = [schedule.value(s, 0) for s in seen]
    assert max(rates) <= 0.1
    assert min(rates) >= 0.01
    assert all(b < a for a, b in itertools.pairwise(rates[80:])), "after the last minimum it stays down"


def test_patience_ends_an_ascent_that_goes_nowhere():
    seen = drive(AutoEnsemble(0.01, 0.1, window=2, patience=4), [1.0] * 11)
    assert [s["rising"] for s in seen] == [False] * 5 + [True] * 4 + [False] * 2


@pytest.mark.parametrize(("shrink", "converges"), [(0.99**10, True), (0.9**10, False)])
def test_epsilon_is_the_improvement_from_window_to_window(shrink, converges):
    per_update = shrink ** (1 / 10)
    seen = drive(AutoEnsemble(0.01, 0.1, window=10, epsilon=0.2), [per_update**t for t in range(40)])
    assert bool(seen[-1]["minima"]) is converges


def test_a_batch_whose_loss_is_nan_says_nothing():
    schedule = AutoEnsemble(0.01, 0.1, window=2)
    state = schedule.init()
    assert schedule.update(state, 0, {"loss": math.nan}) == state


def test_it_needs_a_probe_that_reports_the_distance():
    with pytest.raises(ValueError, match="AutoEnsemble listens to 'distance'"):
        train(cases.TASKS["dict"](), "sgd", SHORT, 5)
    with pytest.raises(ScheduleError, match="neither 'loss' nor 'distance'"):
        SHORT.update(SHORT.init(), 0, {"eval_loss": 1.0})


@pytest.mark.parametrize(
    "wrong",
    [
        {"low": 0.0},
        {"low": 0.2},
        {"high": math.nan},
        {"members": 1},
        {"window": 0},
        {"patience": 0},
        {"epsilon": -0.1},
        {"epsilon": 1.0},
        {"distance": -1},
        {"fall": 1.0},
        {"rise": 1.0},
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(wrong):
    with pytest.raises(ScheduleError, match=f"AutoEnsemble: {next(iter(wrong))}") as raised:
        AutoEnsemble(**{"low": 0.01, "high": 0.1} | wrong)
    assert "\n" not in str(raised.value)


# --- the ensemble --------------------------------------------------------------------------------------------------


def test_probabilities_are_averaged_and_the_model_given_is_left_alone():
    net, x = cases.mlp(), torch.randn(5, cases.FEATURES, generator=torch.Generator().manual_seed(0))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    states = [{k: v * c for k, v in before.items()} for c in (1.0, -2.0, 3.0)]
    together = Ensemble(net, states)
    expected = torch.zeros(5, cases.CLASSES)
    for state in states:
        net.load_state_dict(state)
        expected += net(x).softmax(-1) / 3
    net.load_state_dict(before)
    torch.testing.assert_close(together(x).exp(), expected)
    torch.testing.assert_close(Ensemble(net, states[:1])(x).softmax(-1), net(x).softmax(-1))
    outputs = torch.stack([Ensemble(net, [s], combine="mean")(x) for s in states])
    torch.testing.assert_close(Ensemble(net, states, combine="mean")(x), outputs.mean(0))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def trained(task, seeds=(0, 1, 2), lr=0.3, steps=40):
    states = []
    for seed in seeds:
        model = task.model(seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        for _ in range(steps // 3):
            for batch in task.train:
                optimizer.zero_grad()
                task.loss_fn(model, batch).backward()
                optimizer.step()
        states.append({k: v.clone() for k, v in model.state_dict().items()})
    return states


def with_accuracy(task):
    return Task(task.build, task.loss_fn, task.train, task.evaluate, metrics={"accuracy": cases.accuracy})


def test_members_and_ensemble_are_judged_as_the_task_judges():
    task = with_accuracy(cases.TASKS["dict"]())
    states = trained(task)
    result = ensemble(task, states, reject=None)
    for scores, state in zip(result.members, states, strict=True):
        model = task.model(0)
        model.load_state_dict(state)
        assert scores == evaluate(task, model)
    assert result.ensemble == evaluate(task, Ensemble(task.model(0), states))
    # Jensen: the loss of the mean probability is at most the mean loss.
    assert result.ensemble["eval_loss"] <= result.mean() + 1e-6
    assert result.rejected == ()
    batches = list(task.evaluate)
    answers = []
    for state in states:
        model = task.model(0)
        model.load_state_dict(state)
        answers.append(torch.cat([model(b["inputs"]).argmax(-1) for b in batches]))
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = sum(float((answers[a] != answers[b]).double().mean()) for a, b in pairs) / 3
    assert result.disagreement == pytest.approx(expected)
    # 12 evaluation examples in batches of 8; loss and metric; 3 members twice and a fresh model
    assert result.cost.forwards == pytest.approx(12 / 8 * 2 * 7)
    assert "ensemble of 3" in str(result)
    assert "disagree" in str(result)


def test_one_member_is_itself_and_equal_members_agree():
    task = cases.TASKS["dict"]()
    state = trained(task, [0])[0]
    alone = ensemble(task, [state])
    assert alone.ensemble["eval_loss"] == pytest.approx(alone.mean(), rel=1e-5)
    assert alone.disagreement is None
    assert math.isnan(alone.spread())
    assert ensemble(task, [state, state]).disagreement == 0


def test_wrecks_are_left_out(tmp_path):
    task = cases.TASKS["dict"]()
    good = trained(task)
    wreck = {k: v * 50 for k, v in good[0].items()}
    broken = {k: v * math.nan for k, v in good[0].items()}
    result = ensemble(task, [good[0], wreck, good[1], broken])
    assert result.rejected == (1, 3)
    assert result.ensemble == ensemble(task, good[:2]).ensemble
    assert "left out" in str(result)
    assert ensemble(task, [good[0], wreck, broken], reject=None).rejected == (2,)
    with pytest.raises(MeasurementError, match="none of the 2 members"):
        ensemble(task, [broken, broken])


def test_members_from_files_of_a_run(tmp_path):
    task = cases.TASKS["dict"]()
    train(task, "sgd", 0.3 * WarmRestarts(1.0, 0.0, 12), 36, probes=[Snapshots(tmp_path)])
    result = ensemble(task, members_of(tmp_path))
    assert len(result.members) == 3
    assert result.members == ensemble(task, [torch.load(f)["model"] for f in members_of(tmp_path)]).members


def test_regression_and_outputs_that_have_no_mean():
    task = cases.TASKS["linear_squared"]()
    states = trained(task, lr=0.05)
    together = ensemble(task, states, combine="mean")
    assert together.ensemble["eval_loss"] <= together.mean()  # Jensen, for squares
    first = lambda outputs: outputs[0]  # noqa: E731
    by_function = ensemble(task, states, combine=first, reject=None)
    assert by_function.ensemble == by_function.members[0]
    net = nn.Identity()
    with pytest.raises(MeasurementError, match="returns a dict, which has no mean; give combine="):
        Ensemble(net, [net.state_dict()])({"logits": 1})


@pytest.mark.parametrize(
    ("states", "options", "said"),
    [
        ([], {}, "states: empty"),
        ({"weight": 1}, {}, "expected a list"),
        ([{"weight": torch.zeros(1)}], {}, "member 0 is not of this model"),
        (None, {"combine": "median"}, "combine: expected"),
        (None, {"reject": -1}, "reject: expected"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(states, options, said):
    task = cases.TASKS["dict"]()
    states = [task.model(0).state_dict()] if states is None else states
    with pytest.raises(ValueError, match=said) as raised:
        ensemble(task, states, **options)
    assert "\n" not in str(raised.value)


def test_without_an_evaluation_set_there_is_nothing_to_judge_by():
    task = cases.TASKS["dict"]()
    with pytest.raises(TaskError, match="no evaluation set"):
        ensemble(Task(task.build, task.loss_fn, task.train), [task.model(0).state_dict()])


def test_a_loop_of_ones_own_collects_what_train_collects(tmp_path):
    task = cases.TASKS["dict"]()
    train(task, "sgd(momentum=0.5)", SHORT, STEPS, probes=[Snapshots(tmp_path / "train")], seed=2)
    model = task.model(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.5)
    scheduler, snapshots, stream = (
        ScheduledLR(optimizer, SHORT),
        Snapshots(tmp_path / "own"),
        BatchStream(task.train, 2),
    )
    for step in range(STEPS):
        loss = task.loss_fn(model, next(stream))
        optimizer.zero_grad()
        loss.backward()
        scheduler.observe(loss=loss.item())
        seen = snapshots.look(model, step, optimizer.param_groups[0]["lr"])
        if seen["distance"] is not None:
            scheduler.observe(distance=seen["distance"])
        optimizer.step()
        scheduler.step()
    snapshots.finish(model, STEPS)
    own, trained = members_of(tmp_path / "own"), members_of(tmp_path / "train")
    assert [f.name for f in own] == [f.name for f in trained]
    assert len(own) > 2
    for a, b in zip(own, trained, strict=True):
        a, b = torch.load(a)["model"], torch.load(b)["model"]
        assert all(torch.equal(a[k], b[k]) for k in a)

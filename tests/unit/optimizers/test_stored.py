"""What ``lrscope check`` reads from checkpoints of every make, and what it says of them."""

import json

import pytest
import torch

from lrscope import schedules as lrs
from lrscope.cli.app import call
from lrscope.errors import ScheduleError
from lrscope.optimizers import EquivalentLR, ScheduledLR
from lrscope.optimizers.stored import compare, read_rates, stored_schedule

TEXT, STEPS = "warmup(10%) > cosine(to=0)", 100
S = lrs.parse(TEXT, STEPS)


def trained(scheduler_of, updates=30, optimizer=torch.optim.AdamW, per_update=1):
    p = torch.nn.Parameter(torch.ones(2))
    opt = optimizer([{"params": [p], "name": "body"}], lr=0.1)
    scheduler = scheduler_of(opt)
    for _ in range(updates):
        p.grad = torch.ones(2)
        opt.step()
        for _ in range(per_update):
            scheduler.step()
    return opt, scheduler


def ours(opt):
    return ScheduledLR(opt, S)


def torchs(opt):
    return torch.optim.lr_scheduler.LambdaLR(opt, lambda t: S(t))


def saved(tmp_path, layout, opt, scheduler):
    opt, scheduler, weights = opt.state_dict(), scheduler.state_dict(), {"w": torch.ones(3)}
    if layout == "a dict":
        torch.save({"model": weights, "optimizer": opt, "scheduler": scheduler, "epoch": 3}, tmp_path / "c.pt")
        return tmp_path / "c.pt"
    if layout == "lightning":
        content = {"state_dict": weights, "optimizer_states": [opt], "lr_schedulers": [scheduler], "global_step": 30}
        torch.save(content, tmp_path / "c.ckpt")
        return tmp_path / "c.ckpt"
    folder = tmp_path / "checkpoint-30"
    folder.mkdir()
    torch.save(opt, folder / "optimizer.pt")
    torch.save(scheduler, folder / "scheduler.pt")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 31, "log_history": []}))
    return folder


@pytest.mark.parametrize("scheduler_of", [ours, torchs])
@pytest.mark.parametrize("layout", ["a dict", "lightning", "hugging face"])
def test_a_good_checkpoint_of_any_make(layout, scheduler_of, tmp_path, capsys):
    path = saved(tmp_path, layout, *trained(scheduler_of))
    assert call(["check", str(path), "--schedule", TEXT, "--steps", str(STEPS)]) == 0
    out = capsys.readouterr().out
    assert "after 30 updates" in out
    assert "group 0 (body)" in out
    assert "resuming continues the schedule" in out
    (stored,) = read_rates(path)
    assert stored.steps["optimizer"] == stored.steps["scheduler"] == 30
    assert (stored_schedule(stored) == S) == (scheduler_of is ours)


def test_our_own_checkpoint_needs_no_schedule(tmp_path, capsys):
    path = saved(tmp_path, "a dict", *trained(ours))
    assert call(["check", str(path)]) == 0
    capsys.readouterr()
    assert call(["check", str(saved(tmp_path, "lightning", *trained(torchs)))]) == 2
    assert "--schedule: the checkpoint holds none" in capsys.readouterr().err


def test_a_scheduler_stepped_twice_per_update_is_found(tmp_path, capsys):
    path = saved(tmp_path, "a dict", *trained(torchs, per_update=2))
    assert call(["check", str(path), "--schedule", TEXT, "--steps", str(STEPS), "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["good"], said["step"], said["counted"]) == (False, 30, {"optimizer": 30, "scheduler": 60})
    assert said["groups"][0]["hint"] == "that of step 60"
    assert said["groups"][0]["expected"] == 0.1 * S(30)


def test_another_horizon_is_found_before_the_first_update(tmp_path, capsys):
    """Transformers resumes with another horizon and jumps without a word."""
    path = saved(tmp_path, "hugging face", *trained(torchs))
    assert call(["check", str(path), "--schedule", TEXT, "--steps", "200"]) == 3
    out = capsys.readouterr().out
    assert "NOT the schedule's" in out
    assert "does NOT continue the schedule" in out


def test_a_tenth_of_the_rate_is_named(tmp_path):
    opt, scheduler = trained(ours, optimizer=torch.optim.SGD)
    opt.param_groups[0]["lr"] *= 1e-6
    (stored,) = read_rates(saved(tmp_path, "a dict", opt, scheduler))
    (row,) = compare(stored, S, 30)
    assert not row.agrees
    assert row.hint == "1e-06 times as high"
    (row,) = compare(stored, S, 29)
    assert not row.agrees


def test_saved_before_the_schedulers_step_is_named(tmp_path):
    opt, scheduler = trained(torchs)
    opt.step()
    (stored,) = read_rates(saved(tmp_path, "a dict", opt, scheduler))
    (row,) = compare(stored, S, 31)
    assert not row.agrees
    assert row.hint == "that of one step early: saved before scheduler.step()"


def test_saved_before_our_own_step_it_resumes_exactly(tmp_path, capsys):
    """The state counts the update, and loading writes the rate of its step; two steps before is another matter."""
    opt, scheduler = trained(ours)
    opt.step()
    path = saved(tmp_path, "a dict", opt, scheduler)
    assert call(["check", str(path)]) == 0
    assert "as it should be (of one step before" in capsys.readouterr().out
    fresh = torch.optim.AdamW([{"params": [torch.nn.Parameter(torch.ones(2))], "name": "body"}], lr=0.1)
    resumed, content = ScheduledLR(fresh, S), torch.load(path)
    fresh.load_state_dict(content["optimizer"])
    resumed.load_state_dict(content["scheduler"])
    assert fresh.param_groups[0]["lr"] == 0.1 * S(31)
    opt.param_groups[0]["lr"] = 0.1 * S(29)
    assert call(["check", str(saved(tmp_path, "a dict", opt, scheduler))]) == 3


def groups_of(optimizer=torch.optim.AdamW):
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    return optimizer(
        [{"params": [p], "name": name} for p, name in zip(parameters, ("body", "head", "rest"), strict=True)], lr=0.1
    )


def run(opt, scheduler, updates=30, join=None):
    for t in range(updates):
        if t == join:
            opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "name": "late"})
        for group in opt.param_groups:
            for p in group["params"]:
                p.grad = torch.ones(2)
        opt.step()
        scheduler.step()


OPTIONS = {
    "floor": {"floor": 0.09},
    "floors by name": {"floor": {"head": "95%", 2: 0.09}},
    "absolute": {"absolute": ["lr"]},
    "own clock": {"own_clock": True},
    "by name": {"groups": {"head": 0.5 * S}},
    "by index": {"groups": {0: lrs.Constant(0.25), "rest": {"lr": S, "weight_decay": "lr"}}},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_scheduled_lr_is_known(option, tmp_path, capsys):
    opt = groups_of()
    scheduler = ScheduledLR(opt, {"lr": S, "beta1": lrs.Constant(0.9)}, **OPTIONS[option])
    run(opt, scheduler, join=10)
    assert call(["check", str(saved(tmp_path, "a dict", opt, scheduler)), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["groups"]) == 8 + (option == "by index")
    for i, group in enumerate(opt.param_groups):
        group["lr"] *= 1.01
        assert call(["check", str(saved(tmp_path, "a dict", opt, scheduler)), "--json"]) == 3
        said = json.loads(capsys.readouterr().out)
        assert [(row["index"], row["key"]) for row in said["groups"] if not row["agrees"]] == [(i, "lr")]
        group["lr"] /= 1.01


def test_an_equivalent_run_is_known(tmp_path):
    opt = torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.ones(2))], "name": "body"}], lr=0.1, momentum=0.9, weight_decay=0.01
    )
    scheduler = EquivalentLR(opt, S, invariant=["body"])
    run(opt, scheduler)
    assert call(["check", str(saved(tmp_path, "a dict", opt, scheduler))]) == 0
    opt.param_groups[0]["weight_decay"] = 0.01
    assert call(["check", str(saved(tmp_path, "a dict", opt, scheduler))]) == 3


@pytest.mark.parametrize(("key", "name"), [("weight_decay", "weight_decay"), ("momentum", "momentum")])
@pytest.mark.parametrize("follows", [True, False])
def test_other_driven_keys_are_compared(key, name, follows, tmp_path, capsys):
    opt = groups_of()
    scheduler = ScheduledLR(opt, {"lr": S, key: "lr" if follows else 0.5 * S})
    run(opt, scheduler)
    assert call(["check", str(saved(tmp_path, "a dict", opt, scheduler))]) == 0
    group = opt.param_groups[1]
    if key == "momentum":
        group["betas"] = (0.5, 0.999)
    else:
        group["weight_decay"] = 0.5
    capsys.readouterr()
    assert call(["check", str(saved(tmp_path, "a dict", opt, scheduler))]) == 3
    assert f"group 1 (head) {name}: stored 0.5" in capsys.readouterr().out


def test_a_tuple_is_compared_entry_by_entry(tmp_path, capsys):
    opt = groups_of()
    scheduler = ScheduledLR(opt, {"lr": S, "betas": lrs.Constant(0.5)})
    run(opt, scheduler)
    assert call(["check", str(saved(tmp_path, "a dict", opt, scheduler))]) == 0
    opt.param_groups[2]["betas"] = (0.45, 0.9)
    assert call(["check", str(saved(tmp_path, "a dict", opt, scheduler))]) == 3
    out = capsys.readouterr().out
    assert "group 2 (rest) betas/1: stored 0.9, expected 0.4995: NOT" in out
    assert "betas/0: stored 0.45, expected 0.45: as it should be" in out


def test_a_schedule_that_loading_would_refuse_is_a_bad_answer(tmp_path, capsys):
    """Both have the same rate at this step, and loading would refuse the other one all the same."""
    opt, scheduler = trained(ours, updates=5)
    path = saved(tmp_path, "a dict", opt, scheduler)
    other = ["check", str(path), "--schedule", "warmup(10) > linear(to=0)", "--steps", str(STEPS)]
    assert call(other) == 3
    assert "load_state_dict refuses the one given" in capsys.readouterr().out
    with pytest.raises(ScheduleError, match="saved with another schedule"):
        ScheduledLR(groups_of(), lrs.parse(other[3], STEPS)).load_state_dict(scheduler.state_dict())


def test_a_plan_that_was_changed_takes_the_schedule_it_was_built_with(tmp_path):
    opt, scheduler = trained(ours)
    scheduler.replan(2 * STEPS, keep="lr")
    path = saved(tmp_path, "a dict", opt, scheduler)
    assert call(["check", str(path), "--schedule", TEXT, "--steps", str(STEPS)]) == 0


@pytest.mark.parametrize("flag", ["--steps", "--steps-per-epoch", "--tokens-per-step"])
def test_a_length_without_a_schedule_is_refused(flag, tmp_path, capsys):
    path = saved(tmp_path, "a dict", *trained(ours))
    assert call(["check", str(path), flag, "200"]) == 2
    assert f"{flag}: is for --schedule" in capsys.readouterr().err


def two(tmp_path, first, second):
    content = {"gan": {"generator": first[0].state_dict(), "critic": second[0].state_dict()}}
    content["schedulers"] = [s.state_dict() for _, s in (first, second) if s is not None]
    torch.save(content, tmp_path / "c.pt")
    return str(tmp_path / "c.pt")


def test_every_optimizer_is_checked_by_name(tmp_path, capsys):
    good, other = trained(ours), trained(lambda opt: ScheduledLR(opt, lrs.Constant(1.0)), updates=60)
    assert call(["check", two(tmp_path, good, other)]) == 0
    assert "optimizer gan.critic:\nafter 60 updates" in capsys.readouterr().out
    other[0].param_groups[0]["lr"] = 0.2
    assert call(["check", two(tmp_path, good, other), "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert [(o["name"], o["groups"][0]["agrees"]) for o in said["optimizers"]] == [
        ("gan.generator", True),
        ("gan.critic", False),
    ]


def test_an_optimizer_without_a_scheduler_is_said(tmp_path, capsys):
    good = trained(ours)
    free = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
    assert call(["check", two(tmp_path, (free, None), good)]) == 0
    assert "optimizer gan.generator: not checked" in capsys.readouterr().out
    assert call(["check", two(tmp_path, (trained(torchs)[0], None), good)]) == 2
    assert "does not say which belong together" in capsys.readouterr().err


def test_a_schedule_that_listens_cannot_be_checked(tmp_path, capsys):
    opt = groups_of()
    scheduler = ScheduledLR(opt, {"lr": lrs.Plateau(), "weight_decay": S})
    run(opt, scheduler)
    path = saved(tmp_path, "a dict", opt, scheduler)
    assert call(["check", str(path)]) == 0
    out = capsys.readouterr().out
    assert "driven by plateau, a schedule that listens: what it should be cannot be known" in out
    assert call(["check", str(path), "--schedule", TEXT, "--steps", str(STEPS)]) == 3
    capsys.readouterr()
    opt = groups_of()
    scheduler = ScheduledLR(opt, lrs.Plateau())
    run(opt, scheduler)
    assert call(["check", str(saved(tmp_path, "a dict", opt, scheduler))]) == 2
    assert "cannot be checked, driven by plateau" in capsys.readouterr().err


def test_what_lies_too_deep_is_said(tmp_path, capsys):
    content = trained(ours)[0].state_dict()
    for name in "abcde":
        content = {name: content}
    torch.save(content, tmp_path / "c.pt")
    assert call(["check", str(tmp_path / "c.pt")]) == 2
    assert "within 4 levels of dicts and lists, deeper ones are not searched" in capsys.readouterr().err


def test_trust_is_not_advised_for_what_is_no_archive(tmp_path, capsys):
    (tmp_path / "c.pt").write_text("epoch,loss")
    assert call(["check", str(tmp_path / "c.pt")]) == 2
    assert capsys.readouterr().err.strip().endswith("is it a file of torch.save?")


def test_a_length_in_epochs_asks_for_the_flag(tmp_path, capsys):
    path = saved(tmp_path, "a dict", *trained(ours))
    assert call(["check", str(path), "--schedule", "warmup(1 epoch) > cosine(to=0)", "--steps", "9"]) == 2
    said = capsys.readouterr().err
    assert "--steps-per-epoch" in said
    assert "Horizon" not in said


class Anything:
    pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"w": torch.ones(2)}}, "holds no optimizer state"),
        (b"not a checkpoint", "cannot be read as plain data"),
        (Anything(), "if you trust its origin, --trust reads it"),
        (None, "no such file"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(content, message, tmp_path, capsys):
    path = tmp_path / "c.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ScheduleError, match=message):
        read_rates(path)
    assert call(["check", str(path), "--schedule", TEXT, "--steps", "9"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_checkpoint_without_base_or_count_asks_for_them(tmp_path, capsys):
    opt = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1 * S(30))
    torch.save(opt.state_dict(), tmp_path / "c.pt")
    asked = ["check", str(tmp_path / "c.pt"), "--schedule", TEXT, "--steps", str(STEPS)]
    assert call(asked) == 2
    assert "--step: the checkpoint does not say" in capsys.readouterr().err
    assert call([*asked, "--step", "30"]) == 2
    assert "--base-lr: group 0 of the checkpoint has no initial_lr" in capsys.readouterr().err
    assert call([*asked, "--step", "30", "--base-lr", "0.1"]) == 0

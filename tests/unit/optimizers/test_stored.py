"""What ``lrscope check`` reads from checkpoints of every make, and what it says of them."""

import json

import pytest
import torch

from lrscope import schedules as lrs
from lrscope.cli.app import call
from lrscope.errors import ScheduleError
from lrscope.optimizers import ScheduledLR
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
    stored = read_rates(path)
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
    stored = read_rates(saved(tmp_path, "a dict", opt, scheduler))
    (row,) = compare(stored, S, 30)
    assert not row.agrees
    assert row.hint == "1e-06 times as high"
    (row,) = compare(stored, S, 29)
    assert not row.agrees


def test_saved_before_the_schedulers_step_is_named(tmp_path):
    opt, scheduler = trained(ours)
    opt.step()
    stored = read_rates(saved(tmp_path, "a dict", opt, scheduler))
    (row,) = compare(stored, S, 31)
    assert row.hint == "that of one step early: saved before scheduler.step()"


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

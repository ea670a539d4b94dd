"""Real runs of Hugging Face's Trainer on CPU, with tiny models made from a config."""

import json
import multiprocessing
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, set_seed

import lrscope as lrs
from lrscope.adapters.huggingface import schedule_from_config, set_schedule, task
from lrscope.errors import LrscopeWarning, ScheduleError, TaskError
from lrscope.schedules import Cosine, Linear, Plateau, from_spec, nonzero_warmup, warmup

TEXT = "nonzero_warmup(3) > cosine(to=0.1)"


class Sentences(torch.utils.data.Dataset):
    """Every second token follows from the one before; some labels are masked, so batches weigh differently."""

    def __init__(self, count, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randint(0, 16, (count, 8), generator=generator)
        self.x[:, 1::2] = (self.x[:, 0::2] * 3 + 1) % 16
        keep = torch.rand(count, 8, generator=generator) < torch.rand(count, 1, generator=generator).clamp_min(0.3)
        self.y = torch.where(keep, self.x, -100)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"input_ids": self.x[i], "labels": self.y[i]}


def model(dropout=0.1, seed=0):
    config = GPT2Config(
        vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
        attn_pdrop=dropout, embd_pdrop=dropout, resid_pdrop=dropout, loss_type="ForCausalLM",
    )  # fmt: skip
    set_seed(seed)
    return GPT2LMHeadModel(config)


def fresh():
    """From whatever the random state is: what a user's ``model_init`` does."""
    return GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2))


def trainer_in(
    folder, *, build=model, kind=Trainer, train=None, callbacks=(), optimizers=(None, None), model_init=None, **args
):
    settings = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 12,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "logging_steps": 1,
        "save_steps": 3,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        **args,
    }
    return kind(
        model=None if model_init else build(),
        model_init=model_init,
        args=TrainingArguments(str(folder), **settings),
        train_dataset=Sentences(36) if train is None else train,  # 9 batches: the epoch's last update has one
        eval_dataset=Sentences(8, seed=1),
        callbacks=list(callbacks),
        optimizers=optimizers,
    )


def logged(trainer):
    return [row for row in trainer.state.log_history if "learning_rate" in row]


def rates(trainer):
    return [row["learning_rate"] for row in logged(trainer)]


# Interrupted anywhere, the run ends as if it had not been.


class KillAt(TrainerCallback):
    """SIGKILL for this process, between two micro-batches or between two updates."""

    def __init__(self, update, in_accumulation):
        self.update, self.in_accumulation = update, in_accumulation

    def on_substep_end(self, args, state, control, **kwargs):
        if self.in_accumulation and state.global_step == self.update:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_step_end(self, args, state, control, **kwargs):
        if not self.in_accumulation and state.global_step == self.update:
            os.kill(os.getpid(), signal.SIGKILL)


def train_in_a_process(folder, kill):
    torch.set_num_threads(1)
    resume = any(Path(folder).glob("checkpoint-*"))
    trainer = trainer_in(folder, callbacks=[KillAt(*kill)] if kill else [])
    set_schedule(trainer, {"lr": TEXT, "weight_decay": Linear(1.0, 0.0, 12)})
    trainer.train(resume_from_checkpoint=resume or None)
    torch.save({"parameters": trainer.model.state_dict(), "log": logged(trainer)}, Path(folder, "end.pt"))


def run(folder, kill=None):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["transformers.trainer", "transformers.models.gpt2.modeling_gpt2", "lrscope"])
    process = processes.Process(target=train_in_a_process, args=(str(folder), kill))
    process.start()
    process.join()
    return process.exitcode


def test_a_run_killed_at_three_random_points_ends_as_the_unbroken_one(tmp_path):
    points = sorted(random.sample(range(1, 12), 3))
    kills = [(update, i != 1) for i, update in enumerate(points)]  # two of them between micro-batches
    # The update of an epoch's last, single micro-batch has no point between two of them.
    kills = [(update - 1 if inside and update % 5 == 4 else update, inside) for update, inside in kills]
    assert run(tmp_path / "unbroken") == 0
    for kill in kills:
        assert run(tmp_path / "killed", kill) == -signal.SIGKILL, kills
    assert run(tmp_path / "killed") == 0
    ends = [torch.load(tmp_path / name / "end.pt") for name in ("unbroken", "killed")]
    assert ends[0]["log"] == ends[1]["log"], kills
    assert len(ends[0]["log"]) == 12
    for name, value in ends[0]["parameters"].items():
        assert torch.equal(value, ends[1]["parameters"][name]), (name, kills)


# What runs, what is printed, what is logged.


def test_the_text_is_resolved_against_the_real_number_of_updates_and_printed_once(tmp_path, capsys):
    trainer = trainer_in(tmp_path, max_steps=-1, num_train_epochs=2, save_strategy="no")
    set_schedule(trainer, "warmup(1 epochs) > cosine(to=0)")
    assert "lrscope" not in capsys.readouterr().err
    trainer.train()
    assert trainer.state.global_step == 10  # ceil(9 / 2) updates an epoch
    expected = warmup(5).then(Cosine(1.0, 0.0, 5))
    assert rates(trainer) == [0.01 * expected(t) for t in range(10)]
    lines = [line for line in capsys.readouterr().err.splitlines() if "lrscope" in line]
    text = "(linear(5, from=0.0, to=1.0) > cosine(5, from=1.0, to=0.0))"
    assert lines == [f"lrscope: lr of AdamW = 0.01 × {text}; 10 updates, 5 an epoch"]


def test_every_group_and_key_is_logged_for_the_update_that_used_it(tmp_path):
    net = model()
    names = {"body": net.transformer.parameters(), "head": [torch.nn.Parameter(torch.zeros(1))]}
    groups = [
        {"params": list(p), "lr": lr, "name": name} for (name, p), lr in zip(names.items(), [0.1, 0.01], strict=True)
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.5)
    trainer = trainer_in(tmp_path, build=lambda: net, optimizers=(optimizer, None), max_steps=4, save_strategy="no")
    set_schedule(
        trainer, {"lr": Linear(1.0, 0.0, 4), "momentum": "constant(value=0.5)"}, groups={"head": "linear(to=0.5)"}
    )
    trainer.train()
    head = Linear(1.0, 0.5, 4)
    for t, row in enumerate(logged(trainer)):
        assert row["learning_rate"] == row["lr/body"] == 0.1 * (1 - t / 4)
        assert row["lr/head"] == 0.01 * head(t)
        assert row["momentum/body"] == 0.25
    # Hugging Face's own log of the same optimizer knows the first group only.
    plain = trainer_in(tmp_path, build=lambda: net, optimizers=(optimizer, None), max_steps=2, save_strategy="no")
    plain.train()
    assert not any("/" in key for row in logged(plain) for key in row)


def test_logs_reach_the_reporters_with_the_same_names(tmp_path):
    seen = []

    class Reporter(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(dict(logs))

    trainer = trainer_in(
        tmp_path, max_steps=2, save_strategy="no", callbacks=[Reporter()], eval_strategy="steps", eval_steps=1
    )
    set_schedule(trainer, Linear(1.0, 0.0, 2))
    trainer.train()
    training = [logs for logs in seen if "learning_rate" in logs]
    assert [logs["lr/1"] for logs in training] == [0.01, 0.005]
    assert not any("lr/0" in logs for logs in seen if "eval_loss" in logs)


def test_the_plain_way_by_optimizers_gives_the_same_run(tmp_path):
    schedule = nonzero_warmup(3).then(Cosine(1.0, 0.1, 10))
    by_hand = trainer_in(tmp_path, save_strategy="no")
    optimizer = by_hand.create_optimizer()
    by_hand.lr_scheduler = lrs.ScheduledLR(optimizer, schedule)  # what optimizers=(optimizer, scheduler) sets
    by_hand.train()
    by_helper = trainer_in(tmp_path, save_strategy="no")
    set_schedule(by_helper, schedule)
    by_helper.train()
    assert rates(by_hand) == rates(by_helper)
    for a, b in zip(by_hand.model.parameters(), by_helper.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("model_init", [None, lambda: model()])
def test_it_works_with_model_init_and_a_second_train_starts_anew(tmp_path, model_init):
    trainer = trainer_in(tmp_path, model_init=model_init, max_steps=3, save_strategy="no")
    set_schedule(trainer, "linear(to=0)")
    trainer.train()
    first = rates(trainer)
    trainer.train()
    assert rates(trainer) == first == [0.01 * (1 - t / 3) for t in range(3)]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Linear(1.0, 0.0, 50), "50 steps, so this run of 3 updates does not come to its end"),
        (Linear(1.0, 0.0, 2), "0 from step 2 on, so the last 1 updates use 0"),
    ],
)
def test_a_schedule_that_does_not_fit_the_run_is_told(tmp_path, schedule, message):
    trainer = trainer_in(tmp_path, max_steps=3, save_strategy="no")
    set_schedule(trainer, schedule)
    with pytest.warns(LrscopeWarning, match=message):
        trainer.train()


def test_setting_a_schedule_twice_leaves_one(tmp_path):
    trainer = trainer_in(tmp_path, max_steps=2, save_strategy="no")
    set_schedule(trainer, "constant")
    set_schedule(trainer, "linear(to=0)")
    trainer.train()
    assert rates(trainer) == [0.01, 0.005]
    assert sum(type(c).__name__ == "ScheduleCallback" for c in trainer.callback_handler.callbacks) == 1


def test_a_schedule_that_listens_hears_the_evaluations_and_resumes(tmp_path):
    def built():
        trainer = trainer_in(tmp_path, max_steps=6, eval_strategy="steps", eval_steps=1)
        # No evaluation ever improves by a factor of a hundred, so every second one lowers the rate.
        set_schedule(trainer, Plateau(metric="eval_loss", factor=0.5, patience=1, threshold=0.99))
        return trainer

    whole = built()
    whole.train()
    assert rates(whole) == [0.01, 0.01, 0.01, 0.005, 0.005, 0.0025]
    resumed = built()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert rates(resumed) == rates(whole)


# Resume: a difference is an error before the first update, with both numbers.


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A run of 12 updates, saved at 6."""
    folder = tmp_path_factory.mktemp("saved")
    trainer = trainer_in(folder, save_steps=6)
    set_schedule(trainer, TEXT)
    trainer.train()
    return folder / "checkpoint-6"


def resumed(folder, checkpoint, *, schedule=TEXT, options=None, **args):
    trainer = trainer_in(folder, **args)
    set_schedule(trainer, schedule, **(options or {}))
    if options is None:
        trainer.add_callback(NoUpdate())
    trainer.train(resume_from_checkpoint=str(checkpoint))
    return trainer


class InOrder(Trainer):
    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset)


BASES = r"base 0\.01 in the checkpoint of update 6, this run sets 0\.02"


class NoUpdate(TrainerCallback):
    """A difference must be found before the first resumed update."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        raise AssertionError("an update was made")


def test_another_peak_is_an_error_with_both_numbers(tmp_path, checkpoint):
    with pytest.raises(ScheduleError, match=BASES) as error:
        resumed(tmp_path, checkpoint, learning_rate=0.02)
    assert "put it back" in str(error.value)
    assert "\n" not in str(error.value)


def test_another_horizon_jumps_silently_there_and_is_an_error_here(tmp_path, checkpoint):
    theirs = trainer_in(tmp_path / "theirs", lr_scheduler_type="cosine", max_steps=10, save_steps=6)
    theirs.train()
    longer = trainer_in(tmp_path / "theirs", lr_scheduler_type="cosine", max_steps=20, save_strategy="no")
    longer.train(resume_from_checkpoint=str(tmp_path / "theirs" / "checkpoint-6"))
    jumped = rates(longer)
    assert jumped[6] == pytest.approx(0.0034549, rel=1e-4)  # the rate that was stored
    assert jumped[7] == pytest.approx(0.0072700, rel=1e-4)  # twice that, one update later

    with pytest.raises(ScheduleError, match=r"saved with another schedule"):
        resumed(tmp_path / "ours", checkpoint, max_steps=20)


def test_another_horizon_on_purpose(tmp_path, checkpoint, capsys):
    trainer = resumed(tmp_path, checkpoint, max_steps=20, options={"replan": "lr"})
    s = nonzero_warmup(3).then(Cosine(1.0, 0.1, 10))
    assert rates(trainer)[:7] == [0.01 * s(t) for t in range(7)]
    longer = rates(trainer)
    assert len(longer) == 20
    assert "replanned at step 6" in capsys.readouterr().err
    trainer = resumed(tmp_path, tmp_path / "checkpoint-12", max_steps=20, options={"replan": "lr"})
    assert "replanned" not in capsys.readouterr().err  # replan= may stay in the script
    assert rates(trainer) == longer
    with pytest.raises(ScheduleError, match=BASES):  # but only the schedule may change
        resumed(tmp_path, checkpoint, learning_rate=0.02, options={"replan": "lr"})


def test_another_peak_is_seen_where_the_schedule_is_at_zero(tmp_path):
    valley = "linear(6, to=0) > linear(to=1)"
    trainer = trainer_in(tmp_path, save_steps=6)
    set_schedule(trainer, valley)
    trainer.train()
    with pytest.raises(ScheduleError, match=BASES):
        resumed(tmp_path, tmp_path / "checkpoint-6", schedule=valley, learning_rate=0.02)


def test_an_edited_optimizer_is_seen(tmp_path, checkpoint):
    import shutil

    edited = shutil.copytree(checkpoint, tmp_path / "checkpoint-6")
    state = torch.load(edited / "optimizer.pt", weights_only=True)
    state["param_groups"][1]["lr"] *= 2
    torch.save(state, edited / "optimizer.pt")
    with pytest.raises(ScheduleError, match=r"lr/1 is 0\..* in the checkpoint of update 6"):
        resumed(tmp_path, edited)


def test_a_checkpoint_without_optimizer_restarts_the_schedule_there_and_is_an_error_here(tmp_path):
    theirs = trainer_in(tmp_path / "a", save_only_model=True, save_steps=6, lr_scheduler_type="linear")
    theirs.train()
    again = trainer_in(tmp_path / "a", lr_scheduler_type="linear", save_strategy="no")
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-6"))
    assert rates(again)[6] == 0.01  # the peak once more, at update 6

    with pytest.raises(ScheduleError, match=r"at update 6 but holds no state .*start=6"):
        resumed(tmp_path, tmp_path / "a" / "checkpoint-6")
    told = resumed(tmp_path, tmp_path / "a" / "checkpoint-6", options={"start": 6}, save_strategy="no")
    s = nonzero_warmup(3).then(Cosine(1.0, 0.1, 10))
    assert rates(told)[6:] == [0.01 * s(t) for t in range(6, 12)]


def test_a_checkpoint_of_their_scheduler_is_refused(tmp_path):
    trainer_in(tmp_path, max_steps=3).train()
    with pytest.raises(ScheduleError, match=r"at update 3 but holds no state .*set_schedule\(..., start=3\)"):
        resumed(tmp_path, tmp_path / "checkpoint-3")


def test_a_schedule_may_be_taken_up_in_the_middle_of_a_run(tmp_path, capsys):
    trainer_in(tmp_path, max_steps=6, learning_rate=0.5).train()  # theirs, at another rate
    options = {"start": 3}
    told = resumed(tmp_path, tmp_path / "checkpoint-6", schedule=Linear(1.0, 0.0, 9), options=options)
    assert rates(told)[6:] == [0.01 * (1 - t / 9) for t in range(3, 9)]
    assert "resumed at update 6, step 3 of the schedule" in capsys.readouterr().err
    again = resumed(tmp_path, tmp_path / "checkpoint-9", schedule=Linear(1.0, 0.0, 9), options=options)
    assert rates(again) == rates(told)


def test_the_state_in_a_checkpoint_is_plain_and_names_the_schedule(checkpoint):
    state = torch.load(checkpoint / "scheduler.pt", weights_only=True)
    assert state["step"] == 6
    assert from_spec(state["spec"]["schedules"]["lr"]) == nonzero_warmup(3).then(Cosine(1.0, 0.1, 10))
    json.dumps(state)


def test_a_changed_base_of_any_driven_key_is_an_error(tmp_path):
    drives = {"lr": TEXT, "weight_decay": "lr"}
    trainer = trainer_in(tmp_path, save_steps=6)
    set_schedule(trainer, drives)
    trainer.train()
    with pytest.raises(ScheduleError, match=r"weight_decay of group 0 has base 0\.1 in .*, this run sets 0\.3"):
        resumed(tmp_path, tmp_path / "checkpoint-6", schedule=drives, weight_decay=0.3)


def test_the_changed_plan_error_names_calls_that_the_user_makes(tmp_path, checkpoint):
    with pytest.raises(ScheduleError, match=r'set_schedule\(..., replan="lr"\)') as error:
        resumed(tmp_path, checkpoint, max_steps=20)
    assert "load_state_dict" not in str(error.value)


# Someone else.


class Meddle(TrainerCallback):
    def __init__(self, at):
        self.at = at

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        if state.global_step == self.at:
            optimizer.param_groups[0]["lr"] = 7e-4


def test_someone_else_setting_the_rate_is_an_error_at_once_and_a_warning_later(tmp_path):
    def built(at):
        trainer = trainer_in(tmp_path, max_steps=4, save_strategy="no", callbacks=[Meddle(at)])
        set_schedule(trainer, Linear(1.0, 0.0, 4))
        return trainer

    with pytest.raises(ScheduleError, match=r"says 0.01 for update 0 of group 0, the optimizer has 0.0007"):
        built(0).train()
    trainer = built(2)
    with pytest.warns(LrscopeWarning, match="update 2 of group 0, the optimizer has 0.0007"):
        trainer.train()
    assert rates(trainer) == [0.01, 0.0075, 0.0007, 0.0025]  # what was really used


def test_the_optimizer_is_left_alone_after_the_run(tmp_path):
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    trainer = trainer_in(tmp_path, build=lambda: net, optimizers=(optimizer, None), max_steps=2, save_strategy="no")
    set_schedule(trainer, "linear(to=0)")
    trainer.train()
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()


@pytest.mark.filterwarnings("error::lrscope.errors.LrscopeWarning")
def test_a_schedule_that_would_hear_nothing_is_told(tmp_path):
    trainer = trainer_in(tmp_path, max_steps=2, save_strategy="no")
    set_schedule(trainer, Plateau(metric="eval_loss"))
    with pytest.raises(LrscopeWarning, match="will hear nothing: the Trainer never evaluates"):
        trainer.train()


def test_a_floor_is_announced(tmp_path, capsys):
    trainer = trainer_in(tmp_path, max_steps=2, save_strategy="no")
    set_schedule(trainer, "linear(to=0)", floor=1e-3)
    trainer.train()
    assert ", never below 0.001; 2 updates" in capsys.readouterr().err


# Refusals.


def test_a_mistake_in_the_text_is_told_before_any_training(tmp_path):
    with pytest.raises(ScheduleError, match="did you mean 'cosine'"):
        set_schedule(trainer_in(tmp_path), "cosin(to=0)")
    with pytest.raises(ScheduleError, match="the segments take 50 steps, the horizon has 12"):
        set_schedule(trainer_in(tmp_path), "linear(50, to=0)")


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (5, {}, "must be a Schedule or its spec"),
        (None, {}, "must be a Schedule or its spec"),
        ({"lrr": "constant"}, {}, "did you mean 'lr'"),
        ("constant", {"floor": "abc"}, "floor"),
        ("constant", {"replan": "foo"}, "replan: unknown 'foo'"),
        ("constant", {"start": -1}, "start"),
        ("constant", {"groups": {"head": "constant"}}, "they have no names"),
        ("constant", {"groups": {5: "constant"}}, "an index below 2"),
    ],
)
def test_other_mistakes_are_told_before_any_training_too(tmp_path, schedule, options, message):
    trainer = trainer_in(tmp_path)
    with pytest.raises(ScheduleError, match=message):
        set_schedule(trainer, schedule, **options)
    assert trainer.optimizer is None
    with pytest.raises(TypeError, match="flor"):
        set_schedule(trainer, "constant", flor=1)


def test_trying_a_schedule_out_leaves_an_optimizer_of_the_users_as_it_was(tmp_path):
    net = model()
    optimizer = torch.optim.SGD(net.named_parameters(), lr=torch.tensor(0.1))
    before = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    set_schedule(trainer_in(tmp_path, build=lambda: net, optimizers=(optimizer, None)), "linear(from=0.5, to=0)")
    after = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    assert (before, before["lr"].item()) == (after, torch.tensor(0.1).item())


def test_a_group_may_follow_another_key(tmp_path):
    trainer = trainer_in(tmp_path, max_steps=4, save_strategy="no")
    set_schedule(trainer, "linear(to=0)", groups={1: {"weight_decay": "lr"}, 0: {"weight_decay": "lr"}})
    trainer.train()
    assert [row["weight_decay/0"] for row in logged(trainer)] == [0.1 * (1 - t / 4) for t in range(4)]


def test_the_data_are_read_once_to_count_the_updates(tmp_path):
    class Counted(Trainer):
        asked = 0

        def get_train_dataloader(self):
            Counted.asked += 1
            return super().get_train_dataloader()

    plain = trainer_in(tmp_path, kind=Counted, max_steps=2, save_strategy="no")
    plain.train()
    theirs, Counted.asked = Counted.asked, 0
    ours = trainer_in(tmp_path, kind=Counted, max_steps=2, save_strategy="no")
    set_schedule(ours, "linear(to=0)")
    ours.train()
    assert Counted.asked == theirs + 1


def test_two_schedulers_are_refused(tmp_path):
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0)
    trainer = trainer_in(tmp_path, build=lambda: net, optimizers=(optimizer, scheduler))
    with pytest.raises(ScheduleError, match=r"optimizers=\(optimizer, None\)"):
        set_schedule(trainer, "constant")


def test_optimizers_that_step_by_themselves_are_refused(tmp_path):
    trainer = trainer_in(tmp_path)
    trainer.args.optim = "galore_adamw_layerwise"
    with pytest.raises(ScheduleError, match="cannot be counted"):
        set_schedule(trainer, "constant")


@pytest.mark.parametrize("function", [lambda x: set_schedule(x, "constant"), task])
def test_what_is_no_trainer_is_refused(function):
    with pytest.raises(TypeError, match=r"expected a transformers\.Trainer, got Linear"):
        function(torch.nn.Linear(1, 1))


def test_an_absent_transformers_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(lrs.errors.MissingExtraError, match=r"lrscope\[hf\]"):
        task(object())


# Reading their configuration gives the rates that their own Trainer logs.


def test_the_schedule_read_from_training_arguments_is_what_the_trainer_runs(tmp_path):
    theirs = trainer_in(
        tmp_path,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=4,
        save_strategy="no",
    )
    theirs.train()
    ours = trainer_in(tmp_path, save_strategy="no")
    set_schedule(ours, schedule_from_config(theirs.args))
    ours.train()
    assert rates(theirs)[0] == 0.0  # the first update of a warmup there does nothing
    np.testing.assert_allclose(rates(ours), rates(theirs), rtol=1e-12)


# A task from a Trainer.


def test_critical_lr_and_a_plan_from_a_trainer(tmp_path):
    trainer = trainer_in(tmp_path, max_steps=60)
    found = task(trainer)
    found.check()
    critical = lrs.critical_lr(found.objective(0, num_batches=2), "sgd")
    assert critical.status == "found"
    plan = lrs.plan(found, optimizer="adamw", budget=10.0, num_seeds=1, engine="serial")
    assert plan.steps == 60
    assert plan.task == "GPT2LMHeadModel"
    assert plan.cost.gradients > 0
    # The plan runs in the Trainer it was made from.
    planned = trainer_in(tmp_path, max_steps=60, save_strategy="no")  # whatever its learning_rate
    set_schedule(planned, plan)
    planned.train()
    assert rates(planned) == list(from_spec(plan.schedule).values(60))


def test_a_trainer_in_place_of_a_task_or_objective_is_told_what_makes_one(tmp_path):
    trainer = trainer_in(tmp_path)
    with pytest.raises(TypeError, match=r"lrs\.adapters\.huggingface\.task\(trainer\) makes one"):
        lrs.plan(trainer)
    with pytest.raises(TypeError, match=r"got Trainer; give .*task\(trainer\)\.objective"):
        lrs.critical_lr(trainer, "sgd")


def test_a_task_leaves_no_trace_on_the_trainer(tmp_path):
    plain, measured = trainer_in(tmp_path, save_strategy="no"), trainer_in(tmp_path, save_strategy="no")
    before = set(vars(measured))
    loaders = list(measured.accelerator.gradient_state.dataloader_references)
    random_state = torch.get_rng_state()
    found = task(measured)
    found.check()
    lrs.critical_lr(found.objective(0), "sgd", curvature=False)
    found.batches(1)  # an epoch that is left in the middle
    assert torch.equal(random_state, torch.get_rng_state())
    assert set(vars(measured)) == before
    assert measured.optimizer is None
    assert measured.accelerator._dataloaders == []
    assert measured.accelerator.gradient_state.dataloader_references == loaders
    for trainer in (plain, measured):
        set_seed(0)
        trainer.train()
    assert logged(plain)[-1]["loss"] == logged(measured)[-1]["loss"]


def by_token(outputs, labels, num_items_in_batch=None):
    """A loss function of the user's own."""
    logits, targets = outputs["logits"][:, :-1], labels[:, 1:]
    return (
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        / num_items_in_batch
    )


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("way", ["loss kwargs", "no loss kwargs", "smoothed labels", "own loss", "bf16"])
def test_one_batch_of_the_task_has_the_gradient_of_one_update(tmp_path, accumulation, way):
    """SGD with rate 1 and no clipping moves by minus the gradient: the Trainer's own arithmetic is the oracle."""
    net = model(dropout=0.0)
    args = {"smoothed labels": {"label_smoothing_factor": 0.1}, "bf16": {"bf16": True}}.get(way, {})
    trainer = trainer_in(
        tmp_path, build=lambda: net, gradient_accumulation_steps=accumulation, max_steps=1, max_grad_norm=0.0,
        optimizers=(torch.optim.SGD(net.parameters(), lr=1.0), None), kind=InOrder, save_strategy="no", **args,
    )  # fmt: skip
    if way == "no loss kwargs":  # such a model's loss is a mean over its micro-batch, and the Trainer averages those
        trainer.model_accepts_loss_kwargs = False
    if way == "own loss":
        trainer.compute_loss_func = by_token
    set_schedule(trainer, "constant")
    found = task(trainer)
    objective = found.objective(0)
    theta = objective.point()
    grad = objective.grad(theta)
    trainer.train()
    after = lrs.Objective(trainer.model, found.loss_fn, found.batches(1)).point()
    torch.testing.assert_close(theta - after, grad, rtol=1e-4, atol=2e-3 if way == "bf16" else 1e-6)
    assert objective.loss(theta) == pytest.approx(logged(trainer)[0]["loss"], rel=1e-5)


def test_the_processes_of_a_later_run_make_the_batch_larger_and_the_run_shorter(tmp_path):
    trainer = trainer_in(tmp_path, max_steps=-1, num_train_epochs=2, train=Sentences(64))
    one, four = task(trainer), task(trainer, num_processes=4)
    assert (one.steps, four.steps) == (16, 4)  # 16 batches an epoch, by 2 and by 2 * 4
    assert (one.count(one.batches(1)[0]), four.count(four.batches(1)[0])) == (8, 32)
    with pytest.raises(TaskError, match="num_processes"):
        task(trainer, num_processes=0)


def test_processes_share_batches_as_the_trainer_shares_them(tmp_path):
    """9 batches among 2 processes: 5 for each, or 4 if what is left over is dropped (3 updates: a real run beside)."""
    for drop, steps in ((False, 3), (True, 2)):
        trainer = trainer_in(tmp_path, max_steps=-1, num_train_epochs=1, dataloader_drop_last=drop)
        assert task(trainer, num_processes=2).steps == steps


class Drawing(Trainer):
    """A user's loader that draws random numbers and remembers something."""

    def get_train_dataloader(self):
        torch.rand(1)
        self.asked = True
        return super().get_train_dataloader()


@pytest.mark.parametrize("function", [task, lambda trainer: set_schedule(trainer, TEXT)])
def test_asking_for_the_loader_leaves_no_trace(tmp_path, function):
    trainer = trainer_in(tmp_path, kind=Drawing)
    random_state = torch.get_rng_state()
    function(trainer)
    assert torch.equal(random_state, torch.get_rng_state())
    assert trainer.accelerator._dataloaders == []
    assert not hasattr(trainer, "asked")


def test_the_task_counts_updates_as_the_trainer_does(tmp_path):
    for args in (
        {"max_steps": -1, "num_train_epochs": 1.5},
        {"max_steps": 7},
        {"max_steps": -1, "dataloader_drop_last": True},
    ):
        trainer = trainer_in(tmp_path, save_strategy="no", **args)
        steps = task(trainer).steps
        trainer.train()
        assert trainer.state.global_step == steps


def test_without_model_init_every_seed_starts_from_the_weights_given(tmp_path):
    trainer = trainer_in(tmp_path, save_strategy="no")
    found = task(trainer)
    start = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    for seed in (0, 1):
        assert all(map(torch.equal, found.model(seed).parameters(), start))
    orders = [found.batches(1, seed=seed)[0][0]["input_ids"] for seed in (0, 1)]
    assert not torch.equal(*orders)


def test_with_model_init_seeds_differ_in_the_weights(tmp_path):
    trainer = trainer_in(tmp_path, model_init=fresh)
    first, second, again = (task(trainer).model(seed).lm_head.weight for seed in (0, 1, 0))
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_all_evaluation_sets_are_read(tmp_path):
    trainer = trainer_in(tmp_path)
    trainer.eval_dataset = {"a": Sentences(8), "b": Sentences(3)}
    assert sum(task(trainer).count(batch) for batch in task(trainer).evaluate) == 11
    trainer.eval_dataset = None
    assert task(trainer).evaluate is None


def test_a_trainer_without_training_data_is_refused(tmp_path):
    trainer = trainer_in(tmp_path)
    trainer.train_dataset = None
    with pytest.raises(TaskError, match="no train_dataset"):
        task(trainer)


def test_updates_that_mixed_precision_skips_are_not_counted_and_are_told(tmp_path, capsys):
    def built():
        trainer = trainer_in(tmp_path, max_steps=8, save_steps=4)
        # A real scaler that starts so high that gradients overflow; the Trainer itself offers none on CPU.
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-4)
        set_schedule(trainer, Linear(1.0, 0.0, 8))
        return trainer

    trainer = built()
    trainer.train()
    skipped = 8 - trainer.lr_scheduler.last_epoch
    assert 1 <= skipped <= 3
    assert rates(trainer) == [0.01 * (1 - max(t - skipped, 0) / 8) for t in range(8)]
    again = built()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert f"resumed at update 4, of which {skipped} were skipped" in capsys.readouterr().err
    assert rates(again)[:5] == rates(trainer)[:5]


def test_warnings_stay_away(tmp_path, recwarn):
    trainer = trainer_in(tmp_path, max_steps=3, save_strategy="no")
    set_schedule(trainer, "linear(to=0)")
    trainer.train()
    assert not [w for w in recwarn if issubclass(w.category, LrscopeWarning) or "lr_scheduler" in str(w.message)]

"""Readings, alarm and cap inside real runs of Hugging Face's Trainer."""

import multiprocessing
import os
import signal
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, set_seed

import lrscope as lrs
from lrscope.adapters.huggingface import SharpnessCallback, set_schedule
from lrscope.errors import LrscopeWarning, MeasurementError, TaskError

COLUMNS = {"curvature/lambda_max", "curvature/residual", "curvature/stable_lr", "curvature/headroom"}


class Sentences(torch.utils.data.Dataset):
    def __init__(self, count=36, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randint(0, 16, (count, 8), generator=generator)
        self.x[:, 1::2] = (self.x[:, 0::2] * 3 + 1) % 16

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"input_ids": self.x[i], "labels": self.x[i]}


def model(dropout=0.1):
    config = GPT2Config(
        vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
        attn_pdrop=dropout, embd_pdrop=dropout, resid_pdrop=dropout, loss_type="ForCausalLM",
    )  # fmt: skip
    set_seed(0)
    return GPT2LMHeadModel(config)


def trainer_in(folder, *, kind=Trainer, optimizer=None, **args):
    settings = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 12,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_steps": 3,
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        **args,
    }
    built = model()
    own = None if optimizer is None else optimizer(built.parameters())
    return kind(
        model=built,
        args=TrainingArguments(str(folder), **settings),
        train_dataset=Sentences(),
        optimizers=(own, None),
    )


def readings(trainer):
    return [row for row in trainer.state.log_history if "curvature/headroom" in row]


def rest(trainer):
    """The log without readings and times."""
    timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos")
    rows = [row for row in trainer.state.log_history if "curvature/lambda_max" not in row]
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


class Counting(Trainer):
    """Notes things while it computes the loss, as trainers of language models do."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tokens, self.seen, self.sizes = 0, {"train": {"loss": []}}, torch.zeros(2)

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.tokens += inputs["input_ids"].numel()
        self.sizes += 1
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        self.seen["train"]["loss"].append(float(loss.detach() if torch.is_tensor(loss) else loss[0].detach()))
        return loss


@pytest.mark.parametrize(("every", "more"), [("auto", {}), (1, {"bf16": True})], ids=["auto", "bf16"])
def test_a_run_with_the_callback_is_the_run_without(tmp_path, every, more):
    ends = []
    for name in ("without", "with"):
        trainer = trainer_in(tmp_path / name, kind=Counting, **more)
        if name == "with":
            trainer.add_callback(SharpnessCallback(trainer, every=every, budget=0.5))
        trainer.train()
        ends.append((trainer, torch.get_rng_state()))
    (without, rng), (with_it, other) = ends
    for before, after in zip(without.model.parameters(), with_it.model.parameters(), strict=True):
        assert torch.equal(before, after)
    assert torch.equal(rng, other)
    assert rest(without) == rest(with_it)
    assert without.tokens == with_it.tokens
    assert without.seen == with_it.seen
    assert torch.equal(without.sizes, with_it.sizes)
    steps = [row["step"] for row in readings(with_it)]
    assert steps == list(range(12)) if every == 1 else steps[0] == 0
    assert all(set(row) >= COLUMNS for row in readings(with_it))


def test_a_reading_is_that_of_the_model_as_it_stands(tmp_path):
    trainer = trainer_in(tmp_path, max_steps=3, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    batch = {k: v[:4] for k, v in {"input_ids": Sentences().x, "labels": Sentences().x}.items()}
    trainer.add_callback(SharpnessCallback(trainer, [batch], every=1))
    expected = []

    class Before(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):
            objective = lrs.Objective(model, lambda m, b: m(**b).loss, [batch])
            result = lrs.sharpness(objective, tol=1e-4)
            expected.append((result.value, optimizer.param_groups[0]["lr"] * result.value / 2))

    trainer.add_callback(Before())
    trainer.train()
    seen = [(row["curvature/lambda_max"], row["curvature/headroom"]) for row in readings(trainer)]
    assert torch.tensor(seen).flatten().tolist() == pytest.approx(torch.tensor(expected).flatten().tolist(), rel=0.02)


# Interrupted anywhere, the run and its readings end as if it had not been.


class KillAt(TrainerCallback):
    def __init__(self, update):
        self.update = update

    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step == self.update:
            os.kill(os.getpid(), signal.SIGKILL)


OPTIONS = {"auto": {"every": "auto", "budget": None}, "cap": {"every": 3, "cap": 0.2, "alarm": 1}}


def train_in_a_process(folder, kill, options):
    torch.set_num_threads(1)
    resume = any(Path(folder).glob("checkpoint-*"))
    trainer = trainer_in(folder, learning_rate=0.1)
    set_schedule(trainer, "nonzero_warmup(3) > cosine(to=0.1)")
    mine = SharpnessCallback(trainer, **OPTIONS[options])
    trainer.add_callback(mine)
    if kill is not None:
        trainer.add_callback(KillAt(kill))
    trainer.train(resume_from_checkpoint=resume or None)
    cap = mine._measuring.gauge.cap
    end = {"parameters": trainer.model.state_dict(), "readings": readings(trainer), "log": rest(trainer)}
    torch.save(end | {"cap": None if cap is None else cap.state_dict()}, Path(folder, "end.pt"))


def run(folder, kill, options):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["transformers.trainer", "transformers.models.gpt2.modeling_gpt2", "lrscope"])
    process = processes.Process(target=train_in_a_process, args=(str(folder), kill, options))
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("options", [pytest.param("auto", marks=pytest.mark.slow), "cap"])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path, options):
    assert run(tmp_path / "whole", None, options) == 0
    assert run(tmp_path / "killed", 5, options) == -signal.SIGKILL
    assert run(tmp_path / "killed", 10, options) == -signal.SIGKILL
    assert run(tmp_path / "killed", None, options) == 0
    whole, killed = (torch.load(tmp_path / name / "end.pt") for name in ("whole", "killed"))
    assert all(torch.equal(whole["parameters"][k], killed["parameters"][k]) for k in whole["parameters"])
    assert whole["readings"] == killed["readings"]
    assert len(whole["readings"]) > 2
    assert whole["cap"] == killed["cap"]
    if options == "cap":
        assert whole["cap"]["num_updates"] > 0
        # The schedule's own rates are logged, whatever the cap did.
        rates = [row["learning_rate"] for row in whole["log"] if "learning_rate" in row]
        schedule = lrs.schedules.parse("nonzero_warmup(3) > cosine(to=0.1)", lrs.Horizon(steps=12))
        assert rates == [0.1 * schedule(t) for t in range(12)]


def test_a_checkpoint_is_found_wherever_it_lies_and_a_missing_state_is_told(tmp_path):
    first = trainer_in(tmp_path / "first", max_steps=6)
    first.add_callback(SharpnessCallback(first, every=1))
    first.train()
    (tmp_path / "first" / "checkpoint-3").rename(tmp_path / "moved")

    def resumed():
        trainer = trainer_in(tmp_path / "second", max_steps=6, save_strategy="no")
        callback = SharpnessCallback(trainer, every=1)
        trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=str(tmp_path / "moved"))
        return readings(trainer)[-3:], callback

    with warnings.catch_warnings():
        warnings.simplefilter("error", LrscopeWarning)
        assert resumed()[0] == readings(first)[-3:]
    (tmp_path / "moved" / "sharpness.pt").unlink()
    with pytest.warns(LrscopeWarning, match=r"moved/sharpness\.pt is not there .* begin anew at update 3"):
        resumed()


def test_what_it_cannot_measure_is_refused_in_one_line(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([Sentences()[i] for i in range(4)])

    trainer = trainer_in(tmp_path, optimizer=lambda p: torch.optim.Adagrad(p, lr=0.1), max_steps=2)
    with pytest.raises(TypeError, match=r"expected a transformers\.Trainer"):
        SharpnessCallback(trainer.model)
    for wrong in ({"every": 0}, {"every": "often"}, {"cap": 0}, {"alarm": True}, {"budget": 0}, {"num_batches": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SharpnessCallback(trainer, **wrong)
    data, trainer.train_dataset = trainer.train_dataset, Stream()
    with pytest.raises(TaskError, match=r"no length.*batches="):
        SharpnessCallback(trainer)
    trainer.train_dataset = data
    guarded = SharpnessCallback(trainer, cap=1.0)
    trainer.add_callback(guarded)
    with pytest.raises(MeasurementError, match="Adagrad"):
        trainer.train()
    trainer.remove_callback(guarded)
    trainer.add_callback(SharpnessCallback(trainer, every=1))  # sharpness alone needs no threshold
    trainer.train()
    seen = [row for row in trainer.state.log_history if "curvature/lambda_max" in row]
    assert [set(row) & COLUMNS for row in seen] == [{"curvature/lambda_max", "curvature/residual"}] * 2


def test_the_alarm_warns_once_and_says_since_when(tmp_path, capsys):
    trainer = trainer_in(tmp_path, max_steps=8, optimizer=lambda p: torch.optim.SGD(p, lr=1e-3))
    callback = SharpnessCallback(trainer, every=1, alarm=3)
    trainer.add_callback(callback)
    for group in trainer.optimizer.param_groups:
        group["lr"] = group["initial_lr"] = 3.0
    with pytest.warns(LrscopeWarning, match=r"above 1 at 3 readings in a row, since step 0: .* times what") as told:
        trainer.train()
    assert sum("headroom" in str(w.message) for w in told) == 1
    assert [(e.step, e.kind) for e in callback.events] == [(2, "headroom above 1")]
    assert "lrscope: watched 8 updates: the learning rate" in capsys.readouterr().err

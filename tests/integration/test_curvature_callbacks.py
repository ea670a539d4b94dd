"""Readings, alarm and cap inside real runs of Hugging Face's Trainer."""

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
        model=built, args=TrainingArguments(str(folder), **settings), train_dataset=Sentences(), optimizers=(own, None)
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


@pytest.mark.parametrize("every", ["auto", 1])
@pytest.mark.parametrize("more", [{}, {"bf16": True}], ids=["float32", "bf16"])
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

"""Schedules that hear every update and measure by themselves, under the Trainers of Lightning and Hugging Face."""

import logging

import pytest
import torch
from torch import nn

import lrscope as lrs
from lrscope.schedules import Linear, TwoPhase
from lrscope.stability import CatapultWarmup

pytest.importorskip("transformers")

from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

pl = pytest.importorskip("lightning.pytorch")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*:FutureWarning")

UPDATES, SIZE = 12, 4
X = torch.randn(2 * UPDATES * SIZE, 3, generator=torch.Generator().manual_seed(0))
CATAPULT = CatapultWarmup(3.0, 0.05, over=1, share=0.5) * Linear(1.0, 0.5, UPDATES)
PHASES = TwoPhase(1.0, 0.1, window=2, patience=1, improvement=0.9)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def squared(model, x):
    return ((model(x) - x[:, :1] ** 2) ** 2).mean()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)


def by_hand(schedule, accumulate):
    """What each Trainer should do: learning rates, momenta and the last parameters."""
    model = net()
    optimizer = sgd(model)
    scheduler = lrs.ScheduledLR(optimizer, schedule)
    used = []
    for update in X.split(SIZE * accumulate)[:UPDATES]:
        optimizer.zero_grad()
        losses = [squared(model, x) / accumulate for x in update.split(SIZE)]
        for loss in losses:
            loss.backward()
        scheduler.observe(loss=sum(losses), measure_on=lambda update=update: lrs.Objective(model, squared, [update]))
        used.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        scheduler.step()
    return used, nn.utils.parameters_to_vector(model.parameters()).detach(), scheduler


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return {"x": X[i]}


class Lit(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.steps = net(), 0

    def training_step(self, batch, batch_idx):
        self.steps += 1  # what a measurement must take back
        loss = squared(self.net, batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return sgd(self)


class Loader:
    """Batches in order, that can say where they are, so that Lightning goes on in the middle of an epoch."""

    index = 0

    def __len__(self):
        return len(X) // SIZE

    def __iter__(self):
        while self.index < len(self):
            self.index += 1
            yield X[(self.index - 1) * SIZE : self.index * SIZE]

    def state_dict(self):
        return {"index": self.index}

    def load_state_dict(self, state):
        self.index = state["index"]


def lightning(tmp_path, schedule, accumulate, steps=UPDATES, ckpt=None):
    module, used = Lit(), []
    callback = lrs.adapters.lightning.ScheduleCallback(schedule)
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        callbacks=[callback],
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    optimizer = sgd(module)
    optimizer.register_step_post_hook(
        lambda o, *_: used.append((o.param_groups[0]["lr"], o.param_groups[0]["momentum"]))
    )
    module.configure_optimizers = lambda: optimizer
    trainer.fit(module, Loader(), ckpt_path=ckpt)
    return used, nn.utils.parameters_to_vector(module.parameters()).detach(), trainer, module


class Config(PretrainedConfig):
    model_type = "tiny-squares"


class Model(PreTrainedModel):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.net = net()

    def forward(self, x):
        return {"loss": squared(self.net, x)}


def huggingface(tmp_path, schedule, accumulate, *, resume=False, stop=None, clip=0.0):
    model, used = Model(Config()), []
    optimizer = sgd(model)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=SIZE,
            gradient_accumulation_steps=accumulate,
            max_steps=UPDATES,
            max_grad_norm=clip,
            save_steps=1,
            logging_steps=1,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Rows(),
        optimizers=(optimizer, None),
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(Rows())
    optimizer.register_step_post_hook(
        lambda o, *_: used.append((o.param_groups[0]["lr"], o.param_groups[0]["momentum"]))
    )
    lrs.adapters.huggingface.set_schedule(trainer, schedule)
    if stop is not None:
        trainer.add_callback(Stop(stop))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(tmp_path)) if resume else None)
    return used, nn.utils.parameters_to_vector(model.parameters()).detach(), trainer


class Stop(TrainerCallback):
    def __init__(self, after):
        self.after = after

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.after:
            control.should_training_stop = True


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("schedule", [CATAPULT, PHASES], ids=["catapult", "two phases"])
@pytest.mark.parametrize("where", ["lightning", "huggingface"])
def test_a_trainer_does_what_a_loop_by_hand_does(where, schedule, accumulate, tmp_path):
    expected, theta, scheduler = by_hand(schedule, accumulate)
    assert len(set(expected)) > 1
    if schedule is CATAPULT:
        assert scheduler.heard["lr"]["searches"] > 1
    used, found, *_ = {"lightning": lightning, "huggingface": huggingface}[where](tmp_path, schedule, accumulate)
    assert [momentum for _, momentum in used] == [momentum for _, momentum in expected]
    assert [lr for lr, _ in used] == pytest.approx([lr for lr, _ in expected], rel=1e-3)
    torch.testing.assert_close(found, theta, rtol=1e-3, atol=1e-4)


def test_measuring_leaves_nothing_in_a_lightning_module(tmp_path):
    *_, module = lightning(tmp_path, CATAPULT, 2)
    assert module.steps == 2 * UPDATES
    assert "log" not in vars(module)


@pytest.mark.parametrize("schedule", [CATAPULT, PHASES], ids=["catapult", "two phases"])
@pytest.mark.parametrize("stop", [1, 5])
def test_a_hugging_face_run_resumes_to_the_bit(schedule, stop, tmp_path):
    whole, theta, trainer = huggingface(tmp_path / "whole", schedule, 2)
    assert "training_step" not in vars(trainer)
    first, *_ = huggingface(tmp_path / "parts", schedule, 2, stop=stop)
    rest, found, _ = huggingface(tmp_path / "parts", schedule, 2, resume=True)
    assert first + rest == whole
    assert torch.equal(found, theta)


@pytest.mark.parametrize("schedule", [CATAPULT, PHASES], ids=["catapult", "two phases"])
def test_a_lightning_run_resumes_to_the_bit(schedule, tmp_path):
    whole, theta, *_ = lightning(tmp_path, schedule, 1)
    first, _, trainer, _ = lightning(tmp_path, schedule, 1, steps=5)
    trainer.save_checkpoint(tmp_path / "mid.ckpt")
    assert torch.load(tmp_path / "mid.ckpt", weights_only=True)["callbacks"]
    rest, found, *_ = lightning(tmp_path, schedule, 1, ckpt=tmp_path / "mid.ckpt")
    assert first + rest == whole
    assert torch.equal(found, theta)


def test_a_clipped_gradient_is_the_one_that_is_measured_with_in_hugging_face(tmp_path):
    plain = huggingface(tmp_path / "a", CatapultWarmup(1e6, over=1), 1)[0]
    clipped = huggingface(tmp_path / "b", CatapultWarmup(1e6, over=1), 1, clip=1e-2)[0]
    assert clipped[0][0] > 5 * plain[0][0]  # the step is the same, so its rate is larger


def test_without_the_callback_lightning_says_that_nobody_reports(tmp_path):
    class Silent(Lit):
        def configure_optimizers(self):
            return lrs.adapters.lightning.configure_optimizers(self, sgd(self), CatapultWarmup(1.0))

    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    with pytest.warns(lrs.LrscopeWarning, match=r"CatapultWarmup.* will hear nothing: add ScheduleCallback"):
        trainer.fit(Silent(), torch.utils.data.DataLoader(X, SIZE))

"""Real Lightning runs under our schedules: one value per update, the same after any interruption."""

import contextlib
import copy
import csv
import dataclasses
import logging
import math
import random
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import lrscope as lrs
from lrscope.adapters.lightning import ScheduleCallback, configure_optimizers
from lrscope.records import Plan
from lrscope.schedules import Constant, Cosine, Exponential, warmup
from rows import Rows

pl = pytest.importorskip("lightning.pytorch")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*:FutureWarning")

TEXT = "warmup(20%) > cosine(to=0.1)"


class PlainRows(Rows):
    state_dict = load_state_dict = None


class Net(pl.LightningModule):
    """A tiny regression; ``seen`` is what every update was given."""

    def __init__(self, schedule=None, scheduler=None, lr=0.05, **options):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 1)
        self.make, self.schedule, self.lr, self.options = scheduler, schedule, lr, options
        self.seen = []

    def training_step(self, batch, batch_idx):
        loss = ((self.head(self.body(batch).tanh()) - batch[:, :1] ** 2) ** 2).mean()
        self.log("loss", loss)
        return loss

    def optimizer(self):
        groups = [
            {"params": self.body.parameters(), "lr": self.lr / 10, "name": "body"},
            {"params": self.head.parameters(), "name": "head"},
        ]
        return torch.optim.AdamW(groups, lr=self.lr)

    def configure_optimizers(self):
        optimizer = self.optimizer()
        if self.schedule is not None:
            return configure_optimizers(self, optimizer, self.schedule, **self.options)
        if self.make is not None:
            return [optimizer], [self.make(optimizer)]
        return optimizer

    def on_before_optimizer_step(self, optimizer):
        self.seen.append([float(group["lr"]) for group in optimizer.param_groups])

    @property
    def theta(self):
        return torch.cat([p.detach().flatten() for p in self.parameters()])


def trainer(tmp_path, *callbacks, tree=pl, **options):
    options = {"max_epochs": 4, "logger": False, "enable_checkpointing": False, "accelerator": "cpu"} | options
    return tree.Trainer(
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


class Stop(Exception):
    pass


class StopAt(pl.Callback):
    def __init__(self, batch):
        self.batch, self.count = batch, 0

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if self.count == self.batch:
            raise Stop
        self.count += 1


class SaveAt(pl.Callback):
    """Writes a checkpoint after the given batches of the run."""

    def __init__(self, path, *batches):
        self.path, self.batches, self.count = path, batches, 0

    def on_train_batch_end(self, trainer, module, *_):
        self.count += 1
        if self.count in self.batches:
            trainer.save_checkpoint(self.path / f"{self.count}.ckpt")


def parts(way):
    """Module and callbacks of the two ways to the same schedule."""
    if way == "helper":
        return Net(TEXT), []
    if way == "helper and watch":
        return Net(TEXT), [ScheduleCallback()]
    return Net(), [ScheduleCallback(TEXT)]


WAYS = ["helper", "callback", "helper and watch"]
ACCUMULATED = {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}
POINTS = random.Random(7).sample(range(4, 40), 3)  # the batch before which the run dies


def rates(num, peak=0.05):
    s = lrs.schedules.parse(TEXT, num)
    return [[peak / 10 * s(t), peak * s(t)] for t in range(num)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("options", "num"), [({}, 40), (ACCUMULATED, 16), ({"max_steps": 9}, 9)])
def test_every_update_runs_at_the_value_of_its_step(way, options, num, tmp_path):
    net, callbacks = parts(way)
    t = trainer(tmp_path, *callbacks, **options)
    t.fit(net, Rows())
    assert net.seen == rates(num)
    assert t.global_step == num


def test_the_interruptions_meet_the_middle_of_an_accumulation():
    # Four updates an epoch of ten batches: after batches 3, 6, 9, 10.
    assert any(point % 10 not in (0, 3, 6, 9) for point in POINTS)
    assert len({point // 10 for point in POINTS}) > 1


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{}, ACCUMULATED], ids=["plain", "accumulated"])
def test_an_interrupted_run_ends_bit_equal(way, options, point, tmp_path):
    whole, callbacks = parts(way)
    trainer(tmp_path, *callbacks, **options).fit(whole, Rows())

    broken, callbacks = parts(way)
    keep = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=1, filename="last")
    with pytest.raises(Stop):
        trainer(tmp_path, *callbacks, keep, StopAt(point), **options | {"enable_checkpointing": True}).fit(
            broken, Rows()
        )
    path = keep.best_model_path
    saved = torch.load(path, weights_only=True)  # plain data only

    again, callbacks = parts(way)
    trainer(tmp_path, *callbacks, **options).fit(again, Rows(), ckpt_path=path)
    assert 0 < saved["global_step"] <= len(broken.seen) < len(whole.seen)
    assert broken.seen[: saved["global_step"]] + again.seen == whole.seen
    assert torch.equal(again.theta, whole.theta)


def test_lightning_loses_the_data_position_where_the_run_length_was_asked_for(tmp_path):
    """Lightning issue 20550, the control of the test above: a text needs the length, and must not cost the data."""

    def with_torch(ask):
        def make(optimizer):
            num = net_trainer[-1].estimated_stepping_batches if ask else 40
            return {
                "scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / (2 * num)),
                "interval": "step",
            }

        net_trainer, results = [], []
        for path, save in ((None, [SaveAt(tmp_path, 17)]), (tmp_path / "17.ckpt", [])):
            net = Net(scheduler=make)
            net_trainer.append(trainer(tmp_path, *save))
            net_trainer[-1].fit(net, Rows(), ckpt_path=path)
            results.append(net.theta)
        return torch.equal(*results)

    assert with_torch(ask=False)
    if with_torch(ask=True):
        pytest.fail("Lightning keeps the position now: length.py need not set the data up twice")


@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_inside_an_accumulation_keeps_every_rate(way, tmp_path):
    # Lightning stores no gradients, so what was accumulated before such a checkpoint is lost, under any scheduler.
    # The schedule is not: it counts updates.
    whole, callbacks = parts(way)
    trainer(tmp_path, *callbacks, SaveAt(tmp_path, 14, 20, 25), **ACCUMULATED).fit(whole, Rows())
    for batch, done in ((14, 5), (20, 8), (25, 9)):
        again, callbacks = parts(way)
        trainer(tmp_path, *callbacks, **ACCUMULATED).fit(again, Rows(), ckpt_path=tmp_path / f"{batch}.ckpt")
        assert again.seen == whole.seen[done:]
        assert torch.equal(again.theta, whole.theta) == (batch == 20)


@pytest.mark.parametrize("way", WAYS)
def test_a_plain_loader_resumes_exactly_at_the_end_of_an_epoch(way, tmp_path):
    class Ordered(PlainRows):
        def __iter__(self):
            yield from self.x.split(self.size)

    whole, callbacks = parts(way)
    keep = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    trainer(tmp_path, *callbacks, keep, enable_checkpointing=True).fit(whole, Ordered())
    again, callbacks = parts(way)
    trainer(tmp_path, *callbacks).fit(again, Ordered(), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert again.seen == whole.seen[20:]
    assert torch.equal(again.theta, whole.theta)


# -- what Lightning's users report (steps or epochs, warnings, skipped updates, groups, logs) ---------------------------


def test_an_epoch_interval_is_torchs_trap_and_not_ours(tmp_path):
    """Lightning steps a bare scheduler once per epoch. Torch's then takes epochs for steps; ours counts updates."""

    def factors(make):
        net = Net(scheduler=make)
        trainer(tmp_path, max_epochs=3).fit(net, Rows(num=4))
        return [round(head / 0.05, 12) for _, head in net.seen]

    def torchs(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)

    def ours(optimizer):
        return lrs.ScheduledLR(optimizer, Exponential(1.0, 0.5**12, 12))

    assert factors(torchs) == [1.0] * 4 + [0.5] * 4 + [0.25] * 4
    late = factors(ours)  # written at the end of an epoch only, and by the number of updates all the same
    assert [late[0], late[4], late[8]] == [1.0, 0.5**4, 0.5**8]

    net = Net(Exponential(1.0, 0.5**12, 12))
    trainer(tmp_path, max_epochs=3).fit(net, Rows(num=4))
    assert [head / 0.05 for _, head in net.seen] == pytest.approx([0.5**t for t in range(12)])


def test_a_frequency_or_a_second_call_moves_nothing(tmp_path):
    class Twice(Net):
        def lr_scheduler_step(self, scheduler, metric):
            scheduler.step()
            scheduler.step()

    net = Twice(TEXT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lrs.LrscopeWarning)  # it is told once, which test_scheduled.py holds
        trainer(tmp_path, **ACCUMULATED).fit(net, Rows())
    assert net.seen == rates(16)


class Overflow(Net):
    """Gives an infinite gradient at the given updates."""

    bad = (0, 3, 4)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx).float()
        return loss * math.inf if batch_idx in self.bad else loss


def scaled_trainer(tmp_path, *callbacks, **options):
    from lightning.pytorch.plugins.precision import MixedPrecision

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    return trainer(tmp_path, *callbacks, plugins=[MixedPrecision("16-mixed", "cpu", scaler)], max_epochs=1, **options)


@pytest.mark.parametrize("way", ["helper", "callback"])
def test_updates_that_the_gradient_scaler_skips_are_no_steps(way, tmp_path):
    text = "warmup(2) > exp(6, to=0.1)"
    net = Overflow(text if way == "helper" else None)
    calls = [] if way == "helper" else [ScheduleCallback(text)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        scaled_trainer(tmp_path, *calls).fit(net, Rows(num=8))
    s = lrs.schedules.parse(text)
    performed = [0, 0, 1, 2, 2, 2, 3, 4]  # before each of the eight attempts
    assert [head for _, head in net.seen] == [0.05 * s(t) for t in performed]


def test_skipped_updates_are_logged_and_survive_a_resume(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path, name="run", version=0)
    callback = ScheduleCallback("warmup(2) > constant")
    scaled_trainer(tmp_path, callback, SaveAt(tmp_path, 5), logger=logger, log_every_n_steps=1).fit(
        Overflow(), Rows(num=8)
    )
    assert logged(logger)["schedule/skipped_updates"] == [0, 1, 1, 1, 2, 3, 3, 3]
    saved = torch.load(tmp_path / "5.ckpt", weights_only=True)["callbacks"]["ScheduleCallback"]
    assert saved["optimizers"][0]["skipped"] == 3

    again = ScheduleCallback("warmup(2) > constant")
    scaled_trainer(tmp_path, again).fit(Overflow(), Rows(num=8), ckpt_path=tmp_path / "5.ckpt")
    assert again.state_dict()["optimizers"][0]["skipped"] == 3


def test_no_warning_about_the_order_of_scheduler_and_optimizer(tmp_path):
    for way in WAYS:
        net, callbacks = parts(way)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            trainer(tmp_path, *callbacks, max_epochs=1).fit(net, Rows())
        assert not [w for w in seen if "lr_scheduler" in str(w.message) or "optimizer.step()" in str(w.message)]


class Unfreeze(pl.callbacks.BaseFinetuning):
    def freeze_before_training(self, module):
        self.freeze(module.body)

    def finetune_function(self, module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(module.body, optimizer, lr=0.004)

    def on_train_start(self, trainer, module):
        # On a resume Lightning 2.6 restores the groups and leaves their parameters frozen, under any schedule or none.
        for group in trainer.optimizers[0].param_groups:
            for p in group["params"]:
                p.requires_grad_(True)


def test_a_group_unfrozen_late_joins_with_its_own_rate(tmp_path):
    class Head(Net):
        def optimizer(self):
            return torch.optim.SGD(self.head.parameters(), lr=self.lr)

    s = Exponential(1.0, 0.5, 12)
    for net, callbacks in ((Head(s), []), (Head(), [ScheduleCallback(s)])):
        trainer(tmp_path, Unfreeze(), *callbacks, max_epochs=3).fit(net, Rows(num=4))
        assert [seen[0] for seen in net.seen] == [0.05 * s(t) for t in range(12)]
        late = [seen[1] for seen in net.seen if len(seen) == 2]
        assert len(late) == 8
        assert late == [0.004 * s(t) for t in range(4, 12)]


@pytest.mark.parametrize("way", WAYS)
def test_an_unfrozen_run_resumes_bit_equal(way, tmp_path):
    def run(*more, path=None):
        net, callbacks = parts(way)
        net.optimizer = lambda: torch.optim.SGD(net.head.parameters(), lr=0.05)
        with contextlib.suppress(Stop):
            trainer(tmp_path, Unfreeze(), *callbacks, *more, max_epochs=3).fit(net, Rows(num=4), ckpt_path=path)
        return net

    whole = run()
    assert [len(seen) for seen in whole.seen] == [1] * 4 + [2] * 8
    run(SaveAt(tmp_path, 2, 7), StopAt(10))
    # Not after batch 4, an epoch's last: on such a resume Lightning 2.6 leaves out the start of the next epoch, where
    # the layers would be unfrozen, under any schedule or none.
    for batch in (2, 7):
        again = run(path=tmp_path / f"{batch}.ckpt")
        assert again.seen == whole.seen[batch:]
        assert torch.equal(again.theta, whole.theta)


def logged(logger):
    """Every column that was logged, one value for each step."""
    # For an optimizer without a scheduler in Lightning's sense, LearningRateMonitor logs at epoch starts as well.
    columns = {}
    with open(f"{logger.log_dir}/metrics.csv") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                columns.setdefault(name, {}).update({int(row["step"]): float(value)} if value else {})
    return {name: list(values.values()) for name, values in columns.items()}


@pytest.mark.parametrize("way", ["helper", "callback", "helper and watch"])
def test_the_learning_rate_monitor_and_our_names_agree(way, tmp_path):
    net, callbacks = parts(way)
    logger = pl.loggers.CSVLogger(tmp_path, name=way, version=0)
    monitor = pl.callbacks.LearningRateMonitor(log_momentum=True, log_weight_decay=True)
    trainer(tmp_path, *callbacks, monitor, logger=logger, log_every_n_steps=1, max_epochs=2).fit(net, Rows())
    columns = logged(logger)
    body, head = ([row[i] for row in rates(20)] for i in (0, 1))
    assert (columns["lr-AdamW/body"], columns["lr-AdamW/head"]) == (body, head)
    assert columns["lr-AdamW/head-momentum"] == [0.9] * 20
    assert columns["lr-AdamW/head-weight_decay"] == [0.01] * 20
    if way != "helper":
        assert (columns["lr/body"], columns["lr/head"]) == (body, head)


def test_the_monitor_names_unnamed_groups_by_number_and_a_single_one_not_at_all(tmp_path):
    class Unnamed(Net):
        def optimizer(self):
            groups = [{"params": self.body.parameters()}, {"params": self.head.parameters(), "lr": 0.01}]
            return torch.optim.SGD(groups[:1] if self.single else groups, lr=0.05)

    for single, names in ((False, ["lr-SGD/pg1", "lr-SGD/pg2"]), (True, ["lr-SGD"])):
        net = Unnamed(warmup(4))
        net.single = single
        logger = pl.loggers.CSVLogger(tmp_path, name="names", version=int(single))
        trainer(tmp_path, pl.callbacks.LearningRateMonitor(), logger=logger, log_every_n_steps=1, max_epochs=1).fit(
            net, Rows(num=4)
        )
        assert [name for name in logged(logger) if name.startswith("lr-")] == names


def test_other_driven_values_are_logged_too(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path, name="wd", version=0)
    callback = ScheduleCallback({"lr": warmup(4), "weight_decay": Cosine(1.0, 0.0, 4)})
    trainer(tmp_path, callback, logger=logger, log_every_n_steps=1, max_epochs=1).fit(Net(), Rows(num=4))
    assert logged(logger)["weight_decay/head"] == [0.01 * Cosine(1.0, 0.0, 4)(t) for t in range(4)]


def test_text_may_drive_one_group_and_follow_another_key(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path, name="groups", version=0)
    callback = ScheduleCallback(
        {"lr": "cosine(to=0)", "weight_decay": "lr", "momentum": "linear(from=1, to=0.5)"},
        groups={"body": "constant(value=0.5)"},
        floor={"head": "40%"},
    )
    net = Net()
    trainer(tmp_path, callback, logger=logger, log_every_n_steps=1, max_epochs=1).fit(net, Rows(num=8))
    s = Cosine(1.0, 0.0, 8)
    assert net.seen == [[0.0025, max(0.05 * s(t), 0.02)] for t in range(8)]
    columns = logged(logger)
    assert columns["weight_decay/head"] == [0.01 * s(t) for t in range(8)]
    assert columns["betas/head/0"] == pytest.approx([0.9 * (1 - t / 16) for t in range(8)])


# -- refusals -----------------------------------------------------------------------------------------------------------


def test_a_module_with_a_scheduler_of_its_own_is_a_conflict(tmp_path):
    net = Net(scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1))
    with pytest.raises(lrs.ScheduleError, match="already returns a StepLR for AdamW"):
        trainer(tmp_path, ScheduleCallback(TEXT)).fit(net, Rows())


@pytest.mark.parametrize("way", WAYS)
def test_someone_else_setting_the_rate_is_an_error_at_once_and_a_warning_later(way, tmp_path):
    class Meddle(pl.Callback):
        def __init__(self, at):
            self.at = at

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx == self.at:
                trainer.optimizers[0].param_groups[1]["lr"] = 7.0

    def run(*more):
        net, callbacks = parts(way)
        trainer(tmp_path, *callbacks, *more).fit(net, Rows())

    with pytest.raises(lrs.ScheduleError, match=r"schedule says 0.0 for update 0 of group head, the optimizer has 7"):
        run(Meddle(0))
    with pytest.warns(lrs.LrscopeWarning, match="update 3 of group head") as told:
        run(Meddle(3))
    assert len([w for w in told if w.category is lrs.LrscopeWarning]) == 1


def saved_run(tmp_path, way="callback", batch=15):
    net, callbacks = parts(way)
    trainer(tmp_path, *callbacks, SaveAt(tmp_path, batch)).fit(net, Rows())
    return tmp_path / f"{batch}.ckpt"


@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_sets_the_rate_itself_is_seen_too(way, tmp_path):
    """Lightning runs training_step inside optimizer.step, so after any check before it."""

    class Sets(Net):
        def training_step(self, batch, batch_idx):
            self.trainer.optimizers[0].param_groups[1]["lr"] = 7.0
            return super().training_step(batch, batch_idx)

    _, callbacks = parts(way)
    with pytest.raises(lrs.ScheduleError, match=r"update 0 of group head, the optimizer has 7"):
        trainer(tmp_path, *callbacks).fit(Sets(None if way == "callback" else TEXT), Rows())


def test_an_edited_checkpoint_is_an_error_with_both_numbers(tmp_path):
    for way in WAYS:
        (tmp_path / way).mkdir()
        path = saved_run(tmp_path / way, way)
        for key, factor, numbers in (("initial_lr", 2, (0.1, 0.05)), ("lr", 10, None)):
            state = torch.load(path, weights_only=True)
            group = state["optimizer_states"][0]["param_groups"][1]
            stored = group["lr"]
            group[key] *= factor
            torch.save(state, tmp_path / "edited.ckpt")
            net, callbacks = parts(way)
            with pytest.raises(lrs.ScheduleError) as told:
                trainer(tmp_path, *callbacks).fit(net, Rows(), ckpt_path=tmp_path / "edited.ckpt")
            for number in numbers or (stored, stored * 10):
                assert repr(number) in str(told.value)
            assert "update 15" in str(told.value)
            assert "\n" not in str(told.value)
            assert not net.seen  # before the first resumed update


@pytest.mark.parametrize("way", WAYS)
def test_a_base_changed_in_the_code_is_an_error_since_lightning_overwrites_it(way, tmp_path):
    path = saved_run(tmp_path, way)
    net, callbacks = parts(way)
    net.lr = 0.1
    with pytest.raises(lrs.ScheduleError, match=r"lr of group body has base 0.005 in .* this run sets 0.01"):
        trainer(tmp_path, *callbacks).fit(net, Rows(), ckpt_path=path)
    assert not net.seen


@pytest.mark.parametrize("way", ["helper", "callback"])
def test_a_changed_base_of_any_driven_key_is_an_error(way, tmp_path):
    class Decayed(Net):
        decay = 0.1

        def optimizer(self):
            return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.decay)

    def run(decay, *more, path=None):
        drives = {"lr": TEXT, "weight_decay": "lr"}
        net, callbacks = (Decayed(drives), []) if way == "helper" else (Decayed(), [ScheduleCallback(drives)])
        net.decay = decay
        trainer(tmp_path, *callbacks, *more).fit(net, Rows(), ckpt_path=path)

    run(0.1, SaveAt(tmp_path, 15))
    run(0.1, path=tmp_path / "15.ckpt")
    with pytest.raises(lrs.ScheduleError, match=r"weight_decay of group 0 has base 0.1 in .* this run sets 0.3"):
        run(0.3, path=tmp_path / "15.ckpt")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("keep", ["lr", "fraction", "shape"])
def test_a_longer_run_is_replanned_on_purpose_and_then_resumes_exactly(way, keep, tmp_path, capsys):
    def run(path, *more, epochs, replan=None):
        net, watch = Net(TEXT, replan=replan), [ScheduleCallback()]
        if way == "helper":
            watch = []
        if way == "callback":
            net, watch = Net(), [ScheduleCallback(TEXT, replan=replan)]
        trainer(tmp_path, *watch, *more, max_epochs=epochs).fit(net, Rows(), ckpt_path=path)
        return net

    run(None, SaveAt(tmp_path, 15), epochs=4)
    with pytest.raises(lrs.ScheduleError, match="replan="):
        run(tmp_path / "15.ckpt", epochs=6)
    capsys.readouterr()
    longer = run(tmp_path / "15.ckpt", SaveAt(tmp_path, 8, 30), epochs=6, replan=keep)
    assert "replanned at step 15" in capsys.readouterr().err
    old, new = (lrs.schedules.parse(TEXT, num) for num in (40, 60))
    changed = lrs.schedules.replan(old, new, at=15, keep=keep).schedule
    assert [head for _, head in longer.seen] == [0.05 * changed(t) for t in range(15, 60)]
    for saved in (8, 30):  # batches after the first resume
        again = run(tmp_path / f"{saved}.ckpt", epochs=6, replan=keep)
        assert again.seen == longer.seen[saved:]
        assert torch.equal(again.theta, longer.theta)


def test_a_schedule_that_listens_hears_each_validation(tmp_path):
    class Judged(Net):
        marks = (5.0, 4.0, 4.5, 4.4, 4.3, 4.2, 3.0, 3.5)

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.marks[self.current_epoch])

        def configure_optimizers(self):
            made = super().configure_optimizers()
            if self.make is None:
                return made
            (optimizer,), (scheduler,) = made
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}

    def run(net, *callbacks, path=None):
        trainer(tmp_path, *callbacks, max_epochs=8).fit(net, Rows(num=2), Rows(num=1), ckpt_path=path)
        return net.seen

    ours = lrs.schedules.Plateau(metric="val_loss", factor=0.5, patience=1)
    torchs = run(Judged(scheduler=lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=1)))
    assert len({head for _, head in torchs}) > 2
    assert run(Judged(), ScheduleCallback(ours), SaveAt(tmp_path, 9)) == torchs
    assert run(Judged(ours), ScheduleCallback()) == torchs
    assert run(Judged(), ScheduleCallback(ours), path=tmp_path / "9.ckpt") == torchs[9:]


def test_a_plans_schedule_runs_as_it_is(tmp_path):
    spec = (3e-3 * warmup(4).then(Cosine(1.0, 0.0, 8))).to_spec()
    net = Net()
    trainer(tmp_path, ScheduleCallback(spec, absolute=["lr"]), max_epochs=1).fit(net, Rows(num=12))
    s = lrs.schedules.from_spec(spec)
    assert net.seen == [[s(t), s(t)] for t in range(12)]


def test_resuming_under_another_schedule_is_an_error(tmp_path):
    for way, net, callbacks in (
        ("callback", Net(), [ScheduleCallback(Constant(1.0))]),
        ("helper", Net(Constant(1.0)), []),
    ):
        path = saved_run(tmp_path / way, way)
        with pytest.raises(lrs.ScheduleError):
            trainer(tmp_path, *callbacks).fit(net, Rows(), ckpt_path=path)
        assert not net.seen


def test_a_checkpoint_without_a_schedule_does_not_begin_again_in_silence(tmp_path):
    trainer(tmp_path, SaveAt(tmp_path, 15)).fit(Net(), Rows())
    path = tmp_path / "15.ckpt"
    for way in WAYS:
        net, callbacks = parts(way)
        with pytest.raises(lrs.ScheduleError, match=r"at update 15 but holds no state .* start=15"):
            trainer(tmp_path, *callbacks).fit(net, Rows(), ckpt_path=path)
        assert not net.seen


@pytest.mark.parametrize("way", ["helper", "callback"])
@pytest.mark.parametrize("before", ["none", "theirs"])
def test_a_schedule_may_be_taken_up_in_the_middle_of_a_run(before, way, tmp_path, capsys):
    """From a checkpoint without a scheduler, or with OneCycleLR, whose own bases must not stay."""

    def make(optimizer):
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=40)
        return {"scheduler": scheduler, "interval": "step"}

    trainer(tmp_path, SaveAt(tmp_path, 15)).fit(Net(scheduler=make if before == "theirs" else None), Rows())

    def run(path, *more):
        net, callbacks = (Net(TEXT, start=15), []) if way == "helper" else (Net(), [ScheduleCallback(TEXT, start=15)])
        trainer(tmp_path, *callbacks, *more).fit(net, Rows(), ckpt_path=path)
        return net.seen

    capsys.readouterr()
    assert run(tmp_path / "15.ckpt", SaveAt(tmp_path, 8)) == rates(40)[15:]
    assert "resumed at update 15, step 15 of the schedule" in capsys.readouterr().err
    assert run(tmp_path / "8.ckpt") == rates(40)[23:]  # start= stays in the script


@pytest.mark.parametrize("way", WAYS)
def test_what_is_announced_on_a_resume_is_what_runs(way, tmp_path, capsys):
    def run(path=None, epochs=4, **options):
        net, callbacks = (Net(TEXT, **options), [ScheduleCallback()] if way.endswith("watch") else [])
        if way == "callback":
            net, callbacks = Net(), [ScheduleCallback(TEXT, **options)]
        capsys.readouterr()
        save = [SaveAt(tmp_path, 15)] if path is None else [SaveAt(tmp_path, 20)]
        trainer(tmp_path, *callbacks, *save, max_epochs=epochs).fit(net, Rows(), ckpt_path=path)
        return [line for line in capsys.readouterr().err.splitlines() if line.startswith("lrscope: lr")]

    assert len(run()) == 1
    (first,) = run(tmp_path / "15.ckpt", 6, replan="lr")
    (later,) = run(tmp_path / "20.ckpt", 6, replan="lr")
    old, new = (lrs.schedules.parse(TEXT, num) for num in (40, 60))
    changed = lrs.schedules.replan(old, new, at=15, keep="lr").schedule.to_text()
    assert changed in first
    assert changed in later
    assert first.endswith("60 updates, 10 an epoch; resumed at update 15")
    assert later.endswith("; resumed at update 35")


def test_a_floor_is_announced(tmp_path, capsys):
    trainer(tmp_path, ScheduleCallback(TEXT, floor="10%")).fit(Net(), Rows())
    assert ", never below 10%; 40 updates" in capsys.readouterr().err


def test_a_checkpoint_written_between_update_and_step_resumes(tmp_path):
    """As one that is written on an exception: the optimizer still has the rates of the update just made."""

    class Save(Net):
        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            if self.trainer.global_step == 15:
                self.trainer.save_checkpoint(tmp_path / "between.ckpt")

    whole = Save(TEXT)
    trainer(tmp_path).fit(whole, Rows())
    again = Net(TEXT)
    trainer(tmp_path).fit(again, Rows(), ckpt_path=tmp_path / "between.ckpt")
    assert again.seen[:24] == whole.seen[16:]  # Lightning had not counted the update that was made, the schedule had


@pytest.mark.parametrize("way", ["helper", "callback"])
def test_a_plan_runs_as_it_is(way, tmp_path):
    s = 3e-3 * warmup(4).then(Cosine(1.0, 0.0, 8))
    plan = Plan(**planned(s))
    net, callbacks = (Net(plan), []) if way == "helper" else (Net(), [ScheduleCallback(plan)])
    trainer(tmp_path, *callbacks, max_epochs=1).fit(net, Rows(num=12))
    assert net.seen == [[s(t), s(t)] for t in range(12)]


def planned(schedule):
    """The fields of a plan of ``schedule``."""
    return {field.name: None for field in dataclasses.fields(Plan)} | {"schedule": schedule.to_spec()}


def test_a_learning_rate_finder_is_honoured_before_the_callback_and_named_elsewhere(tmp_path):
    class Found(Net):
        def optimizer(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    def finder():
        return pl.callbacks.LearningRateFinder(num_training_steps=30, early_stop_threshold=None)

    net = Found()
    trainer(tmp_path, finder(), ScheduleCallback(Cosine(1.0, 0.0, 40))).fit(net, Rows())
    assert net.lr != 0.05
    assert [seen[0] for seen in net.seen[-40:]] == [net.lr * Cosine(1.0, 0.0, 40)(t) for t in range(40)]
    with pytest.raises(lrs.ScheduleError, match="learning-rate finder"):
        trainer(tmp_path, finder()).fit(Found(Cosine(1.0, 0.0, 40)), Rows())


def test_a_schedule_that_would_hear_nothing_is_told(tmp_path):
    listening = lrs.schedules.Plateau(metric="val_loss")
    with pytest.warns(lrs.LrscopeWarning, match=r"will hear nothing: add ScheduleCallback\(\)"):
        trainer(tmp_path, max_epochs=1).fit(Net(listening), Rows())
    with pytest.warns(lrs.LrscopeWarning, match="will hear nothing: the Trainer validates nothing"):
        trainer(tmp_path, ScheduleCallback(listening), max_epochs=1).fit(Net(), Rows())


def test_fit_again_on_the_same_trainer_goes_on(tmp_path):
    schedule = Cosine(1.0, 0.0, 40)
    net, callback = Net(), ScheduleCallback(schedule)
    t = trainer(tmp_path, callback, max_epochs=2)
    with pytest.warns(lrs.LrscopeWarning, match="has 40 steps, so this run of 20 updates"):
        t.fit(net, Rows())
    t.fit_loop.max_epochs = 4
    t.fit(net, Rows())
    assert [head for _, head in net.seen] == [0.05 * schedule(t) for t in range(40)]


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        (Cosine(1.0, 0.0, 100), "has 100 steps, so this run of 40 updates does not come to its end"),
        (Cosine(1.0, 0.0, 10), "is 0 from step 10 on, so the last 30 updates use 0"),
        (Cosine(1.0, 0.1, 10), None),
        (warmup(10), None),
        (Constant(1.0), None),
    ],
)
@pytest.mark.parametrize("way", ["helper", "callback"])
def test_a_schedule_that_does_not_fit_the_run_is_told(way, schedule, told, tmp_path):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", lrs.LrscopeWarning)
        net, callbacks = (Net(schedule), []) if way == "helper" else (Net(), [ScheduleCallback(schedule)])
        trainer(tmp_path, *callbacks).fit(net, Rows())
    mine = [str(w.message) for w in seen if w.category is lrs.LrscopeWarning]
    assert len(mine) == (told is not None)
    assert told is None or told in mine[0]


# -- several optimizers ---------------------------------------------------------------------------------------------------


class Manual(Net):
    """Two optimizers; the second moves at every other batch only."""

    def __init__(self, **options):
        super().__init__(**options)
        self.automatic_optimization = False
        self.rates = ([], [])

    def configure_optimizers(self):
        return [torch.optim.SGD(self.body.parameters(), 0.1), torch.optim.Adam(self.head.parameters(), 0.01)]

    def training_step(self, batch, batch_idx):
        loss = ((self.head(self.body(batch).tanh()) - batch[:, :1] ** 2) ** 2).mean()
        for i, optimizer in enumerate(self.optimizers()):
            optimizer.zero_grad()
            if i == 0 or batch_idx % 2 == 0:
                self.manual_backward(loss, retain_graph=True)
                self.rates[i].append(optimizer.param_groups[0]["lr"])
                optimizer.step() if i == 0 else None
        if batch_idx % 2 == 0:
            self.optimizers()[1].step()


def test_each_optimizer_in_manual_optimization_counts_its_own_updates(tmp_path):
    a, b = Cosine(1.0, 0.0, 16), Exponential(1.0, 0.1, 8)
    whole = Manual()
    trainer(tmp_path, ScheduleCallback([a, b]), SaveAt(tmp_path, 7), max_epochs=2).fit(whole, Rows(num=8))
    assert whole.rates[0] == [0.1 * a(t) for t in range(16)]
    assert whole.rates[1] == [0.01 * b(t) for t in range(8)]
    again = Manual()
    trainer(tmp_path, ScheduleCallback([a, b]), max_epochs=2).fit(again, Rows(num=8), ckpt_path=tmp_path / "7.ckpt")
    assert (again.rates[0], again.rates[1]) == (whole.rates[0][7:], whole.rates[1][4:])
    assert torch.equal(again.theta, whole.theta)


def test_optimizers_in_manual_optimization_resume_under_schedules_of_the_modules_own(tmp_path, capsys):
    a, b = Cosine(1.0, 0.0, 16), Exponential(1.0, 0.1, 8)

    class Own(Manual):
        def configure_optimizers(self):
            pairs = zip(super().configure_optimizers(), (a, b), strict=True)
            return tuple(configure_optimizers(self, o, s, horizon=s.num_steps) for o, s in pairs)

        def on_train_batch_end(self, *_):
            for scheduler in self.lr_schedulers():
                scheduler.step()

    def run(path, *more):
        net = Own()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lrs.LrscopeWarning)  # the second one is stepped twice per update
            trainer(tmp_path, *more, max_epochs=2).fit(net, Rows(num=8), ckpt_path=path)
        return net

    whole = run(None, SaveAt(tmp_path, 7))
    assert whole.rates[0] == [0.1 * a(t) for t in range(16)]
    capsys.readouterr()
    again = run(tmp_path / "7.ckpt")
    assert (again.rates[0], again.rates[1]) == (whole.rates[0][7:], whole.rates[1][4:])
    assert torch.equal(again.theta, whole.theta)
    assert "skipped" not in capsys.readouterr().err


def test_several_optimizers_are_logged_apart(tmp_path):
    logger = pl.loggers.CSVLogger(tmp_path, name="two", version=0)
    callback = ScheduleCallback([Constant(0.5), Constant(0.1)])
    trainer(tmp_path, callback, logger=logger, log_every_n_steps=1, max_epochs=1).fit(Manual(), Rows(num=4))
    assert (logged(logger)["lr/0/0"], logged(logger)["lr/1/0"]) == ([0.05] * 4, [0.001] * 4)


def test_one_schedule_for_two_optimizers_is_refused_and_none_leaves_one_alone(tmp_path):
    with pytest.raises(lrs.ScheduleError, match=r"1 schedule\(s\) for 2 optimizer\(s\) \(SGD, Adam\)"):
        trainer(tmp_path, ScheduleCallback(Constant(1.0))).fit(Manual(), Rows())
    net = Manual()
    trainer(tmp_path, ScheduleCallback([None, Constant(0.5)]), max_epochs=1).fit(net, Rows(num=4))
    assert net.rates == ([0.1] * 4, [0.005] * 2)


def test_text_in_manual_optimization_needs_a_horizon(tmp_path):
    with pytest.raises(lrs.ScheduleError, match="manual optimization") as told:
        trainer(tmp_path, ScheduleCallback([TEXT, None])).fit(Manual(), Rows())
    assert "horizon=Horizon(steps=...)" in str(told.value)
    net = Manual()
    trainer(tmp_path, ScheduleCallback(["cosine(to=0)", None], horizon=8), max_epochs=1).fit(net, Rows(num=8))
    assert net.rates[0] == [0.1 * Cosine(1.0, 0.0, 8)(t) for t in range(8)]


# -- both package trees, and what is printed ------------------------------------------------------------------------------


def test_the_callback_serves_the_other_package_tree_too(tmp_path):
    other = pytest.importorskip("pytorch_lightning")

    class Other(other.LightningModule):
        __init__, training_step, optimizer = Net.__init__, Net.training_step, Net.optimizer
        configure_optimizers, on_before_optimizer_step, theta = (
            Net.configure_optimizers,
            Net.on_before_optimizer_step,
            Net.theta,
        )

    # super() inside Net's methods is bound to Net, so the class is written out where it matters.
    def init(self, schedule=None, scheduler=None, lr=0.05, **options):
        other.LightningModule.__init__(self)
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 1)
        self.make, self.schedule, self.lr, self.options, self.seen = scheduler, schedule, lr, options, []

    Other.__init__ = init
    reference = Net(TEXT)
    trainer(tmp_path, **ACCUMULATED).fit(reference, Rows())
    for net, callbacks in (
        (Other(TEXT), []),
        (Other(), [ScheduleCallback(TEXT)]),
        (Other(TEXT), [ScheduleCallback()]),
    ):
        trainer(tmp_path, *callbacks, tree=other, **ACCUMULATED).fit(net, Rows())
        assert net.seen == reference.seen
        assert torch.equal(net.theta, reference.theta)


def test_the_callback_can_be_pickled_as_spawned_processes_need():
    import pickle

    again = pickle.loads(pickle.dumps(ScheduleCallback(warmup(4), horizon=8)))
    assert isinstance(again, pl.Callback)
    assert (again.schedule, again.horizon) == (warmup(4), 8)
    assert copy.deepcopy(again).schedule == warmup(4)


@pytest.mark.parametrize("way", WAYS)
def test_the_resolved_schedule_is_printed_once_on_stderr(way, tmp_path, capsys):
    net, callbacks = parts(way)
    trainer(tmp_path, *callbacks, **ACCUMULATED).fit(net, Rows())
    out, err = capsys.readouterr()
    told = [line for line in err.splitlines() if "lrscope:" in line and "lr of AdamW" in line]
    assert len(told) == 1
    assert "16 updates, 4 an epoch" in told[0]
    assert "lrscope" not in out


TWO_PROCESSES = """
import sys, warnings
warnings.filterwarnings("ignore")
import torch, lightning.pytorch as pl
from lrscope.adapters.lightning import ScheduleCallback, configure_optimizers

class Net(pl.LightningModule):
    def __init__(self, text=None):
        super().__init__()
        self.net, self.text, self.seen = torch.nn.Linear(4, 1), text, []
    def training_step(self, batch, batch_idx):
        return self.net(batch).square().mean()
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1.0)
        return configure_optimizers(self, optimizer, self.text) if self.text else optimizer
    def on_before_optimizer_step(self, optimizer):
        self.seen.append(optimizer.param_groups[0]["lr"])
    def on_train_end(self):
        with open(f"{sys.argv[1]}/{self.trainer.global_rank}", "w") as file:
            print(self.seen, file=file)

if __name__ == "__main__":
    text = "cosine(to=0)"
    quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    net, callbacks = (Net(text), []) if sys.argv[2] == "helper" else (Net(), [ScheduleCallback(text)])
    pl.Trainer(accelerator="cpu", devices=2, strategy="ddp_spawn", max_epochs=3, accumulate_grad_batches=2,
               callbacks=callbacks, **quiet).fit(net, torch.utils.data.DataLoader(torch.ones(64, 4), 8))
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["helper", "callback"])
def test_two_processes_step_once_per_update_and_one_of_them_tells(way, tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    done = subprocess.run([sys.executable, script, tmp_path, way], capture_output=True, text=True, check=True)
    # 64 examples, 2 processes, batches of 8, 2 of them an update: 2 updates an epoch.
    for rank in "01":
        assert (tmp_path / rank).read_text().strip() == str([Cosine(1.0, 0.0, 6)(t) for t in range(6)])
    assert done.stderr.count("lrscope: lr of AdamW") == 1


def test_without_lightning_the_callback_names_the_extra():
    code = (
        "import sys; sys.modules['lightning'] = sys.modules['pytorch_lightning'] = None\n"
        "import lrscope as lrs, lrscope.adapters.lightning as adapter\n"
        "assert adapter.task and adapter.configure_optimizers\n"
        "try: adapter.ScheduleCallback\n"
        "except lrs.errors.MissingExtraError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "lrscope[lightning]"' in done.stdout

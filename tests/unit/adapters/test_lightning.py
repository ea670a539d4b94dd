"""The length of a Trainer's run, what configure_optimizers returns, and a task from a LightningModule."""

import logging
import math
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, random_split

import lrscope as lrs
from lrscope.adapters.lightning import configure_optimizers, horizon_of, task
from lrscope.schedules import Constant, Cosine, Horizon, InverseSqrt, warmup
from lrscope.training import Cell

pl = pytest.importorskip("lightning.pytorch")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*:FutureWarning")

X = torch.randn(48, 3, generator=torch.Generator().manual_seed(1))
Y = X[:, :1] ** 2


def loader(size=8, **options):
    return DataLoader(TensorDataset(X, Y), batch_size=size, **options)


class Base(pl.LightningModule):
    """Returns its loss in a dict and logs it, as many do; validation only logs."""

    def loss(self, batch):
        return ((self.net(batch[0]) - batch[1]) ** 2).mean()

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        self.log_dict({"again": loss})
        return {"loss": loss, "extra": 1}

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Net(Base):
    def __init__(self, hidden=4, act="tanh"):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Linear(3, hidden), {"tanh": nn.Tanh(), "relu": nn.ReLU()}[act], nn.Linear(hidden, 1)
        )


# -- the length of a run ------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y, strict=True)


def ask(question, data=None, callbacks=(), module=None, **options):
    """The answer to ``question(module)`` inside configure_optimizers of a run that then does nothing more."""
    answers = []

    class Asking(module or Net):
        def configure_optimizers(self):
            answers.append(question(self))
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def on_train_start(self):
            self.trainer.should_stop = True
            self.trainer.fit_loop.max_epochs = 0

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    t = pl.Trainer(callbacks=list(callbacks), enable_model_summary=False, num_sanity_val_steps=0, **quiet, **options)
    t.fit(Asking(), loader() if data is None else data)
    return answers[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_epochs": 5}, Horizon(30, 6)),
        ({"max_epochs": 5, "accumulate_grad_batches": 4}, Horizon(10, 2)),
        ({"max_epochs": 5, "max_steps": 7}, Horizon(7, 6)),
        ({"max_steps": 9}, Horizon(9, 6)),
        ({"max_epochs": -1, "max_steps": 9, "accumulate_grad_batches": 4}, Horizon(9, 2)),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, Horizon(6, 3)),
    ],
)
def test_the_length_counts_updates(options, expected):
    assert ask(lambda net: horizon_of(net.trainer), **options) == expected


def test_accumulation_that_changes_between_epochs_is_counted_epoch_by_epoch():
    callback = pl.callbacks.GradientAccumulationScheduler({0: 1, 2: 3})
    found = ask(lambda net: horizon_of(net.trainer), callbacks=[callback], max_epochs=5)
    assert found == Horizon(2 * 6 + 3 * 2, None)  # an epoch has no fixed number of updates
    assert ask(lambda net: net.trainer.estimated_stepping_batches, callbacks=[callback], max_epochs=5) == 30


def test_a_stream_with_a_limit_has_a_length_but_no_epoch():
    assert ask(lambda net: horizon_of(net.trainer), DataLoader(Stream(), 8), max_steps=12) == Horizon(12, None)


UNKNOWN = [
    {"data": DataLoader(Stream(), 8), "max_epochs": 3},
    {"data": DataLoader(Stream(), 8), "max_epochs": -1},
    {"max_epochs": -1},
    {"max_time": "00:00:01:00"},
]


@pytest.mark.parametrize("options", UNKNOWN)
def test_an_unknown_length_names_the_schedules_that_need_none(options):
    options = {"max_epochs": None} | options
    with pytest.raises(lrs.ScheduleError, match="number of updates is not known") as told:
        ask(lambda net: horizon_of(net.trainer), **options)
    for word in ("max_steps=-1", "horizon=Horizon(steps=...)", "constant", "inverse_sqrt", "piecewise"):
        assert word in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("options", UNKNOWN)
def test_text_without_lengths_of_the_run_needs_none(options):
    options = {"max_epochs": None} | options

    def scheduler(text):
        return lambda net: configure_optimizers(net, net_optimizer(net), text)["lr_scheduler"]["scheduler"]

    found = ask(scheduler("warmup(4) > inverse_sqrt(timescale=4)"), **options)
    assert [found_at(found, t) for t in range(9)] == [warmup(4).then(InverseSqrt(1.0, 4))(t) for t in range(9)]
    with pytest.raises(lrs.ScheduleError, match=r"not known.*warmup\(6%\)|not known.*character") as told:
        ask(scheduler("warmup(6%) > cosine(to=0)"), **options)
    assert "\n" not in str(told.value)


def net_optimizer(net):
    return torch.optim.SGD(net.parameters(), lr=1.0)


def found_at(scheduler, t):
    scheduler.step(t)
    return scheduler.get_last_lr()[0]


def test_epochs_percent_and_tokens_are_resolved_against_the_trainer():
    def values(text, **options):
        def asked(net):
            made = configure_optimizers(net, net_optimizer(net), text, **options)["lr_scheduler"]["scheduler"]
            return [found_at(made, t) for t in range(30)]

        return ask(asked, max_epochs=5)

    expected = [warmup(6).then(Cosine(1.0, 0.0, 24))(t) for t in range(30)]
    assert values("warmup(1 epoch) > cosine(to=0)") == expected
    assert values("warmup(20%) > cosine(to=0)") == expected
    assert values("warmup(600 tokens) > cosine(to=0)", tokens_per_step=100) == expected
    assert values("warmup(6) > cosine(to=0)", horizon=30) == expected
    assert values(warmup(6).then(Cosine(1.0, 0.0, 24))) == expected


def test_the_dict_is_lightnings_and_steps_per_update():
    made = ask(lambda net: configure_optimizers(net, net_optimizer(net), Constant(0.5)), max_epochs=1)
    entry = made["lr_scheduler"]
    assert isinstance(entry.pop("scheduler"), torch.optim.lr_scheduler.LRScheduler)
    assert entry == {"interval": "step", "frequency": 1, "name": None}
    assert made["optimizer"].param_groups[0]["lr"] == 0.5


def test_other_keys_may_be_driven_by_text():
    def asked(net):
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.8)
        made = configure_optimizers(net, optimizer, {"lr": "cosine(to=0)", "momentum": "linear(to=0.5)"})
        made["lr_scheduler"]["scheduler"].step(6)
        return [optimizer.param_groups[0][key] for key in ("lr", "momentum")]

    assert ask(asked, max_epochs=2) == pytest.approx([0.5, 0.8 * 0.75])


def test_a_module_without_a_trainer_is_told():
    with pytest.raises(lrs.ScheduleError, match="Net is not attached to a Trainer; call this inside configure_optim"):
        configure_optimizers(Net(), net_optimizer(Net()), "cosine(to=0)")


# -- a task from a module -------------------------------------------------------------------------------------------------


def test_plan_and_critical_lr_on_a_module_end_with_results():
    made = task(Net(hidden=5), train=loader(shuffle=True), evaluate=loader(24), steps=200)
    made.check()
    critical = lrs.critical_lr(made.objective(num_batches=2), "sgd")
    assert critical.status == "found"
    assert 0 < critical.lr < math.inf
    plan = lrs.plan(made, "adamw", budget=4.0, num_seeds=1)
    assert plan.task == "Net"
    assert 0 < plan.peak_lr < math.inf
    assert math.isfinite(plan.expected_loss)


def test_a_module_in_place_of_a_task_is_told_what_makes_one():
    with pytest.raises(TypeError, match=r"got Net; lrs\.adapters\.lightning\.task\(module, datamodule\) makes one"):
        lrs.plan(Net())
    with pytest.raises(TypeError, match=r"got Task; .*task\.objective\(num_batches=3\)"):
        lrs.critical_lr(task(Net(), train=loader()))


def test_the_task_trains_as_the_module_written_by_hand():
    made = task(Net(hidden=5, act="relu"), train=loader(), evaluate=loader(24))

    def build(seed):
        return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))

    def loss_fn(model, batch):
        return ((model(batch[0]) - batch[1]) ** 2).mean()

    plain = lrs.Task(build=build, loss_fn=loss_fn, train=loader(), evaluate=loader(24))
    a, b = (lrs.train(t, "sgd", Constant(0.05), 12, seed=3) for t in (made, plain))
    assert a["loss"].value.tolist() == b["loss"].value.tolist()
    assert a.final("eval_loss") == b.final("eval_loss")


def test_replicas_of_a_module_that_logs_train_as_one_program():
    made = task(Net(), train=loader())
    runs = lrs.replicas(made, "sgd", [Cell(Constant(0.01)), Cell(Constant(0.1))], 5)
    assert [run.status for run in runs] == ["finished", "finished"]
    alone = lrs.train(made, "sgd", Constant(0.1), 5)
    assert runs[1]["loss"].value == pytest.approx(alone["loss"].value, rel=1e-5)


def test_a_fresh_module_has_the_arguments_of_the_given_one():
    made = task(Net(hidden=7, act="relu"), train=loader())
    model = made.model(0)
    assert (model.net[0].out_features, type(model.net[1])) == (7, nn.ReLU)
    assert not torch.equal(model.net[0].weight, made.model(1).net[0].weight)
    assert torch.equal(model.net[0].weight, made.model(0).net[0].weight)


class OneConfig(Base):
    def __init__(self, config):
        super().__init__()
        self.save_hyperparameters(config)
        self.net = nn.Linear(3, config["width"])


def test_hyperparameters_saved_as_one_argument_are_given_as_one():
    assert task(OneConfig({"width": 6}), train=loader()).model(0).net.out_features == 6


def test_arguments_that_were_not_saved_are_refused_with_the_ways_out():
    class Unsaved(Base):
        def __init__(self, width=3, depth=1):
            super().__init__()
            self.save_hyperparameters("depth")
            self.net = nn.Linear(3, 1)

    with pytest.raises(lrs.TaskError, match=r"holds no 'width'; call self\.save_hyperparameters") as told:
        task(Unsaved(width=9), train=loader())
    assert "start='given'" in str(told.value)
    assert "task(lambda seed: Unsaved(...))" in str(told.value)
    task(lambda seed: Unsaved(width=9), train=loader()).check()
    task(Unsaved(width=9), train=loader(), start="given").check()


def test_start_given_begins_at_the_weights_of_the_module():
    net = Net()
    made = task(net, train=loader(), start="given")
    assert all(torch.equal(a, b) for a, b in zip(made.model(0).parameters(), net.parameters(), strict=True))
    assert made.model(0) is not net
    lrs.train(made, "sgd", Constant(0.1), 3)
    assert all(torch.equal(a, b) for a, b in zip(made.model(5).parameters(), net.parameters(), strict=True))


def test_start_given_of_a_trained_module_does_not_copy_its_trainer():
    net = Net()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    t = pl.Trainer(max_epochs=1, enable_model_summary=False, **quiet)
    t.fit(net, loader())
    made = task(net, train=loader(), start="given")
    assert not isinstance(made.model(0)._trainer, pl.Trainer)
    assert net.trainer is t
    made.check()


class Data(pl.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.prepared = []

    def prepare_data(self):
        self.prepared = [*self.prepared, "prepare"]

    def setup(self, stage):
        self.prepared = [*self.prepared, stage]
        self.train, self.val = random_split(TensorDataset(X, Y), [32, 16])

    def train_dataloader(self):
        assert self.prepared == ["prepare", "fit"]
        return DataLoader(self.train, 8, shuffle=True)

    def val_dataloader(self):
        return [DataLoader(self.val, 16)]

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [10 * batch[0], batch[1]]


def test_a_datamodule_gives_the_batches_and_is_left_as_it_was():
    data, net = Data(), Net()
    before, random_before = dict(vars(data)), torch.get_rng_state()
    weights = [p.clone() for p in net.parameters()]
    made = task(net, data)
    made.check()
    lrs.train(made, "sgd", Constant(0.01), 5)
    assert {k: v for k, v in vars(data).items() if k in before} == before
    assert "train" not in vars(data)
    assert torch.equal(torch.get_rng_state(), random_before)
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))
    assert net._trainer is None
    assert "log" not in vars(net)


def test_a_random_split_is_the_same_in_every_task():
    torch.manual_seed(1)
    first = task(Net(), Data()).batches(of="evaluate")
    torch.manual_seed(2)
    again = task(Net(), Data()).batches(of="evaluate")
    assert torch.equal(first[0][0], again[0][0])


def test_the_batch_hooks_of_the_datamodule_are_applied():
    made = task(Net(), Data())
    model, batch = made.model(0), made.batches(1)[0]
    by_hand = model.loss([10 * batch[0], batch[1]])
    assert torch.equal(made.loss_fn(model, batch), by_hand)


def test_loaders_of_the_module_itself_are_found():
    class Own(Net):
        def setup(self, stage):
            self.data = TensorDataset(X, Y)

        def train_dataloader(self):
            return DataLoader(self.data, 8)

        def val_dataloader(self):
            return DataLoader(self.data, 48)

    made = task(Own())
    assert len(made.batches()) == 6
    assert len(made.batches(of="evaluate")) == 1
    made.check()


def test_layers_made_in_configure_model_are_there():
    class Late(Base):
        def __init__(self):
            super().__init__()
            self.net = None

        def configure_model(self):
            if self.net is None:
                self.net = nn.Linear(3, 1)

    made = task(Late(), train=loader())
    made.check()
    assert made.model(0).net.out_features == 1


def test_validation_judges_where_it_returns_a_loss():
    class Smoothed(Net):
        def validation_step(self, batch, batch_idx):
            return 5 * self.loss(batch)

    for kind, factor in ((Smoothed, 5), (Net, 1)):
        made = task(kind(), train=loader(), evaluate=loader(48))
        model, batch = made.model(0), made.batches(1, of="evaluate")[0]
        model.eval()
        assert torch.equal(made.loss_fn(model, batch), factor * model.loss(batch))
        model.train()
        assert torch.equal(made.loss_fn(model, batch), model.loss(batch))


def test_accumulated_batches_are_one_batch_of_the_task():
    made = task(Net(), train=loader(), evaluate=loader(24), accumulate_grad_batches=4)
    made.check()
    groups = made.batches()
    assert [len(group) for group in groups] == [4, 2]
    assert [made.count(group) for group in groups] == [32, 16]
    model = made.model(0)
    by_hand = torch.stack([model.loss(batch) for batch in groups[0]]).mean()
    assert torch.equal(made.loss_fn(model, groups[0]), by_hand)
    shuffled = task(Net(), train=loader(shuffle=True), accumulate_grad_batches=4)
    assert torch.equal(shuffled.batches(seed=1)[0][0][0], shuffled.batches(seed=1)[0][0][0])
    assert not torch.equal(shuffled.batches(seed=1)[0][0][0], shuffled.batches(seed=2)[0][0][0])


def test_logging_and_printing_in_a_step_are_silent(capfd):
    class Talks(Net):
        def training_step(self, batch, batch_idx):
            self.print("in the step")
            assert batch_idx == 1  # 0 is an occasion to log pictures
            return super().training_step(batch, batch_idx)

    made = task(Talks(), train=loader())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lrs.train(made, "sgd", Constant(0.1), 3)
    assert capfd.readouterr() == ("", "")


def test_a_step_without_an_index_is_called_without_one():
    class Short(Net):
        def training_step(self, batch):
            return self.loss(batch)

    task(Short(), train=loader()).check()


def test_the_builder_of_a_module_at_top_level_can_be_sent_to_another_process():
    build = pickle.loads(pickle.dumps(task(OneConfig({"width": 6}), train=loader()).build))
    assert build(0).net.out_features == 6


@pytest.mark.parametrize("name", ["global_step", "current_epoch"])
def test_a_step_that_reads_how_far_the_run_is_is_told_that_it_reads_zero(name):
    class Reads(Net):
        def training_step(self, batch, batch_idx):
            assert (self.logger, self.global_rank) == (None, 0)
            return self.loss(batch) * (1 + getattr(self, name))

    with pytest.warns(lrs.LrscopeWarning, match=rf"reads self\.{name}, .* always 0 here"):
        task(Reads(), train=loader()).check()


class SetsInHook(Net):
    def on_train_batch_start(self, batch, batch_idx):
        self.scale = 2.0

    def training_step(self, batch, batch_idx):
        return self.loss(batch) * self.scale


class NeedsTrainer(Net):
    def training_step(self, batch, batch_idx):
        return self.loss(batch) * self.trainer.max_epochs


class SkipsAll(Net):
    def training_step(self, batch, batch_idx):
        return None


class Iterates(Net):
    def training_step(self, dataloader_iter):
        return self.loss(next(dataloader_iter))


class ByHand(Net):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class SetsUpWithTrainer(Net):
    def setup(self, stage):
        self.total = self.trainer.estimated_stepping_batches


class Several(Net):
    def train_dataloader(self):
        return {"a": loader(), "b": loader()}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: task(NeedsTrainer(), train=loader()).check(),
            ["training_step", "self.trainer", "only inside Trainer.fit"],
        ),
        (
            lambda: task(SetsInHook(), train=loader()).check(),
            ["training_step", "no attribute 'scale'", "on_train_batch_start", "__init__ or setup"],
        ),
        (lambda: task(Net(), loader()), ["expected a LightningDataModule, got DataLoader", "train="]),
        (lambda: task(SetsUpWithTrainer(), train=loader()).check(), ["setup", "self.trainer"]),
        (lambda: task(SkipsAll(), train=loader()).check(), ["returned no loss", "leaves a batch out"]),
        (lambda: task(Iterates(), train=loader()), ["dataloader_iter"]),
        (lambda: task(ByHand(), train=loader()), ["optimizes manually"]),
        (lambda: task(Several()), ["several loaders (dict)", "train="]),
        (lambda: task(Net()), ["has no train_dataloader", "datamodule="]),
        (lambda: task(Net, train=loader()), ["expected a LightningModule", "got Net", "task(lambda seed:"]),
        (lambda: task(nn.Linear(3, 1), train=loader()), ["expected a LightningModule", "a Linear"]),
        (lambda: task(lambda seed: nn.Linear(3, 1), train=loader()), ["the function returned Linear"]),
        (lambda: task(lambda seed: Net(), train=loader(), start="given"), ["needs the module itself"]),
        (lambda: task(Net(), train=loader(), start="here"), ["'fresh' or 'given'", "'here'"]),
        (lambda: task(Net(), train=loader(), accumulate_grad_batches=0), ["positive integer", "got 0"]),
        (lambda: task(pl.LightningModule(), train=loader()), ["has no training_step"]),
    ],
)
def test_what_cannot_be_a_task_is_refused_in_one_line(make, words):
    with pytest.raises(lrs.TaskError) as told:
        make()
    for word in words:
        assert word in str(told.value)
    assert "\n" not in str(told.value)

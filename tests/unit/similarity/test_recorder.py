"""What layers answer is recorded exactly, whatever the module, and nothing of it is left behind."""

from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cases
from fingerprints import everything
from lrscope.errors import MeasurementError
from lrscope.similarity import record
from lrscope.tasks import Task


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


BATCHES = [draw(6, 4), draw(6, 4, seed=1), draw(3, 4, seed=2)]
IMAGES = [draw(6, 1, 8, 8), draw(6, 1, 8, 8, seed=1)]


def made(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 2))


class Noisy(nn.Module):
    """Everything that measuring could disturb: batch statistics, a counter, functional dropout, global draws."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        h = self.norm(self.conv(x)).relu_()
        torch.rand(3)
        return self.fc(nn.functional.dropout(h.mean((2, 3)), 0.5, training=True))


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_records_what_each_layer_answers_in_order():
    model = made(mlp)
    found = record(model, BATCHES)
    x = torch.cat(BATCHES)
    first = model[0](x)
    assert found.layers == ["0", "1", "3"]  # dropout changes nothing here
    # The rectifier works in place on the answer of "0".
    for layer, expected in (("0", first), ("1", first.relu()), ("3", model[3](first.relu()))):
        assert torch.allclose(found[layer], expected, atol=1e-6)
    assert found.examples == len(found) * 5 == 15
    assert found.cost.forwards == 3
    assert not any(t.requires_grad for t in found.values())
    assert "0: (15, 8)" in repr(found)


@pytest.mark.parametrize("training", [True, False])
def test_leaves_no_trace(training):
    model = made(Noisy).train(training)
    model.fc.eval()
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    loader = DataLoader(TensorDataset(torch.cat(IMAGES)), 4, shuffle=True, generator=torch.Generator().manual_seed(0))
    before = everything(model, None, loader)
    first, again = record(model, loader), record(model, loader)
    assert everything(model, None, loader) == before
    assert hooks_of(model) == 0
    assert all(torch.equal(first[layer], again[layer]) for layer in first)
    assert first.inputs == again.inputs


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_leaves_no_trace_when_a_pass_raises(error):
    class Breaks(Noisy):
        def forward(self, x):
            if self.calls == 1:
                raise error("half way")
            return super().forward(x)

    models = {"fine": made(Noisy).train(), "breaks": made(Breaks).train()}
    before = {name: everything(model) for name, model in models.items()}
    with pytest.raises(error, match="half way"):
        record(models, IMAGES)
    for name, model in models.items():
        assert everything(model) == before[name]
        assert hooks_of(model) == 0


def test_the_users_own_hooks_stay():
    model, seen = made(mlp), []
    model[0].register_forward_hook(lambda *_: seen.append(1))
    record(model, BATCHES)
    assert len(seen) == 3
    assert hooks_of(model) == 1


def test_several_models_see_each_batch_once():
    reads = []

    def once():
        for i, batch in enumerate(BATCHES):
            reads.append(i)
            yield batch

    found = record({"a": made(mlp), "b": made(mlp, 1)}, once())
    assert reads == [0, 1, 2]
    assert found["a"].inputs == found["b"].inputs
    alone = record(made(mlp, 1), BATCHES)
    assert all(torch.equal(found["b"][layer], alone[layer]) for layer in alone)


def test_models_that_share_a_module_are_told_apart():
    trunk = made(lambda: nn.Linear(4, 5))
    one, two = nn.Sequential(trunk, nn.Tanh()), nn.Sequential(nn.Hardtanh(), trunk)
    found = record({"one": one, "two": two}, BATCHES)
    assert torch.allclose(found["one"]["0"], trunk(torch.cat(BATCHES)), atol=1e-6)
    assert torch.allclose(found["two"]["1"], trunk(torch.cat(BATCHES).clamp(-1, 1)), atol=1e-6)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x, times=2):
        for _ in range(times):
            x = self.fc(x)
        return self.out(x)


def test_a_module_that_runs_twice_gives_both_calls():
    model = made(Twice)
    found = record(model, BATCHES)
    x = torch.cat(BATCHES)
    assert found.layers == ["fc#1", "fc#2", "out"]
    assert torch.allclose(found["fc#1"], model.fc(x), atol=1e-6)
    assert torch.allclose(found["fc#2"], model.fc(model.fc(x)), atol=1e-6)
    with pytest.raises(KeyError, match="did you mean 'fc#1'"):
        found["fc"]


def test_a_module_that_runs_a_varying_number_of_times_is_refused():
    model, turns = made(Twice), iter((2, 3, 2))
    with pytest.raises(MeasurementError, match=r"'fc' ran 2 times in one batch and 3 times in another"):
        record(model, BATCHES, forward=lambda m, batch: m(batch, next(turns)))
    assert hooks_of(model) == 0


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_give_named_parts_examples_first(kind, batch_first):
    layer = made(lambda: kind(3, 5, num_layers=2, bidirectional=True, batch_first=batch_first))
    x = draw(6, 4, 3)
    found = record(nn.Sequential(layer), [x], forward=lambda m, b: m(b if batch_first else b.movedim(0, 1)))
    assert found.layers == ["0.output", "0.hidden"] + ["0.cell"] * (kind is nn.LSTM)
    assert found["0.output"].shape == (6, 4, 10)
    assert found["0.hidden"].shape == (6, 20)
    # The last hidden state of the last layer, forwards, is its last output.
    assert torch.allclose(found["0.hidden"][:, 10:15], found["0.output"][:, -1, :5])


def test_outputs_of_many_tensors_have_names():
    Pair = namedtuple("Pair", "left right")

    class Parts(nn.Module):
        def __init__(self, answer):
            super().__init__()
            self.answer = answer

        def forward(self, x):
            return self.answer(x)

    model = nn.ModuleDict(
        {
            "tuple": Parts(lambda x: (x, [x + 1, x + 2])),
            "dict": Parts(lambda x: {"logits": x, "count": torch.arange(len(x)), "none": None}),
            "named": Parts(lambda x: Pair(x, -x)),
            "single": Parts(lambda x: (x,)),
        }
    )
    found = record(model, BATCHES, forward=lambda m, x: [part(x) for part in m.values()])
    assert found.layers == [
        "tuple[0]",
        "tuple[1][0]",
        "tuple[1][1]",
        "dict.logits",
        "named.left",
        "named.right",
        "single",
    ]
    assert torch.equal(found["named.right"], -torch.cat(BATCHES))


def test_layers_by_name_and_pattern():
    model = nn.Sequential(made(mlp), made(lambda: nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))))
    assert record(model, BATCHES, "0.3").layers == ["0.3"]
    assert record(model, BATCHES, ["1.*", "0"]).layers == ["0", "1.0", "1.1"]
    assert record(model, BATCHES, "*.0").layers == ["0.0", "1.0"]
    assert set(record(model, BATCHES, ["", "1"])) == {"", "1"}
    for wanted, says in (
        ("1.2", r"no layer '1.2' \(did you mean '1\.\d'\?\); there are 0, 0.0"),
        (["0.0", "head*"], r"no layer 'head\*'"),
        ([], "empty list"),
    ):
        with pytest.raises(ValueError, match=says):
            record(model, BATCHES, wanted)
    with pytest.raises(TypeError, match="expected names, got int"):
        record(model, BATCHES, [0])


def test_a_layer_that_never_runs_is_an_error_when_named_and_noted_otherwise():
    model = made(Twice)
    model.spare = nn.Linear(2, 2)
    found = record(model, BATCHES)
    assert found.skipped == {"spare": "it never ran in the forward pass"}
    with pytest.raises(KeyError, match="'spare' was not recorded: it never ran"):
        found["spare"]
    with pytest.raises(MeasurementError, match="'spare' cannot be recorded: it never ran"):
        record(model, BATCHES, "spare")


def test_outputs_without_one_row_per_example_are_skipped_or_refused():
    model = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 4)), nn.Linear(4, 2))
    found = record(model, [draw(6, 4)])
    assert found.layers == ["1", "2"]
    assert "(24,) has no row for each of the 6 examples" in found.skipped["0"]
    with pytest.raises(MeasurementError, match="'0' cannot be recorded: its output"):
        record(model, [draw(6, 4)], "0")
    with pytest.raises(MeasurementError, match="no layer gave"):
        record(nn.Flatten(0), [draw(6, 4)])


def test_maps_can_be_reduced_while_recording():
    model = made(lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten()))
    whole = record(model, IMAGES)
    mean, flat = (record(model, IMAGES, spatial=way) for way in ("average", "flatten"))
    assert whole["0"].shape == (12, 3, 6, 6)
    assert torch.allclose(mean["0"], whole["0"].mean((2, 3)), atol=1e-6)
    # Position by position, channels within: the order in which the measures flatten, too.
    assert torch.equal(flat["0"], whole["0"].movedim(1, -1).flatten(1))
    assert torch.equal(mean["1"], whole["1"])
    last = record(nn.Identity(), [draw(6, 5, 5, 2)], "", spatial="average", channels="last")
    assert last[""].shape == (6, 2)
    assert record(model.half().double(), [b.double() for b in IMAGES], spatial="average")["0"].dtype == torch.float64
    for way in ("samples", "dft", "mean"):
        with pytest.raises(ValueError, match="give spatial= to the measure"):
            record(model, IMAGES, spatial=way)


def test_max_examples_cuts_the_last_batch_and_reads_no_more():
    def endless():
        while True:
            yield BATCHES[0]

    found = record(made(mlp), endless(), max_examples=10)
    assert found.examples == 10
    assert found["0"].shape == (10, 8)
    assert found.cost.forwards == 2
    assert found.inputs != record(made(mlp), endless(), max_examples=11).inputs


def test_how_the_model_is_called():
    model = made(mlp)
    plain = record(model, BATCHES)
    labelled = [(x, torch.zeros(len(x))) for x in BATCHES]
    named = [{"input": x} for x in BATCHES]  # nn.Sequential's own argument name
    assert torch.equal(record(model, labelled)["3"], plain["3"])
    assert torch.equal(record(model, named)["3"], plain["3"])
    swapped = [(torch.zeros(len(x), 1), x) for x in BATCHES]
    assert torch.equal(record(model, swapped, forward=lambda m, b: m(b[1]))["3"], plain["3"])
    for batches, kind, says in (
        (BATCHES[0], TypeError, "put a batch in a list"),
        ({"x": BATCHES[0]}, TypeError, "put a batch in a list"),
        ([], ValueError, "got no batch"),
        (["text"], ValueError, "no tensor with examples"),
    ):
        with pytest.raises(kind, match=says):
            record(model, batches)
    for models in ({}, {"a": None}, [model]):
        with pytest.raises((TypeError, ValueError)):
            record(models, BATCHES)
    with pytest.raises(ValueError, match="max_examples"):
        record(model, BATCHES, max_examples=0)


@pytest.mark.parametrize("name", sorted(cases.TASKS))
def test_every_kind_of_task_is_recorded_through_its_loss(name):
    task: Task = cases.TASKS[name]()
    model = task.model(0)
    before = everything(model, None, task.train)
    found = record(model, task)
    examples = cases.NUM_TRAIN if task.evaluate is None else cases.NUM_EVAL
    assert found.examples == examples
    assert found.layers
    assert all(len(t) == examples and torch.isfinite(t).all() for t in found.values())
    assert everything(model, None, task.train) == before
    assert record(model, task, max_examples=5).examples == 5


def test_a_task_without_evaluation_batches_gives_its_training_batches():
    x = draw(8, 4)
    task = Task(lambda seed: made(mlp), lambda m, b: m(b).square().mean(), [x])
    assert torch.allclose(record(task.model(0), task, "0")["0"], task.model(0)[0](x), atol=1e-6)


def test_fused_encoder_layers_and_attention_are_seen():
    model = made(lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval())
    x = draw(6, 5, 8)
    found = record(model, [x])
    assert len(found) == 2 * 5
    assert torch.allclose(found["layers.1.norm2"], model(x), atol=1e-5)
    attention = made(lambda: nn.MultiheadAttention(8, 2))
    swapped = record(attention, [x], forward=lambda m, b: m(*[b.movedim(0, 1)] * 3))
    assert swapped[""].shape == x.shape


@pytest.mark.parametrize("how", ["whole", "part"])
def test_compiled_models_are_run_uncompiled(how):
    plain = made(mlp)
    expected = record(plain, BATCHES)
    if how == "whole":
        model = torch.compile(plain, backend="eager")
    else:
        model = nn.Sequential(torch.compile(plain, backend="eager"))
    model(BATCHES[0])
    found = record(model, BATCHES)
    assert [t.shape for t in found.values()] == [t.shape for t in expected.values()]
    assert all(torch.equal(a, b) for a, b in zip(found.values(), expected.values(), strict=True))


def test_a_hugging_face_model_from_a_config():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    model = made(lambda: transformers.BertModel(config))
    batch = {"input_ids": torch.arange(12).reshape(3, 4), "attention_mask": torch.ones(3, 4, dtype=torch.long)}
    before = everything(model)
    found = record(model, [batch], ["encoder.layer.?", "pooler"], spatial="average")
    assert everything(model) == before
    assert {name: tuple(t.shape) for name, t in found.items()} == {
        "encoder.layer.0": (3, 8),
        "encoder.layer.1": (3, 8),
        "pooler.last_hidden_state" if "pooler.last_hidden_state" in found else "pooler": (3, 8),
    }


@pytest.mark.parametrize("models", [None, 3, [nn.Linear(2, 2)]])
def test_models_are_a_module_or_a_dict_of_them(models):
    with pytest.raises(TypeError, match="models: expected a module, or a dict of them by name, got"):
        record(models, IMAGES)

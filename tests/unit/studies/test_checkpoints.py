"""Networks out of files: whatever wraps them, and what is refused with a sentence."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import cases
import lrscope as lrs
from lrscope.studies import read_checkpoint
from lrscope.studies.checkpoints import fitted

TASK = cases.TASKS["batch_norm"]()


@pytest.fixture
def state():
    return TASK.model(3).state_dict()


def saved(tmp_path, value):
    torch.save(value, tmp_path / "x.pt")
    return tmp_path / "x.pt"


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict"])
def test_a_state_dict_is_found_bare_and_under_its_usual_names(key, state, tmp_path):
    optimizer = torch.optim.Adam(TASK.model(3).parameters()).state_dict()
    whole = state if key is None else {"epoch": 3, "optimizer": optimizer, key: state, "note": "hello"}
    assert equal(read_checkpoint(saved(tmp_path, whole)), state)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod."]
)
def test_what_wrappers_put_before_names_is_taken_off(prefix, state, tmp_path):
    file = saved(tmp_path, {prefix + k: v for k, v in state.items()})
    assert equal(fitted(read_checkpoint(file), TASK, "A"), state)


def test_the_checkpoint_of_our_own_training(tmp_path):
    lrs.train(TASK, "adamw", lrs.schedules.Constant(0.01), 5, out=tmp_path, name="net")
    found = fitted(read_checkpoint(tmp_path / "net.pt"), TASK, "A")
    assert found.keys() == TASK.model(0).state_dict().keys()


def test_precision_and_device_are_the_models(state):
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    found = fitted(half, TASK, "A")
    assert {v.dtype for v in found.values()} == {v.dtype for v in state.values()}


def test_weights_that_are_no_trained_weights_are_refused_by_the_name_of_their_file(state):
    first = next(iter(state))
    with pytest.raises(ValueError, match=f"a.pt: '{first}' is torch.int64, not torch.float32"):
        fitted({**state, first: state[first].long()}, TASK, "a.pt")
    with pytest.raises(ValueError, match=f"a.pt: '{first}' holds values that are not finite"):
        fitted({**state, first: state[first] / 0}, TASK, "a.pt")


def test_buffers_may_be_infinite(state):
    buffer = next(name for name, _ in TASK.model(0).named_buffers() if name.endswith("running_var"))
    masked = {**state, buffer: torch.full_like(state[buffer], float("inf"))}  # as a causal mask is
    assert equal(fitted(masked, TASK, "A"), masked)


class Harmful:
    ran = False

    def __reduce__(self):
        return (setattr, (Harmful, "ran", True))


@pytest.mark.parametrize("what", ["module", "object"])
def test_files_with_more_than_weights_are_refused_and_run_nothing(what, state, tmp_path):
    value = TASK.model(0) if what == "module" else {"model": state, "extra": Harmful()}
    with pytest.raises(
        ValueError, match=r"more than tensors and plain values \(.*\), and reading that could run code"
    ) as e:
        read_checkpoint(saved(tmp_path, value))
    assert not Harmful.ran
    assert "\n" not in str(e.value)


def test_files_that_hold_no_network_are_refused(state, tmp_path):
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1, momentum=0.9).state_dict()
    for value, says in [
        (optimizer, "it holds an optimizer's state and no weights"),
        ({"epoch": 3, "loss": 0.1}, r"no network found in it \(it holds 'epoch', 'loss'\)"),
        ({}, "no network found in it .it holds nothing"),
        (torch.zeros(3), "it holds a Tensor, no network"),
        ([state], "it holds a list, no network"),
    ]:
        with pytest.raises(ValueError, match=says) as caught:
            read_checkpoint(saved(tmp_path, value))
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_files_that_are_not_there_or_broken(state, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_checkpoint(tmp_path / "none.pt")
    file = saved(tmp_path, state)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match="torch cannot read it as a checkpoint"):
        read_checkpoint(file)
    Path(file).write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"more than tensors|torch cannot read"):
        read_checkpoint(file)
    file.write_bytes(pickle.dumps(Harmful))
    with pytest.raises(ValueError, match=r"x.pt"):
        read_checkpoint(file)


def test_another_architecture_is_named_by_its_first_differences(state):
    other = dict(state)
    first, second, *_ = other
    del other[first]
    other["head.extra"] = torch.zeros(2)
    other[second] = torch.zeros(99)
    with pytest.raises(ValueError, match="A: not a network of task 'batch_norm'") as caught:
        fitted(other, TASK, "A")
    said = str(caught.value)
    assert f"{first!r} is missing" in said
    assert "'head.extra' is not of it" in said
    assert f"{second!r} has shape (99,), not" in said
    assert "\n" not in said
    with pytest.raises(ValueError, match=r"and \d+ more"):
        fitted({f"x{i}": torch.zeros(1) for i in range(9)}, TASK, "A")

import dataclasses

import pytest
import torch
from torch import nn

from cases import TASKS, accuracy, cross_entropy
from lrscope.training import evaluate


def test_means_are_weighted_by_examples():
    task = TASKS["tuple"](dtype=torch.float64)  # 12 examples in batches of 8 and 4
    model = task.model(0)
    (whole,) = [tuple(torch.cat(column) for column in zip(*task.batches(of="evaluate"), strict=True))]
    with torch.no_grad():
        expected = {"eval_loss": float(cross_entropy(model, whole)), "accuracy": float(accuracy(model, whole))}
    assert evaluate(task, model) == pytest.approx(expected, rel=1e-12)


def test_without_an_evaluation_set_there_is_nothing():
    task = dataclasses.replace(TASKS["tuple"](), evaluate=None)
    assert evaluate(task, task.model(0)) == {}


def test_modes_statistics_and_generators_are_left_as_found():
    task = TASKS["batch_norm"]()
    model = nn.Sequential(task.model(0), nn.Dropout(0.5)).train()
    model[0].eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before = torch.get_rng_state()
    assert evaluate(task, model) == evaluate(task, model)
    assert (model.training, model[0].training) == (True, False)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())

import json
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrscope.optimizers import GIAdam, GIAdamW, OptimizerSpec, RIAdam
from lrscope.optimizers.spec import Rule

CLASSES = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "giadam": GIAdam,
    "giadamw": GIAdamW,
    "riadam": RIAdam,
    "radam": torch.optim.RAdam,
}


def test_sgd_means_momentum_and_says_so():
    assert OptimizerSpec.parse("sgd").momentum == 0.9
    assert str(OptimizerSpec.parse("sgd")) == "sgd(momentum=0.9)"
    assert str(OptimizerSpec.parse("sgd(momentum=0)")) == "sgd(momentum=0)"


def test_text_dict_and_fields_say_the_same():
    spec = OptimizerSpec("adamw", weight_decay=0.1, betas=(0.9, 0.95))
    assert OptimizerSpec.parse("AdamW(weight_decay=0.1, betas=(0.9, 0.95))") == spec
    assert OptimizerSpec.parse({"name": "adamw", "weight_decay": 0.1, "betas": [0.9, 0.95]}) == spec
    assert OptimizerSpec.parse(spec) is spec
    assert str(spec) == "adamw(betas=(0.9, 0.95), weight_decay=0.1)"
    assert len({spec, OptimizerSpec.parse(str(spec))}) == 1


@given(
    st.sampled_from(get_args(Rule)).flatmap(
        lambda name: st.builds(OptimizerSpec, name=st.just(name), weight_decay=st.floats(0, 1))
    )
)
def test_a_spec_survives_json(spec):
    assert OptimizerSpec.from_spec(json.loads(json.dumps(spec.to_spec()))) == spec


@pytest.mark.parametrize(("name", "decay"), [(name, 0.01 if name.endswith("w") else 0.0) for name in CLASSES])
def test_defaults_are_those_of_torch_but_for_momentum(name, decay):
    spec = OptimizerSpec.parse(name)
    built = spec.build([torch.nn.Parameter(torch.ones(2))], lr=0.25)
    plain = type(built)([torch.nn.Parameter(torch.ones(2))])
    assert type(built) is CLASSES[name]
    assert built.param_groups[0]["lr"] == 0.25
    assert spec.weight_decay == decay
    assert spec.default_lr == plain.defaults["lr"]
    for key, value in plain.defaults.items():
        if key not in ("lr", "momentum"):
            assert built.defaults[key] == value


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("adamm", r"'adamm' is not known; choose one of sgd, adam, adamw, giadam.*; did you mean 'adam'\?"),
        ("adamw(weight_decy=0.1)", r"did you mean 'weight_decay'\?"),
        ("sgd(betas=(0.9, 0.99))", r"sgd\(betas=\): no such option; sgd has momentum"),
        ("sgd(lr=0.1)", "comes from the schedule"),
        ("adam(amsgrad=True)", "AMSGrad"),
        ("adam(betas=(0.9, 1.0))", r"a number in \[0, 1\), got 1.0"),
        ("adam(betas=0.9)", "expected two numbers"),
        ("giadam(seed=1)", r"giadam\(seed=\): no such option; giadam has betas"),
        ("riadam(seed=-1)", r"riadam\(seed=\): expected an integer of 0 or more, got -1"),
        ("radam(momentum=0.5)", r"radam\(momentum=\): no such option"),
        ("sgd(momentum=-1)", r"sgd\(momentum=\): expected a finite number of at least 0, got -1"),
        ("sgd(momentum='much')", "got 'much'"),
        ("sgd(nesterov=1)", "expected True or False"),
        ("sgd(nesterov=True, momentum=0)", "needs momentum above 0"),
        ("sgd(nesterov=True, dampening=0.5)", "dampening 0, got"),
        ("sgd(0.9)", "cannot read"),
        ("sgd(", "cannot read"),
        ("", "cannot read"),
        ("sgd(momentum=x)", "not a plain value"),
        ("sgd(**{})", "cannot read"),
        ({"momentum": 0.9}, "no name given"),
        ({"name": "lion"}, "'lion' is not known"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        OptimizerSpec.parse(given)


def test_an_option_of_another_rule_is_refused_also_as_a_field():
    with pytest.raises(ValueError, match="adam has betas"):
        OptimizerSpec("adam", momentum=0.5)
    with pytest.raises(ValueError, match="is not one of"):
        OptimizerSpec("rmsprop")  # pyright: ignore


def test_a_torch_optimizer_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match="got SGD; pass its name"):
        OptimizerSpec.parse(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1))
    with pytest.raises(TypeError, match="got int"):
        OptimizerSpec.parse(3)  # pyright: ignore

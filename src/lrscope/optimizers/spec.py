"""Which update rule trains, as data: printable, comparable, JSON-able; the learning rate is the schedule's."""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from lrscope.optimizers.giadam import GIAdam, GIAdamW, RIAdam

Rule = Literal["sgd", "adam", "adamw", "giadam", "giadamw", "riadam", "radam"]

# The options of each rule and their defaults: torch's own, but for SGD's momentum (see OptimizerSpec).
_OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "dampening": 0.0, "nesterov": False, "weight_decay": 0.0},
    "adam": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
    "adamw": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
    "giadam": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
    "giadamw": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
    "riadam": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "seed": 0},
    "radam": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
}
_CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "giadam": GIAdam,
    "giadamw": GIAdamW,
    "riadam": RIAdam,
    "radam": torch.optim.RAdam,
}
_REFUSED = {
    "lr": "the learning rate comes from the schedule, not from the optimizer; remove it",
    "learning_rate": "the learning rate comes from the schedule, not from the optimizer; remove it",
    "amsgrad": "AMSGrad is not among the update rules; remove it",
    "maximize": "losses are minimised; return the negative from loss_fn instead",
}


@dataclass(frozen=True)
class OptimizerSpec:
    """One of the update rules that exist both as a torch optimizer and for batched replicas.

    **"sgd" means momentum 0.9 here**, the field's habit, where ``torch.optim.SGD`` has 0; the printed form always
    shows it. Plain gradient descent is ``"sgd(momentum=0)"``. Every other default is torch's.

    Args:
        name: ``"sgd"``, ``"adam"`` (weight decay added to the gradient) or ``"adamw"`` (decoupled); ``"giadam"``,
            ``"giadamw"`` and ``"riadam"``, the classes of this room, which start Adam's second moment at the first
            gradient; ``"radam"``, rectified Adam, which warms up by itself in another way.
        momentum, dampening, nesterov: SGD only; as in ``torch.optim.SGD``.
        betas, eps: All but SGD.
        weight_decay: 0.01 for AdamW and GI-AdamW, 0 for the others, unless given.
        seed: RI-Adam only; decides its random second moment.

    Raises:
        ValueError: An unknown rule, an option the rule does not have, or a value outside its range.

    Example:
        >>> str(OptimizerSpec.parse("sgd"))
        'sgd(momentum=0.9)'
        >>> OptimizerSpec.parse("adamw(weight_decay=0.1, betas=(0.9, 0.95))").weight_decay
        0.1
    """

    name: Rule = "sgd"
    momentum: float = 0.9
    dampening: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = None  # pyright: ignore[reportAssignmentType]  (the rule's own default, filled in below)
    seed: int = 0

    def __post_init__(self) -> None:
        options = _OPTIONS.get(self.name) if isinstance(self.name, str) else None
        if options is None:
            raise ValueError(
                f"optimizer: {self.name!r} is not one of {', '.join(_OPTIONS)}{_near(self.name, _OPTIONS)}"
            )
        put = object.__setattr__  # the one way to complete a frozen dataclass
        if self.weight_decay is None:
            put(self, "weight_decay", options["weight_decay"])
        for key in ("momentum", "dampening", "weight_decay", "eps"):
            put(self, key, self._number(key, getattr(self, key)))
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise ValueError(f"{self.name}(betas=): expected two numbers in [0, 1), got {self.betas!r}")
        put(self, "betas", tuple(self._number("betas", b, below_one=True) for b in self.betas))
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise ValueError(f"{self.name}(seed=): expected an integer of 0 or more, got {self.seed!r}")
        if not isinstance(self.nesterov, bool):
            raise ValueError(f"{self.name}(nesterov=): expected True or False, got {self.nesterov!r}")
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError(
                f"{self.name}(nesterov=True): needs momentum above 0 and dampening 0, got "
                f"momentum={self.momentum:g}, dampening={self.dampening:g}"
            )
        for key in _SHARED:
            if key not in options and getattr(self, key) != _SHARED[key]:
                raise ValueError(_unknown_option(self.name, key))

    def _number(self, key: str, value: Any, *, below_one: bool = False) -> float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or not 0 <= value < (1 if below_one else math.inf):
            allowed = "a number in [0, 1)" if below_one else "a finite number of at least 0"
            raise ValueError(f"{self.name}({key}=): expected {allowed}, got {value!r}")
        return float(value)

    @classmethod
    def parse(cls, text: OptimizerSpec | str | Mapping[str, Any]) -> OptimizerSpec:
        """A spec from itself, a name, text such as ``"sgd(momentum=0, nesterov=False)"``, or :meth:`to_spec`'s dict.

        Raises:
            ValueError: It names no rule we own, or an option or value the rule does not have.
            TypeError: Not one of these types (a ``torch.optim`` object, for example).
        """
        if isinstance(text, OptimizerSpec):
            return text
        if isinstance(text, Mapping):
            return cls.from_spec(text)
        if isinstance(text, str):
            return cls.from_spec(_read(text))
        hint = "; pass its name and options instead, the model is built anew for every run" if _is_torch(text) else ""
        raise TypeError(
            f"optimizer: expected a name, text like 'adamw(weight_decay=0.1)', a dict or an OptimizerSpec, "
            f"got {type(text).__name__}{hint}"
        )

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> OptimizerSpec:
        """The inverse of :meth:`to_spec`; options left out take their defaults."""
        options = dict(spec)
        name = options.pop("name", None)
        if not isinstance(name, str) or name not in _OPTIONS:
            raise ValueError(
                f"optimizer: {'no name given' if name is None else repr(name) + ' is not known'}; "
                f"choose one of {', '.join(_OPTIONS)}{_near(name, _OPTIONS)}"
            )
        for key in options:
            if key not in _OPTIONS[name]:
                raise ValueError(_unknown_option(name, key))
        return cls(cast(Rule, name), **options)

    def to_spec(self) -> dict[str, Any]:
        """Name and every option of the rule, JSON-able."""
        return {"name": self.name} | {k: _plain(getattr(self, k)) for k in _OPTIONS[self.name]}

    def build(self, params: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
        """The torch optimizer of this rule over ``params``, starting at ``lr``."""
        options: dict[str, Any] = {k: getattr(self, k) for k in _OPTIONS[self.name]}
        return _CLASSES[self.name](params, lr=lr, **options)  # type: ignore[call-arg]

    @property
    def default_lr(self) -> float:
        """Default learning rate of ``torch.optim``, a starting point for a search and no more."""
        return 1e-3

    def __str__(self) -> str:
        # SGD's momentum is always said, since it is the one default that differs from torch's.
        shown = {
            key: getattr(self, key)
            for key, default in _OPTIONS[self.name].items()
            if getattr(self, key) != default or key == "momentum"
        }
        inner = ", ".join(f"{k}={_short(v)}" for k, v in shown.items())
        return f"{self.name}({inner})" if inner else self.name


_SHARED = {"momentum": 0.9, "dampening": 0.0, "nesterov": False, "betas": (0.9, 0.999), "eps": 1e-8, "seed": 0}


def _read(text: str) -> dict[str, Any]:
    """``"name(key=value, ...)"`` as a dict, by Python's own grammar; only literals are values."""
    expected = f"optimizer: cannot read {text!r}; write a name, or options like 'adamw(weight_decay=0.1)'"
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(expected) from error
    if isinstance(node, ast.Name):
        return {"name": node.id.lower()}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ValueError(expected)
    read: dict[str, Any] = {"name": node.func.id.lower()}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError(expected)
        try:
            read[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError as error:
            value = ast.unparse(keyword.value)
            raise ValueError(f"optimizer: {keyword.arg}={value} in {text!r} is not a plain value") from error
    return read


def _unknown_option(name: str, key: str) -> str:
    if key in _REFUSED:
        return f"{name}({key}=): {_REFUSED[key]}"
    return f"{name}({key}=): no such option; {name} has {', '.join(_OPTIONS[name])}{_near(key, _OPTIONS[name])}"


def _near(came: Any, allowed: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(came).lower(), list(allowed), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _is_torch(x: Any) -> bool:
    return isinstance(x, torch.optim.Optimizer) or (isinstance(x, type) and issubclass(x, torch.optim.Optimizer))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_short, value)) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)


assert tuple(_OPTIONS) == get_args(Rule)

"""Which units of a network can be renamed without changing what it computes, read from its traced graph."""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional as F

from lrscope.errors import MeasurementError


class Axis(NamedTuple):
    """A dimension of a parameter or buffer that lists the units of a group, ``block`` entries for each."""

    tensor: str
    dim: int
    block: int


@dataclass(frozen=True)
class Group:
    """Units that are renamed together: everything that writes them, scales them or reads them.

    Attributes:
        size: Number of units.
        axes: Where they are listed.
    """

    size: int
    axes: tuple[Axis, ...]


class _Signal(NamedTuple):
    """What flows along an edge: whose units, in which dimension.

    ``"maps"`` have units in dimension 1, with space after it; ``"features"`` in the last one, ``block`` entries for
    each unit. ``"input"`` are the network's own inputs, which nobody may rename.
    """

    group: int
    layout: Literal["input", "maps", "features"]
    block: int = 1


_FIXED = 0  # the group of inputs and outputs
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.Upsample,
)  # fmt: skip
_ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.GELU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.ELU, nn.CELU, nn.SELU, nn.LeakyReLU, nn.Softplus,
    nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Mish, nn.Threshold, nn.Identity,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Softmax,
    nn.LogSoftmax,
)  # fmt: skip
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_ALIKE = """
    relu relu_ relu6 gelu tanh sigmoid silu elu celu selu leaky_relu softplus softsign hardtanh hardswish hardsigmoid
    logsigmoid mish dropout dropout1d dropout2d dropout3d alpha_dropout softmax log_softmax max_pool1d max_pool2d
    max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d interpolate abs exp square sin cos clamp neg pow contiguous clone detach
    float double
"""
_NAMES = frozenset(_ALIKE.split())
"""Functions and methods that treat every unit alike, whatever their other arguments are."""
_PASSING: set[Any] = {f for home in (F, torch) for name in _NAMES if (f := getattr(home, name, None)) is not None}
_JOINING: set[Any] = {
    f
    for home in (operator, torch)
    for name in ("add", "iadd", "mul", "imul", "sub", "isub", "truediv", "div", "maximum", "minimum", "pow", "neg")
    if (f := getattr(home, name, None)) is not None
}
_JOINING_METHODS = frozenset(("add", "add_", "mul", "mul_", "sub", "sub_", "div", "div_"))
_NUMBERS = frozenset(("shape", "ndim", "dtype", "device"))
_SPACE = [["2", "3"], ["-1", "-2"], ["-1", "2"], ["-2", "3"]]


def read_symmetry(model: nn.Module) -> tuple[Group, ...]:
    """The groups of units of ``model`` that may be permuted.

    Chains and sums (residual connections) of ``Linear``, convolutions (also depthwise), BatchNorm, LayerNorm,
    GroupNorm with one group, elementwise functions, pooling and flattening are understood.

    Raises:
        MeasurementError: The model cannot be traced, or holds an operation whose effect on units is not known.
    """
    tracer = fx.Tracer()
    if tracer.is_leaf_module(model, ""):
        if isinstance(model, (nn.Linear, *_CONVOLUTIONS)):
            return ()  # one layer, whose units are all inputs and outputs
        raise MeasurementError(
            f"align: the model is a {type(model).__name__}, whose hidden units are not known; align reads chains and "
            "sums of Linear, convolutions, norms over units, pooling and activations"
        )
    try:
        graph = tracer.trace(copy.deepcopy(model))  # tracing leaves constants on the model it traces
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MeasurementError(
            f"align: the model cannot be traced ({reason[:120]}), so its units are not known; align reads chains of "
            "Linear and convolution layers whose forward has no data-dependent Python"
        ) from error
    return _Reader(model).read(graph)


class _Reader:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parent = [_FIXED]
        self.size = [0]
        self.axes: dict[tuple[str, int], tuple[int, int]] = {}  # (tensor, dim) -> (group, block)
        self.names = {id(t): n for n, t in (*model.named_parameters(), *model.named_buffers())}

    def read(self, graph: fx.Graph) -> tuple[Group, ...]:
        seen: dict[fx.Node, _Signal | None] = {}
        for node in graph.nodes:
            seen[node] = self._node(node, seen)
        found: dict[int, list[Axis]] = {}
        for (tensor, dim), (group, block) in self.axes.items():
            found.setdefault(self._root(group), []).append(Axis(tensor, dim, block))
        return tuple(
            Group(self.size[g], tuple(axes)) for g, axes in found.items() if g != _FIXED and self.size[g] > 1
        )

    def _node(self, node: fx.Node, seen: dict[fx.Node, _Signal | None]) -> _Signal | None:
        signals = [s for n in node.all_input_nodes if (s := seen[n]) is not None]
        if node.op == "placeholder":
            return _Signal(_FIXED, "input")
        if node.op == "output":
            for signal in signals:
                self._join(_FIXED, signal.group)
            return None
        if node.op == "get_attr":
            raise self._unknown(node, f"uses {node.target!r} outside of a layer")
        if node.op == "call_module":
            if len(signals) != 1 or len(node.args) != 1:
                raise self._unknown(node, "is called with several inputs")
            return self._layer(node, self.model.get_submodule(str(node.target)), signals[0])
        return self._call(node, signals)

    def _layer(self, node: fx.Node, layer: nn.Module, s: _Signal) -> _Signal:
        if isinstance(layer, nn.Linear):
            if s.layout == "maps":
                raise self._unknown(node, "reads maps along their last dimension; flatten them first")
            self._list(layer.weight, 1, self._input(node, s, layer.in_features))
            return self._output(layer, layer.out_features, "features")
        if isinstance(layer, _CONVOLUTIONS):
            return self._convolution(node, layer, s)
        if isinstance(layer, _ELEMENTWISE):
            return s
        if isinstance(layer, _POOLS) and s.layout != "features":
            return s
        if isinstance(layer, (*_NORMS, nn.GroupNorm, nn.LayerNorm, nn.PReLU)):
            return self._scaling(node, layer, s)
        if isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1):
            return self._flattened(s)
        raise self._unknown(node, f"is a {type(layer).__name__}")

    def _convolution(self, node: fx.Node, layer: Any, s: _Signal) -> _Signal:
        if s.layout == "features":
            raise self._unknown(node, "is a convolution over features without space")
        if layer.groups == 1:
            self._list(layer.weight, 1, self._input(node, s, layer.in_channels))
            return self._output(layer, layer.out_channels, "maps")
        if layer.groups == layer.in_channels == layer.out_channels and s.layout == "maps":  # depthwise
            for tensor in (layer.weight, layer.bias):
                self._list(tensor, 0, (s.group, 1))
            return s
        raise self._unknown(node, f"is a convolution in {layer.groups} groups")

    def _scaling(self, node: fx.Node, layer: Any, s: _Signal) -> _Signal:
        if s.layout == "input":
            return s
        if isinstance(layer, nn.LayerNorm) and (s.layout != "features" or len(layer.normalized_shape) != 1):
            raise self._unknown(node, "is a LayerNorm over more than the units")
        if isinstance(layer, nn.GroupNorm) and layer.num_groups not in (1, layer.num_channels):
            raise self._unknown(node, f"normalises {layer.num_groups} groups of channels apart")
        tensors = [layer.weight, getattr(layer, "bias", None)]
        tensors += [getattr(layer, name, None) for name in ("running_mean", "running_var")]
        for tensor in tensors:
            if tensor is not None and not (isinstance(layer, nn.PReLU) and tensor.numel() == 1):
                self._list(tensor, 0, (s.group, s.block))
        return s

    def _call(self, node: fx.Node, signals: list[_Signal]) -> _Signal | None:
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", str(node.target))
        if name in ("size", "dim") or (node.target is getattr and node.args[1] in _NUMBERS):
            return None
        if not signals and (name == "getitem" or getattr(operator, str(name), None) is node.target):
            return None  # arithmetic with sizes
        if not signals:
            raise self._unknown(node, f"makes a tensor of its own ({name})")
        s = signals[0]
        if len(signals) == 1 and (name in _NAMES if node.op == "call_method" else node.target in _PASSING):
            return s
        if name in ("flatten", "view", "reshape") and self._flattens(node):
            return self._flattened(s)
        if name == "mean" and s.layout == "maps" and self._over_space(node):
            return _Signal(s.group, "features")
        if name in _JOINING_METHODS if node.op == "call_method" else node.target in _JOINING:
            return self._joined(node, signals)
        raise self._unknown(node, f"calls {name}")

    def _joined(self, node: fx.Node, signals: list[_Signal]) -> _Signal:
        """A sum or product of units with units of the same rank: they are renamed together."""
        s = signals[0]
        for other in signals[1:]:
            if {s.layout, other.layout} == {"maps", "features"} or other.block != s.block:
                raise self._unknown(node, "joins units of different layout")
            self._join(s.group, other.group)
        return next((x for x in signals if x.layout != "input"), s)

    def _flattens(self, node: fx.Node) -> bool:
        """Everything from dimension 1 on becomes features."""
        rest = [*node.args[1:], *node.kwargs.values()]
        if node.target in ("view", "reshape") or node.target is torch.reshape:
            shape = rest[0] if len(rest) == 1 and isinstance(rest[0], (tuple, list)) else rest
            return len(shape) == 2 and bool(shape[1] == -1)
        return [*rest] in ([1], [1, -1])

    @staticmethod
    def _over_space(node: fx.Node) -> bool:
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        keeps = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
        return not keeps and isinstance(dims, (tuple, list)) and sorted(map(str, dims)) in _SPACE

    @staticmethod
    def _flattened(s: _Signal) -> _Signal:
        return s if s.layout != "maps" else _Signal(s.group, "features", 0)  # how many each has, the reader will tell

    def _input(self, node: fx.Node, s: _Signal, width: int) -> tuple[int, int]:
        """Group and block of a reader's input dimension."""
        if s.layout == "input" or self._root(s.group) == _FIXED:
            return _FIXED, 1
        size = self.size[self._root(s.group)]
        if width % size or (s.block and width != size * s.block):
            raise self._unknown(node, f"reads {width} numbers of {size} units")
        return s.group, width // size

    def _output(self, layer: Any, size: int, layout: Literal["maps", "features"]) -> _Signal:
        """Units of its own, unless the layer was called before: then the same ones."""
        key = (self._name(layer.weight), 0)
        group = self.axes[key][0] if key in self.axes else self._new(size)
        for tensor in (layer.weight, layer.bias):
            self._list(tensor, 0, (group, 1))
        return _Signal(group, layout)

    def _list(self, tensor: Any, dim: int, where: tuple[int, int]) -> None:
        if tensor is None:
            return
        group, block = where
        if block == 0:  # a norm on flattened maps
            block = tensor.shape[dim] // max(self.size[self._root(group)], 1)
        known = self.axes.setdefault((self._name(tensor), dim), (group, block))
        self._join(known[0], group)
        if known[1] != block:  # read twice with different shapes
            self._join(_FIXED, group)

    def _name(self, tensor: Any) -> str:
        if id(tensor) not in self.names:
            raise MeasurementError(
                "align: a weight of this model is computed from other parameters, as by weight or spectral norm, so "
                "its units cannot be renamed; bake it in first (torch.nn.utils.parametrize.remove_parametrizations)"
            )
        return self.names[id(tensor)]

    def _new(self, size: int) -> int:
        self.parent.append(len(self.parent))
        self.size.append(size)
        return len(self.parent) - 1

    def _root(self, group: int) -> int:
        while self.parent[group] != group:
            group = self.parent[group]
        return group

    def _join(self, one: int, other: int) -> None:
        one, other = sorted((self._root(one), self._root(other)))  # the fixed one wins
        self.parent[other] = one

    def _unknown(self, node: fx.Node, what: str) -> MeasurementError:
        where = node.target if node.op == "call_module" else node.name
        return MeasurementError(
            f"align: {str(where)!r} {what}, which may not treat units alike, so renaming them could change the "
            "function; align reads chains and sums of Linear, convolutions, norms over units, pooling and activations"
        )

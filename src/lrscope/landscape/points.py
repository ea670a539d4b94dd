"""Trained networks as parameter vectors: what a user gives, read and compared before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrscope.errors import TaskError
from lrscope.params import ParamLayout
from lrscope.wrapping import unwrapped

Point = nn.Module | Mapping[str, Any] | Tensor
"""A network as a module, a state dict or a flat vector ``(P,)``."""

_NESTED = ("model", "state_dict", "model_state_dict", "net", "module", "weights")
_PREFIXES = {
    "module.": "DataParallel or DistributedDataParallel",
    "_orig_mod.": "torch.compile",
    "model.": "a wrapper that calls the network 'model' (Lightning, for one)",
}


@dataclass(frozen=True, eq=False)
class Read:
    """A network that has been read.

    Attributes:
        theta: Trainable parameters, ``(P,)``.
        rest: Everything else that came with it (buffers, frozen parameters), by name; empty for a vector.
    """

    theta: Tensor
    rest: dict[str, Tensor]


def read(name: str, point: Point, model: nn.Module, layout: ParamLayout) -> Read:
    """A user's point as a vector of ``model``'s layout; ``name`` is how messages call it.

    Raises:
        TypeError: It is none of the kinds of a point.
        TaskError: It is of another network; the message names the first keys that differ and what it looks like.
    """
    like = model.get_parameter(layout.names[0])
    if isinstance(point, Tensor):
        if point.shape != (layout.size,):
            raise TaskError(
                f"{name}: a tensor of shape {tuple(point.shape)}; expected a vector of all {layout.size} trainable "
                "parameters, as objective.point() gives, or a module or its state_dict()"
            )
        return Read(_fitting(name, "it", point.detach(), like).clone(), {})
    if isinstance(point, nn.Module):
        module = unwrapped(getattr(point, "_orig_mod", point))
        bare = getattr(model, "_orig_mod", model)
        if module is bare or type(module) is type(bare):
            tensors: Mapping[str, Any] = dict([*module.named_parameters(), *module.named_buffers()])
        else:
            tensors = module.state_dict()
    elif isinstance(point, Mapping):
        tensors = point
        _refuse_other_checkpoints(name, tensors)
    else:
        raise TypeError(f"{name}: expected a module, its state_dict() or a flat vector, got {type(point).__name__}")
    compiled = "_orig_mod."  # in the names of a network that was compiled as a whole
    if hasattr(model, "_orig_mod") and not any(str(key).startswith(compiled) for key in tensors):
        tensors = {compiled + key: value for key, value in tensors.items()}
    return _matched(name, tensors, model, layout)


def _matched(name: str, tensors: Mapping[str, Any], model: nn.Module, layout: ParamLayout) -> Read:
    own = dict(model.named_parameters())
    aliases = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers())
    _compare_keys(name, tensors, own, {**aliases, **dict(model.named_buffers(remove_duplicate=False))})
    for key, tensor in {**own, **buffers}.items():
        came = tensors.get(key)
        if came is not None and (not isinstance(came, Tensor) or came.shape != tensor.shape):
            shape = tuple(came.shape) if isinstance(came, Tensor) else type(came).__name__
            raise TaskError(
                f"{name}: {key!r} has shape {shape} where the network of the first argument has "
                f"{tuple(tensor.shape)}; only networks of one architecture lie in one landscape"
            )
    for key, p in aliases.items():  # a tied weight that came under both of its names
        first = next(k for k, q in own.items() if q is p)
        if key != first and key in tensors and not torch.equal(tensors[key], tensors[first]):
            raise TaskError(
                f"{name}: {first!r} and {key!r} are one tied weight of this network, but differ here; it looks like "
                "a network that was trained untied"
            )
    trained = {k: _fitting(name, repr(k), tensors[k].detach(), own[k]) for k in layout.names}
    rest = [k for k in (*own, *buffers) if k in tensors and k not in trained]
    like = own[layout.names[0]]
    return Read(layout.flatten(trained).to(like.device), {k: tensors[k].detach().to(like.device) for k in rest})


def _compare_keys(name: str, tensors: Mapping[str, Any], needed: Iterable[str], known: Mapping[str, Any]) -> None:
    missing = [key for key in needed if key not in tensors]
    extra = [key for key in tensors if key not in known]
    if not missing and not extra:
        return
    differ = [
        f"{keys[0]!r} {what}" for keys, what in ((missing, "is missing"), (extra, "is not of this network")) if keys
    ]
    for prefix, origin in _PREFIXES.items():
        if missing and extra and all(str(key).startswith(prefix) for key in tensors):
            advice = f"it looks saved from {origin}: remove {prefix!r} from its keys"
            break
    else:
        also = f" ({len(missing)} missing, {len(extra)} unknown in all)"
        advice = f"it looks like another architecture{also}; give networks of the one that the first argument has"
    raise TaskError(f"{name}: {' and '.join(differ)}; {advice}")


def _refuse_other_checkpoints(name: str, tensors: Mapping[str, Any]) -> None:
    if {"state", "param_groups"} <= set(tensors):
        raise TaskError(
            f"{name}: its keys are 'state' and 'param_groups', an optimizer's state without the weights; give the "
            "network's state_dict()"
        )
    for key in _NESTED:
        if isinstance(tensors.get(key), Mapping):
            raise TaskError(f"{name}: a whole checkpoint, with the network under {key!r}; give {name}[{key!r}]")


def _fitting(name: str, what: str, tensor: Tensor, like: Tensor) -> Tensor:
    if tensor.dtype != like.dtype:
        raise TaskError(
            f"{name}: {what} is {tensor.dtype}, that of the first argument {like.dtype}; convert one of them"
        )
    if hasattr(tensor, "full_tensor"):
        raise TaskError(f"{name}: {what} is sharded over processes; give whole tensors (a full state dict)")
    return tensor.to(like.device)


def agree(a: Read, b: Read, statistics: Iterable[str], rest: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is not interpolated, equal in both networks: buffers but for BatchNorm ``statistics``, frozen parameters.

    ``rest`` is what the network of the first argument has of it.

    Raises:
        TaskError: They differ, so there is no one landscape that holds both.
    """
    skip = set(statistics)
    common = {**rest, **a.rest}
    for key, value in b.rest.items():
        if key in skip or not value.is_floating_point():
            continue
        if key in a.rest and not torch.equal(value, a.rest[key]):
            raise TaskError(
                f"b: {key!r} is not trained (a buffer, or frozen) and differs from a's, so no path of trainable "
                "parameters joins the two; make it equal in both, or unfreeze it"
            )
    return {**common, **{k: v for k, v in b.rest.items() if k not in common}}

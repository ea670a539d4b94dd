"""What training wraps around a model, seen through: compilation, data parallelism, sharding."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lrscope.errors import TaskError


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside ``DistributedDataParallel`` or ``DataParallel``; any other model is returned as it is.

    Their hooks belong to a training step, so measuring calls the module inside and sums over processes itself.
    """
    bare = getattr(model, "_orig_mod", model)  # a wrapper that was compiled as a whole
    if isinstance(bare, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return unwrapped(bare.module)
    return model


class Ranks:
    """The processes whose batches together make the loss; a single one, unless the model says otherwise.

    ``DistributedDataParallel`` brings its process group, ``fully_shard`` the mesh of its parameters.

    Attributes:
        size: Number of processes.

    Raises:
        TaskError: A kind of sharding whose gradients mean something else.
    """

    def __init__(self, model: nn.Module) -> None:
        self._groups: tuple[Any, ...] = ()
        bare = getattr(model, "_orig_mod", model)
        if isinstance(bare, nn.parallel.DistributedDataParallel):
            self._groups = (bare.process_group,)
        elif _fsdp_modules(bare):
            self._groups = _mesh_groups(bare)
        elif any(type(m).__name__ == "FullyShardedDataParallel" for m in bare.modules()):
            raise TaskError(
                "model: FullyShardedDataParallel keeps parameters as flat pieces without names, so they form no "
                "parameter vector; shard the model with torch.distributed.fsdp.fully_shard instead"
            )
        self.size = 1
        for group in self._groups:
            self.size *= torch.distributed.get_world_size(group)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, in place; each of them must call this the same number of times."""
        for group in self._groups:
            torch.distributed.all_reduce(tensor, group=group)
        return tensor

    def add(self, number: float, device: torch.device) -> float:
        """:meth:`sum` of numbers; ``device`` is one the processes exchange tensors on."""
        if self.size == 1:
            return number
        return float(self.sum(torch.tensor(number, dtype=torch.float64, device=device)))


def is_sharded(model: nn.Module) -> bool:
    """Whether parameters are ``DTensor``: in shards, or replicas, on a device mesh."""
    return any(_is_dtensor(p) for p in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """A ``DTensor`` gathered from all its shards; any other tensor as it is."""
    return tensor.full_tensor() if _is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def resharded(model: nn.Module) -> nn.Module:
    """The model with its parameters in shards, where a forward pass alone has left them gathered."""
    for module in _fsdp_modules(model):
        module.reshard()
    return model


@contextmanager
def standing_at(
    model: nn.Module, values: Mapping[str, Tensor], buffers: Mapping[str, Tensor]
) -> Iterator[dict[str, nn.Parameter]]:
    """The model's own parameters at ``values`` and without gradients; bit for bit as before afterwards.

    For models whose gradient exists only in the way that training computes it: through hooks, with ``backward()``.
    ``buffers`` are copies of the model's own, to be put back.

    Raises:
        TaskError: An optimizer step is hooked to the gradients, so that a gradient would change the model.
    """
    params = dict(resharded(model).named_parameters())
    hooked = [name for name, p in params.items() if getattr(p, "_post_accumulate_grad_hooks", None)]
    if hooked:
        raise TaskError(
            f"model: {hooked[0]!r} has a hook that runs after its gradient (an optimizer inside the backward pass, "
            "say), which measuring would set off; remove the hook while you measure"
        )
    before = {name: _local(p).clone() for name, p in params.items() if name in values}
    grads = {name: p.grad for name, p in params.items()}
    try:
        for name, value in values.items():
            _write(params[name], value)
        for p in params.values():
            p.grad = None
        yield params
    finally:
        resharded(model)
        for name, local in before.items():
            with torch.no_grad():
                _local(params[name]).copy_(local)
        for name, buffer in model.named_buffers():
            with torch.no_grad():
                buffer.copy_(buffers[name])
        for name, p in params.items():
            p.grad = grads[name]


@contextmanager
def without_sharding_hooks(model: nn.Module) -> Iterator[None]:
    """``fully_shard``'s hooks taken off, so that the modules compute with whatever parameters they are given."""
    taken: list[tuple[dict[int, Any], dict[int, Any]]] = []
    try:
        for module in model.modules() if _fsdp_modules(model) else ():
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                taken.append((hooks, dict(hooks)))
                for key in [k for k, hook in hooks.items() if _is_fsdp(hook)]:
                    del hooks[key]
        yield
    finally:
        for hooks, before in taken:
            hooks.clear()
            hooks.update(before)  # in their order, which is the order they run in


def eagerly() -> AbstractContextManager[Any]:
    """Compiled functions run uncompiled: what ``torch.compile`` makes has no second derivative."""
    if "torch._dynamo" not in sys.modules:  # then nothing has been compiled, and asking would take a second
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def _is_dtensor(tensor: Tensor) -> bool:
    module = sys.modules.get("torch.distributed.tensor")  # absent: nobody has made one
    return module is not None and isinstance(tensor, module.DTensor)


def _fsdp_modules(model: nn.Module) -> list[Any]:
    module = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(module, "FSDPModule", None)
    return [m for m in model.modules() if isinstance(m, kind)] if kind is not None else []


def _is_fsdp(hook: Any) -> bool:
    return (getattr(hook, "__module__", None) or "").startswith("torch.distributed.fsdp")


def _mesh_groups(model: nn.Module) -> tuple[Any, ...]:
    params = {name: p for name, p in resharded(model).named_parameters() if _is_dtensor(p)}
    for name, p in params.items():
        mesh, placements = p.device_mesh, p.placements  # type: ignore[attr-defined]
        if mesh.ndim > 2 or (mesh.ndim == 2 and not placements[0].is_replicate()):
            raise TaskError(
                f"model: {name!r} lies on a mesh of {mesh.ndim} dimensions as {placements}, sharded for more than "
                "data parallelism, whose gradients are averaged in an unknown way; measure a copy of the "
                "model that is sharded by fully_shard alone"
            )
    missing = next((name for name, p in model.named_parameters() if name not in params), None)
    if missing is not None:
        raise TaskError(
            f"model: {missing!r} is not sharded while other parameters are, so its gradient is not averaged over the "
            "processes; apply fully_shard to the whole model, too"
        )
    mesh = next(iter(params.values())).device_mesh  # type: ignore[attr-defined]
    return tuple(mesh.get_group(i) for i in range(mesh.ndim))


def _local(tensor: Tensor) -> Tensor:
    return tensor.detach().to_local() if _is_dtensor(tensor) else tensor.detach()  # type: ignore[attr-defined]


@torch.no_grad()
def _write(param: nn.Parameter, value: Tensor) -> None:
    """Copy a whole value into a parameter, of which this process may hold a shard; nothing is sent."""
    if _is_dtensor(param):
        tensor = sys.modules["torch.distributed.tensor"]
        mesh = param.device_mesh  # type: ignore[attr-defined]
        everywhere = tensor.DTensor.from_local(value, mesh, [tensor.Replicate()] * mesh.ndim, run_check=False)
        value = everywhere.redistribute(placements=param.placements).to_local()  # type: ignore[attr-defined]
    _local(param).copy_(value)

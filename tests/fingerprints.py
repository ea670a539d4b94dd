"""Fingerprints: what measuring code must leave as it found it."""

from __future__ import annotations

import hashlib
import pickle
import random
from typing import Any

import numpy as np
import torch
from torch import nn


def digest(value: Any) -> str:
    """A hash of tensors, containers and plain values, by content."""
    h = hashlib.sha256()

    def feed(x: Any) -> None:
        if isinstance(x, torch.Tensor):
            h.update(str((x.dtype, tuple(x.shape))).encode())
            h.update(x.detach().cpu().contiguous().view(-1).numpy().tobytes())
        elif isinstance(x, dict):
            for key in sorted(x, key=str):
                h.update(str(key).encode())
                feed(x[key])
        elif isinstance(x, (list, tuple)):
            for item in x:
                feed(item)
        else:
            h.update(pickle.dumps(x))

    feed(value)
    return h.hexdigest()


def model_state(model: nn.Module) -> str:
    """Parameters, buffers, gradients and the mode of every module."""
    grads = {n: None if p.grad is None else p.grad for n, p in model.named_parameters()}
    return digest(
        [dict(model.named_parameters()), dict(model.named_buffers()), grads, [m.training for m in model.modules()]]
    )


def random_states() -> str:
    return digest([torch.get_rng_state(), list(random.getstate()[1]), np.random.get_state()[1].tolist()])


def everything(
    model: nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None, loader: Any = None
) -> str:
    parts: list[Any] = [random_states()]
    if model is not None:
        parts.append(model_state(model))
    if optimizer is not None:
        parts.append(digest(optimizer.state_dict()))
    for owner in (loader, getattr(loader, "sampler", None)):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            parts.append(digest(generator.get_state()))
    return digest(parts)


def wiring(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> list[Any]:
    """What contents do not show: which objects, which of them are trained, what is hooked to them."""
    parts: list[Any] = []
    for module in model.modules():
        hooks = [list(v) for k, v in sorted(vars(module).items()) if k.endswith("_hooks")]
        tensors = [(k, id(t)) for store in (module._parameters, module._buffers) for k, t in store.items()]
        parts.append([id(module), sorted(map(str, vars(module))), hooks, tensors])
    for p in model.parameters():
        hooks = [list(h) if (h := getattr(p, name, None)) else [] for name in _TENSOR_HOOKS]
        parts.append([p.requires_grad, id(p.grad), p.grad_fn, p.data_ptr(), hooks])
    if optimizer is not None:
        hooks = [list(v) for k, v in sorted(vars(optimizer).items()) if k.endswith("_hooks")]
        parts += [hooks, sorted(vars(optimizer)), [list(map(id, g["params"])) for g in optimizer.param_groups]]
    return parts


_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def settings() -> list[Any]:
    """Switches of torch that hold for the whole process, or for this thread."""
    cuda = torch.backends.cuda
    return [
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(),
        cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled(),
        torch.is_anomaly_enabled(), str(torch._dynamo.eval_frame._stance),
    ]  # fmt: skip


def world(
    model: nn.Module, optimizer: torch.optim.Optimizer | None = None, batches: Any = (), generators: Any = ()
) -> dict[str, Any]:
    """All that a measurement must leave alone, by name, so that a difference says where."""
    return {
        "parameters": digest(dict(model.named_parameters())),
        "buffers": digest(dict(model.named_buffers())),
        "gradients": digest([None if p.grad is None else p.grad for p in model.parameters()]),
        "modes": [m.training for m in model.modules()],
        "optimizer": digest(optimizer.state_dict()) if optimizer is not None else "",
        "random": [
            digest(torch.get_rng_state()), digest(random.getstate()), digest(np.random.get_state()),
            *(digest(g.get_state()) for g in generators),
        ],
        "batches": digest(list(batches)),
        "wiring": wiring(model, optimizer),
        "settings": settings(),
    }  # fmt: skip

"""Calls in a form that suits stacked replicas, made instead of the model's own while it is traced."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class BatchedCalls(TorchFunctionMode):
    """Convolutions as matrix products, and one-hot vectors without a look at the values.

    Weights of several replicas would make grouped convolutions, which are slow; a trace knows no values.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        instead = _INSTEAD.get(func)
        if instead is not None:
            result = instead(*args, **(kwargs or {}))
            if result is not None:
                return result
        return func(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,  # torch's own name for it
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """A product of patches ``(B * rows * columns, kh * kw * C)`` with weights ``(kh * kw * C, O)``."""
    if groups != 1 or isinstance(padding, str) or input.dim() != 4:
        return None
    (sy, sx), (py, px), (dy, dx) = (
        x if isinstance(x, (tuple, list)) else (x, x) for x in (stride, padding, dilation)
    )
    kh, kw = weight.shape[2:]
    # Channels last: then a patch is copied in runs of C numbers.
    x = F.pad(input.permute(0, 2, 3, 1), (0, 0, px, px, py, py))
    height = (x.shape[1] - dy * (kh - 1) - 1) // sy + 1
    width = (x.shape[2] - dx * (kw - 1) - 1) // sx + 1
    taps = tuple(
        (slice(i * dy, i * dy + sy * (height - 1) + 1, sy), slice(j * dx, j * dx + sx * (width - 1) + 1, sx))
        for i, j in product(range(kh), range(kw))
    )
    patches = _Patches.apply(x, taps)
    out = patches.flatten(3).flatten(0, 2) @ weight.permute(2, 3, 1, 0).flatten(0, 2)
    if bias is not None:
        out = out + bias
    return out.unflatten(0, (x.shape[0], height, width)).permute(0, 3, 1, 2)


def _pair(value: Any) -> Any:
    """One number for both dimensions, or one for each."""
    two = value if isinstance(value, (tuple, list)) else (value,)
    return (two[0], two[-1])


class _Patches(torch.autograd.Function):
    """The parts ``taps`` of images ``(B, H, W, C)`` side by side: ``(B, rows, columns, taps, C)``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, taps: Any) -> Tensor:
        return torch.stack([x[:, rows, columns] for rows, columns in taps], 3)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004 - torch's signature
        ctx.shape, ctx.taps = inputs[0].shape, inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        # Added in place: autograd's own way makes a tensor like the whole image for each tap.
        (grad,) = grads
        total = grad.new_zeros(ctx.shape)
        for tap, (rows, columns) in enumerate(ctx.taps):
            total[:, rows, columns] += grad[:, :, :, tap]
        return total, None


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor | None:
    """Without torch's check that all labels are classes; the plain program, which this is compared with, makes it."""
    if num_classes < 1:
        return None
    return (tensor.unsqueeze(-1) == torch.arange(num_classes, device=tensor.device)).long()


_INSTEAD: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    F.conv2d: _conv2d,
    F.one_hot: _one_hot,
    torch._C._nn.one_hot: _one_hot,  # pyright: ignore[reportAttributeAccessIssue]
}

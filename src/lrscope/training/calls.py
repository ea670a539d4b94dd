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
    x = F.pad(_ChannelsLast.apply(input), (0, 0, px, px, py, py))
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
    return out.unflatten(0, (x.shape[0], height, width)).permute(0, 3, 1, 2).contiguous()


class _ChannelsLast(torch.autograd.Function):
    """``(B, C, H, W)`` as ``(B, H, W, C)``, whose gradient comes back laid out as the input is.

    Otherwise whatever lies before the convolution would combine tensors of two layouts, at a fifth of the speed.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        return grads[0].permute(0, 3, 1, 2).contiguous()


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


def _group_norm(
    input: Tensor,  # torch's own name for it
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    """Each example scaled and shifted by channel: batched, torch takes it apart into three times as many passes."""
    if weight is None or bias is None or input.dim() < 3:
        return None
    return _GroupNorm.apply(input.flatten(2), weight, bias, num_groups, eps)[0].view(input.shape)


class _GroupNorm(torch.autograd.Function):
    """Over ``(B, C, L)``, groups of channels next to each other."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        grouped = x.unflatten(1, (groups, -1)).flatten(2)  # (B, G, C / G * L)
        centred = grouped - grouped.mean(2, keepdim=True)
        rstd = (centred.square().mean(2, keepdim=True) + eps).rsqrt()  # (B, G, 1)
        rstd = rstd.expand(*rstd.shape[:2], x.shape[1] // groups).flatten(1)[..., None]  # (B, C, 1)
        centred = centred.view(x.shape)
        # Not torch.addcmul, which is slow where what it adds to is broadcast.
        return centred * (rstd * weight[:, None]) + bias[:, None], centred, rstd

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.groups = inputs[3]
        ctx.save_for_backward(inputs[1], *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        weight, centred, rstd = ctx.saved_tensors
        grad, each = grads[0], centred.shape[1] // ctx.groups
        with_normed, alone = (grad * centred).sum(2, keepdim=True) * rstd, grad.sum(2, keepdim=True)  # (B, C, 1)

        def over_group(sums: Tensor) -> Tensor:
            """Means over each group of what its channels add, weighted: ``(B, C, 1)``."""
            means = (sums * weight[:, None]).unflatten(1, (ctx.groups, each)).sum(2) / (each * centred.shape[2])
            return means.expand(*means.shape[:2], each).flatten(1)[..., None]

        rest = centred * (-rstd * rstd * over_group(with_normed)) - rstd * over_group(alone)
        inputs = torch.addcmul(rest, grad, rstd * weight[:, None])
        return inputs, with_normed.sum((0, 2)), alone.sum((0, 2)), None, None


def _adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor | None:
    """Means over equal cells, where they are equal, as a product with a matrix of shares."""
    (rows, columns), (height, width) = _pair(output_size), input.shape[-2:]
    if not rows or not columns or height % rows or width % columns:
        return None
    like = {"dtype": input.dtype, "device": input.device}
    down, across = (
        torch.eye(n, **like)[:, None].expand(n, size // n, n).flatten(0, 1) * (n / size)
        for n, size in ((rows, height), (columns, width))
    )
    shares = (down[:, None, :, None] * across[None, :, None, :]).flatten(2).flatten(0, 1)
    return (input.flatten(-2) @ shares).unflatten(-1, (rows, columns))


_INSTEAD: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.conv2d: _conv2d,
    F.conv2d: _conv2d,
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.group_norm: _group_norm,
    torch.group_norm: _group_norm,
    F.one_hot: _one_hot,
    torch._C._nn.one_hot: _one_hot,  # pyright: ignore[reportAttributeAccessIssue]
}

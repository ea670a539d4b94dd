"""A small zoo for the built-in tasks: a perceptron, a convolutional network, a GPT.

All of them work under ``torch.func.vmap`` over stacked parameters, have no buffers, and (with the default activation)
have two continuous derivatives, so that curvature means what it says.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["gelu", "relu", "tanh"]
Parameterization = Literal["standard", "mup"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}


def activation_module(name: Activation) -> nn.Module:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(_ACTIVATIONS)}, got {name!r}")
    return _ACTIVATIONS[name]()


def _initialise(model: nn.Module, head: nn.Linear) -> None:
    """He et al. 2015 (arXiv:1502.01852) for hidden layers, variance 1/fan_in for the head, biases zero."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            gain = "linear" if module is head else "relu"
            nn.init.kaiming_normal_(module.weight, nonlinearity=gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class ScaledLinear(nn.Linear):
    """A linear layer whose output, bias included, is multiplied by a fixed number."""

    def __init__(self, inputs: int, outputs: int, multiplier: float) -> None:
        super().__init__(inputs, outputs)
        self.multiplier = multiplier

    def forward(self, input: Tensor) -> Tensor:  # torch's own name for it
        return self.multiplier * super().forward(input)


class MLP(nn.Module):
    """A perceptron with ``depth`` hidden layers of ``width`` units; inputs are flattened.

    With ``parameterization="mup"`` one learning rate of SGD suits every width: hidden weights have variance
    2 / fan_out and their layer's output is multiplied by sqrt(fan_out / fan_in), those of the head have variance
    1 / width and its output is multiplied by 1 / sqrt(width). Hidden units then start as large as in the standard
    parameterisation; outputs start at the size of 1 / sqrt(width) and change by as much at every width, so such a
    network starts flat. Adam would need a learning rate for each layer on top, which is not set here.

    Args:
        inputs: Features of one example, after flattening.
        outputs: Classes, or values to predict.
        width, depth: Units in a hidden layer, and number of hidden layers (0: a linear model).
        activation: After every hidden layer.
        parameterization: ``"standard"``, or ``"mup"``.

    References:
        Yang & Hu, "Feature learning in infinite-width neural networks", 2020, arXiv 2011.14522; multipliers as in
        Kalra & Barkeshli 2024, arXiv 2406.09405.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 64,
        depth: int = 2,
        activation: Activation = "gelu",
        parameterization: Parameterization = "standard",
    ) -> None:
        super().__init__()
        if parameterization not in ("standard", "mup"):
            raise ValueError(f"parameterization: expected 'standard' or 'mup', got {parameterization!r}")
        mup = parameterization == "mup"
        sizes = [inputs] + [width] * depth

        def linear(fan_in: int, fan_out: int, multiplier: float) -> nn.Linear:
            return ScaledLinear(fan_in, fan_out, multiplier) if mup else nn.Linear(fan_in, fan_out)

        hidden = [
            layer
            for fan_in, fan_out in pairwise(sizes)
            for layer in (linear(fan_in, fan_out, math.sqrt(fan_out / fan_in)), activation_module(activation))
        ]
        self.hidden = nn.Sequential(*hidden)
        self.head = linear(sizes[-1], outputs, 1 / math.sqrt(sizes[-1]))
        _initialise(self, self.head)
        if mup:
            with torch.no_grad():  # from variance 2 / fan_in to 2 / fan_out: the multiplier makes up for it
                for layer in self.hidden:
                    if isinstance(layer, nn.Linear):
                        layer.weight *= math.sqrt(layer.in_features / layer.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.hidden(x.flatten(1)))


class CNN(nn.Module):
    """``depth`` blocks of 3x3 convolution, GroupNorm and activation, then means over space and a linear head.

    Every block after the first halves the image and doubles the channels; depth 2 suits 8x8 images, 4 suits 32x32.

    Args:
        channels: Channels of the image, shape ``(B, channels, H, W)``.
        outputs: Classes.
        width: Channels of the first block.
        cells: The mean is taken in each cell of a ``cells`` x ``cells`` grid, so that 1 forgets all positions.
        norm: ``"group"`` (4 channels a group, so no statistics over the batch and no buffers) or ``"none"``.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        width: int = 16,
        depth: int = 2,
        cells: int = 1,
        norm: Literal["group", "none"] = "group",
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        if norm not in ("group", "none"):
            raise ValueError(f"norm: expected 'group' or 'none', got {norm!r}")
        if norm == "group" and width % 4:
            raise ValueError(f"width: with norm='group' a multiple of 4 is needed (4 channels a group), got {width}")
        layers: list[nn.Module] = []
        for i in range(depth):
            wide = width * 2**i
            # The normalisation removes any constant that a bias would add, up to groups.
            layers.append(nn.Conv2d(channels, wide, 3, stride=1 if i == 0 else 2, padding=1, bias=norm == "none"))
            if norm == "group":
                layers.append(nn.GroupNorm(wide // 4, wide))
            layers.append(activation_module(activation))
            channels = wide
        self.blocks = nn.Sequential(*layers)
        self.cells = cells
        self.head = nn.Linear(channels * cells**2, outputs)
        _initialise(self, self.head)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.blocks(x), self.cells).flatten(1))


class _Block(nn.Module):
    """Pre-norm attention and a four times wider MLP, each added to the residual stream."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention_out(self._attend(self.norm_attention(x))))
        return x + self.drop(self.mlp_out(F.gelu(self.mlp_in(self.norm_mlp(x)))))

    def _attend(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        return y.transpose(1, 2).reshape(B, T, D)


class GPT(nn.Module):
    """A decoder-only transformer: tokens ``(B, T)`` in, logits over the next token ``(B, T, vocab)`` out.

    Pre-norm blocks, learned positions, GELU, causal attention, a LayerNorm before the head. Weights start normal
    with standard deviation 0.02, those that end a residual branch smaller by ``sqrt(2 depth)`` (Radford et al. 2019,
    section 2.3), biases zero.

    Args:
        vocab: Number of tokens.
        context: Longest sequence.
        width, depth, heads: Residual width, number of blocks, attention heads; ``heads`` divides ``width``.
        dropout: On embeddings, attention weights and branch outputs.
        tied: The head shares the token embedding's weight and has no bias; else it has a weight of its own.
    """

    def __init__(
        self,
        vocab: int,
        *,
        context: int = 64,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        tied: bool = True,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads: must divide width, got heads={heads} and width={width}")
        self.context = context
        self.token = nn.Embedding(vocab, width)
        self.position = nn.Embedding(context, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(_Block(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        if tied:
            self.head.weight = self.token.weight
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                ends_branch = name.endswith(("attention_out", "mlp_out"))
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * depth) if ends_branch else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(f"tokens: sequences of {length} are longer than the context of {self.context}")
        positions = torch.arange(length, device=tokens.device)
        x = self.drop(self.token(tokens) + self.position(positions))
        return self.head(self.norm(self.blocks(x)))

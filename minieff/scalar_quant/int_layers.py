"""Layers for inference: weights stored as integer codes, and multiplied as integers where that is faster."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minieff.core.storage import half, refuse_nested, widen_inputs
from minieff.scalar_quant.fake_quant import in_bytes, input_codes, on_grid
from minieff.scalar_quant.int8_kernel import KERNEL, bytes_multiply, product
from minieff.scalar_quant.packing import Packed


class IntWeight(nn.Module):
    """A layer with its weight W (R, C) as codes, for inference. `activations` is what happens to x before
    x W^T: "none", "dynamic" (rounded, one scale per token) or "static" (rounded, one scale for all). An x
    that requires a gradient gets the one of training, past the rounding.
    """

    def __init__(self, code: Packed, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.code, self.activations = code, "none"
        self.half_bias = None if bias is None else nn.Parameter(half(bias.detach(), "a bias"))
        self.register_buffer("scale", None)
        self.register_forward_pre_hook(widen_inputs)  # also keeps nn.TransformerEncoder off its fused path

    @property
    def weight(self) -> Float[Tensor, "R C"]:
        return self.code.dense()

    @property
    def bias(self) -> Float[Tensor, "R"] | None:
        return None if self.half_bias is None else self.half_bias.float()

    @property
    def in_integers(self) -> bool:
        """Whether x W^T is computed in integers: both rounded, one scale per row, a processor that can.

        Compiled or exported, it is not: tracing cannot see the layout that the kernel keeps beside the codes.
        """
        rounded = self.activations != "none" and self.code.scale.shape[1] == 1
        here = self.code.codes.device.type == "cpu" and not torch.compiler.is_compiling()
        return rounded and here and bytes_multiply()

    def times(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B R"]:
        """x W^T + b."""
        if self.activations == "none":
            return F.linear(x, self.weight, self.bias)
        if x.requires_grad and torch.is_grad_enabled():  # the integer product has no gradient
            return F.linear(on_grid(x, self.scale), self.weight, self.bias)
        if not self.in_integers:
            x_q, scale = input_codes(x, self.scale)
            return F.linear(scale * x_q, self.weight, self.bias)
        refuse_nested(x)
        x_q, scale = in_bytes(x.reshape(-1, x.shape[-1]), self.scale)
        y, bias = product(x_q, self.code), self.bias
        y = y.mul_(scale) if bias is None else torch.addcmul(bias, y, scale, out=y)
        return y.view(*x.shape[:-1], self.code.shape[0])

    def extra_repr(self) -> str:
        kernel = KERNEL if self.in_integers else "dequantized, then fp32"
        return f"{self.code.shape}, {self.code.grid}, activations={self.activations}, {kernel}"


class IntLinear(IntWeight):
    """x (..., C) -> x W^T + b."""

    def forward(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B R"]:
        return self.times(x)

    def macs(self, inputs: tuple, output: Tensor) -> int:
        return output.numel() * self.code.shape[1]


class IntEmbedding(IntWeight):
    """ids -> rows of W; and the head, x -> x W^T."""

    def forward(self, ids: Int[Tensor, "*B"]) -> Float[Tensor, "*B C"]:
        return self.code.dense(ids.flatten()).view(*ids.shape, self.code.shape[1])

    def logits(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B R"]:
        return self.times(x)

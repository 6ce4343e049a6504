"""Fake quantization: what training sees, weights and inputs on their grids, still as floats.

The forward pass uses w_q, and the gradient passes to w where w is in range (straight-through estimator,
Bengio et al. 2013, arXiv 1308.3432).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from minieff.core.draw import before_drawing
from minieff.core.storage import disable_fast_path, refuse_nested
from minieff.core.surgery import Wrap
from minieff.scalar_quant.grid import int8, row_scale

CACHED = 2**18  # numbers rounded at a time: intermediate results stay in the caches


def straight_through(
    x: Tensor, x_q: Tensor, in_range: Tensor, p: float, generator: torch.Generator | None
) -> Tensor:
    """x_q with the gradient of x where `in_range`; each number with probability p, else x itself.

    >>> x = torch.tensor([0.4, 1.6], requires_grad=True)
    >>> straight_through(x, x.detach().round(), torch.tensor([True, True]), 1.0, None).sum().backward()
    >>> x.grad  # round itself has the derivative 0
    tensor([1., 1.])
    """
    rounded = x_q + in_range * (x - x.detach())  # x_q, exactly: the difference is zero, and has a gradient
    if p == 1:
        return rounded
    u = torch.rand(x.shape, generator=generator, device="cpu")  # the same in all processes
    return torch.where(u.to(x.device) < p, rounded, x)


class FakeQuant(nn.Module):
    """A parametrization: in train mode each weight is rounded with probability p, in eval mode all are.

    Which ones is drawn anew in each pass. The gradient passes to w where w is in range, and w itself is never
    written.
    """

    decides_format = True

    def __init__(
        self, grid: Callable = int8, p: float = 1.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.grid, self.p, self.generator = grid, p, generator

    def forward(self, w: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        p = self.p if self.training else 1.0
        if p == 0:
            return w
        with torch.no_grad():
            w_q, in_range = self.grid(w)
        return straight_through(w, w_q, in_range, p, self.generator)

    def extra_repr(self) -> str:
        return f"{self.grid}, p={self.p}"


def input_scale(x: Float[Tensor, "*B C"], static: Float[Tensor, ""] | None) -> Float[Tensor, "*B 1"]:
    """One scale per token: its own, or the static one.

    ValueError for a static scale that `calibrate` has not set yet, and for nested tensors.

    >>> input_scale(torch.tensor([[12.7, 0.0], [0.0, -2.54]]), None)
    tensor([[0.1000],
            [0.0200]])
    """
    refuse_nested(x)
    if static is None:
        return row_scale(x.detach())
    if static == 0:
        raise ValueError("this layer has no static scale yet; calibrate(model, batches) finds it")
    return static.float() + 0 * row_scale(x.detach())  # so that a NaN stays a NaN


def input_codes(
    x: Float[Tensor, "*B C"], static: Float[Tensor, ""] | None
) -> tuple[Float[Tensor, "*B C"], Float[Tensor, "*B 1"]]:
    """Codes of x on 255 steps, still as floats, and one scale per token. ValueError as for `input_scale`.

    >>> codes, scale = input_codes(torch.tensor([[12.7, 1.0], [0.5, -2.54]]), None)
    >>> codes
    tensor([[ 127.,   10.],
            [  25., -127.]])
    """
    scale = input_scale(x, static)
    codes = (x.detach() / scale).round_()
    return codes if static is None else codes.clamp_(-127, 127), scale


def in_bytes(
    x: Float[Tensor, "N C"], static: Float[Tensor, ""] | None
) -> tuple[Int8[Tensor, "N C"], Float[Tensor, "N 1"]]:
    """`input_codes` as bytes, a few tokens at a time.

    >>> in_bytes(torch.tensor([[12.7, 1.0]]), None)[0]
    tensor([[127,  10]], dtype=torch.int8)
    """
    parts = [input_codes(some, static) for some in x.split(max(1, CACHED // x.shape[1]))]
    return torch.cat([x_q.to(torch.int8) for x_q, _ in parts]), torch.cat([scale for _, scale in parts])


def on_grid(
    x: Float[Tensor, "*B C"],
    static: Float[Tensor, ""] | None,
    p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*B C"]:
    """x rounded to 255 steps, each number with probability p; its gradient passes.

    >>> on_grid(torch.tensor([[12.7, 1.03]]), None)
    tensor([[12.7000,  1.0000]])
    """
    x_q, in_range = int8(x.detach(), input_scale(x, static))
    return straight_through(x, x_q, in_range, p, generator)


class FakeQuantInput(Wrap):
    """A layer whose input x is rounded to 255 steps before x W^T, as `finalize` will do with integers.

    With `static` one scale serves all inputs, found by `calibrate`; otherwise each token has its own.
    """

    def __init__(self, inner: nn.Module, p: float, static: bool, generator: torch.Generator | None) -> None:
        super().__init__(inner)
        self.p, self.generator = p, generator
        self.largest: float | None = None  # the largest input so far, while `calibrate` runs
        self.register_buffer("scale", torch.zeros((), dtype=torch.float16) if static else None)
        self.register_forward_pre_hook(disable_fast_path)
        self.register_forward_pre_hook(before_drawing)

    def on_grid(self, x: Tensor) -> Tensor:
        """x rounded, each number with probability p in train mode. Token ids stay as they are."""
        p = self.p if self.training else 1.0
        if p == 0 or not x.is_floating_point():
            return x
        if self.largest is not None:
            self.largest = float(torch.cat([x.abs().flatten(), torch.tensor([self.largest])]).max())
            return x
        return on_grid(x, self.scale, p, self.generator)

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        return self.inner(self.on_grid(x), *args, **kwargs)

    def logits(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B R"]:
        return self.inner.logits(self.on_grid(x))

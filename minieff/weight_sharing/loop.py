"""One block in a loop, for a fixed number of steps or for as many as each position needs.

    x <- block(x + time[n])                                     n = 1 ... steps

Adaptive computation time: after step n a position gives it the share p_n = sigmoid(w x_n + b), until its
shares would exceed 1 - halt, or the steps end; that step N gets what is left, R = 1 - p_1 - ... - p_{N-1}.

    y = p_1 x_1 + ... + p_{N-1} x_{N-1} + R x_N,       cost = N + R, from 2 to steps + 1

All shares sum to 1, whatever the number of steps. A position that has halted keeps its x, which others still
read. Interpolating instead, y <- p x + (1 - p) y, would give early steps too little: with p = 0.3 in three
steps and y = 0 at first, the shares sum to 0.657.
"""

import torch
from torch import Tensor, nn

from minieff.core.past import Past
from minieff.core.storage import refuse_nested
from minieff.core.surgery import Wrap


def step(layer: nn.Module, x: Tensor, time: Tensor, *args, **kwargs) -> Tensor:
    """layer(x + time), in a loop.

    ValueError for a cache of transformers, which has one place for each layer and none for each step, for an
    x of another width than `time`, and for a layer that returns more than one tensor.

    >>> step(nn.ReLU(), torch.tensor([-1.0, 1.0]), torch.ones(2))
    tensor([0., 2.])
    """
    if any("Cache" in type(value).__name__ for value in (*args, *kwargs.values())):
        raise ValueError("a transformers cache has one place a layer, none a step; call with use_cache=False")
    if x.shape[-1:] != time.shape:
        raise ValueError(f"x has width {x.shape[-1]}, its steps dim={len(time)}; give dim={x.shape[-1]}")
    y = layer(x + time, *args, **kwargs)
    if not isinstance(y, Tensor):
        raise ValueError(f"a {type(layer).__name__} returns a {type(y).__name__}; wrap it to return x alone")
    return y


class Loop(Wrap):
    """A layer called `steps` times, each time with the vector of that step added to x (B, T, C)."""

    def __init__(self, inner: nn.Module, steps: int, dim: int) -> None:
        super().__init__(inner)
        self.time = nn.Parameter(torch.zeros(steps, dim))

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        refuse_nested(x)
        for time in self.time:
            x = step(self.inner, x, time, *args, **kwargs)
        return x

    def extra_repr(self) -> str:
        return f"steps={len(self.time)}"

    def macs(self, inputs: tuple, output: Tensor) -> int:
        # its parts are counted, once a step
        return 0


class Ponder(Wrap):
    """A `Loop` that each position leaves by itself; `cost` (B, T) of the last forward goes into the loss."""

    counts_per_pass = True  # what calls it for each token alone would lose all costs but the last

    def __init__(self, inner: nn.Module, steps: int, dim: int, halt: float, price: float) -> None:
        super().__init__(inner)
        self.time = nn.Parameter(torch.zeros(steps, dim))
        self.halt, self.price = halt, price
        self.share = nn.Linear(dim, 1)
        nn.init.ones_(self.share.bias)  # few steps, as long as nothing is learned
        self.cost: Tensor | None = None

    def __getstate__(self) -> dict:
        # a copy or a file has no cost of a forward: it may hold a graph, which cannot be copied
        return self.__dict__ | {"cost": None}

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        refuse_nested(x)
        y, cost, spent = torch.zeros_like(x), x.new_zeros(x.shape[:-1]), x.new_zeros(x.shape[:-1])
        running = torch.ones_like(spent, dtype=torch.bool)
        for left, time in zip(range(len(self.time), 0, -1), self.time, strict=True):
            x = torch.where(running[..., None], step(self.inner, x, time, *args, **kwargs), x)
            p = self.share(x).sigmoid().squeeze(-1)
            halts = running & ((spent + p > 1 - self.halt) | (left == 1))
            share = torch.where(halts, 1 - spent, p) * running
            y = y + share[..., None] * x
            cost = cost + running + share * halts
            spent = spent + share
            running = running & ~halts
            if running.any():
                continue
            if any(isinstance(value, Past) for value in (*args, *kwargs.values())):
                continue  # later tokens read every step of these
            break
        self.cost = cost
        return y

    def extra_repr(self) -> str:
        return f"steps={len(self.time)}, halt={self.halt}, price={self.price}"

    def macs(self, inputs: tuple, output: Tensor) -> int:
        return 0

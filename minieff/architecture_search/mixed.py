"""A place with several operations, and the operations that it may have."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from minieff.core.surgery import clone


def gumbel_softmax(
    alpha: Float[Tensor, "n"], temperature: float, generator: torch.Generator | None = None
) -> Float[Tensor, "n"]:
    """A one-hot draw with probabilities softmax(alpha), whose gradient is that of the soft draw.

    ValueError for a temperature that is not above 0.

    >>> alpha = torch.tensor([0.0, 20.0])
    >>> gumbel_softmax(alpha, temperature=1.0)
    tensor([0., 1.])
    """
    if not isinstance(temperature, int | float) or not temperature > 0:
        raise ValueError(f"temperature={temperature!r}: it divides the logits; give a number above 0")
    e = torch.empty(alpha.shape, device="cpu").exponential_(generator=generator)  # -log u
    soft = ((alpha - e.log().to(alpha)) / temperature).softmax(-1)
    return F.one_hot(soft.argmax(-1), len(alpha)).to(soft) - soft.detach() + soft


class Mixed(nn.Module):
    """Several operations in one place: in training a drawn one, in eval mode the most likely one.

    `alpha` (n,) are their logits; places may share one Parameter. Each call draws once. `ops` take the same
    arguments and return the same shape.
    """

    def __init__(
        self,
        ops: list[nn.Module],
        alpha: nn.Parameter,
        temperature: float = 1.0,
        decay: float = 1.0,
        price: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.ops, self.alpha = nn.ModuleList(ops), alpha
        self.start, self.decay, self.price, self.generator = temperature, decay, price, generator
        self.costs: list[list[float]] = []  # of each op, by each measure
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):
                raise
            return getattr(super().__getattr__("ops")[0], name)  # foreign stacks ask their layers

    @property
    def temperature(self) -> float:
        return max(0.05, self.start * self.decay ** self.step.item())

    @property
    def choice(self) -> int:
        return self.alpha.argmax().item()

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        if not self.training:
            return self.ops[self.choice](x, *args, **kwargs)
        weights = gumbel_softmax(self.alpha, self.temperature, self.generator)
        return sum(w * op(x, *args, **kwargs) for w, op in zip(weights, self.ops, strict=True))

    def extra_repr(self) -> str:
        shares = [round(p, 3) for p in self.alpha.softmax(0).tolist()]
        return f"choice={self.choice}, probabilities={shares}, price={self.price}"


# --- choices: functions from the module that is there to an operation in its place


class Zero(nn.Module):
    """Nothing: where the residual connection is outside, the sub-layer is gone."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        return torch.zeros_like(x)


class Unchanged(nn.Module):
    """x as it is: for what holds its residual connection itself, such as a block."""

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        return x


def original(module: nn.Module) -> nn.Module:
    """What is there.

    >>> original(nn.ReLU())
    ReLU()
    """
    return module


def zero(module: nn.Module) -> nn.Module:
    """No sub-layer, inside a residual connection.

    >>> zero(nn.ReLU())(torch.ones(2))
    tensor([0., 0.])
    """
    return Zero()


def skip(module: nn.Module) -> nn.Module:
    """No layer, where it holds its residual connection itself.

    >>> skip(nn.ReLU())(-torch.ones(2))
    tensor([-1., -1.])
    """
    return Unchanged()


def narrow(width: int) -> Callable[[nn.Module], nn.Module]:
    """A feed-forward of `width` hidden units, the first of those there. ValueError if there are fewer.

    >>> from minieff.core.transformer import FeedForward
    >>> narrow(2)(FeedForward(dim=4, ffn=16)).up
    Linear(in_features=4, out_features=2, bias=True)
    """

    def choice(feed: nn.Module) -> nn.Module:
        up, down = getattr(feed, "up", None), getattr(feed, "down", None)
        if not (isinstance(up, nn.Linear) and isinstance(down, nn.Linear)):
            raise ValueError(
                f"narrow({width}) of a {type(feed).__name__}, which has no linears `up` and `down`"
            )
        if type(width) is not int or not 1 <= width <= up.out_features:
            raise ValueError(
                f"narrow({width!r}): {up.out_features} hidden units are there; give 1 or more of them"
            )
        small = clone(feed)
        small.up = nn.Linear(up.in_features, width, up.bias is not None).to(up.weight)
        small.down = nn.Linear(width, down.out_features, down.bias is not None).to(up.weight)
        state = feed.state_dict() | {f"up.{name}": t[:width] for name, t in up.state_dict().items()}
        small.load_state_dict(state | {"down.weight": down.weight[:, :width]})
        return small

    return choice

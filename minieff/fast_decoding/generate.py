"""Decoding: one token after another, each computed once.

`generate` works with every model of minieff, and with whatever has a `config.context` and is called as
`model(ids, past=past)`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minieff.core.past import Past
from minieff.fast_decoding.cache import StaticPast


def check_sampling(temperature: float | int, top_k: int | None, top_p: float | int | None) -> None:
    """ValueError for what is no temperature, number or probability, and for a cut where nothing is drawn.

    >>> check_sampling(0.8, 5, None)
    """
    if not isinstance(temperature, int | float) or not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature!r}: 0 takes the likeliest token, 1 samples as trained")
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise ValueError(f"top_k={top_k!r}: keep at least 1 token, or None for all")
    if top_p is not None and not (isinstance(top_p, int | float) and 0 < top_p <= 1):
        raise ValueError(f"top_p={top_p!r}: a probability above 0 and up to 1, or None for all tokens")
    if temperature == 0 and not (top_k is None and top_p is None):
        raise ValueError(
            f"top_k={top_k}, top_p={top_p} at temperature=0, where no token is drawn: give a temperature, "
            "such as 1.0, or neither of the two"
        )


def probabilities(
    logits: Float[Tensor, "*B V"],
    temperature: float | int = 1.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
) -> Float[Tensor, "*B V"]:
    """What a token is drawn from: softmax(logits / temperature), cut off and renormalized.

    Temperature 0 is its limit, the likeliest token alone. `top_k` keeps that many tokens (more where some are
    equal); after it `top_p` keeps the fewest that reach this probability together, at least one.
    ValueError as for `check_sampling`.

    >>> probabilities(torch.tensor([0.5, 0.3, 0.2]).log(), top_p=0.7)
    tensor([0.6250, 0.3750, 0.0000])
    """
    check_sampling(temperature, top_k, top_p)
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    logits = logits.float()  # sums of 50,000 probabilities need more than 8 bits
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # no overflow at a low temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    p = logits.softmax(-1)
    if top_p is not None:
        ordered, tokens = p.sort(descending=True)
        rest = ordered.cumsum(-1) - ordered >= top_p  # reached before this token
        p = p.masked_fill(rest.scatter(-1, tokens, rest), 0.0)
    return p / p.sum(-1, keepdim=True)


def draw(p: Float[Tensor, "B V"], generator: torch.Generator | None = None) -> Int[Tensor, "B 1"]:
    """A token from each distribution.

    >>> draw(torch.tensor([[0.0, 1.0]]))
    tensor([[1]])
    """
    return torch.multinomial(p, 1, generator=generator)


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from logits. ValueError as for `check_sampling`.

    >>> Sampling(temperature=0.0).choose(torch.tensor([[1.0, 3.0, 2.0]]))
    tensor([[1]])
    """

    temperature: float | int = 0.0
    top_k: int | None = None
    top_p: float | int | None = None
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.top_k, self.top_p)

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0

    def probabilities(self, logits: Float[Tensor, "*B V"]) -> Float[Tensor, "*B V"]:
        return probabilities(logits, self.temperature, self.top_k, self.top_p)

    def choose(self, logits: Float[Tensor, "B V"]) -> Int[Tensor, "B 1"]:
        if self.greedy:
            return logits.argmax(-1, keepdim=True)
        return draw(self.probabilities(logits), self.generator)


def check_room(model: Callable, ids: Int[Tensor, "..."], tokens: int) -> None:
    """ValueError unless there is a prompt, and it fits with `tokens` more into the model's context.

    >>> from minieff.core.transformer import Config, Transformer
    >>> model = Transformer(Config(vocab=50, context=16, layers=2, heads=2, dim=8))
    >>> check_room(model, torch.zeros(1, 5, dtype=torch.long), tokens=11)
    """
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
        raise ValueError(
            f"ids of type {getattr(ids, 'dtype', type(ids))} and shape {tuple(getattr(ids, 'shape', ()))}: "
            "give a tensor of integers (B, T); for a single sequence, ids[None]"
        )
    have, context = ids.shape[1], getattr(getattr(model, "config", None), "context", None)
    if context is None:
        raise ValueError(
            f"a {type(model).__name__} without config.context: say there how long a text may be; it is "
            "called as model(ids, past=past)"
        )
    if have == 0 or type(tokens) is not int or not 0 <= tokens <= context - have:
        raise ValueError(
            f"tokens={tokens!r} after a prompt of {have}, context={context}: the prompt needs a token, and "
            "all tokens must fit into the context"
        )


class Rows:
    """What is written: each row from the end of its own prompt on, and up to its own stop token."""

    def __init__(
        self, ids: Int[Tensor, "B T"], tokens: int, lengths: Int[Tensor, "R"] | None, stop: Sequence[int]
    ) -> None:
        B, T = ids.shape
        real = lengths.tolist() if isinstance(lengths, Tensor) else []
        if lengths is not None and (len(real) != B or not all(type(n) is int and 1 <= n <= T for n in real)):
            raise ValueError(
                f"lengths={lengths} of ids {(B, T)}: give a tensor of integers, one a row, from 1 to {T}"
            )
        if isinstance(stop, int | str | Tensor) or not all(type(token) is int for token in stop):
            raise ValueError(f"stop={stop!r}: give the ids of tokens in a list, such as [0]")
        self.ids = torch.cat([ids, ids.new_zeros(B, tokens)], dim=1)
        self.lengths, self.first = lengths, T if lengths is None else int(lengths.min())
        self.stops = torch.tensor(list(stop), device=ids.device)
        self.stopped = torch.zeros(B, dtype=torch.bool, device=ids.device)

    def put(self, at: int, new: Int[Tensor, "B 1"]) -> Int[Tensor, "B 1"]:
        """`new` at this position, or what is there of a longer prompt, or the stop token again."""
        if self.lengths is not None:
            new = torch.where(at < self.lengths[:, None], self.ids[:, at, None], new)
        if len(self.stops):
            new = torch.where(self.stopped[:, None], self.ids[:, at - 1, None], new)
            written = self.lengths is None or at >= self.lengths  # a stop token in a prompt stops nothing
            self.stopped = self.stopped | torch.isin(new[:, 0], self.stops) & written
        self.ids[:, at, None] = new
        return new


def generate(
    model: Callable,
    ids: Int[Tensor, "*B T"],
    tokens: int,
    *,
    temperature: float | int = 0.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
    lengths: Int[Tensor, "R"] | None = None,
    past: Past | None = None,
) -> Int[Tensor, "*B S"]:
    """`ids` (B, T) continued by `tokens` new ones, or by fewer once each row has a token of `stop`.

    A row repeats its stop token until the last one has its own. Prompts of unequal length are padded on the
    right with any token, and `lengths` says how many are real: row b goes on from its own end, at the
    positions and with the tokens that it would have alone, up to the common width. The prompts are read
    together up to the shortest of them, then token by token, so the padding is never seen.

    `past` is an empty memory to use (see StaticPast, Int8Past); what it holds afterwards can be read further
    under `torch.inference_mode()`. Dropout follows the model's mode, so call
    `eval()` first. ValueError for impossible knobs, and for more tokens than the context holds.

    >>> from minieff.core.transformer import Config, Transformer
    >>> model = Transformer(Config(vocab=50, context=16, layers=2, heads=2, dim=8)).eval()
    >>> generate(model, torch.zeros(2, 5, dtype=torch.long), 3, lengths=torch.tensor([5, 2])).shape
    torch.Size([2, 8])
    """
    sampling = Sampling(temperature, top_k, top_p, generator)
    check_room(model, ids, tokens)
    rows = Rows(ids, tokens, lengths, stop)
    end, new = rows.ids.shape[1], ids[:, : rows.first]
    past = _empty(past, end)
    with torch.inference_mode():
        for at in range(rows.first, end):
            new = rows.put(at, sampling.choose(model(new, past=past)[:, -1]))
            if stop and rows.stopped.all():
                end = at + 1
                break
    return rows.ids[:, :end]


def _empty(past: Past | None, width: int) -> Past:
    """A memory for `width` tokens."""
    if past is None:
        return StaticPast(width)
    if not isinstance(past, Past):
        raise ValueError(f"past is a {type(past).__name__}; give a Past, a StaticPast or an Int8Past")
    if past.length:
        raise ValueError(f"past holds {past.length} tokens; give an empty one, and all tokens as ids")
    return past

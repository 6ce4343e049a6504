"""Decoding: one token after another, each computed once.

`generate` works with every model of minieff, and with whatever is called as `model(ids, past=past)`.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minieff.core.past import Past
from minieff.fast_decoding.cache import StaticPast


def probabilities(
    logits: Float[Tensor, "*B V"],
    temperature: float | int = 1.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
) -> Float[Tensor, "*B V"]:
    """The distribution that a token is drawn from: softmax(logits / temperature), cut off and renormalized.

    Temperature 0 is its limit, the likeliest token alone. `top_k` keeps that many tokens (more where some are
    equal); after it `top_p` keeps the fewest that reach this probability together, at least one.

    >>> probabilities(torch.tensor([0.5, 0.3, 0.2]).log(), top_p=0.7)
    tensor([0.6250, 0.3750, 0.0000])
    """
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
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


def check_sampling(temperature: float | int, top_k: int | None, top_p: float | int | None) -> None:
    """ValueError for what is no temperature, number of tokens or probability.

    >>> check_sampling(0.8, top_k=50, top_p=0.9)
    """
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature={temperature}: 0 takes the likeliest token, 1 samples as trained")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}: keep at least 1 token, or None for all")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: a probability above 0 and up to 1, or None for all tokens")


def check_room(model: Callable, ids: Int[Tensor, "B T"], tokens: int) -> None:
    """ValueError unless there is a prompt, and it fits with `tokens` more into the model's context.

    >>> from minieff.core.transformer import Config, Transformer
    >>> model = Transformer(Config(vocab=50, context=16, layers=2, heads=2, dim=8))
    >>> check_room(model, torch.zeros(1, 5, dtype=torch.long), tokens=11)
    """
    have, context = ids.shape[1], model.config.context
    if have == 0 or not 0 <= tokens <= context - have:
        raise ValueError(
            f"tokens={tokens} after a prompt of {have}, context={context}: the prompt needs a token, and "
            "all tokens must fit into the context"
        )


def generate(
    model: Callable,
    ids: Int[Tensor, "B T"],
    tokens: int,
    *,
    temperature: float | int = 0.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    stop: Sequence[int] = (),
    generator: torch.Generator | None = None,
    lengths: Int[Tensor, "R"] | None = None,
    past: Past | None = None,
) -> Int[Tensor, "B S"]:
    """`ids` (B, T) continued by `tokens` new ones, or by fewer once each row has a token of `stop`.

    A row repeats its stop token until the last one has its own. Prompts of unequal length are padded on the
    right with any token, and `lengths` says how many are real: row b goes on from its own end, at the
    positions and with the tokens that it would have alone, up to the common width. The prompts are read
    together up to the shortest of them, then token by token, so the padding is never seen.

    `past` is an empty memory to use (see StaticPast, Int8Past). Dropout follows the model's mode, so call
    `eval()` first. ValueError for impossible knobs, and for more tokens than the context holds.

    >>> from minieff.core.transformer import Config, Transformer
    >>> model = Transformer(Config(vocab=50, context=16, layers=2, heads=2, dim=8)).eval()
    >>> generate(model, torch.zeros(2, 5, dtype=torch.long), 3, lengths=torch.tensor([5, 2])).shape
    torch.Size([2, 8])
    """
    check_sampling(temperature, top_k, top_p)
    check_room(model, ids, tokens)
    width = ids.shape[1] + tokens
    past = _empty(past, width)
    first = ids.shape[1] if lengths is None else _shortest(lengths, ids)
    stops, stopped = torch.tensor(list(stop), device=ids.device), ids[:, 0] != ids[:, 0]
    found = torch.cat([ids, ids.new_zeros(ids.shape[0], tokens)], dim=1)
    new = ids[:, :first]
    with torch.inference_mode():
        for at in range(first, width):
            logits = model(new, past=past)[:, -1]  # (B, V)
            if temperature == 0:
                new = logits.argmax(-1, keepdim=True)
            else:
                new = draw(probabilities(logits, temperature, top_k, top_p), generator)
            if lengths is not None:
                new = torch.where(at < lengths[:, None], found[:, at, None], new)
            if stop:
                new = torch.where(stopped[:, None], found[:, at - 1, None], new)
                stopped = stopped | torch.isin(new[:, 0], stops) & (lengths is None or at >= lengths)
            found[:, at, None] = new
            if stop and stopped.all():
                return found[:, : at + 1].clone()
    return found


def _empty(past: Past | None, width: int) -> Past:
    """A memory for `width` tokens."""
    if past is None:
        return StaticPast(width)
    if past.length:
        raise ValueError(f"past holds {past.length} tokens; give an empty one, and all tokens as ids")
    return past


def _shortest(lengths: Int[Tensor, "R"], ids: Int[Tensor, "B T"]) -> int:
    """The length of the shortest prompt."""
    if lengths.shape != ids.shape[:1] or not 1 <= lengths.min() <= lengths.max() <= ids.shape[1]:
        raise ValueError(
            f"lengths={lengths.tolist()} of ids {tuple(ids.shape)}: one a row, from 1 to {ids.shape[1]}"
        )
    return int(lengths.min())

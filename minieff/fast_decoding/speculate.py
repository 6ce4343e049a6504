"""Speculative decoding: a draft's tokens, read by the model in one pass, with exactly the model's output."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minieff.core.past import Past
from minieff.fast_decoding.cache import StaticPast
from minieff.fast_decoding.generate import Sampling, check_room, draw


def residual(p: Float[Tensor, "*B V"], q: Float[Tensor, "*B V"]) -> Float[Tensor, "*B V"]:
    """What p has more than q, as a distribution: a rejected token of q is replaced by one of these.

    Then min(p, q), accepted, and (1 - sum min(p, q)) residual, drawn anew, add up to p.

    >>> residual(torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.9, 0.1, 0.0]))
    tensor([0.0000, 0.5000, 0.5000])
    """
    more = (p - q).clamp(min=0)
    total = more.sum(-1, keepdim=True)
    return torch.where(total > 0, more / total, p)  # 0 / 0 where they are equal: nothing is rejected


def verify(
    drafted: Int[Tensor, "N"],
    p: Float[Tensor, "M V"],
    q: Float[Tensor, "N V"],
    generator: torch.Generator | None = None,
) -> Int[Tensor, "K"]:
    """The accepted ones of `drafted`, drawn from q, and one more drawn by p: 1 to N + 1 tokens of p.

    Row i of p (N + 1, V) and q (N, V) is the distribution of drafted[i]; p's last row follows all of them.
    ValueError for other shapes.

    >>> p = torch.eye(4)[[2, 0, 1]]  # certain of 2, 0, 1
    >>> verify(torch.tensor([2, 3]), p, q=torch.full((2, 4), 0.25))
    tensor([2, 0])
    """
    if p.shape != (len(drafted) + 1, q.shape[-1]) or len(q) != len(drafted):
        raise ValueError(
            f"p {tuple(p.shape)}, q {tuple(q.shape)}: give {len(drafted)} rows of q, and one more of p"
        )
    ratio = p[:-1].gather(1, drafted[:, None]) / q.gather(1, drafted[:, None])  # (N, 1)
    coins = torch.rand(ratio.shape, generator=generator, device=p.device)
    n = int((coins < ratio).cumprod(0).sum())  # up to the first that is rejected
    last = p[n] if n == len(drafted) else residual(p[n], q[n])
    return torch.cat([drafted[:n], draw(last[None], generator)[0]])


def verify_greedy(drafted: Int[Tensor, "N"], logits: Float[Tensor, "M V"]) -> Int[Tensor, "K"]:
    """The same where p and q put all probability on their likeliest token, without drawing.

    >>> verify_greedy(torch.tensor([2, 3]), torch.eye(4)[[2, 0, 1]])
    tensor([2, 0])
    """
    best = logits.argmax(-1)
    return best[: 1 + int((drafted == best[:-1]).cumprod(0).sum())]


def tokens_per_pass(acceptance: float, ahead: int) -> float:
    """Tokens per pass of the model, on average, if each drafted one is accepted with this probability.

    ValueError for what is no probability or no number of tokens.

    >>> round(tokens_per_pass(0.8, ahead=4), 4)
    3.3616
    """
    if (
        not isinstance(acceptance, int | float)
        or not 0 <= acceptance <= 1
        or type(ahead) is not int
        or ahead < 0
    ):
        raise ValueError(
            f"acceptance={acceptance!r}, ahead={ahead!r}: give a probability and a number of tokens"
        )
    return sum(acceptance**i for i in range(ahead + 1))


class Speculation(NamedTuple):
    """The tokens (1, T + tokens), and what it took: passes of the model, tokens drafted, and accepted."""

    ids: Tensor
    passes: int
    drafted: int
    accepted: int

    @property
    def acceptance(self) -> float:
        """Accepted of the drafted ones. Those after the first rejected one count as not accepted."""
        return self.accepted / self.drafted if self.drafted else 0.0


def speculate(
    model: Callable,
    draft: Callable,
    ids: Int[Tensor, "R T"],
    tokens: int,
    *,
    ahead: int = 4,
    temperature: float | int = 0.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    generator: torch.Generator | None = None,
) -> Speculation:
    """`ids` continued by `tokens` new ones, `ahead` of them drafted at a time: as if `model` wrote alone.

    With temperature 0 these are the tokens of `generate(model, ...)`; otherwise they are distributed like
    those, for temperature, `top_k` and `top_p` are applied to both models. (Up to rounding: a pass over
    several tokens may round a logit otherwise than one over a single token.) ValueError for more than one
    row, whose accepted tokens would differ in number, for models of two vocabularies, and as `generate`.

    >>> from minieff.core.transformer import Config, Transformer
    >>> model = Transformer(Config(vocab=50, context=16, layers=2, heads=2, dim=8)).eval()
    >>> found = speculate(model, model, torch.zeros(1, 4, dtype=torch.long), 10, ahead=4)
    >>> found.ids.shape, found.passes, found.accepted  # a draft that is always right
    (torch.Size([1, 14]), 2, 8)
    """
    sampling = Sampling(temperature, top_k, top_p, generator)
    _check(model, draft, ids, tokens, ahead)
    end, drafted, accepted = ids.shape[1] + tokens, [], []
    pasts = StaticPast(end), StaticPast(end)
    with torch.inference_mode():
        while ids.shape[1] < end:
            drafted.append(min(ahead, end - ids.shape[1] - 1))  # the pass itself gives one more
            new = _round(model, draft, ids, drafted[-1], pasts, sampling)
            accepted.append(len(new) - 1)
            ids = torch.cat([ids, new[None]], dim=1)
    return Speculation(ids.clone(), len(drafted), sum(drafted), sum(accepted))


def _check(model: Callable, draft: Callable, ids: Tensor, tokens: int, ahead: int) -> None:
    """ValueError for what `speculate` refuses."""
    check_room(model, ids, tokens)
    check_room(draft, ids, tokens)
    if ids.shape[0] != 1:
        raise ValueError(f"ids has {ids.shape[0]} rows; speculate writes one at a time: call it for each row")
    if type(ahead) is not int or ahead < 1:
        raise ValueError(f"ahead={ahead!r}: draft at least 1 token, such as 4; or call generate")
    if model.config.vocab != draft.config.vocab:
        raise ValueError(
            f"the draft has vocab={draft.config.vocab}, the model {model.config.vocab}: they must have the "
            "same tokens"
        )


def _round(
    model: Callable,
    draft: Callable,
    ids: Int[Tensor, "1 T"],
    ahead: int,
    pasts: tuple[Past, Past],
    sampling: Sampling,
) -> Int[Tensor, "K"]:
    """A draft and a pass of the model over it: what is accepted, and one more. Both remember just that."""
    drafted, q = _ahead(draft, ids, ahead, pasts[1], sampling)
    unread = torch.cat([ids[:, pasts[0].length :], drafted[None]], dim=1)
    logits = model(unread, past=pasts[0])[0, -ahead - 1 :]
    if sampling.greedy:
        new = verify_greedy(drafted, logits)
    else:
        p = sampling.probabilities(logits)
        new = verify(drafted, p, torch.cat([p[:0], *q]), sampling.generator)
    for past in pasts:
        past.rewind(min(past.length, ids.shape[1] + len(new) - 1))
    return new


def _ahead(
    draft: Callable, ids: Int[Tensor, "1 T"], ahead: int, past: Past, sampling: Sampling
) -> tuple[Int[Tensor, "N"], list[Tensor]]:
    """`ahead` tokens of the draft, and the distributions (1, V) that they are from (none if greedy)."""
    first, q = ids.shape[1], []
    for _ in range(ahead):
        logits = draft(ids[:, past.length :], past=past)[:, -1]
        if sampling.greedy:
            new = sampling.choose(logits)
        else:
            q.append(sampling.probabilities(logits))
            new = draw(q[-1], sampling.generator)
        ids = torch.cat([ids, new], dim=1)
    return ids[0, first:], q

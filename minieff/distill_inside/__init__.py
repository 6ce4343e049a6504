"""Distillation from inside: the student also learns its teacher's hidden states and attention.

A deep student learns little from a loss at its end alone. H_m are the hidden states after layer m, A_m its
attention scores, q k^T / sqrt(D) before the softmax, E what enters the first layer, h_m the vector of one
position, [CLS]; primes are the teacher's, of the layer that goes with m. W and W_e are learned:

    TinyBERT     MSE(E W_e, E') + sum_m MSE(H_m W, H'_m) + MSE(A_m, A'_m)
    patient      sum_m |h_m / |h_m| - h'_m / |h'_m||^2
    DistilBERT   5 T^2 KL(teacher || student) + 2 CE + 1 - cos(H_last, H'_last)
    MobileBERT   mean_m 100 MSE(norm(H)) + 5000 MSE(mean(H)) + 5 |var(H) - var(H')| + KL(softmax(A))

Jiao et al. 2019, "TinyBERT: Distilling BERT for Natural Language Understanding", arXiv 1909.10351: in two
stages, on any text, then on the task's text and more of it (`augment`); there the loss on logits follows last
and alone. Sun et al. 2019, "Patient Knowledge Distillation for BERT Model Compression", arXiv 1908.09355.
Sanh et al. 2019, "DistilBERT, a distilled version of BERT", arXiv 1910.01108. Sun et al. 2020, "MobileBERT: a
Compact Task-Agnostic BERT for Resource-Limited Devices", arXiv 2004.02984; `mobilebert` has its layers.

No forward is touched: `record` keeps hidden states, and scores are computed again from the outputs of the
projections of q and k, whatever the kernel. (They are other scores where a model rotates q and k afterwards.)
Saves: nothing by itself; a small student comes closer to its teacher. Costs, besides the teacher's forward:
T^2 scores per head in memory, which a fused kernel never stores. By hand, with the outputs of the layers:

    # TinyBERT: before training, with parameters for the optimizer
    project = nn.Linear(312, 768, bias=False)
    # in a training step, own and theirs being lists of (B, T, C)
    error = sum((project(own[m]) - theirs[g]).square().mean() for m, g in enumerate(uniform(12, 4)))
    # patient, on [CLS], with the teacher's layers 1, 3, 5, 7, 9; MobileBERT, on all tokens
    patient = sum(unit_distance(own[m][:, 0], theirs[2 * m + 1][:, 0]).mean() for m in range(5))
    mobile = sum(feature_distance(*pair).mean() for pair in zip(own, theirs)) / len(own)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minieff.core.logits import hard_loss, soft_errors
from minieff.core.surgery import Call, Where, is_a, named, record
from minieff.core.transformer import Block

STAGE = "loss"
IDEA = ("uniform", "unit_distance", "feature_distance")

Calls = list[Call]


# --- which of the teacher's layers, counted from 0, goes with each of the student's


def uniform(teacher: int, student: int) -> list[int]:
    """TinyBERT: the last of each of `student` equal shares of the `teacher` layers.

    ValueError unless the student has at least one layer, and no more than its teacher; so for all of these.

    >>> uniform(12, 4)
    [2, 5, 8, 11]
    """
    if type(student) is not int or type(teacher) is not int or not 1 <= student <= teacher:
        raise ValueError(f"a student of {student!r} layers: give it 1 to {teacher!r}, as its teacher has")
    return [(m + 1) * teacher // student - 1 for m in range(student)]


def skip(teacher: int, student: int) -> list[int]:
    """PKD-Skip: as `uniform`, but nothing for the student's last layer, which the logits teach.

    >>> skip(12, 6)
    [1, 3, 5, 7, 9]
    """
    return uniform(teacher, student)[:-1]


def last(teacher: int, student: int) -> list[int]:
    """PKD-Last: the layers before the teacher's last one; nothing for the student's last layer.

    >>> last(12, 6)
    [6, 7, 8, 9, 10]
    """
    return [teacher - student + m for m in range(len(uniform(teacher, student)) - 1)]


def evenly(teacher: int, student: int) -> list[int]:
    """DistilBERT: the layers that the student starts from, at equal distances, first and last among them.

    >>> evenly(12, 6)  # for distill.from_layers
    [0, 2, 4, 7, 9, 11]
    """
    gaps = max(1, len(uniform(teacher, student)) - 1)
    return [(m * (teacher - 1) + gaps // 2) // gaps for m in range(student)]


# --- how far two layers are apart; half precision is computed in single


def _single(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _alike(own: Float[Tensor, "..."], theirs: Float[Tensor, "..."]) -> list[Tensor]:
    """Both in single precision. ValueError for other shapes, which might be broadcast."""
    if own.shape != theirs.shape:
        raise ValueError(
            f"{tuple(own.shape)} of the student and {tuple(theirs.shape)} of the teacher: both need the "
            "same ids and number of heads; for another width, HiddenLoss learns a projection"
        )
    return [_single(own), _single(theirs)]


def _boolean(mask: Bool[Tensor, "..."], like: Tensor) -> Bool[Tensor, "..."]:
    """The mask in the shape of `like`. ValueError for numbers, which would be an index, and another shape."""
    kind, shape = getattr(mask, "dtype", type(mask)), tuple(getattr(mask, "shape", ()))
    fits = all(m in (1, n) for m, n in zip(shape[::-1], like.shape[::-1], strict=False))
    if kind != torch.bool or not fits:
        raise ValueError(f"a mask {shape} of {kind} for {tuple(like.shape)}: give Booleans, as mask.bool()")
    return mask.expand_as(like)


def unit_distance(own: Float[Tensor, "*B C"], theirs: Float[Tensor, "*B C"]) -> Float[Tensor, "*B"]:
    """Patient distillation: squared distance of the vectors, each divided by its length; from 0 to 4.

    >>> unit_distance(torch.tensor([[3.0, 0.0]] * 3), torch.tensor([[5.0, 0.0], [0.0, 5.0], [-5.0, 0.0]]))
    tensor([0., 2., 4.])
    """
    own, theirs = _alike(own, theirs)
    return (F.normalize(own, dim=-1) - F.normalize(theirs, dim=-1)).square().sum(-1)


def feature_distance(
    own: Float[Tensor, "*B C"],
    theirs: Float[Tensor, "*B C"],
    weights: tuple[float, float, float] = (100.0, 5000.0, 5.0),
) -> Float[Tensor, "*B"]:
    """MobileBERT: distance of normalized hidden states, of their means and of their variances, weighted.

    >>> x = torch.randn(4, 8)
    >>> feature_distance(x, x + 0.1).round()  # other means, and nothing else: 5000 * 0.1^2
    tensor([50., 50., 50., 50.])
    """
    own, theirs = _alike(own, theirs)
    normed = [F.layer_norm(h, h.shape[-1:]) for h in (own, theirs)]
    shapes = (normed[0] - normed[1]).square().mean(-1)
    means = (own.mean(-1) - theirs.mean(-1)).square()
    variances = (own.var(-1, correction=0) - theirs.var(-1, correction=0)).abs()
    return weights[0] * shapes + weights[1] * means + weights[2] * variances


def attention_divergence(
    own: Float[Tensor, "B H T S"],
    theirs: Float[Tensor, "B H T S"],
    visible: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "B H T"]:
    """MobileBERT: KL(teacher || student) of the attention weights of given scores, in nats per query.

    The authors' code has the cross-entropy: larger by the teacher's entropy, with the same gradient.

    >>> attention_divergence(torch.zeros(1, 1, 1, 2), torch.tensor([[[[9.0, -90.0]]]]))  # log 2
    tensor([[[0.6931]]])
    """
    own, theirs = _alike(own, theirs)
    if visible is not None:  # not -inf, for two of them differ by NaN
        visible = _boolean(visible, own)
        own, theirs = (z.masked_fill(~visible, torch.finfo(z.dtype).min) for z in (own, theirs))
    return F.kl_div(own.log_softmax(-1), theirs.log_softmax(-1), reduction="none", log_target=True).sum(-1)


# --- what is recorded


def _recorded(calls: Calls) -> Calls:
    """ValueError for anything but calls."""
    if not isinstance(calls, list) or not calls or not all(isinstance(call, Call) for call in calls):
        raise ValueError(f"calls={str(calls)[:40]}: give what `inside` recorded while the model ran")
    return calls


@contextmanager
def inside(
    model: nn.Module, *, layers: Where = is_a(Block), attention: Where = named("q", "k")
) -> Iterator[tuple[Calls, Calls]]:
    """Records calls of the layers, and calls of the projections of q and k, in running order.

    In BERT these projections are `named("query", "key")`. ValueError when one of the two matches nothing.

    >>> from minieff.core.transformer import Config, Transformer
    >>> model = Transformer(Config(vocab=50, context=16, layers=3, heads=2, dim=8))
    >>> with inside(model) as (hidden, qk):
    ...     logits = model(torch.zeros(1, 5, dtype=torch.long))
    >>> len(hidden), len(qk)
    (3, 6)
    """
    with record(model, layers) as hidden, record(model, attention) as qk:
        yield hidden, qk


def hidden_states(calls: Calls) -> list[Float[Tensor, "B T C"]]:
    """The outputs of recorded layers; of a layer that returns a tuple, its first part.

    ValueError for anything but calls.

    >>> hidden_states([Call("layer", (), (torch.ones(1, 2, 3), None))])[0].shape
    torch.Size([1, 2, 3])
    """
    return [call.output if isinstance(call.output, Tensor) else call.output[0] for call in _recorded(calls)]


def attention_scores(calls: Calls, heads: int) -> list[Float[Tensor, "B H T S"]]:
    """q k^T / sqrt(D) of each attention, from the outputs of its projections of q and k, in running order.

    ValueError for other calls, and for heads that do not divide their width.

    >>> calls = [Call(name, (), torch.randn(1, 5, 8)) for name in ("0.q", "0.k", "1.q", "1.k")]
    >>> [scores.shape for scores in attention_scores(calls, heads=2)]
    [torch.Size([1, 2, 5, 5]), torch.Size([1, 2, 5, 5])]
    """
    names = [call.name for call in _recorded(calls)]
    homes = [name.rpartition(".")[0] for name in names]
    if homes[::2] != homes[1::2] or any(map(str.__eq__, names[::2], names[1::2])):
        raise ValueError(
            f'calls of {names[:4]}: record q and k alone, as named("q", "k") or named("query", "key")'
        )
    widths = {call.output.shape[-1] for call in calls}
    if type(heads) is not int or heads < 1 or any(width % heads for width in widths):
        raise ValueError(f"heads={heads!r} does not divide the widths {widths}; give the number of heads")
    split = [_single(call.output).unflatten(-1, (heads, -1)).transpose(1, 2) for call in calls]
    return [q @ k.mT / sqrt(q.shape[-1]) for q, k in zip(split[::2], split[1::2], strict=True)]


def _pairs(student: list[Tensor], teacher: list[Tensor], layers: list[int]) -> list[list[Tensor]]:
    """The student's tensor m with the teacher's tensor `layers[m]`, without gradient, in single precision."""
    fits = isinstance(layers, list | tuple) and 1 <= len(layers) <= len(student)
    if not fits or not all(type(i) is int and 0 <= i < len(teacher) for i in layers):
        raise ValueError(
            f"layers={layers!r}: name one of the teacher's layers, here 0 to {len(teacher) - 1}, for each of "
            f"the student's first ones, of which there are {len(student)}"
        )
    return [_alike(own, teacher[i].detach()) for own, i in zip(student, layers, strict=False)]


def _mean(error: Float[Tensor, "*B T"], counted: Bool[Tensor, "..."] | None) -> Float[Tensor, ""]:
    error = error if counted is None else error[_boolean(counted, error)]
    if not error.numel():
        raise ValueError("nothing counts: the mask is False everywhere; leave such a batch out")
    return error.mean()


# --- losses, of the student's calls and the teacher's


def patient_loss(
    student: Calls, teacher: Calls, *, layers: list[int], position: int = 0
) -> Float[Tensor, ""]:
    """Patient distillation: `unit_distance` at one position, the mean over sequences, a sum over layers.

    Calls are those of layers, `layers` from `skip` or `last`. BERT's [CLS] is at position 0; what reads from
    left to right knows most at position -1. (The authors' code has a mean over channels, C times less.)
    ValueError for layers or a position that there are not, and other shapes.

    >>> calls = [Call("", (), torch.randn(2, 5, 8)) for _ in range(4)]
    >>> patient_loss(calls[:2], calls, layers=[0])
    tensor(0.)
    """
    pairs = _pairs(hidden_states(student), hidden_states(teacher), layers)
    T = pairs[0][0].shape[1]
    if type(position) is not int or not -T <= position < T:
        raise ValueError(f"position={position!r} of {T}: give one from 0 to {T - 1}, or -1 for the last")
    return torch.stack([unit_distance(a[:, position], b[:, position]).mean() for a, b in pairs]).sum()


class HiddenLoss(nn.Module):
    """TinyBERT on hidden states: mean squared distance after a learned projection, a sum over layers.

    Calls are those of layers, `layers` from `uniform`. One matrix serves all layers, another what enters the
    first one, if `embedding`; equal widths need none. `real` (B, T) leaves out padding. ValueError for layers
    that there are not, and other shapes.

    >>> [p.shape for p in HiddenLoss(layers=[1, 3], dim=8, teacher_dim=16).parameters()]
    [torch.Size([16, 8]), torch.Size([16, 8])]
    """

    def __init__(self, *, layers: list[int], dim: int, teacher_dim: int, embedding: bool = True) -> None:
        super().__init__()
        self.layers = layers
        self.hidden, self.embedding = (
            nn.Identity() if dim == teacher_dim else nn.Linear(dim, teacher_dim, bias=False) for _ in range(2)
        )
        if not embedding:
            self.embedding = None

    def forward(
        self, student: Calls, teacher: Calls, real: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, ""]:
        own = [_projected(self.hidden, h) for h in hidden_states(student)]
        pairs = _pairs(own, hidden_states(teacher), self.layers)
        if self.embedding is not None:
            pairs += _pairs([_projected(self.embedding, student[0].inputs[0])], [teacher[0].inputs[0]], [0])
        return torch.stack([_mean((a - b).square().mean(-1), real) for a, b in pairs]).sum()

    def extra_repr(self) -> str:
        return f"layers={self.layers}"


def _projected(layer: nn.Module, h: Float[Tensor, "B T C"]) -> Float[Tensor, "B T D"]:
    if isinstance(layer, nn.Linear) and h.shape[-1] != layer.in_features:
        raise ValueError(f"states of width {h.shape[-1]}, dim={layer.in_features}; make dim that width")
    return layer(h.to(next(layer.parameters(), h).dtype))  # that of its weights, if it has any


def score_loss(
    student: Calls,
    teacher: Calls,
    *,
    layers: list[int],
    heads: int,
    visible: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, ""]:
    """TinyBERT on attention: mean squared distance of the scores before the softmax, a sum over layers.

    Calls are those of the projections of q and k, `layers` from `uniform`. `visible`, broadcastable to
    (B, H, T, S), says which scores count; without it those of padding and of the future do. With the real
    tokens (B, T) it is `real[:, None, :, None] & real[:, None, None]`. ValueError as for `HiddenLoss`.

    >>> calls = [Call(name, (), torch.randn(2, 5, 8)) for name in ("0.q", "0.k", "1.q", "1.k")]
    >>> score_loss(calls[:2], calls, layers=[0], heads=2)
    tensor(0.)
    """
    pairs = _pairs(attention_scores(student, heads), attention_scores(teacher, heads), layers)
    return torch.stack([_mean((own - theirs).square(), visible) for own, theirs in pairs]).sum()


def cosine_loss(student: Calls, teacher: Calls, real: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, ""]:
    """DistilBERT on hidden states: 1 - cos of those after the last layer, the mean over tokens.

    Calls are those of layers; `real` leaves out padding. ValueError for other shapes.

    >>> h = torch.randn(2, 5, 8)
    >>> cosine_loss([Call("", (), h)], [Call("", (), 3 * h)]).abs() < 1e-6
    tensor(True)
    """
    ((own, theirs),) = _pairs(hidden_states(student)[-1:], hidden_states(teacher)[-1:], [0])
    return _mean(1 - F.cosine_similarity(own, theirs, dim=-1), real)


def triple_loss(
    student_logits: Float[Tensor, "B T V"],
    teacher_logits: Float[Tensor, "B T V"],
    targets: Int[Tensor, "B T"],
    student: Calls,
    teacher: Calls,
    *,
    temperature: float = 2.0,
    weights: tuple[float, float, float] = (5.0, 2.0, 1.0),
    real: Bool[Tensor, "B T"] | None = None,
) -> Float[Tensor, ""]:
    """DistilBERT: the teacher's logits, targets (-100 where there is none), and the last hidden states.

    The first and the last part are means over all tokens that are `real`, also those without a target. The
    weights are those that the authors give for one GPU. Without any target, the second part is 0. ValueError
    as for `cosine_loss`, for logits of different shapes, and for a temperature that is not positive.

    >>> z, h, targets = torch.randn(2, 5, 9), torch.randn(2, 5, 8), torch.zeros(2, 5, dtype=torch.long)
    >>> triple_loss(z, z, targets, [Call("", (), h)], [Call("", (), h)], weights=(5.0, 0.0, 1.0)).abs() < 1e-5
    tensor(True)
    """
    soft = _mean(soft_errors(student_logits, teacher_logits, temperature), real)
    parts = torch.stack([soft, hard_loss(student_logits, targets), cosine_loss(student, teacher, real)])
    return (parts * parts.new_tensor(weights)).sum()


def feature_loss(
    student: Calls, teacher: Calls, *, layers: list[int], real: Bool[Tensor, "B T"] | None = None
) -> Float[Tensor, ""]:
    """MobileBERT on hidden states: `feature_distance`, the mean over tokens and over layers.

    Calls are those of layers. The student has the teacher's width and as many layers, and each is compared
    with its own, means and variances too. ValueError for layers that there are not, and other shapes.

    >>> calls = [Call("", (), torch.randn(2, 5, 8)) for _ in range(4)]
    >>> feature_loss(calls, calls, layers=[0, 1, 2, 3])
    tensor(0.)
    """
    pairs = _pairs(hidden_states(student), hidden_states(teacher), layers)
    return torch.stack([_mean(feature_distance(own, theirs), real) for own, theirs in pairs]).mean()


def attention_loss(
    student: Calls,
    teacher: Calls,
    *,
    layers: list[int],
    heads: int,
    visible: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, ""]:
    """MobileBERT on attention: `attention_divergence`, the mean over queries and over layers.

    Calls and `visible` are those of `score_loss`; queries that see nothing do not count. ValueError as there.

    >>> calls = [Call(name, (), torch.randn(2, 5, 8)) for name in ("0.q", "0.k")]
    >>> attention_loss(calls, calls, layers=[0], heads=2)
    tensor(0.)
    """
    pairs = _pairs(attention_scores(student, heads), attention_scores(teacher, heads), layers)
    rows = None if visible is None else visible.any(-1)
    return torch.stack([_mean(attention_divergence(*pair, visible), rows) for pair in pairs]).mean()


# --- more text for the teacher to label


@torch.no_grad()
def augment(
    model: Callable,
    ids: Int[Tensor, "T"],
    *,
    mask_id: int,
    copies: int = 20,
    p: float = 0.4,
    top: int = 15,
    keep: Bool[Tensor, "T"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "N T"]:
    """TinyBERT's data augmentation: `copies` of a sequence, other tokens in a share `p` of the positions.

    `model` is a masked language model, ids (B, T) -> logits (B, T, V). Each position is hidden in its turn,
    and a token is replaced by one of the `top` most likely there. `keep` says which positions stay: special
    tokens, and words of several tokens (for which the paper takes neighbours among word vectors). ValueError
    for a `p` that is no probability, numbers below 1, more than one sequence, and a model that gives no
    tensor or fewer than `top` logits.

    >>> augment(lambda ids: torch.eye(9)[ids], torch.arange(5), mask_id=8, copies=2, p=1.0, top=1)
    tensor([[8, 8, 8, 8, 8],
            [8, 8, 8, 8, 8]])
    """
    numbers = all(type(number) is int and number > 0 for number in (copies, top))
    if not numbers or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise ValueError(f"p={p!r}, copies={copies!r}, top={top!r}: p is from 0 to 1, the others from 1 on")
    if not isinstance(ids, Tensor) or ids.dim() != 1 or ids.is_floating_point() or not len(ids):
        raise ValueError(f"ids={ids}: give one sequence (T,) of integers; of a batch, each row by itself")
    hidden = ids.repeat(len(ids), 1).fill_diagonal_(mask_id)  # (T, T)
    at = torch.arange(len(ids), device=ids.device)
    try:
        likely = [model(hidden[i])[range(len(i)), i].topk(top).indices for i in at.split(16)]
    except (TypeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{error}: give logits for mask_id={mask_id}, top={top}, as .logits is") from error
    coins, choice = torch.rand(2, copies, len(ids), generator=generator).to(ids.device)
    replaced = coins < p if keep is None else (coins < p) & ~_boolean(keep, coins)
    return torch.cat(likely)[at, (choice * top).long()].where(replaced, ids)

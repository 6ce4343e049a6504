"""Knowledge distillation: a small model, the student, learns what a large one, the teacher, predicts.

Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531. A label says
which token is right; the teacher's distribution also says which others would have been, and how likely. With
logits z_s of the student, z_t of the teacher, labels y and a temperature T that flattens both distributions:

    loss = weight T^2 KL(softmax(z_t / T) || softmax(z_s / T)) + (1 - weight) CE(y, softmax(z_s))

The gradient of the first part shrinks as 1 / T^2, and the factor T^2 undoes that: T can change without
`weight`. For large T the first part becomes the squared distance of the logits, less their means, over 2 V.
The teacher may also *write* text on which the student is trained as on any other (sequence level: Kim and
Rush 2016, "Sequence-Level Knowledge Distillation", arXiv 1606.07947), and it may label text that has no
labels (Turc et al. 2019, "Well-Read Students Learn Better", arXiv 1908.08962). The student may have any size;
one with the teacher's widths may start from some of its layers.

Saves: parameters, bytes, MACs and latency, as much as the student is smaller. Costs: a forward pass of the
teacher in every training step, or once, if it writes. It does not save training time, and both models need
one vocabulary. By hand, in a training step:

    with torch.no_grad():  # the teacher is in eval mode
        teacher_logits = teacher(ids)
    # in place of the cross-entropy; targets are -100 where there is no label
    error = loss(model(ids), teacher_logits, targets, temperature=2.0, weight=0.5)
"""

from collections.abc import Callable, Sequence
from math import inf

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minieff.core.logits import hard_loss, soft_errors
from minieff.core.past import Fresh, Past, fresh
from minieff.core.surgery import Where, clone, is_a, pick
from minieff.core.transformer import Block

STAGE = "loss"
IDEA = ("loss",)


def soft_loss(
    student_logits: Float[Tensor, "*B V"], teacher_logits: Float[Tensor, "..."], *, temperature: float = 1.0
) -> Float[Tensor, ""]:
    """T^2 KL(teacher || student), in nats per token: the mean over all tokens, 0 for none.

    No gradient reaches the teacher. Half precision is computed in single. A word that the teacher excludes,
    with the logit -inf, adds nothing. ValueError for a temperature that is not positive, and for logits of
    different shapes.

    >>> soft_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 3.0]]))  # equal but for a constant
    tensor(0.)
    """
    errors = soft_errors(student_logits, teacher_logits, temperature)
    return errors.sum() / max(1, errors.numel())  # not of V words: that would be another weight


def loss(
    student_logits: Float[Tensor, "*B V"],
    teacher_logits: Float[Tensor, "..."],
    targets: Int[Tensor, "*B"] | None = None,
    *,
    temperature: float = 2.0,
    weight: float = 0.5,
) -> Float[Tensor, ""]:
    """`weight` x soft loss of all tokens + (1 - `weight`) x cross-entropy of the labelled ones.

    Each is a mean per token. A token without a label has the target -100; with targets=None no token has one,
    and the cross-entropy is 0. Padding belongs to neither: with the real tokens (B, T) as a mask, give
    `student_logits[real], teacher_logits[real], targets[real]`. ValueError for a weight that is not from 0 to
    1, targets that are not one word per token, and as for `soft_loss`.

    >>> student_logits, teacher_logits = torch.randn(2, 4, 5, 50)  # (B, T, V) each
    >>> loss(student_logits, teacher_logits, torch.full((4, 5), -100), weight=0.0)
    tensor(0.)
    """
    if not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise ValueError(f"weight={weight!r}: the share of the soft loss lies from 0 to 1")
    hard = 0.0 if targets is None else hard_loss(student_logits, targets)
    return weight * soft_loss(student_logits, teacher_logits, temperature=temperature) + (1 - weight) * hard


def augment(
    ids: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    *,
    rows: float = 0.5,
    p: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Other inputs for a teacher to label: a share `rows` of the sequences has tokens replaced.

    In these, each token becomes another one of the batch with probability `p`. What is right then only the
    teacher can say: their targets are -100. ValueError for shares that are not from 0 to 1, and
    for what is no batch with its targets.

    >>> ids = torch.arange(20).view(2, 10)
    >>> augment(ids, ids, rows=1.0)[1].unique()
    tensor([-100])
    """
    if not all(isinstance(share, int | float) and 0 <= share <= 1 for share in (rows, p)):
        raise ValueError(f"rows={rows!r}, p={p!r}: shares lie from 0 to 1")
    shapes = [tuple(getattr(part, "shape", ())) for part in (ids, targets)]
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or not ids.numel():
        raise ValueError(f"ids and targets {shapes}: give both as (B, T); of a single row, ids[None]")
    changed = (torch.rand(len(ids), 1, generator=generator) < rows).to(ids.device)
    replaced = changed & (torch.rand(ids.shape, generator=generator) < p).to(ids.device)
    other = ids.flatten()[torch.randint(ids.numel(), ids.shape, generator=generator).to(ids.device)]
    return other.where(replaced, ids), targets.masked_fill(changed, -100)


class Logits(nn.Module):
    """A language model of transformers, called as ours are: `teacher(ids, mask, past)` gives logits.

    Its own mask holds, whatever `mask` is. It keeps no keys and values: each call reads all of a Past again.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(
        self, ids: Int[Tensor, "B T"], mask: Callable | None = None, past: Fresh = fresh
    ) -> Float[Tensor, "B T V"]:
        everything = past.so_far(ids)
        past.begin(ids)
        return self.inner(everything).logits[:, -ids.shape[1] :]


@torch.no_grad()
def write(
    teacher: Callable,
    prompts: Int[Tensor, "B T"],
    tokens: int,
    *,
    beams: int = 1,
    temperature: float = 0.0,
    stop: int | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "B S"]:
    """`prompts` (B, T), each continued by the teacher with `tokens` tokens: (B, T + tokens).

    The continuation is the most likely one that a search with `beams` finds (1: greedy) or, with a
    temperature above 0, sampled. After the token `stop` a sequence holds nothing else, and all end as soon as
    each has one. The student is then trained on the result with the cross-entropy alone. The teacher should
    be in eval mode. ValueError for prompts that are empty or no batch, what is no number or a negative one,
    beams together with a temperature, and a teacher that is not called as ours are.

    >>> from minieff.core.transformer import Config, Transformer
    >>> teacher = Transformer(Config(vocab=50, context=16, layers=2, heads=2, dim=8)).eval()
    >>> write(teacher, torch.zeros(3, 5, dtype=torch.long), tokens=4, beams=2).shape
    torch.Size([3, 9])
    """
    _check_search(prompts, tokens, beams, temperature, stop)
    past, ids, new = Past(), prompts, prompts
    scores = torch.zeros(len(prompts), 1, device=prompts.device)  # (B, K): log-probabilities
    for step in range(tokens):
        log_p = _log_p(teacher, new, past)  # (B K, V)
        if stop is not None and step > 0:
            log_p = log_p.where(new != stop, _certain(stop, log_p[0]))
        rows, new, scores = _continued(log_p, scores, beams, temperature, generator)
        past.pick(rows)
        ids = torch.cat([ids[rows], new], dim=1)
        if stop is not None and (new == stop).all():
            break
    return ids.unflatten(0, (len(prompts), -1))[:, 0]  # the best of each prompt's beams


def _log_p(teacher: Callable, new: Int[Tensor, "BK T"], past: Past) -> Float[Tensor, "BK V"]:
    """Of the next token. ValueError for a teacher that is not called as ours are, or has read enough."""
    try:
        return teacher(new, past=past)[:, -1].log_softmax(-1)
    except (AttributeError, IndexError, TypeError) as error:
        hint = "wrap a language model of transformers in distill.Logits, and stay within its context"
        raise ValueError(f"teacher(ids, past=past) fails at token {past.length}: {error}; {hint}") from error


def _check_search(prompts: Tensor, tokens: int, beams: int, temperature: float, stop: int | None) -> None:
    """ValueError for what `write` cannot do."""
    shape = tuple(getattr(prompts, "shape", ()))
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"prompts of the shape {shape}: give a batch (B, T) with tokens; one as ids[None]")
    whole = all(type(number) is int and number >= 0 for number in (tokens, beams, stop or 0))
    if not whole or beams < 1 or not isinstance(temperature, int | float) or not 0 <= temperature < inf:
        raise ValueError(
            f"tokens={tokens!r}, beams={beams!r}, temperature={temperature!r}, stop={stop!r}: a search has a "
            "beam, nothing is negative, and all but the temperature are whole numbers"
        )
    if beams > 1 and temperature > 0:
        raise ValueError(f"beams={beams}, temperature={temperature}: search with beams, or sample; not both")


def _certain(token: int, like: Float[Tensor, "V"]) -> Float[Tensor, "V"]:
    """Log-probabilities: 0 for `token`, -inf for all others."""
    return torch.where(torch.arange(len(like), device=like.device) == token, 0.0, -inf).to(like)


def _continued(
    log_p: Float[Tensor, "BK V"],
    scores: Float[Tensor, "B K"],
    beams: int,
    temperature: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Continuations by one token, the best first: the rows that they continue, tokens (N, 1), scores."""
    (B, K), V = scores.shape, log_p.shape[-1]
    if temperature > 0:
        drawn = torch.multinomial((log_p / temperature).softmax(-1), 1, generator=generator)
        return torch.arange(B, device=drawn.device), drawn, scores
    total = scores[:, :, None] + log_p.unflatten(0, (B, K))  # (B, K, V)
    scores, best = total.flatten(1).topk(min(beams, K * V))
    rows = best // V + K * torch.arange(B, device=best.device)[:, None]
    return rows.flatten(), (best % V).flatten()[:, None], scores


def from_layers(
    student: nn.Module, teacher: nn.Module, *, layers: list[int], where: Where = is_a(Block)
) -> nn.Module:
    """A copy of `student` that starts as its teacher: its layer i as the teacher's layer `layers[i]`.

    Embeddings, last norm and whatever else is no layer start as what the teacher has under the same name;
    what it lacks is left as it is. `where` says what a layer is. ValueError when `layers` are not as many as
    the student's, the teacher has no such layer, shapes differ, or no name outside layers is the same.

    >>> from minieff.core.transformer import Config, Transformer
    >>> sizes = {"vocab": 50, "context": 16, "heads": 2, "dim": 8}
    >>> student, teacher = Transformer(Config(layers=2, **sizes)), Transformer(Config(layers=4, **sizes))
    >>> student = from_layers(student, teacher, layers=[0, 3])
    >>> torch.equal(student.blocks.layers[1].mix.inner.q.weight, teacher.blocks.layers[3].mix.inner.q.weight)
    True
    """
    student = clone(student)
    own, theirs = list(pick(student, where).values()), list(pick(teacher, where).values())
    fits = isinstance(layers, Sequence) and len(layers) == len(own)
    if not fits or not all(type(i) is int and 0 <= i < len(theirs) for i in layers):
        raise ValueError(
            f"layers={layers!r}: give one of the teacher's layers, 0 to {len(theirs) - 1}, for each of the "
            f"student's {len(own)}"
        )
    state, taught = student.state_dict(), teacher.state_dict()
    pairs = zip(own, (theirs[i] for i in layers), strict=True)
    origins = {n: b + n.removeprefix(a) for a, b in pairs for n in state if n.startswith(f"{a}.")}
    origins = _same([n for n in state if n not in origins], taught) | origins
    for name, origin in origins.items():
        _check_start(name, state[name], origin, taught)
        state[name] = taught[origin]
    student.load_state_dict(state)
    return student


def _same(names: list[str], taught: dict[str, Tensor]) -> dict[str, str]:
    """Those of the `names` outside layers that the teacher has, as a dict; ValueError if it has none."""
    found = {name: name for name in names if name in taught}
    if names and not found:
        homes = (n.removesuffix(f".{names[0]}") for n in taught if n.endswith(f".{names[0]}"))
        raise ValueError(
            f"{names[0]}: only the layers match, and outside them the teacher has no name of the student's, "
            "so that embeddings would stay random; pass what has the same names, such as "
            f"teacher.{next(homes, 'part')}"
        )
    return found


def _check_start(name: str, tensor: Tensor, origin: str, taught: dict[str, Tensor]) -> None:
    """ValueError unless the teacher has what the tensor starts as."""
    if origin not in taught:
        raise ValueError(
            f"{name}: the teacher has no {origin}, for its layers are built otherwise than the student's; "
            "make the student with the teacher's class, or distill without this start"
        )
    if taught[origin].shape != tensor.shape:
        raise ValueError(
            f"{name} has the shape {tuple(tensor.shape)}, the teacher's {origin} "
            f"{tuple(taught[origin].shape)}: only a student with the teacher's widths can start from its "
            "layers; distillation needs no such start"
        )

"""A student whose weights are projections of a teacher's, and a vocabulary that both of them read.

Zhao, Gupta, Song, Zhou 2019, "Extreme Language Model Compression with Optimal Subwords and Shared
Projections", arXiv 1909.11687 (its first version). All layers share one pair of projections U, V for each
pair of widths, and the loss asks that each matrix W of the student stands for the teacher's:

    up:     |W_t - U W_s V^T|^2             U (out_t, out_s), V (in_t, in_s)
    down:   |U^T W_t V - W_s|^2

The student has a small vocabulary, hence other embeddings, which no projection can match. So the teacher
learns the student's pieces as well: in its inputs a share p of the words is cut by the student's tokenizer.

The projections are trained beside the student and thrown away after. They give nothing at inference:

    projections = Projections(teacher, student)
    optimizer = torch.optim.AdamW([*student.parameters(), *projections.parameters()])
    loss = loss + price * projections(teacher, student)
"""

import torch
from torch import Tensor, nn

from minieff.core.surgery import Where, is_a, pick


class Projections(nn.Module):
    """The mean squared error between projected weights, of all linears that two models name alike.

    U and V start as the identity, cut to their widths. Half precision is computed in single. ValueError when
    the names differ, a weight is no matrix, and for other models than these two afterwards.

    >>> from minieff.core.transformer import Config, Transformer
    >>> teacher, student = (Transformer(Config(50, 16, layers=2, heads=2, dim=dim)) for dim in (16, 8))
    >>> projections = Projections(teacher, student)
    >>> {widths: tuple(u.shape) for widths, u in projections.out.items()}
    {'16-8': (16, 8), '64-32': (64, 32)}
    >>> projections(teacher, student).shape
    torch.Size([])
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Module, *, up: bool = True, where: Where = is_a(nn.Linear)
    ) -> None:
        super().__init__()
        self.up = up
        mine, theirs = (set(pick(model, where).values()) for model in (student, teacher))
        if mine != theirs:
            some = sorted(mine ^ theirs)[:3]
            raise ValueError(f"{some} are in one model alone: both need the same layers, or another where=")
        self.names = sorted(mine)
        self.out, self.into = nn.ParameterDict(), nn.ParameterDict()
        for name in self.names:
            w_t, w_s = (getattr(model.get_submodule(name), "weight", None) for model in (teacher, student))
            if not all(isinstance(w, Tensor) and w.ndim == 2 for w in (w_t, w_s)):
                raise ValueError(
                    f"{name} has no matrix as its weight; pick linears and embeddings with where="
                )
            dtype = torch.promote_types(w_t.dtype, torch.float32)
            for maps, t, s in zip((self.out, self.into), w_t.shape, w_s.shape, strict=True):
                if f"{t}-{s}" not in maps:
                    maps[f"{t}-{s}"] = nn.Parameter(torch.eye(t, s, dtype=dtype))

    def forward(self, teacher: nn.Module, student: nn.Module) -> Tensor:
        total, numbers = 0.0, 0
        for name in self.names:
            w_t, w_s = (model.get_submodule(name).weight for model in (teacher, student))
            (out_t, in_t), (out_s, in_s) = w_t.shape, w_s.shape
            if f"{out_t}-{out_s}" not in self.out:
                raise ValueError(
                    f"{name} has {out_t} and {out_s} outputs; call it with the two models it is of"
                )
            u, v = self.out[f"{out_t}-{out_s}"], self.into[f"{in_t}-{in_s}"]
            w_t, w_s = w_t.to(u.dtype), w_s.to(u.dtype)
            error = w_t - u @ w_s @ v.mT if self.up else u.mT @ w_t @ v - w_s
            total, numbers = total + error.square().sum(), numbers + error.numel()
        return total / numbers


def mixed(
    teacher: list[list[int]],
    student: list[list[int]],
    *,
    offset: int,
    p: float = 0.5,
    generator: torch.Generator | None = None,
) -> list[int]:
    """One sequence of ids, with each word cut by the teacher's tokenizer, or with probability p by the
    student's.

    Both arguments hold the pieces of each word. The student's ids come behind the teacher's, from `offset`
    on. ValueError for different numbers of words, or a p that is no probability.

    >>> mixed([[7], [3, 9]], [[1, 2], [4]], offset=100, p=0.0)
    [7, 3, 9]
    >>> mixed([[7], [3, 9]], [[1, 2], [4]], offset=100, p=1.0)
    [101, 102, 104]
    """
    words = all(isinstance(word, list) for word in (*teacher, *student))
    if not words or len(teacher) != len(student) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise ValueError(
            f"{len(teacher)} words of the teacher, {len(student)} of the student, p={p!r}: both cut the same "
            "words, each a list of ids, and p is a probability"
        )
    if type(offset) is not int or offset < 0:
        raise ValueError(
            f"offset={offset!r}: the student's ids start here; give the teacher's vocabulary size"
        )
    coins = (torch.rand(len(teacher), generator=generator) < p).tolist()
    ids: list[int] = []
    for own, other, small in zip(teacher, student, coins, strict=True):
        ids += [offset + piece for piece in other] if small else own
    return ids

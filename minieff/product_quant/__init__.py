"""Product quantization: a weight is cut into blocks of d numbers, each replaced by one of K codewords.

    W (out, in) -> out x in / d blocks;   codebook (K, d), codes (out, in / d):   W_q = codebook[codes]

The codebook comes from k-means (Jegou et al. 2011; for networks: Stock et al. 2019, "And the Bit Goes Down",
arXiv 1907.05686). With K = 256 a code is one byte for d numbers: 4 d times fewer bytes than fp32, plus 2 K d
bytes for the codebook. iPQ (Fan, Stock et al. 2020, arXiv 2004.07320) quantizes one kind of weight, trains
the codewords and the rest of the model to make up for it, quantizes the next kind, and so on; a codeword
moves by the *mean* gradient of its blocks. Quant-Noise, in the same paper, prepares a model during training:
in each pass a random share p of the blocks is replaced by codewords, or by stand-ins that need no codebook,
and the gradient passes as if nothing had been replaced.

Saves: bytes, 16x for d = 4 and 32x for d = 8, without codebooks. It does not save: multiplications, memory
at inference, or time, since weights are rebuilt in each pass. By hand, for one layer:

    points = blocks(layer.weight.detach(), 8)
    codebook, codes = lloyd(points, points[torch.randperm(len(points))[:256]])
    codebook, counts = nn.Parameter(codebook), codes.bincount(minlength=256)
    w_q = mean_gradient(codebook, codes, counts).view_as(layer.weight)  # in each forward
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from minieff.core.draw import uniform
from minieff.core.storage import format_of, halve, matrices, pick_linears, refuse_other_layers
from minieff.core.surgery import Where, about, clone, first_users, is_a, parametrize, recode, source, swap
from minieff.product_quant.codebook import Codebook, Coded, HalfCodebook, IntCodebook, blocks
from minieff.product_quant.kmeans import kmeans, means, nearest

STAGE = "weight"
IDEA = ("blocks", "lloyd", "mean_gradient")

PROXIES = ("zero", "mean", "exact")


class BlockNoise(nn.Module):
    """A parametrization: in train mode each block is replaced with probability p, and the gradient passes.

    By zeros, by its mean, or by its codeword ("exact"; `project` lets the codebook follow the weight). In
    eval mode every block is its codeword, so that `finalize` finds the same codebook; without a codebook the
    weight stays as it is. The weight itself is never written.
    """

    decides_format = True

    def __init__(self, size: int, p: float, proxy: str, generator: torch.Generator | None) -> None:
        super().__init__()
        self.size, self.p, self.proxy, self.generator = size, p, proxy, generator
        self.register_buffer("codebook", None)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, w: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        p = self.p if self.training else float(self.codebook is not None)
        if p == 0:
            return w
        parts = blocks(w.detach(), self.size)
        chosen = uniform((len(parts),), self.generator).to(w.device) < p
        w_q = torch.where(chosen[:, None], self.instead(parts, chosen), parts).view_as(w)
        return w_q + (w - w.detach())  # w_q, exactly: the difference is zero, and has a gradient

    def instead(self, parts: Float[Tensor, "N d"], chosen: Tensor) -> Float[Tensor, "N d"]:
        """What replaces the chosen blocks."""
        if self.proxy == "zero":
            return torch.zeros_like(parts)
        if self.proxy == "mean":
            return parts.mean(1, keepdim=True).expand_as(parts)
        found = parts.clone()
        found[chosen] = self.codebook[nearest(parts[chosen], self.codebook)]
        return found

    def follow(self, w: Float[Tensor, "R C"]) -> None:
        """Updates the codebook by a step of k-means, in every tenth training step."""
        self.steps += 1
        if self.steps % 10 == 0:
            parts = blocks(w.detach(), self.size)
            self.codebook = means(parts, nearest(parts, self.codebook), self.codebook)

    def extra_repr(self) -> str:
        return f"block={self.size}, p={self.p}, {self.proxy}"


class PQLinear(nn.Module):
    """x (..., C) -> x W^T + b with W from codes."""

    def __init__(self, code: Coded, bias: Tensor | None) -> None:
        super().__init__()
        self.code, self.bias = code, bias

    @property
    def weight(self) -> Float[Tensor, "R C"]:
        return self.code.dense()

    def forward(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B R"]:
        return F.linear(x, self.weight, self.bias)

    def macs(self, inputs: tuple, output: Tensor) -> int:
        return output.numel() * inputs[0].shape[-1]


class PQEmbedding(nn.Module):
    """ids -> rows of W, from codes; and the head, x -> x W^T."""

    def __init__(self, code: Coded) -> None:
        super().__init__()
        self.code = code

    @property
    def weight(self) -> Float[Tensor, "R C"]:
        return self.code.dense()

    def forward(self, ids: Int[Tensor, "*B"]) -> Float[Tensor, "*B C"]:
        rows = self.code.dense(ids.flatten())
        return rows.view(*ids.shape, rows.shape[1])

    def logits(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B R"]:
        return F.linear(x, self.weight)


def size_of(name: str, block: int | None) -> int:
    """The block size of a layer: `block`, or if None, 4 for layers named q, k, v or out, and 8 for others.

    >>> size_of("blocks.layers.0.mix.inner.q", None), size_of("blocks.layers.0.feed.inner.up", None)
    (4, 8)
    """
    return (4 if name.rpartition(".")[2] in ("q", "k", "v", "out") else 8) if block is None else block


def apply(
    model: nn.Module,
    *,
    p: float = 0.1,
    block: int | None = None,
    proxy: str = "zero",
    codewords: int = 256,
    where: Where = matrices,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A copy in which each block is replaced with probability `p` in train mode: Quant-Noise.

    `proxy` says by what: "zero"; "mean", its own mean; or "exact", the nearest of `codewords`, which needs
    `project` after each step. `block` is one size for all layers; None: see `size_of`. ValueError for a p
    that is not a probability, an unknown proxy, a block that does not divide a row, or when nothing matches.

    >>> model = apply(nn.Sequential(nn.Linear(16, 8)), p=1.0, block=4)
    >>> model[0].weight.count_nonzero()  # in train mode all blocks are zero
    tensor(0)
    """
    _check_knobs(codewords, p, proxy)
    model, chosen = pick_linears(model, where)
    refuse_other_layers(chosen)
    users = first_users(model, chosen)
    sizes = {name: size_of(users[source(module)], block) for module, name in chosen.items()}

    def noise(weight: Tensor, size: int) -> BlockNoise:
        made, parts = BlockNoise(size, p, proxy, generator), blocks(weight.detach(), size)
        if proxy == "exact":
            made.codebook = kmeans(parts, codewords, generator=generator)[0]
        return made

    for size in sorted(set(sizes.values())):
        names = {name for name in sizes if sizes[name] == size}
        model = parametrize(model, lambda name, m, names=names: name in names, partial(noise, size=size))
    return model


def _check_knobs(codewords: int, p: float = 0.0, proxy: str = "zero") -> None:
    if not 0 <= p <= 1 or proxy not in PROXIES:
        raise ValueError(f"p={p}, proxy={proxy!r}: pick a probability from 0 to 1, and one of {PROXIES}")
    if type(codewords) is not int or not 1 <= codewords <= 256:
        raise ValueError(f"codewords={codewords}: pick 1 to 256, as many as a byte can number")


@torch.no_grad()
def project(model: nn.Module) -> None:
    """To call after optimizer.step(): codebooks of "exact" noise follow their weights.

    >>> model = apply(nn.Sequential(nn.Linear(16, 8)), block=4, proxy="exact", codewords=5)
    >>> project(model)
    >>> format_of(model[0]).steps
    tensor(1)
    """
    noises = {format_of(module): module for module in model.modules()}  # one for all users of a weight
    for noise, module in noises.items():
        if isinstance(noise, BlockNoise) and noise.codebook is not None:
            weight, chain = source(module), list(module.parametrizations.weight)
            for before in chain[: chain.index(noise)]:
                weight = before(weight)
            noise.follow(weight)


def finalize(
    model: nn.Module,
    *,
    codewords: int = 256,
    block: int | None = None,
    shared: bool = False,
    iterations: int = 25,
    where: Where = matrices,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A copy, in eval mode and 32 bits, with each weight that `where` picks as codes and a codebook of
    `codewords`.

    A weight with fewer blocks than `codewords` has one codeword per block, which saves no bytes compared with
    16 bits. With `shared`, all weights of this call with the same block size share one codebook. Codewords
    are parameters in 32 bits that can be trained further, even those of frozen weights, with the rest of the
    model; call `finalize` again for the next kind of weight (iPQ), and `store` last. A padding row is coded
    like any other and is no longer zero. ValueError for more than 256 codewords, a block that does not divide
    a row, weights with NaN, or when nothing matches.

    >>> small = finalize(nn.Sequential(nn.Linear(64, 128)), block=8, codewords=16)
    >>> small[0].code.codes.shape, small[0].code.codebook.codewords.shape
    (torch.Size([128, 8]), torch.Size([16, 8]))
    """
    _check_knobs(codewords)
    model, chosen = pick_linears(clone(model).float().eval(), where)
    refuse_other_layers(chosen, BlockNoise)
    books: dict[tuple[int, str], dict[str, Tensor]] = {}  # the weights of each codebook
    for name in first_users(model, chosen).values():
        book = size_of(name, block), "" if shared else name
        books.setdefault(book, {})[name] = model.get_submodule(name).weight.detach()
    cluster = partial(kmeans, iterations=iterations, generator=generator)
    codes: dict[str, Coded] = {}
    for (size, _), weights in books.items():
        codes |= _coded(weights, size, codewords, cluster)
    names = set(chosen.values())
    return recode(model, lambda name, m: name in names, lambda weight, name: codes[name], pq_layer)


def _coded(weights: dict[str, Tensor], size: int, codewords: int, cluster: Callable) -> dict[str, Coded]:
    """Weights, by name, as codes that share one codebook."""
    cut = []
    for name, w in weights.items():
        with about(name):
            cut.append(blocks(w, size))
    parts = torch.cat(cut)
    book, codes = cluster(parts, min(codewords, len(parts)))
    codebook = Codebook(book, torch.bincount(codes, minlength=len(book)))
    own = codes.to(torch.uint8).split([w.numel() // size for w in weights.values()])
    return {n: Coded(c.view(len(w), -1), codebook) for c, (n, w) in zip(own, weights.items(), strict=True)}


def pq_layer(module: nn.Module, code: Coded) -> nn.Module:
    """The layer that computes what `module` does, with its weight from codes.

    >>> code = Coded(torch.zeros(6, 2, dtype=torch.uint8), Codebook(torch.ones(1, 4), torch.tensor([12])))
    >>> pq_layer(nn.Linear(8, 6), code).weight.shape
    torch.Size([6, 8])
    """
    if isinstance(module, nn.Embedding):
        return PQEmbedding(code)
    return PQLinear(code, module.bias)


def store(model: nn.Module, *, bits: int = 16) -> nn.Module:
    """A copy with codewords in 16 bits, or in 8 with one scale per codebook; the rest of the model in 16.

    ValueError for other bits, or when there is no codebook.

    >>> small = store(finalize(nn.Sequential(nn.Linear(64, 128)), codewords=16), bits=8)
    >>> small[0].code.codebook.codewords.dtype
    torch.int8
    """
    if bits not in (8, 16):
        raise ValueError(f"bits={bits}: codewords are stored in 8 or 16 bits")
    return halve(swap(model, is_a(Codebook), IntCodebook if bits == 8 else HalfCodebook))

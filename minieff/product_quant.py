"""Product quantization: a weight is cut into blocks of d numbers, and a codebook of K blocks stands for all.

    W (out, in) -> out x in / d blocks;   codebook (K, d), codes (out, in / d):   W_q = codebook[codes]

The codebook comes from k-means (Jegou et al. 2011; for networks: Stock et al. 2019, "And the Bit Goes Down",
arXiv 1907.05686). With K = 256 a code is a byte for d numbers: 4 d times fewer bytes than fp32, less what the
codebook takes, 2 K d bytes. iPQ (Fan, Stock et al. 2020, arXiv 2004.07320) codes one kind of weight, trains
codewords and whatever is left to make up for it, codes the next kind, and so on; a codeword moves by the
*mean* gradient of its blocks. Quant-Noise, in the same paper, prepares a model while it is trained: in each
pass a share p of the blocks is replaced by its codeword, or by a stand-in that needs no codebook, and the
gradient passes as if it had not been.

Saves: bytes, 16x for d = 4 and 32x for d = 8, without codebooks. It does not save: multiplications, memory
in use, or time, for weights are put together again in each pass.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from minieff.codebook import Codebook, Coded, IntCodebook, blocks
from minieff.kmeans import kmeans, means, nearest
from minieff.surgery import (
    Where,
    Wrap,
    clone,
    halve,
    is_a,
    matrices,
    named,
    parametrize,
    pick,
    recode,
    record,
    refuse_half_ties,
    source,
    swap,
)

STAGE = "weight"

PROXIES = ("zero", "mean", "exact")

is_attention = named("q", "k", "v", "out")


class BlockNoise(nn.Module):
    """A parametrization: in train mode each block is replaced with probability p, and the gradient passes.

    By zeros, by its mean, or by its codeword ("exact"; `project` moves the codebook after the weight). In
    eval mode the weight is as it is, for there are no codes yet. The weight itself is never written.
    """

    def __init__(self, size: int, p: float, proxy: str, generator: torch.Generator | None) -> None:
        super().__init__()
        self.size, self.p, self.proxy, self.generator = size, p, proxy, generator
        self.register_buffer("codebook", None)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, w: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        if not self.training or self.p == 0:
            return w
        parts = blocks(w.detach(), self.size)
        chosen = torch.rand(len(parts), generator=self.generator, device="cpu").to(w.device) < self.p
        w_q = torch.where(chosen[:, None], self.instead(parts, chosen), parts).view_as(w)
        return w_q + (w - w.detach())  # w_q, exactly: the difference is zero, and has a gradient

    def instead(self, parts: Float[Tensor, "N d"], chosen: Tensor) -> Float[Tensor, "N d"]:
        """What stands for the chosen blocks."""
        if self.proxy == "zero":
            return torch.zeros_like(parts)
        if self.proxy == "mean":
            return parts.mean(1, keepdim=True).expand_as(parts)
        found = parts.clone()
        found[chosen] = self.codebook[nearest(parts[chosen], self.codebook)]
        return found

    def follow(self, w: Float[Tensor, "R C"]) -> None:
        """A step of k-means after the weight, in every tenth training step."""
        self.steps += 1
        if self.steps % 10 == 0:
            parts = blocks(w.detach(), self.size)
            self.codebook = means(parts, nearest(parts, self.codebook), self.codebook, None)

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
        return self.code.dense(ids.flatten()).unflatten(0, ids.shape)

    def logits(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B R"]:
        return F.linear(x, self.weight)


def size_of(name: str, module: nn.Module, block: int | None) -> int:
    """The size of a layer's blocks: 4 in attention and 8 elsewhere, unless it is given."""
    return block or (4 if is_attention(name, module) else 8)


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

    `proxy`: by "zero", by its "mean", or "exact", by the nearest of `codewords`, which then needs `project`.
    `block` is a size for all; None: 4 in attention, 8 elsewhere. ValueError for a p that is no probability,
    an unknown proxy, a block that does not divide a row, or when nothing matches.
    """
    if not 0 <= p <= 1 or proxy not in PROXIES:
        raise ValueError(f"p={p}, proxy={proxy!r}: a probability from 0 to 1, and one of {PROXIES}")
    check_codewords(codewords)
    chosen = pick(model, where)
    if any(_noise(module) for module in chosen):
        raise ValueError("where picks a weight that has this noise already; pick others")

    def noise(weight: Tensor, size: int) -> BlockNoise:
        made, parts = BlockNoise(size, p, proxy, generator), blocks(weight.detach(), size)
        if proxy == "exact":
            made.codebook = kmeans(parts, codewords, generator=generator)[0]
        return made

    for size in sorted({size_of(name, module, block) for module, name in chosen.items()}):
        of_size = partial(is_of_size, where=where, block=block, size=size)
        model = parametrize(model, of_size, partial(noise, size=size))
    return model


def is_of_size(name: str, module: nn.Module, *, where: Where, block: int | None, size: int) -> bool:
    return where(name, module) and size_of(name, module, block) == size


def check_codewords(codewords: int) -> None:
    if not 1 <= codewords <= 256:
        raise ValueError(f"codewords={codewords}: from 1 to the 256 that a byte can tell apart")


@torch.no_grad()
def project(model: nn.Module) -> None:
    """After optimizer.step(): codebooks of "exact" noise follow their weights."""
    for module in model.modules():
        noise = _noise(module)
        if noise is not None and noise.codebook is not None:
            noise.follow(source(module))


def _noise(module: nn.Module) -> BlockNoise | None:
    """The noise on a module's weight; a wrapper has none of its own."""
    own = not isinstance(module, Wrap) and is_parametrized(module, "weight")
    chain = module.parametrizations.weight if own else ()
    return next((p for p in chain if isinstance(p, BlockNoise)), None)


@torch.no_grad()
def input_energy(model: nn.Module, batches: Iterable, where: Where = is_a(nn.Linear)) -> dict[str, Tensor]:
    """Mean square of each input (C,) of the layers, over `model(batch)` for all batches: {name: energy}.

    For `finalize(energy=...)`: an error in a weight counts as much as what it is multiplied by. ValueError
    without batches.
    """
    total: dict[str, Tensor] = {}
    for batch in batches:
        with record(model, where) as calls:
            model(batch)
        for call in calls:
            total[call.name] = total.get(call.name, 0) + call.inputs[0].flatten(0, -2).square().mean(0)
    if not total:
        raise ValueError("no batches: there is no energy to measure")
    return total


def finalize(
    model: nn.Module,
    *,
    codewords: int = 256,
    block: int | None = None,
    shared: bool = False,
    energy: dict[str, Tensor] | None = None,
    iterations: int = 25,
    where: Where = matrices,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A copy, in eval mode, with the weights that `where` picks as codes of `codewords` and a codebook each.

    With `shared`, one codebook serves all weights of this call that have blocks of one size. `energy`, from
    `input_energy`, weighs errors by inputs. The codewords are parameters and can be trained further, with
    whatever is left; call it again for the next kind of weight (iPQ), and `store` last. ValueError for more
    codewords than a byte can tell apart, a block that does not divide a row, weights with NaN, or when
    nothing matches.
    """
    check_codewords(codewords)
    model = clone(model).eval()
    chosen = pick(model, where)
    refuse_half_ties(model, chosen)
    first: dict[nn.Parameter, str] = {}  # a weight goes by the name of its first user
    names = {name: first.setdefault(source(module), name) for module, name in chosen.items()}
    groups: dict[tuple[int, str], dict[str, Tensor]] = {}
    for module, name in chosen.items():
        key = size_of(name, module, block), "" if shared else names[name]
        groups.setdefault(key, {})[names[name]] = module.weight.detach()
    cluster = partial(kmeans, codewords=codewords, iterations=iterations, generator=generator)
    codes: dict[str, Coded] = {}
    for (size, _), weights in groups.items():
        codes |= coded(weights, size, energy, cluster)
    return recode(model, where, lambda weight, name: codes[names[name]], remade)


def coded(
    weights: dict[str, Tensor], size: int, energy: dict[str, Tensor] | None, cluster: Callable
) -> dict[str, Coded]:
    """Weights by name, with one codebook."""
    heavy = None
    if energy is not None:
        known = {name: energy.get(name, torch.ones(w.shape[1])).expand_as(w) for name, w in weights.items()}
        heavy = torch.cat([blocks(w, size) for w in known.values()])
    codewords, codes = cluster(torch.cat([blocks(w, size) for w in weights.values()]), weights=heavy)
    book = Codebook(codewords, torch.bincount(codes, minlength=len(codewords)))
    own = codes.to(torch.uint8).split([w.numel() // size for w in weights.values()])
    return {n: Coded(c.view(len(w), -1), book) for c, (n, w) in zip(own, weights.items(), strict=True)}


def remade(module: nn.Module, code: Coded) -> nn.Module:
    if isinstance(module, nn.Embedding):
        return PQEmbedding(code)
    return PQLinear(code, module.bias)


def store(model: nn.Module, *, bits: int = 16) -> nn.Module:
    """A copy with codewords in 16 bits, or in 8 with a scale a codebook; what is left in 16 bits.

    ValueError for other bits, or when there is no codebook.
    """
    if bits not in (8, 16):
        raise ValueError(f"bits={bits}: codewords are stored in 8 or 16")
    pick(model, is_a(Codebook))
    return halve(swap(model, is_a(Codebook), IntCodebook) if bits == 8 else model)

"""What a model costs, and how good it is: the five axes of the course in one `Report`.

    parameters      numbers in parameters, a shared one once
    stored_bytes    what a safetensors file of the model holds, a shared tensor once
    macs            multiply-accumulates per token, by formula; 1 MAC is 2 FLOPs
    forward, step   seconds of a pass and of a training step: medians with quartiles
    energy          joules per pass, measured by the processor (`rapl`) or *modelled*; the report says which
    quality         nats per token, perplexity and bits per byte on the validation windows

Time does not follow from MACs, nor energy from time: each is measured by itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp, isnan, log
from statistics import quantiles
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.flop_counter import FlopCounterMode

from minieff.core import energy
from minieff.core.attention import Attention, causal
from minieff.core.checkpoint import pack
from minieff.core.data import SILENT, Source, Trainable, loss
from minieff.core.past import Fresh
from minieff.core.surgery import clone, evaluating, record
from minieff.core.transformer import Transformer


def parameters(model: nn.Module) -> int:
    """Numbers in parameters, frozen ones included; a shared parameter counts once.

    >>> linear = nn.Linear(10, 10)  # a matrix and a bias
    >>> parameters(nn.Sequential(linear, linear))
    110
    """
    return sum(p.numel() for p in model.parameters())


def stored_bytes(model: nn.Module) -> int:
    """Bytes of the tensors in a safetensors file of the model as it is; a shared tensor counts once.

    >>> stored_bytes(nn.Linear(10, 10)), stored_bytes(nn.Linear(10, 10).half())
    (440, 220)
    """
    return sum(t.numel() * t.element_size() for t in pack(model).values())


def _linear_macs(linear: nn.Module, inputs: tuple, output: Tensor) -> int:
    return output.numel() * inputs[0].shape[-1]


def _attention_macs(attention: nn.Module, inputs: tuple, output: Tensor) -> int:
    """q k^T and attn v, as if each query saw all keys, those of earlier calls included; no projections.

    A kernel that is a module counts its own.
    """
    if isinstance(attention.kernel, nn.Module):
        return 0
    B, T, C = inputs[0].shape
    start = next((past.start for past in inputs if isinstance(past, Fresh)), 0)
    return 2 * B * T * (start + T) * C


def _head_macs(model: nn.Module, inputs: tuple, output: Tensor) -> int:
    """MACs of `tok.logits`, which is not called as a module; a replaced embedding knows its own."""
    own = getattr(model.tok, "head_macs", None)
    return output[..., 0].numel() * own() if own else output.numel() * model.config.dim


FREE = (nn.LayerNorm, nn.Embedding, ParametrizationList)  # additions and look-ups are not counted
FORMULAS = {nn.Linear: _linear_macs, Attention: _attention_macs, Transformer: _head_macs}


def _formula(module: nn.Module) -> Callable | None:
    """The function (module, inputs, output) -> MACs of a call: the module's own `macs`, or from FORMULAS."""
    known = [FORMULAS[kind] for kind in FORMULAS if isinstance(module, kind)]
    return getattr(type(module), "macs", known[-1] if known else None)


@torch.no_grad()
def macs(model: nn.Module, context: int | None = None) -> float:
    """Multiply-accumulates per token in one pass over `context` tokens (None: the longest the model takes).

    Counts what runs: a block used twice counts twice. Additions, norms, softmax and GELU are left out. What
    is in no module with a formula, such as attention that is not ours, counts as in torch's FlopCounterMode.
    ValueError for a module with parameters that neither counts.

    >>> macs(nn.Sequential(nn.Embedding(50, 10), nn.Linear(10, 50)), context=16)
    500.0
    """
    context = getattr(getattr(model, "config", None), "context", None) if context is None else context
    if context is None:
        raise ValueError(f"context=None: {type(model).__name__} has no config.context; give a number")
    roots = _roots(model)
    ids = torch.zeros(1, context, dtype=torch.long, device=next(model.parameters()).device)
    # torch's counter knows the products of attention on every processor, but not every fused kernel
    with evaluating(model), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        with record(model, lambda name, module: _formula(module) is not None) as calls:
            model(ids)
    names = dict(model.named_modules())
    counted = [(names[call.name], call.inputs, call.output) for call in calls]
    own = sum(_formula(module)(module, inputs, output) for module, inputs, output in counted)
    return (own + _others(model, roots, counter) / 2) / context


def _unknown(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules with parameters that no formula counts."""
    for name, module in model.named_modules():
        if module._parameters and not _formula(module) and not isinstance(module, FREE):
            yield name, module


def _roots(model: nn.Module) -> list[str]:
    """Names of the modules with a formula that are in no other. ValueError for unknown ones inside."""
    roots: list[str] = []
    for name, module in model.named_modules():  # parents first
        if _formula(module) and not _inside(name, roots):
            roots.append(name)
    for name, module in _unknown(model):
        if _inside(name, roots):
            raise _uncounted(name, module)
    return roots


def _inside(name: str, roots: list[str]) -> bool:
    return any(root == "" or name.startswith(f"{root}.") for root in roots)


def _others(model: nn.Module, roots: list[str], counter: FlopCounterMode) -> int:
    """FLOPs outside of the roots, as torch counts them. ValueError for a matrix there that it does not."""
    counts = {path.partition(".")[2]: sum(f.values()) for path, f in counter.get_flop_counts().items()}
    for name, module in _unknown(model):
        if any(p is not None and p.dim() > 1 for p in module._parameters.values()) and not counts.get(name):
            raise _uncounted(name, module)
    return counter.get_total_flops() - sum(counts.get(root, 0) for root in roots)


def _uncounted(name: str, module: nn.Module) -> ValueError:
    return ValueError(f"no formula counts {name}, a {type(module).__name__}; add one to cost.FORMULAS")


@dataclass(frozen=True)
class Timing:
    """Seconds per run: median and quartiles of `runs` runs after the warm-up, on `threads` threads."""

    median: float
    low: float
    high: float
    runs: int
    threads: int

    def __str__(self) -> str:
        quartiles = f"{1e3 * self.low:.4g} to {1e3 * self.high:.4g}"
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{1e3 * self.median:.4g} ms ({quartiles}; {self.runs} runs, {threads})"


def interleaved(
    calls: dict[str, Callable[[], object]], runs: int = 30, warmup: int = 10
) -> dict[str, Timing]:
    """Times several calls in turns, so that other load on the machine affects all of them alike.

    ValueError for fewer than 3 runs, too few for quartiles.

    >>> x = torch.ones(4, 4)
    >>> times = interleaved({"sum": x.sum, "product": lambda: x @ x}, runs=5, warmup=1)
    >>> times["product"].runs
    5
    """
    if runs < 3 or warmup < 0:
        raise ValueError(
            f"runs={runs}, warmup={warmup}: quartiles need at least 3 runs; try runs=30, warmup=10"
        )
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + runs):
        for name, call in calls.items():
            begun = perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warmup:
                seconds[name].append(perf_counter() - begun)
    return {name: _timing(values) for name, values in seconds.items()}


def _timing(seconds: list[float]) -> Timing:
    low, median, high = quantiles(seconds, n=4, method="inclusive")
    return Timing(median, low, high, len(seconds), torch.get_num_threads())


def timed(call: Callable[[], object], runs: int = 30, warmup: int = 10) -> Timing:
    """The time of one call.

    >>> time = timed(lambda: sum(range(100)), runs=5, warmup=1)
    >>> 0 < time.low <= time.median <= time.high
    True
    """
    return interleaved({"call": call}, runs, warmup)["call"]


@dataclass(frozen=True)
class Quality:
    """Loss on the validation windows; `nats` are per token.

    Bits per byte compare models with different tokenizers; None where tokens do not stand for bytes.
    """

    nats: float
    perplexity: float
    bits_per_byte: float | None
    tokens: int

    def __str__(self) -> str:
        bits = "" if self.bits_per_byte is None else f", {self.bits_per_byte:.3f} bits per byte"
        return f"{self.nats:.3f} nats per token, perplexity {self.perplexity:.1f}{bits}"


@torch.no_grad()
def quality(
    model: nn.Module, corpus: Source, context: int | None = None, windows: int | None = None
) -> Quality:
    """Quality on all validation windows of `context` tokens (None: the model's), or on `windows` of them.

    These are spread over the text. Losses are summed in float64. The model keeps its mode. ValueError when
    there is no window.

    >>> from minieff.core.data import Bytes, Corpus
    >>> corpus = Corpus("letters", Bytes(), {"train": [], "valid": ["abcdefghijklm"]})
    >>> guess = nn.Embedding.from_pretrained(torch.zeros(256, 256))  # all 256 bytes equally likely
    >>> round(quality(guess, corpus, context=4).bits_per_byte, 3)
    8.0
    """
    context = model.config.context if context is None else context
    device = next(model.parameters()).device
    asked = () if corpus.mask is causal else (corpus.mask,)  # a causal model needs no mask argument
    nats, tokens, size = 0.0, 0, 0
    with evaluating(model):
        for ids, targets in corpus.windows(context, count=windows):
            logits = model(ids.to(device), *asked)
            nats += loss(logits, targets.to(device), "none").double().sum().item()
            kept = targets[targets != SILENT]
            tokens += kept.numel()
            size += int(corpus.tokenizer.sizes[kept].sum())
    if tokens == 0:
        raise ValueError(f"the validation part of {corpus.name} has no window of context={context}")
    return Quality(nats / tokens, exp(nats / tokens), nats / log(2) / size if size else None, tokens)


def dominates(a: Sequence[int | float], b: Sequence[int | float]) -> bool:
    """Whether `a` is at most `b` on every axis, and less on at least one.

    >>> dominates((1.9, 2.7), (7.4, 2.7)), dominates((1.9, 3.2), (7.4, 2.7))
    (True, False)
    """
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def pareto(points: Mapping[str, Sequence[int | float]]) -> list[str]:
    """The names of the points that no other dominates, in their order. Less is better on every axis.

    Of equal points both stay. ValueError for NaN, and for points with different numbers of axes.

    >>> pareto({"small": (1.9, 3.2), "large": (7.4, 2.7), "worse": (7.5, 3.0)})  # MB, nats
    ['small', 'large']
    """
    if len({len(point) for point in points.values()}) > 1:
        raise ValueError("the points have different numbers of axes; give each the same, in the same order")
    for name, point in points.items():
        if any(isnan(value) for value in point):
            raise ValueError(f"{name} has a NaN in {tuple(point)}, which cannot be compared; leave it out")
    return [name for name, point in points.items() if not any(dominates(q, point) for q in points.values())]


@dataclass(frozen=True)
class Report:
    """One model on all axes."""

    name: str
    parameters: int
    stored_bytes: int
    macs: float
    forward: Timing
    step: Timing
    energy: energy.Energy
    quality: Quality

    def as_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        bits = self.quality.bits_per_byte
        bits = "" if bits is None else f", {bits:.3f} bits per byte"
        return "\n".join(
            [
                f"{self.name}: {self.parameters:,} parameters, {self.stored_bytes:,} bytes",
                f"  MACs      {self.macs:,.0f} per token",
                f"  forward   {self.forward}",
                f"  training  {self.step}",
                f"  energy    {self.energy.joules:.3g} J, {self.energy.method}",
                f"  quality   {self.quality.nats:.3f} nats per token{bits}",
            ]
        )


def report(
    name: str,
    model: nn.Module,
    corpus: Trainable,
    *,
    rows: int = 8,
    runs: int = 30,
    windows: int | None = None,
) -> Report:
    """Measures `model` on every axis; passes and steps take `rows` sequences of the model's context length.

    A training step is forward, backward and AdamW, on a copy. Energy is that of one pass in eval mode.

    >>> from minieff.core.data import Bytes, Corpus
    >>> from minieff.core.transformer import Config
    >>> corpus = Corpus("letters", Bytes(), {"train": ["abcdefghijklm"], "valid": ["nopqrstuvwxyz"]})
    >>> model = Transformer(Config(vocab=256, context=4, layers=1, heads=1, dim=8))
    >>> report("tiny", model, corpus, runs=3).parameters
    2968
    """
    context, device = model.config.context, next(model.parameters()).device
    ids, targets = (t.to(device) for t in corpus.batch(rows, context, torch.Generator().manual_seed(0)))
    copy = clone(model).train()
    optimizer = torch.optim.AdamW(copy.parameters(), fused=True)

    @torch.no_grad()
    def forward() -> None:
        model(ids)

    def step() -> None:
        loss(copy(ids), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    sizes = parameters(model), stored_bytes(model), macs(model, context)
    with evaluating(model):
        passes, used = timed(forward, runs), energy.of_pass(forward, sizes[2] * ids.numel(), sizes[1])
    found = quality(model, corpus, context, windows)
    return Report(name, *sizes, passes, timed(step, runs), used, found)

"""Our Transformer against `transformers`' GPT2LMHeadModel: the same shape, the same weights, in one run.

    python benchmarks/bench_transformer.py            minutes, on an idle machine; `make bench` keeps them
    python benchmarks/bench_transformer.py --quick    seconds: whether it runs, not how fast

A training step, a forward pass and cached greedy decoding, each against their default and against the faster
settings that a user of theirs could pick; and each against what this machine does at best: the rate of one
large matrix product, the rate of reading memory, and for decoding its own linears with nothing between them.
"""

import argparse
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from benchmarks.peers import from_gpt2, gpt2
from benchmarks.turns import comparison, in_turns, limit
from minieff.core.cost import macs, parameters
from minieff.core.data import loss
from minieff.core.files import save_results
from minieff.core.optimizer import adamw
from minieff.core.transformer import Config, Transformer
from minieff.fast_decoding import generate

FUSED = {"activation_function": "gelu_pytorch_tanh"}  # the same function as their default, in one kernel


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    config: Config
    batch: int
    prompt: int
    tokens: int
    side: int  # of the large matrix product
    copied: int  # bytes of the large copy
    runs: int
    warmup: int
    compiled: bool  # also their compiled decoding: half a minute before its first token


FULL = Plan(Config(2048, 128, layers=6, heads=4, dim=128), 32, 16, 100, 2048, 2**28, 30, 10, True)
QUICK = Plan(Config(64, 32, layers=2, heads=2, dim=32), 2, 4, 8, 64, 2**20, 3, 1, False)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shapes and few runs")
    plan = QUICK if parser.parse_args(argv).quick else FULL
    torch.manual_seed(0)
    parts = [training(plan), forward(plan)]
    parts += [decoding(plan, threads) for threads in sorted({1, torch.get_num_threads()})]
    results = {
        "title": "Transformer against transformers' GPT2LMHeadModel",
        "setting": {"transformers": transformers.__version__, "dtype": "float32", **asdict(plan)},
        "comparisons": [part for comparisons, _ in parts for part in comparisons],
        "limits": [part for _, limits in parts for part in limits],
    }
    path = save_results("bench/transformer", results)
    for part in results["comparisons"]:
        for peer in part["peers"]:
            on = f"{part['what']}, {peer['threads']} threads"
            print(f"{on}: {peer['name']} takes {peer['times']['median']:.2f}x our time")
    for part in results["limits"]:
        on = f"{part['what']}, {part['threads']} threads"
        print(f"{on}: {part['share']['median']:.1%} of the rate of {part['probe']}")
    print(path)


def models(config: Config, std: float | None = None) -> tuple[Transformer, nn.Module, nn.Module]:
    """Ours, theirs, and theirs with the fused GELU: one set of weights, theirs or drawn from N(0, std)."""
    theirs, fused = gpt2(config), gpt2(config, **FUSED)
    if std is not None:
        for p in theirs.parameters():
            nn.init.normal_(p, std=std)
    fused.load_state_dict(theirs.state_dict())
    return from_gpt2(theirs), theirs, fused


def product(side: int) -> Callable[[], object]:
    """One large matrix product: 2 side^3 FLOPs."""
    a, b, out = torch.randn(side, side), torch.randn(side, side), torch.empty(side, side)
    return lambda: torch.mm(a, b, out=out)


def training(plan: Plan) -> tuple[list[dict], list[dict]]:
    """A step: forward, cross-entropy, backward, clipping, AdamW, gradients away."""
    config, shape = plan.config, (plan.batch, plan.config.context)
    ids, targets = torch.randint(config.vocab, (2, *shape)).unbind()
    ours, theirs, fused = models(config)

    def stepping(model: nn.Module, logits: Callable[[Tensor], Tensor]) -> Callable[[], float]:
        optimizer = adamw(model.train(), decay=0.1)

        def step() -> float:
            value = loss(logits(ids), targets)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            return value.item()

        return step

    calls: dict[str, Callable] = {
        "ours": stepping(ours, ours),
        "default": stepping(theirs, lambda ids: theirs(ids, use_cache=False).logits),
        "fused GELU": stepping(fused, lambda ids: fused(ids, use_cache=False).logits),
    }
    # equal losses after two updates: the same gradients, clipped and applied in the same way
    losses = torch.tensor([[step() for _ in range(3)] for step in calls.values()])
    torch.testing.assert_close(losses, losses[:1].expand_as(losses), atol=0, rtol=1e-4)
    probe = f"a {plan.side}^3 product"
    turns = in_turns({**calls, probe: product(plan.side)}, plan.runs, plan.warmup)
    flops = 3 * 2 * macs(ours) * ids.numel()  # a backward pass is two more products for each
    what = f"training step, batch {plan.batch} x {config.context}"
    return (
        [comparison(turns, what, 1.1, list(calls)[1:])],
        [limit(turns, what, "FLOP", flops, probe, 2 * plan.side**3)],
    )


def forward(plan: Plan) -> tuple[list[dict], list[dict]]:
    """One pass in eval, without gradients: all logits."""
    config = plan.config
    ids = torch.randint(config.vocab, (plan.batch, config.context))
    ours, theirs, fused = models(config)
    calls: dict[str, Callable] = {
        "ours": lambda: ours(ids),
        "default": lambda: theirs(ids, use_cache=False).logits,
        "fused GELU": lambda: fused(ids, use_cache=False).logits,
    }
    probe = f"a {plan.side}^3 product"
    with torch.no_grad():
        for call in calls.values():
            torch.testing.assert_close(call(), ours(ids), atol=1e-4, rtol=1e-4)
        turns = in_turns({**calls, probe: product(plan.side)}, plan.runs, plan.warmup)
    what = f"forward pass, batch {plan.batch} x {config.context}"
    return (
        [comparison(turns, what, None, list(calls)[1:])],
        [limit(turns, what, "FLOP", 2 * macs(ours) * ids.numel(), probe, 2 * plan.side**3)],
    )


def decoding(plan: Plan, threads: int) -> tuple[list[dict], list[dict]]:
    """Greedy decoding of one sequence through a cache, on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    # weights so large that no two logits are near: rounding must not decide which token is the likeliest
    ours, theirs, fused = models(plan.config, std=0.2)
    ids = torch.randint(plan.config.vocab, (1, plan.prompt))
    calls = {"ours": lambda: generate(ours, ids, plan.tokens)}
    calls |= their_decoders(plan, theirs, fused, ids)
    wanted, note = generate(ours, ids, plan.tokens).tolist(), ""
    for name, call in calls.items():
        begun = perf_counter()
        assert call().tolist() == wanted, f"{name} continues otherwise"
        if "torch.compile" in name:
            note = (
                f"On {threads} threads, torch.compile took {perf_counter() - begun:.0f} s before its result"
            )
    probes = decoding_probes(plan, ours)
    turns = in_turns(calls | {name: call for name, (call, *_) in probes.items()}, plan.runs, plan.warmup)
    torch.set_num_threads(before)
    what = f"decoding {plan.tokens} tokens after {plan.prompt}"
    return (
        [comparison(turns, what, 3.0, list(calls)[1:], note)],
        [limit(turns, what, unit, work, name, done) for name, (_, unit, work, done) in probes.items()],
    )


def their_decoders(
    plan: Plan, theirs: nn.Module, fused: nn.Module, ids: Tensor
) -> dict[str, Callable[[], Tensor]]:
    """Their default, and settings that might be faster."""
    static = {"cache_implementation": "static"}
    calls = {
        "default": lambda: their_generate(theirs, ids, plan.tokens),
        "fused GELU": lambda: their_generate(fused, ids, plan.tokens),
        "fused GELU, static cache": lambda: their_generate(fused, ids, plan.tokens, **static),
        "fused GELU, a loop instead of generate": lambda: their_loop(fused, ids, plan.tokens),
    }
    if plan.compiled:
        compiled = deepcopy(fused)
        compiled.forward = torch.compile(compiled.forward)
        calls["fused GELU, static cache, torch.compile"] = lambda: their_generate(
            compiled, ids, plan.tokens, **static
        )
    return calls


def decoding_probes(plan: Plan, ours: Transformer) -> dict[str, tuple[Callable, str, float, float]]:
    """Calls that bound decoding: (call, unit, what decoding needs, what the call does)."""
    config, steps = ours.config, plan.tokens
    weights = torch.ones(parameters(ours) - ours.pos.weight.numel())  # all that each step has to read
    read = 4 * steps * weights.numel()
    cached = 4 * sum(2 * config.layers * config.dim * S for S in range(plan.prompt, plan.prompt + steps))
    source, target = torch.ones(2, plan.copied // 4)
    return {
        "reading the weights (torch.dot)": (
            lambda: [torch.dot(weights, weights) for _ in range(steps)],
            "byte",
            read + cached,
            read,
        ),
        f"a copy of {plan.copied >> 20} MiB": (
            lambda: target.copy_(source),
            "byte",
            read + cached,
            2 * plan.copied,
        ),
        "its linears alone": (lambda: linears_alone(ours, steps), "token", steps, steps),
    }


def their_generate(model: nn.Module, ids: Tensor, tokens: int, **settings: Any) -> Tensor:
    """Nothing stops it early, and it is told all that it would otherwise find out."""
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
        eos_token_id=None,
        **settings,
    )


@torch.no_grad()
def their_loop(model: nn.Module, ids: Tensor, tokens: int) -> Tensor:
    """What `generate` does, without all that it could do."""
    past, new = transformers.DynamicCache(config=model.config), ids
    for _ in range(tokens):
        logits = model(new, past_key_values=past, use_cache=True).logits[:, -1]
        new = logits.argmax(-1, keepdim=True)
        ids = torch.cat([ids, new], dim=1)
    return ids


@torch.no_grad()
def linears_alone(model: Transformer, tokens: int) -> None:
    """The matrix products of so many decoding steps and nothing between them."""
    linears = [(m.weight, m.bias) for m in model.modules() if isinstance(m, nn.Linear)]
    linears.append((model.tok.weight, None))
    x = {width: torch.zeros(1, 1, width) for width in {weight.shape[1] for weight, _ in linears}}
    for _ in range(tokens):
        for weight, bias in linears:
            F.linear(x[weight.shape[1]], weight, bias)


if __name__ == "__main__":
    main()

"""Decoding with `fuse` against `transformers`, and speculative decoding against `fuse` alone.

    python benchmarks/bench_decoding.py            minutes, on an idle machine; `make bench` keeps them
    python benchmarks/bench_decoding.py --quick    seconds: whether it runs, not how fast

Greedy and cached, one sequence: their `generate` by default, with a static cache, and compiled. Then trained
models that draft for a trained model, over the length of the draft; and for larger models, where no draft is
trained, what the passes cost and so the acceptance rate from which drafts of one layer would pay: n drafted
tokens gain where tokens_per_pass(a, n) is more than the time of a pass over n + 1 tokens and n passes of the
draft, in passes over one token.
"""

import argparse
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from benchmarks.peers import from_gpt2, gpt2
from benchmarks.turns import Turns, comparison, in_turns, limit
from minieff import layerdrop
from minieff.core import zoo
from minieff.core.cost import parameters
from minieff.core.files import save_results
from minieff.core.recipe import read
from minieff.core.transformer import Config, Transformer
from minieff.fast_decoding import Fused, StaticPast, fuse, generate, speculate, tokens_per_pass

FUSED = {"activation_function": "gelu_pytorch_tanh"}  # the same function as their default, in one kernel
# model, draft, the layers of the draft that are kept (None: all)
DRAFTED = [
    ("speeches-base", "speeches-depth-1", None),
    ("speeches-layerdrop-20", "speeches-layerdrop-20", [0, 7]),
    ("speeches-layerdrop-20", "speeches-layerdrop-20", [0, 2, 5, 7]),
]


@dataclass(frozen=True)
class Plan:
    """What is measured, and how often."""

    configs: tuple[Config, ...]
    tokens: tuple[int, ...]  # for each of them
    prompt: int
    ahead: tuple[int, ...]
    texts: int  # that are continued by the trained models
    runs: int
    warmup: int
    compiled: bool  # also their compiled decoding: half a minute before its first token


SMALL, LARGE = Config(2048, 128, layers=6, heads=4, dim=128), Config(50257, 128, layers=12, heads=12, dim=768)
FULL = Plan((SMALL, LARGE), (100, 16), 16, (1, 2, 4, 6), 4, 9, 2, True)
TINY = Config(64, 32, layers=2, heads=2, dim=32)
QUICK = Plan((TINY,), (8,), 4, (1, 3), 1, 3, 1, False)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shapes and few runs")
    plan = QUICK if parser.parse_args(argv).quick else FULL
    torch.manual_seed(0)
    decoded = [decoding(plan, *shape) for shape in zip(plan.configs, plan.tokens, strict=True)]
    drafted = [speculation(plan, *names) for names in DRAFTED[: 3 if plan is FULL else 2]]
    results = {
        "title": "Decoding",
        "setting": {"transformers": transformers.__version__, "dtype": "float32", **setting(plan)},
        "comparisons": [part for parts, _ in (*decoded, *drafted) for part in parts],
        "limits": [part for _, part in decoded],
        "speculation": [row for _, rows in drafted for row in rows],
        "passes": [row for config in plan.configs for row in passes(plan, config)],
    }
    path = save_results("bench/decoding", results)
    for part in results["comparisons"]:
        for peer in part["peers"]:
            print(f"{part['what']}: {peer['name']} takes {peer['times']['median']:.2f}x our time")
    for row in results["speculation"] + results["passes"]:
        print(row)
    print(path)


def setting(plan: Plan) -> dict[str, Any]:
    return {key: value for key, value in asdict(plan).items() if key not in ("configs", "tokens")}


def decoding(plan: Plan, config: Config, tokens: int) -> tuple[list[dict], dict]:
    """`fuse` against their ways to decode, and against reading its weights once per token."""
    # weights so large that no two logits are near: rounding must not decide which token is the likeliest
    theirs, quick = gpt2(config), gpt2(config, **FUSED)
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.2)
    quick.load_state_dict(theirs.state_dict())
    ours, ids = from_gpt2(theirs), torch.randint(config.vocab, (1, plan.prompt))
    fast, probe = fuse(ours), "reading its weights (torch.dot)"
    weights = torch.ones(parameters(ours))
    calls = {
        "ours": lambda: generate(fast, ids, tokens),
        "our model as it is": lambda: generate(ours, ids, tokens),
    }
    calls |= their_decoders(plan, theirs, quick, ids, tokens)
    wanted = calls["ours"]().tolist()
    for name, call in calls.items():
        assert call().tolist() == wanted, f"{name} continues otherwise"
    turns = in_turns(calls | {probe: lambda: torch.dot(weights, weights)}, plan.runs, plan.warmup)
    what = f"{config.layers} x {config.dim}, {tokens} tokens after {plan.prompt}"
    peers = [name for name in calls if name not in ("ours", "compiled")]
    parts = [comparison(turns, what, 3.5 if config == SMALL else None, peers)]
    if "compiled" in calls:
        parts.append(comparison(turns, what, 1.5 if config == SMALL else None, ["compiled"]))
    size = 4 * parameters(ours)
    return parts, limit(turns, what, "byte", size * tokens, probe, size)


def their_decoders(
    plan: Plan, theirs: nn.Module, quick: nn.Module, ids: Tensor, tokens: int
) -> dict[str, Callable[[], Tensor]]:
    """Their default, and settings that might be faster."""
    shared = {
        "max_new_tokens": tokens,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
        "attention_mask": torch.ones_like(ids),
    }
    static = shared | {"cache_implementation": "static"}
    calls = {
        "default": lambda: theirs.generate(ids, **shared),
        "fused GELU": lambda: quick.generate(ids, **shared),
        "fused GELU, static cache": lambda: quick.generate(ids, **static),
    }
    if plan.compiled:
        compiled = deepcopy(quick)
        compiled.forward = torch.compile(compiled.forward)
        calls["compiled"] = lambda: compiled.generate(ids, **static)
    return calls


def speculation(
    plan: Plan, name: str, draft_name: str, keep: list[int] | None
) -> tuple[list[dict], list[dict]]:
    """Trained models on the validation text: time against `fuse` alone, and acceptance, over `ahead`."""
    model, draft = (fuse(layerdrop.finalize(zoo.load(n))) for n in (name, draft_name))
    draft = draft if keep is None else draft.keep(keep)
    corpus = read(zoo.FOLDER / f"{name}.toml").data.load()
    texts = torch.cat([ids for ids, _ in corpus.windows(plan.prompt, count=plan.texts)])[:, None]
    tokens = plan.tokens[0]
    calls: dict[str, Callable] = {"alone": lambda: [generate(model, ids, tokens) for ids in texts]}
    rows, parts = [], []
    for ahead in plan.ahead:

        def call(ahead: int = ahead) -> list:
            return [speculate(model, draft, ids, tokens, ahead=ahead) for ids in texts]

        calls[f"{ahead}"], found = call, call()
        # up to rounding: in thousands of tokens two of the likeliest may be nearly equal
        same = [torch.equal(a.ids, b) for a, b in zip(found, calls["alone"](), strict=True)]
        accepted, drafted = sum(f.accepted for f in found), sum(f.drafted for f in found)
        rows.append(
            {
                "model": name,
                "draft": f"{draft_name}{'' if keep is None else f' {keep}'}",
                "ahead": ahead,
                "acceptance": accepted / drafted,
                "per_pass": tokens * len(texts) / sum(f.passes for f in found),
                "same": sum(same) / len(same),
            }
        )
    turns = in_turns(calls, plan.runs, plan.warmup)
    for row in rows:
        key = f"{row['ahead']}"
        row["tokens_per_second"] = tokens * len(texts) / turns.timings[key].median
        row["times"] = turns.quotient("alone", key)
        pair = {"ours": key, "fuse alone": "alone"}
        own = Turns(*({new: d[old] for new, old in pair.items()} for d in (turns.timings, turns.seconds)))
        what = f"{name}, {row['ahead']} drafted by {row['draft']}"
        parts.append(comparison(own, what, 1.0, ["fuse alone"]))
    return parts, rows


@torch.inference_mode()
def passes(plan: Plan, config: Config) -> list[dict]:
    """Of a model and a draft of its first layer: what passes cost, and the acceptance from which they pay."""
    model = fuse(Transformer(config).eval())
    draft, past, small = model.keep([0]), StaticPast(config.context), StaticPast(config.context)
    ids = torch.randint(config.vocab, (1, plan.prompt))
    model(ids, past=past), draft(ids, past=small)

    def timed(fused: Fused, memory: StaticPast, tokens: int) -> Callable[[], None]:
        def call() -> None:
            for _ in range(10):
                fused(ids[:, :tokens], past=memory)
                memory.rewind(plan.prompt)

        return call

    lengths = [n for n in plan.ahead if n < plan.prompt]
    calls = {f"{n + 1}": timed(model, past, n + 1) for n in (0, *lengths)} | {"draft": timed(draft, small, 1)}
    turns = in_turns(calls, plan.runs, plan.warmup)
    rows = []
    for n in lengths:
        longer, drafting = turns.quotient(f"{n + 1}", "1"), turns.quotient("draft", "1")
        price = longer["median"] + n * drafting["median"]
        rates = [a / 100 for a in range(101) if tokens_per_pass(a / 100, n) > price]
        rows.append(
            {
                "shape": f"{config.layers} x {config.dim}",
                "ahead": n,
                "longer_pass": longer,
                "draft": drafting,
                "pays_from": rates[0] if rates else None,
            }
        )
    return rows


if __name__ == "__main__":
    main()

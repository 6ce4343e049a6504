"""LayerDrop in two processes: results/layerdrop/ranks.json, for lesson 08.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 evidence/layerdrop/ranks.py [--quick]

Coins come from a generator that starts alike everywhere, so all processes drop the same layers. Yet
DistributedDataParallel cannot know that: it waits for gradients that never come, unless
find_unused_parameters=True makes it walk the graph of every step. Measured in turns: what the walk costs, and
what it costs to do without, by averaging exactly the gradients that are there, in one flat message.
"""

import argparse
from collections.abc import Callable
from statistics import quantiles

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.turns import in_turns
from minieff import layerdrop
from minieff.core.data import loss
from minieff.core.files import save_results
from minieff.core.optimizer import adamw
from minieff.core.processes import processes
from minieff.core.surgery import is_a, record
from minieff.core.transformer import Block, Config, Transformer

P = 0.2


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model and few runs")
    quick = parser.parse_args(argv).quick
    config = Config(64, 32, 4, 2, 32) if quick else Config(2048, 128, 8, 4, 128)
    runs, warmup, steps = (3, 1, 2) if quick else (20, 2, 10)
    with processes() as (rank, world, _):
        rows = 8 // world
        steppers = {
            "plain": ddp(config, rows, steps, None),
            "plain, graph walked": ddp(config, rows, steps, None, walk=True),
            "LayerDrop, graph walked": ddp(config, rows, steps, P, walk=True),
            "plain, averaged by hand": by_hand(config, rows, steps, None),
            "LayerDrop, averaged by hand": by_hand(config, rows, steps, P),
        }
        turns = in_turns({name: call for name, (call, _) in steppers.items()}, runs, warmup)
        equal = {name: same_weights(model) for name, (_, model) in steppers.items()}
        apart = furthest(steppers["LayerDrop, graph walked"][1], steppers["LayerDrop, averaged by hand"][1])
        refusal = without_the_walk(config, rows)
        coins = same_coins(config)
    if rank == 0:
        print(refusal)
        results = {
            "setting": {"processes": world, "rows": rows, "p": P, "steps": steps},
            "steps_per_second": {
                name: quantiles((steps / s for s in seconds), n=4, method="inclusive")
                for name, seconds in turns.seconds.items()
            },
            "times_plain": {name: turns.quotient(name, "plain") for name in steppers},
            "same_weights": equal,
            "by_hand_from_ddp": apart,
            "same_coins": coins,
            "without_the_walk": refusal,
        }
        print(results["steps_per_second"], results["times_plain"], equal, apart, coins)
        print(save_results("layerdrop/ranks", results))


def start(config: Config, p: float | None) -> nn.Module:
    """The same weights and the same coins in every process."""
    torch.manual_seed(0)
    model = Transformer(config).train()
    if p is None:
        return model
    return layerdrop.apply(model, p=p, generator=torch.Generator().manual_seed(1))


Stepper = tuple[Callable[[], None], nn.Module]


def stepper(model: nn.Module, called: nn.Module, rows: int, steps: int, after: Callable[[], None]) -> Stepper:
    """`steps` training steps of `called`, which runs `model`; `after` stands between backward and update."""
    optimizer = adamw(model, decay=0.1)
    draw = torch.Generator().manual_seed(dist.get_rank())  # each process has rows of its own

    def call() -> None:
        for _ in range(steps):
            ids = torch.randint(model.config.vocab, (rows, model.config.context), generator=draw)
            loss(called(ids), ids).backward()
            after()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return call, model


def ddp(config: Config, rows: int, steps: int, p: float | None, walk: bool = False) -> Stepper:
    model = start(config, p)
    wrapped = DistributedDataParallel(model, find_unused_parameters=walk)
    return stepper(model, wrapped, rows, steps, lambda: None)


def by_hand(config: Config, rows: int, steps: int, p: float | None) -> Stepper:
    model = start(config, p)
    return stepper(model, model, rows, steps, lambda: average(model))


def average(model: nn.Module) -> None:
    """The mean over processes of the gradients that are there: the same ones in all, as coins are shared."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))


def same_weights(model: nn.Module) -> bool:
    """Whether all processes hold the same weights, bit for bit."""
    own = torch.cat([p.detach().flatten() for p in model.parameters()])
    everyones = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, own)
    return all(torch.equal(own, other) for other in everyones)


def furthest(a: nn.Module, b: nn.Module) -> float:
    """The largest difference between weights, in units of the standard deviation of all weights."""
    own, other = (torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (a, b))
    return float((own - other).abs().max() / own.std())


def same_coins(config: Config, steps: int = 100) -> bool:
    """Whether in `steps` steps all processes ran the same layers."""
    model = start(config, P)
    ran = []
    with record(model, is_a(Block)) as calls, torch.no_grad():
        for _ in range(steps):
            model(torch.randint(config.vocab, (1, 4)))
            ran.append([call.name for call in calls])
            calls.clear()
    everyones = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, ran)
    return all(other == ran for other in everyones) and len({len(names) for names in ran}) > 1


def without_the_walk(config: Config, rows: int) -> str:
    """What DistributedDataParallel says when layers are dropped and the graph is not walked."""
    call, _ = ddp(config, rows, 20, 0.5)
    try:
        call()
    except RuntimeError as error:
        return str(error).split(". ")[0]
    return "no error"


if __name__ == "__main__":
    main()

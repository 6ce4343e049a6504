"""Checks for exercise 08: layers that are skipped, counted, chosen, renumbered, and switched off in someone else's model.

Inputs and misconceptions stand in `stacks.py`, `sublayers.py`, `depths.py`, `prunings.py` and `encoders.py`.
"""

from collections.abc import Callable
from random import Random

from exercises.graders import Case, NotYet, Verdict, task
from exercises.graders.depths import (
    MOST,
    depths_figure,
    indices,
    judge_each,
    keep_complaint,
    kept_figure,
    paper,
    steps,
)
from exercises.graders.encoders import encoders, further, in_all, in_one, judged, moved
from exercises.graders.judge import answer
from exercises.graders.prunings import prune_complaint, prunings
from exercises.graders.stacks import complaint, marks, stacks
from exercises.graders.sublayers import fault, onces
from minieff.layerdrop import keep_evenly


def played(call, run: Callable):
    """One call; a refusal says which."""
    return answer(lambda *_: call.play(run), Case((), call.label), lambda value: value)


@task
def skip_some(run: Callable, draw: Random) -> Verdict:
    """`skip_some(layers, memories, x, p, training, coin)`: LayerDrop's forward over a stack of layers."""
    calls = stacks(draw)
    got = [played(call, run) for call in calls]
    message = complaint(calls, got)
    if message:
        raise NotYet(message, *marks(calls, got, always=False))
    return Verdict(
        "Each layer with a coin of its own in training, the plain stack in eval mode, nothing rescaled.",
        *marks(calls, got),
    )


@task
def sub_layer(run: Callable, draw: Random) -> Verdict:
    """`sub_layer(x, norm, inner, p, training, coin)`: x + inner(norm(x)), skipped whole with probability p in training."""
    calls = onces(draw)
    message = fault(calls, [played(call, run) for call in calls])
    if message:
        raise NotYet(message)
    return Verdict("Skipped, it leaves x. Run, it is the plain sub-layer, in training as in eval mode.")


@task
def what_to_expect(run: Callable, draw: Random) -> Verdict:
    """`what_to_expect(rates, share)`: the mean number of layers that run, the probability that none does, the factor in speed."""
    cases = steps(draw)
    judge_each(run, cases)
    return Verdict(
        "The picture has the whole distribution for one of the models: each layer with its own rate.",
        *depths_figure(cases[0].arguments[0]),
    )


@task
def keep_list(run: Callable, draw: Random) -> Verdict:
    """`keep_list(layers, kept)`: `kept` of `layers` layer numbers, spread evenly, both ends among them."""
    pairs = [(layers, kept) for layers in range(1, MOST + 1) for kept in range(1, layers + 1)]
    got = [answer(run, Case(pair, f"layers={pair[0]}, kept={pair[1]}"), indices) for pair in pairs]
    mine = dict(zip(pairs, got, strict=True))
    message, pair = keep_complaint(pairs, got)

    def rows(layers: int, of: Callable) -> dict[int, list[int]]:
        return {kept: of(layers, kept) for kept in range(1, layers + 1)}

    if message:
        layers = max(pair[0], 6)
        panels = {
            "expected (one way)": rows(layers, keep_evenly),
            "yours": rows(layers, lambda *pair: mine[pair]),
        }
        said = f"yours keeps {mine[pair] or 'none'} where {pair[1]} of {pair[0]} should stay."
        raise NotYet(message, *kept_figure(layers, panels, said))
    panels = {"the paper's rule": rows(12, paper), "yours": rows(12, lambda *pair: mine[pair])}
    return Verdict(
        f"All {len(pairs)} lists for up to {MOST} layers are evenly spread. The picture has yours beside the paper's rule, which keeps "
        "nothing where fewer than half of the layers should stay.",
        *kept_figure(
            12,
            panels,
            "the paper's rule keeps 6 where 7 should stay, none where fewer than 6 should, and the last layer only where all stay; yours keeps what it should.",
        ),
    )


@task
def prune(run: Callable, draw: Random) -> Verdict:
    """`prune(state, keep)`: the checkpoint of the model that has only the layers in `keep`, numbered from 0."""
    cases = prunings(draw)
    got = [answer(run, Case((case.state, case.keep), case.label), case.read) for case in cases]
    message = prune_complaint(cases, got)
    if message:
        raise NotYet(message)
    if not all(case.is_the_pruned_model(state) for case, state in zip(cases, got, strict=True)):
        raise NotYet(
            "The names and values look right, and yet a model that loads them is not the pruned one."
        )
    return Verdict(
        "Models of 1, 3, 4 and 6 layers took these checkpoints, and their logits equal those of the pruned models to the last bit."
    )


@task
def without_feed_forward(run: Callable, draw: Random) -> Verdict:
    """`without_feed_forward(encoder, i)`: a copy of an nn.TransformerEncoder whose layer i lacks its feed-forward sub-layer."""
    cases = encoders(draw)
    got = judged(run, cases, in_all)
    judged(run, further(draw), in_one)
    return Verdict(
        "Equal to the formulas, pre-norm and post-norm, padded or not, with gradients and without. The original is as it was.",
        *moved(cases, got),
    )

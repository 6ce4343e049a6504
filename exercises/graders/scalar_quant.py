"""Checks for exercise 10: small whole numbers and their scales, in matrices, files, noise, products, and someone else's model.

Inputs and misconceptions stand in `grids.py`, `zero_points.py`, `file_sizes.py`, `noisy_weights.py`, `int_products.py` and
`rounded_copies.py`.
"""

from collections.abc import Callable
from random import Random

from exercises.graders import Case, NotYet, Verdict, judge, task
from exercises.graders.file_sizes import SIZE_MISTAKES, right
from exercises.graders.file_sizes import models as listed
from exercises.graders.grids import codes_complaint, matrices, near
from exercises.graders.int_products import later, product_complaint, products, square_complaint
from exercises.graders.judge import answer
from exercises.graders.kinds import whole
from exercises.graders.noisy_weights import noise_complaint, passes
from exercises.graders.rounded_copies import Conv1D as Conv1D
from exercises.graders.rounded_copies import copies_complaint, made, models
from exercises.graders.zero_points import Row, affine_complaint, rows, spread


def told(message: str) -> None:
    """NotYet for a message."""
    if message:
        raise NotYet(message)


def played(run: Callable, case, play: Callable):
    """What `play` makes of one call; a refusal says which."""
    return answer(lambda *_: play(run, case), Case((), case.label), lambda value: value)


@task
def to_codes(run: Callable, draw: Random) -> Verdict:
    """`to_codes(w, bits)`: whole numbers from -m to m, and a scale for each row of w."""
    cases = matrices(draw)
    told(codes_complaint(cases, [answer(run, Case((c.w, c.bits), c.label), c.read) for c in cases]))
    return Verdict(
        f"Nearest values in {len(cases)} matrices, from 2 to 8 bits: each row has its own scale, a row of zeros too."
    )


ENDS: dict[str, Callable] = {
    "One end of your range is not held at 0: look at a row in which all numbers are negative.": (
        lambda row: (row.w.double().max() - row.low) / row.last
    ),
    "One end of your range is not held at 0: look at a row in which all numbers are positive.": (
        lambda row: (row.w.double().max().clamp(min=0) - row.w.double().min()) / row.last
    ),
}


def end_complaint(cases: list[Row], got: list) -> str:
    """What is wrong in Task 2 with one end of the range, or with rows of equal numbers alone; empty if it is something else."""
    pairs = list(zip(cases, got, strict=True))
    varied = [(row, found) for row, found in pairs if spread(row) > 0]
    if not any(row.fault(found) for row, found in varied):
        equal = [found for row, found in pairs if spread(row) == 0 and row.w.any()]
        if all(s.isfinite() and (s * (q - z) == 0).all() for q, s, z in equal):
            return "Rows of equal numbers come back as zeros. Their range holds 0 as well, and so it is not empty: what are its ends?"
    if all(near(s, row.scale) for row, (_, s, _) in varied):
        return ""
    return next((text for text, of in ENDS.items() if all(near(s, of(row)) for row, (_, s, _) in varied)), "")


@task
def affine(run: Callable, draw: Random) -> Verdict:
    """`affine(w, bits)`: codes from 0 to 2^bits - 1, the scale, and the code of 0."""
    cases = rows(draw)
    got = [answer(run, Case((c.w, c.bits), c.label), c.read) for c in cases]
    told(end_complaint(cases, got) or affine_complaint(cases, got))
    return Verdict(
        "0 has a code, every weight comes back within half a step, and equal numbers divide by no range of 0."
    )


@task
def file_bytes(run: Callable, draw: Random) -> Verdict:
    """`file_bytes(weights, others, bits)`: the bytes of a file of codes, scales, and the rest in 16 bits."""
    judge(run, listed(draw), right, SIZE_MISTAKES, kind=whole)
    return Verdict(
        "Codes in whole bytes a row, a scale a row, everything else in 16 bits, and what is tied once."
    )


@task
def noisy(run: Callable, draw: Random) -> Verdict:
    """`noisy(w, bits, p, training, coins)`: Quant-Noise on a weight, without touching it."""
    calls = passes(draw)
    told(noise_complaint(calls, [played(run, call, lambda run, call: call.play(run)) for call in calls]))
    return Verdict("Rounded where the coin says so, the gradient passes everywhere, and w is what it was.")


@task
def int_linear(run: Callable, draw: Random) -> Verdict:
    """`int_linear(x, codes, scales, bias)`: x W^T + b in whole numbers, a scale for each token."""
    calls, place, got = products(draw), 3, []
    for call in [*calls, later(calls[place])]:
        got.append(answer(run, Case(call.arguments, call.label), call.read))
        told(square_complaint(call, got[0]) if len(got) == 1 else "")
    told(product_complaint(calls, got[:-1], got[-1], place))
    return Verdict(
        "Equal to the formula in whole numbers, for x of every shape, and a later token changes no earlier one."
    )


@task
def round_outputs(run: Callable, draw: Random) -> Verdict:
    """`round_outputs(model, bits)`: a copy of a model that is not ours, each output channel rounded with its own scale."""
    cases = models(draw)
    told(copies_complaint(cases, [played(run, case, made) for case in cases]))
    return Verdict("Four kinds of layers, each along its output channels; ties, norms, biases and the original are as they were.")  # fmt: skip

"""Checks for exercise 11: codewords that move, bytes with codebooks, codes decoded, noise in blocks, someone else's model coded.

Inputs and misconceptions stand in `clusters.py`, `codebook_bytes.py`, `codewords.py`, `block_noises.py` and `coded_copies.py`.
"""

from collections.abc import Callable
from random import Random

from exercises.graders import NotYet, Verdict, judge, task
from exercises.graders.block_noises import divides, noise_complaint, noise_figure, noises
from exercises.graders.clusters import clusters, lloyd_complaint, moved_figure
from exercises.graders.codebook_bytes import counted, described, mistakes
from exercises.graders.coded_copies import copied, copy_complaint, models
from exercises.graders.codewords import decode_complaint, decodings, pulls, step_complaint


def judged(cases: list, run: Callable, complaint: Callable[[list, list], str]) -> list:
    """What came of all calls, if it is right; else NotYet."""
    got = [case.play(run) for case in cases]
    message = complaint(cases, got)
    if message:
        raise NotYet(message)
    return got


@task
def lloyd(run: Callable, draw: Random) -> Verdict:
    """`lloyd(points, codebook)`: one step of k-means, (codes, new_codebook)."""
    cases = clusters(draw)
    got = judged(cases, run, lloyd_complaint)
    return Verdict(
        "Codes by the old codebook, then means, and a codeword without points stays. An arrow leads from each codeword to its new place.",
        *moved_figure(cases[1], got[1][1]),
    )


@task
def pq_bytes(run: Callable, draw: Random) -> Verdict:
    """`pq_bytes(weights, others, codewords, bits)`: the bytes of codes, codebooks and the rest."""
    judge(run, described(draw), counted, mistakes(), tolerance=1e-12)
    return Verdict("To the byte: each tensor once, each codebook once, and no more codewords than blocks.")


@task
def decode(run: Callable, draw: Random) -> Verdict:
    """`decode(codes, codebook, rows)`: rows of the weight, put together from codewords."""
    judged(decodings(draw), run, decode_complaint)
    return Verdict(
        "The rows that were asked for, with codes of any size, and the gradient reaches the codewords."
    )


@task
def train_codewords(run: Callable, draw: Random) -> Verdict:
    """`train_codewords(codebook, codes, gradient, rate)`: each codeword after a step by its blocks' mean gradient."""
    judged(pulls(draw), run, step_complaint)
    return Verdict(
        "Each codeword moves by the mean of its gradients, with 1 block or with 300, and one without blocks stays where it is."
    )


@task
def block_noise(run: Callable, draw: Random) -> Verdict:
    """`block_noise(w, block, p, training, coins)`: w with blocks of zeros in training, and its gradient as if there were none."""
    cases = noises(draw)
    got = [case.play(run) for case in cases]
    message = noise_complaint(cases, got)
    if message:
        raise NotYet(message, *noise_figure(cases[0], got[0][0]))
    divides(run, draw)
    return Verdict(
        "Zeros in the forward pass, the whole gradient in the backward pass, and w itself untouched.",
        *noise_figure(cases[0], got[0][0]),
    )


@task
def coded_copy(run: Callable, draw: Random) -> Verdict:
    """`coded_copy(model, block, cluster)`: a copy of any model with its linears and embeddings coded and decoded."""
    for case in models(draw):
        message = copy_complaint(case, *copied(run, case))
        if message:
            raise NotYet(message)
    return Verdict(
        "In five models, tied weights are clustered once, the Parameter of attention is coded, and everything else is as it was."
    )

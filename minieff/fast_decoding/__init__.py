"""Decoding is one pass per token, and each pass reads every weight for little arithmetic.

    generate     keys and values of the tokens so far are kept, never computed again (past)
    fuse         fewer and larger calls between two tokens; the function stays
    group        G heads of keys and values for H heads of queries: a cache of G / H of the bytes
    exits        a token that is predicted with confidence skips the remaining layers
    speculate    a small model q drafts x, the model p reads the whole draft at once:
                 x is accepted with probability min(1, p(x) / q(x)), else drawn from max(0, p - q) / sum

With an acceptance rate a = sum min(p, q) and drafts of n tokens, a pass of the model gives
(1 - a^(n+1)) / (1 - a) tokens on average, distributed exactly as its own (Leviathan, Kalman, Matias 2022,
arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318). One head of keys for all queries is from Shazeer 2019,
arXiv 1911.02150, groups of heads and the conversion by their mean from Ainslie et al. 2023, arXiv 2305.13245;
exits with the skipped layers' keys and values from the last state are from Elbayad et al. 2019, arXiv
1910.10073, and Schuster et al. 2022, arXiv 2207.07061.

Costs: drafts that are rejected; after `group` some quality, until the model is trained further; for `exits` a
product with the head for each layer. It does not save: stored bytes (but for `group`), nor time on reading
the prompt; and `speculate` saves time only where a pass over n + 1 tokens costs hardly more than one over a
single token. By hand, with the distributions of the drafted tokens under both models:

    # p (n + 1, V) by the model, q (n, V) by the draft, drafted (n,) drawn from q
    new = verify(drafted, p, q)
"""

from minieff.fast_decoding.cache import Int8Past, StaticPast
from minieff.fast_decoding.exits import Exit, exits
from minieff.fast_decoding.fused import Fused, fuse
from minieff.fast_decoding.generate import generate, probabilities
from minieff.fast_decoding.grouped import group
from minieff.fast_decoding.speculate import Speculation, residual, speculate, tokens_per_pass, verify

__all__ = [
    "Exit",
    "Fused",
    "Int8Past",
    "Speculation",
    "StaticPast",
    "exits",
    "fuse",
    "generate",
    "group",
    "probabilities",
    "residual",
    "speculate",
    "tokens_per_pass",
    "verify",
]

STAGE = "mixer"  # that of `group`: projections are replaced before anything changes them
VERBS = ("group",)
IDEA = ("verify",)

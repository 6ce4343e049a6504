"""Answers to exercise 11: right ones written in another way, and wrong ones that are easy to let through."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import nn

from minieff.product_quant.kmeans import nearest


# Task 1
def with_products(points, codebook):
    codes = (codebook.square().sum(1) - 2 * points @ codebook.T).argmin(1)
    hot = F.one_hot(codes, len(codebook)).float()
    count = hot.sum(0)[:, None]
    return codes.int(), (hot.T @ points + codebook * (count == 0)) / count.clamp(min=1)


def with_minieff(points, codebook):
    codes, new = nearest(points, codebook), codebook.clone()
    for k in codes.unique():
        new[k] = points[codes == k].mean(0)
    return codes.float(), new


def point_by_point(points, codebook):
    codes = [min(range(len(codebook)), key=lambda k: float((p - codebook[k]).norm())) for p in points]
    own = [[p for p, code in zip(points, codes, strict=True) if code == k] for k in range(len(codebook))]
    return codes, [sum(p) / len(p) if p else old for p, old in zip(own, codebook, strict=True)]


def writes_into_the_codebook(points, codebook):
    codes = torch.cdist(points, codebook).argmin(1)
    for k in codes.unique():
        codebook[k] = points[codes == k].mean(0)
    return codes, codebook


def to_a_farther_point(points, codebook):
    codes, new = with_minieff(points, codebook)
    far = points[(points - codebook[codes.long()]).square().sum(1).argmax()]
    new[torch.bincount(codes.long(), minlength=len(new)) == 0] = far
    return codes, new


# Task 2
def by_sets(weights, others, codewords, bits):
    seen, blocks, total = set(), {}, 2 * others
    for _, rows, columns, block, key, book in weights:
        if key not in seen:
            seen.add(key)
            total += rows * (columns // block)
            blocks[book, block] = blocks.get((book, block), 0) + rows * (columns // block)
    return total + sum(min(codewords, n) * d * bits / 8 + 2 * (bits == 8) for (_, d), n in blocks.items())


def once_a_shape(weights, others, codewords, bits):
    return by_sets(list({w[1:4]: w for w in weights}.values()), others, codewords, bits)


# Task 3
def flat_places(codes, codebook, rows):
    codes = (codes if rows is None else codes[rows]).to(torch.int64)
    places = codes[..., None] * codebook.shape[1] + torch.arange(codebook.shape[1])
    return codebook.reshape(-1)[places].reshape(len(codes), codes.shape[1] * codebook.shape[1])


def with_embedding(codes, codebook, rows):
    whole = F.embedding(codes.int(), codebook).flatten(1)
    return whole if rows is None else whole.index_select(0, rows)


def squeezed(codes, codebook, rows):
    return with_embedding(codes, codebook, rows).squeeze()


def sorted_rows(codes, codebook, rows):
    return with_embedding(codes, codebook, None if rows is None else rows.sort().values)


def truth_of_rows(codes, codebook, rows):
    return with_embedding(codes, codebook, rows if rows is not None and rows.any() else None)


# Task 4
def by_scatter(codebook, codes, gradient, rate):
    index = codes.reshape(-1, 1).long().expand(-1, codebook.shape[1])
    parts = gradient.reshape(-1, codebook.shape[1])
    return codebook - rate * torch.zeros_like(codebook).scatter_reduce(
        0, index, parts, "mean", include_self=False
    )


def one_by_one(codebook, codes, gradient, rate):
    new, blocks = codebook.clone(), gradient.unflatten(1, (-1, codebook.shape[1]))
    for k in codes.unique().tolist():
        new[k] -= rate * blocks[codes == k].mean(0)
    return new


def in_place(codebook, codes, gradient, rate):
    codebook.copy_(one_by_one(codebook, codes, gradient, rate))
    return codebook


def one_mean_for_all(codebook, codes, gradient, rate):
    new = codebook.clone()
    new[codes.unique().long()] -= rate * gradient.reshape(-1, codebook.shape[1]).mean(0)
    return new


# Task 5
class Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, replaced):
        return torch.where(replaced, 0, w.unflatten(1, (replaced.shape[1], -1))).flatten(1)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def with_a_function(w, block, p, training, coins):
    return Through.apply(w, (coins < p)[..., None]) if training else w.clone()


def with_kron(w, block, p, training, coins):
    kept = torch.kron((coins >= p).float(), torch.ones(1, block)) if training else torch.ones_like(w)
    return (kept * w).detach() + w - w.detach()


def own_randomness(w, block, p, training, coins):
    return with_kron(w, block, p, training, torch.rand(coins.shape))


def through_without_a_copy(w, block, p, training, coins):
    w.data *= torch.kron((coins >= p).float(), torch.ones(1, block)) if training else 1
    return w


# Task 6
def by_state_dict(model, block, cluster):
    new, done = deepcopy(model), set()
    named = dict(new.named_parameters(remove_duplicate=False))
    for name, module in new.named_modules():
        kinds = {"weight": nn.Linear | nn.Embedding, "in_proj_weight": nn.MultiheadAttention}
        for own in [own for own, kind in kinds.items() if isinstance(module, kind)]:
            w = named.get(f"{name}.{own}".lstrip("."))
            if w is not None and w not in done and w.shape[-1] % block == 0:
                book, codes = cluster(w.detach().unflatten(1, (-1, block)).flatten(0, 1))
                w.data = F.embedding(codes, book).flatten().view(w.shape)
                done.add(w)
    return new


def new_parameters(model, block, cluster):
    new, known = deepcopy(model), {}
    for module in new.modules():
        for name, w in [*module._parameters.items()]:
            linear = isinstance(module, nn.Linear | nn.Embedding) and name == "weight"
            if w is not None and (linear or name == "in_proj_weight") and w.shape[1] % block == 0:
                if w not in known:
                    book, codes = cluster(w.reshape(-1, block))
                    known[w] = nn.Parameter(book[codes].view(w.shape))
                setattr(module, name, known[w])
    return new


def edits_the_original(model, block, cluster):
    model.load_state_dict(by_state_dict(model, block, cluster).state_dict())
    return model


def without_frozen(model, block, cluster):
    new, known = by_state_dict(model, block, cluster), dict(model.named_parameters())
    for name, w in new.named_parameters():
        w.data = w.data if known[name].requires_grad else known[name].data
    return new


RIGHT = {
    "lloyd": [with_products, with_minieff, point_by_point],
    "pq_bytes": [by_sets],
    "decode": [flat_places, with_embedding],
    "train_codewords": [by_scatter, one_by_one],
    "block_noise": [with_a_function, with_kron],
    "coded_copy": [by_state_dict, new_parameters],
}
WRONG = {
    "lloyd": [
        (writes_into_the_codebook, "changes what it was given (codebook)"),
        (to_a_farther_point, "item 2: "),
    ],
    "pq_bytes": [(once_a_shape, "too small by")],
    "decode": [
        (squeezed, "where a Tensor of shape (1, 21) is asked for"),
        (sorted_rows, "values: "),
        (truth_of_rows, "values: you return a Tensor of shape (11, 21)"),
    ],
    "train_codewords": [
        (in_place, "changes what it was given (codebook)"),
        (one_mean_for_all, "of the numbers are wrong"),
    ],
    "block_noise": [
        (own_randomness, "values: "),
        (through_without_a_copy, "changes what it was given (w)"),
    ],
    "coded_copy": [
        (edits_the_original, "changes what it was given (model)"),
        (without_frozen, "weights: read.out_proj.weight"),
    ],
}

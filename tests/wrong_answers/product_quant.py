"""Wrong answers to exercise 11, each with a part of the message it should get, and other right ones."""

from copy import deepcopy
from math import ceil, log2

import torch
import torch.nn.functional as F
from torch import nn

# --- 1


def squared(points, codebook):
    return (points[:, None] - codebook).square().sum(-1)


def moved(points, codebook, codes, of=lambda own: own.mean(0), idle=lambda old: old):
    rows = [of(points[codes == k]) if (codes == k).any() else idle(codebook[k]) for k in range(len(codebook))]
    return codes, torch.stack(rows)


def with_cdist(points, codebook):
    codes, new = torch.cdist(points, codebook).argmin(1), codebook.clone()
    for k in codes.unique():
        new[k] = points[codes == k].mean(0)
    return codes.float(), new


def with_products(points, codebook):
    codes = (codebook.square().sum(1) - 2 * points @ codebook.T).argmin(1)
    hot = F.one_hot(codes, len(codebook)).float()
    count = hot.sum(0)[:, None]
    return codes.int(), (hot.T @ points + codebook * (count == 0)) / count.clamp(min=1)


def point_by_point(points, codebook):
    codes = [min(range(len(codebook)), key=lambda k: float((p - codebook[k]).norm())) for p in points]
    return codes, moved(points, codebook, torch.tensor(codes))[1]


def number_by_number(points, codebook):
    """Three loops over tensors, which take long."""
    codes = []
    for i in range(len(points)):
        best, code = None, 0
        for k in range(len(codebook)):
            distance = 0
            for j in range(points.shape[1]):
                distance += (points[i, j] - codebook[k, j]) ** 2
            if best is None or distance < best:
                best, code = distance, k
        codes.append(code)
    return codes, moved(points, codebook, torch.tensor(codes))[1]


def by_absolute(points, codebook):
    return moved(points, codebook, torch.cdist(points, codebook, p=1).argmin(1))


def farthest(points, codebook):
    return moved(points, codebook, squared(points, codebook).argmax(1))


def by_product(points, codebook):
    return moved(points, codebook, (points @ codebook.T).argmax(1))


def least_product(points, codebook):
    return moved(points, codebook, (points @ codebook.T).argmin(1))


def by_angle(points, codebook):
    return moved(points, codebook, (F.normalize(points) @ F.normalize(codebook).T).argmax(1))


def half_of_the_product(points, codebook):
    return moved(points, codebook, (codebook.square().sum(1) - points @ codebook.T).argmin(1))


def sums_before_squaring(points, codebook):
    return moved(points, codebook, (points[:, None] - codebook).sum(-1).square().argmin(1))


def largest_coordinate(points, codebook):
    return moved(points, codebook, (points[:, None] - codebook).abs().amax(-1).argmin(1))


def over_the_points(points, codebook):
    codes = squared(points, codebook).argmin(0)
    return codes, codebook


def codes_of_the_new(points, codebook):
    new = with_cdist(points, codebook)[1]
    return squared(points, new).argmin(1), new


def from_one(points, codebook):
    codes, new = with_cdist(points, codebook)
    return codes + 1, new


def sums(points, codebook):
    return moved(points, codebook, squared(points, codebook).argmin(1), lambda own: own.sum(0))


def over_all_points(points, codebook):
    codes = squared(points, codebook).argmin(1)
    return moved(points, codebook, codes, lambda own: own.sum(0) / len(points))


def over_all_codewords(points, codebook):
    codes = squared(points, codebook).argmin(1)
    return moved(points, codebook, codes, lambda own: own.sum(0) / len(codebook))


def mean_of_all(points, codebook):
    return moved(points, codebook, squared(points, codebook).argmin(1), lambda own: points.mean(0))


def medians(points, codebook):
    return moved(points, codebook, squared(points, codebook).argmin(1), lambda own: own.median(0).values)


def stands_still(points, codebook):
    return squared(points, codebook).argmin(1), codebook.clone()


def two_steps(points, codebook):
    codes, new = with_cdist(points, codebook)
    return codes, with_cdist(points, new)[1]


def nan_if_empty(points, codebook):
    codes = squared(points, codebook).argmin(1)
    return codes, torch.stack([points[codes == k].mean(0) for k in range(len(codebook))])


def zero_if_empty(points, codebook):
    codes = squared(points, codebook).argmin(1)
    return moved(points, codebook, codes, idle=torch.zeros_like)


def moves_if_empty(points, codebook):
    far = points[squared(points, codebook).amin(1).argmax()]
    return moved(points, codebook, squared(points, codebook).argmin(1), idle=lambda old: far)


def dropped_if_empty(points, codebook):
    codes = squared(points, codebook).argmin(1)
    return codes, torch.stack([points[codes == k].mean(0) for k in codes.unique()])


def writes_into_the_codebook(points, codebook):
    codes = squared(points, codebook).argmin(1)
    for k in codes.unique():
        codebook[k] = points[codes == k].mean(0)
    return codes, codebook


def counts_in_a_byte(points, codebook):
    codes = squared(points, codebook).argmin(1)
    counts = torch.bincount(codes, minlength=len(codebook)).to(torch.uint8)[:, None]
    total = torch.zeros_like(codebook).index_add_(0, codes, points)
    return codes, torch.where(counts > 0, total / counts.clamp(min=1), codebook)


def empty_if_the_sum_is_zero(points, codebook):
    codes = squared(points, codebook).argmin(1)
    counts = torch.bincount(codes, minlength=len(codebook)).clamp(min=1)[:, None]
    total = torch.zeros_like(codebook).index_add_(0, codes, points)
    return codes, torch.where(total != 0, total / counts, codebook)


def squeezes_codes(points, codebook):
    codes, new = with_cdist(points, codebook)
    return codes.squeeze(), new


def codebook_first(points, codebook):
    return with_cdist(points, codebook)[::-1]


def codes_alone(points, codebook):
    return squared(points, codebook).argmin(1)


def signed_bytes(points, codebook):
    codes, new = with_cdist(points, codebook)
    return codes.long().to(torch.int8), new


def unsigned_bytes(points, codebook):
    codes, new = with_cdist(points, codebook)
    return codes.to(torch.uint8), new


# --- 2


def size(weights, others, codewords, bits, *, key=lambda w: w[4], book=lambda w: w[5], cap=min, code=1,
         number=None, scale=2, other=2, doubled=False, wide=True):  # fmt: skip
    once = {key(w): w for w in weights}.values()
    used, blocks = {}, {}
    for w in weights if doubled else once:
        used[book(w)] = used.get(book(w), 0) + w[1] * w[2] // w[3]
        blocks[book(w)] = w[3]
    total = sum(w[1] * w[2] // w[3] * code for w in once) + other * others
    for name, n in used.items():
        each = bits // 8 if number is None else number
        total += cap(codewords, n) * (blocks[name] if wide else 1) * each + (scale if bits == 8 else 0)
    return total


def by_sets(weights, others, codewords, bits):
    seen, blocks, total = set(), {}, 2 * others
    for _, rows, columns, block, key, book in weights:
        if key not in seen:
            seen.add(key)
            total += rows * (columns // block)
            blocks[book, block] = blocks.get((book, block), 0) + rows * (columns // block)
    return total + sum(min(codewords, n) * d * bits / 8 + 2 * (bits == 8) for (_, d), n in blocks.items())


def tied_twice(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, key=lambda w: w[0])


def tied_twice_in_caps(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, doubled=True)


def tied_twice_in_codes(weights, others, codewords, bits):
    extra = size(weights, 0, 0, 16, key=lambda w: w[0]) - size(weights, 0, 0, 16)
    return size(weights, others, codewords, bits) + extra


def once_a_shape(weights, others, codewords, bits):
    known = {w[1:4]: w for w in weights}
    return size(list(known.values()), others, codewords, bits)


def no_codebooks(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, number=0, scale=0)


def a_book_a_weight(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, book=lambda w: w[4])


def a_book_a_name(weights, others, codewords, bits):
    extra = size(weights, 0, 0, 16, key=lambda w: w[0]) - size(weights, 0, 0, 16)
    return size(weights, others, codewords, bits, key=lambda w: w[0], book=lambda w: w[0]) - extra


def in_fp32(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, number=4)


def always_16(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, number=2)


def not_capped(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, cap=lambda K, n: K)


def capped_one_by_one(weights, others, codewords, bits):
    books = {}
    for w in {w[4]: w for w in weights}.values():
        books[w[5]] = min(codewords, w[1] * w[2] // w[3]), w[3]
    numbers = sum(K * d for K, d in books.values())
    return size(weights, others, 0, 16) + numbers * bits // 8 + 2 * len(books) * (bits == 8)


def capped_in_sum(weights, others, codewords, bits):
    each, scales = 0, 0
    for w in {w[4]: w for w in weights}.values():
        each += min(codewords, w[1] * w[2] // w[3]) * w[3]
    scales = len({w[5] for w in weights}) * 2 * (bits == 8)
    return size(weights, others, 0, 16) + each * bits // 8 + scales


def a_book_a_size(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, book=lambda w: w[3])


def each_name_alone(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, key=lambda w: w[0], book=lambda w: w[0])


def scale_a_weight(weights, others, codewords, bits):
    scales = 2 * len({w[4] for w in weights}) * (bits == 8)
    return size(weights, others, codewords, bits, scale=0) + scales


def others_in_bits(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, other=bits // 8)


def no_scale(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, scale=0)


def scale_in_fp32(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, scale=4)


def scale_a_codeword(weights, others, codewords, bits):
    extra = size(weights, 0, codewords, 16, wide=False) - size(weights, 0, 0, 16)  # 2 bytes a codeword
    return size(weights, others, codewords, bits, scale=0) + (extra if bits == 8 else 0)


def numbers_for_codewords(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, wide=False)


def no_others(weights, others, codewords, bits):
    return size(weights, 0, codewords, bits)


def others_in_fp32(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, other=4)


def bits_of_codes(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, code=log2(codewords) / 8)


def whole_bits_of_codes(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, code=ceil(log2(codewords)) / 8)


def two_bytes_for_256(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, code=ceil(codewords.bit_length() / 8))


def a_code_a_number(weights, others, codewords, bits):
    codes = {w[4]: w[1] * w[2] - w[1] * w[2] // w[3] for w in weights}
    return size(weights, others, codewords, bits) + sum(codes.values())


def in_bits(weights, others, codewords, bits):
    return 8 * size(weights, others, codewords, bits)


def codes_and_nothing_else(weights, others, codewords, bits):
    return size(weights, 0, 0, 16)


def by_the_ratio(weights, others, codewords, bits):
    numbers = sum({w[4]: w[1] * w[2] for w in weights}.values()) + others
    return 4 * numbers / (32 * weights[0][3] / 8)


def two_at_once(weights, others, codewords, bits):
    return size(weights, others, codewords, bits, other=4, scale=0)


def pops_ties(weights, others, codewords, bits):
    for w in list(weights):
        if sum(v[4] == w[4] for v in weights) > 1:
            weights.remove(w)
    return size(weights, others, codewords, bits)


# --- 3


def flat_places(codes, codebook, rows):
    codes = (codes if rows is None else codes[rows]).to(torch.int64)
    places = codes[..., None] * codebook.shape[1] + torch.arange(codebook.shape[1])
    return codebook.reshape(-1)[places].reshape(len(codes), codes.shape[1] * codebook.shape[1])


def with_embedding(codes, codebook, rows):
    whole = F.embedding(codes.int(), codebook).flatten(1)
    return whole if rows is None else whole.index_select(0, rows)


def column_by_column(codes, codebook, rows):
    rows = torch.arange(len(codes)) if rows is None else rows
    return torch.cat([codebook[codes[rows, b].tolist()] for b in range(codes.shape[1])], 1)


def wraps(codes, codebook, rows):
    codes = codes if rows is None else codes[rows]
    places = (codes * codebook.shape[1])[..., None] + torch.arange(codebook.shape[1])
    return codebook.flatten()[places].flatten(1)


def interleaves(codes, codebook, rows):
    codes = codes if rows is None else codes[rows]
    return codebook[codes.long()].transpose(1, 2).flatten(1)


def empty_is_all(codes, codebook, rows):
    codes = codes[rows] if rows is not None and len(rows) else codes
    return codebook[codes.long()].flatten(1)


def order_alone_repaired(codes, codebook, rows):
    codes = codes[rows] if rows is not None and len(rows) else codes
    return wraps(codes, codebook, None)


def rows_alone_repaired(codes, codebook, rows):
    codes = codes if rows is None else codes[rows]
    places = (codes * codebook.shape[1])[..., None] + torch.arange(codebook.shape[1])
    return codebook.flatten()[places].transpose(1, 2).flatten(1)


def type_alone_repaired(codes, codebook, rows):
    codes = codes[rows] if rows is not None and len(rows) else codes
    return codebook[codes.long()].transpose(1, 2).flatten(1)


def rows_and_blocks(codes, codebook, rows):
    whole = codebook[codes.T.long()].reshape(len(codes), -1)
    return whole if rows is None else whole[rows]


def numbers_first(codes, codebook, rows):
    whole = codebook[codes.long()].permute(2, 0, 1).reshape(len(codes), -1)
    return whole if rows is None else whole[rows]


def signed(codes, codebook, rows):
    return flat_signed(codes.to(torch.int8).long(), codebook, rows)


def flat_signed(codes, codebook, rows):
    return codebook[codes if rows is None else codes[rows]].flatten(1)


def as_a_mask(codes, codebook, rows):
    return codebook[codes if rows is None else codes[rows]].flatten(1)


def sorts_rows(codes, codebook, rows):
    return with_embedding(codes, codebook, None if rows is None else rows.sort().values)


def cut_off(codes, codebook, rows):
    return with_embedding(codes, codebook.detach(), rows)


def gradient_of_all_rows(codes, codebook, rows):
    value = with_embedding(codes, codebook, rows)
    return value.detach() + 2 * value - 2 * value.detach()


def all_rows(codes, codebook, rows):
    return codebook[codes.long()].flatten(1)


def blocks_apart(codes, codebook, rows):
    return codebook[(codes if rows is None else codes[rows]).long()]


def empty_cannot_be_reshaped(codes, codebook, rows):
    codes = codes if rows is None else codes[rows]
    return codebook[codes.long()].reshape(len(codes), -1)


def any_rows(codes, codebook, rows):
    if rows is not None and (rows.any() or not len(rows)):
        codes = codes[rows]
    return codebook[codes.long()].flatten(1)


def places_in_int16(codes, codebook, rows):
    codes = codes if rows is None else codes[rows]
    begin = codes.to(torch.int16) * codebook.shape[1]
    return codebook.flatten()[begin[..., None] + torch.arange(codebook.shape[1])].flatten(1)


def squeezed(codes, codebook, rows):
    return with_embedding(codes, codebook, rows).squeeze()


# --- 4


def with_counts(codebook, codes, gradient, rate, counts=lambda n: n.clamp(min=1)):
    flat, parts = codes.flatten().long(), gradient.reshape(-1, codebook.shape[1])
    total = torch.zeros_like(codebook).index_add_(0, flat, parts)
    return codebook - rate * total / counts(torch.bincount(flat, minlength=len(codebook)))[:, None]


def by_scatter(codebook, codes, gradient, rate):
    index = codes.reshape(-1, 1).long().expand(-1, codebook.shape[1])
    parts = gradient.reshape(-1, codebook.shape[1])
    means = torch.zeros_like(codebook).scatter_reduce(0, index, parts, "mean", include_self=False)
    return codebook - rate * means


def one_by_one(codebook, codes, gradient, rate):
    new, blocks = codebook.clone(), gradient.unflatten(1, (-1, codebook.shape[1]))
    for k in codes.unique().tolist():
        new[k] -= rate * blocks[codes == k].mean(0)
    return new


def with_autograd(codebook, codes, gradient, rate):
    book = codebook.clone().requires_grad_()
    (total,) = torch.autograd.grad(book[codes.long()].flatten(1), book, gradient)
    counts = torch.zeros(len(book)).index_add_(0, codes.flatten().long(), torch.ones(codes.numel()))
    return codebook - rate * total / torch.where(counts == 0, 1, counts)[:, None]


def sum_of_gradients(codebook, codes, gradient, rate):
    return with_counts(codebook, codes, gradient, rate, torch.ones_like)


def last_block(codebook, codes, gradient, rate):
    new = codebook.clone()
    new[codes.flatten().long()] -= rate * gradient.reshape(-1, codebook.shape[1])
    return new


def nan_for_unused(codebook, codes, gradient, rate):
    return with_counts(codebook, codes, gradient, rate, lambda n: n)


def zero_for_unused(codebook, codes, gradient, rate):
    return nan_for_unused(codebook, codes, gradient, rate).nan_to_num()


def unused_follow(codebook, codes, gradient, rate):
    new = with_counts(codebook, codes, gradient, rate)
    idle = torch.bincount(codes.flatten(), minlength=len(codebook)) == 0
    new[idle] -= rate * gradient.reshape(-1, codebook.shape[1]).mean(0)
    return new


def over_all_blocks(codebook, codes, gradient, rate):
    return with_counts(codebook, codes, gradient, rate, lambda n: torch.full_like(n, codes.numel()))


def over_rows(codebook, codes, gradient, rate):
    return with_counts(codebook, codes, gradient, rate, lambda n: torch.full_like(n, len(codes)))


def over_codewords(codebook, codes, gradient, rate):
    return with_counts(codebook, codes, gradient, rate, lambda n: torch.full_like(n, len(codebook)))


def over_weights(codebook, codes, gradient, rate):
    return with_counts(codebook, codes, gradient, rate, lambda n: n.clamp(min=1) * codebook.shape[1])


def one_more(codebook, codes, gradient, rate):
    return with_counts(codebook, codes, gradient, rate, lambda n: n + 1)


def counts_in_bytes(codebook, codes, gradient, rate):
    return with_counts(codebook, codes, gradient, rate, lambda n: n.to(torch.uint8).clamp(min=1))


def uphill(codebook, codes, gradient, rate):
    return with_counts(codebook, codes, -gradient, rate)


def in_place(codebook, codes, gradient, rate):
    codebook.copy_(with_counts(codebook, codes, gradient, rate))
    return codebook


def no_rate(codebook, codes, gradient, rate):
    return with_counts(codebook, codes, gradient, 1.0)


def step_alone(codebook, codes, gradient, rate):
    return with_counts(codebook, codes, gradient, rate) - codebook


def down_the_columns(codebook, codes, gradient, rate):
    return with_counts(codebook, codes, gradient.T.reshape(len(gradient), -1), rate)


def every_bth_number(codebook, codes, gradient, rate):
    R, B = codes.shape
    return with_counts(codebook, codes, gradient.reshape(R, -1, B).transpose(1, 2).reshape(R, -1), rate)


def bytes_as_mask(codebook, codes, gradient, rate):
    total = torch.zeros_like(codebook)
    total[codes.flatten()] += gradient.reshape(-1, codebook.shape[1])
    return codebook - rate * total


def same_for_all(codebook, codes, gradient, rate):
    new = codebook.clone()
    new[codes.unique().long()] -= rate * gradient.reshape(-1, codebook.shape[1]).mean(0)
    return new


# --- 5


def refuses(w, block):
    if w.shape[1] % block:
        raise ValueError(f"rows of {w.shape[1]} cannot be cut into {block}")


def masked(
    w, block, p, training, coins, mask=lambda coins, p, block: (coins < p).repeat_interleave(block, 1)
):
    if not training:
        return w
    refuses(w, block)
    return w + (w.detach().masked_fill(mask(coins, p, block).reshape(w.shape), 0) - w.detach())


class Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w, replaced):
        return torch.where(replaced, 0, w.unflatten(1, (replaced.shape[1], -1))).flatten(1)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def with_a_function(w, block, p, training, coins):
    if not training:
        return w.clone()
    if coins.shape[1] * block != w.shape[1]:
        raise ValueError("no")
    return Through.apply(w, (coins < p)[..., None])


def with_kron(w, block, p, training, coins):
    assert block > 0
    if training and w.shape[1] % block != 0:
        raise ValueError("does not divide")
    kept = torch.kron((coins >= p).float(), torch.ones(1, block)) if training else torch.ones_like(w)
    return (kept * w).detach() + w - w.detach()


def single_weights(w, block, p, training, coins):
    def own(coins, p, block):
        wide = coins.repeat_interleave(block, 1)
        return (wide * (1 + torch.arange(wide.shape[1]) % block)) % 1 < p

    return masked(w, block, p, training, coins, own)


def own_randomness(w, block, p, training, coins):
    return masked(w, block, p, training, torch.rand(coins.shape))


def of_the_transpose(w, block, p, training, coins):
    if not training:
        return w
    refuses(w, block)
    noisy = w.T.reshape(-1, block).masked_fill(coins.reshape(-1, 1) < p, 0).view(w.T.shape).T
    return w + (noisy - w).detach()


def repeats_the_row(w, block, p, training, coins):
    return masked(w, block, p, training, coins, lambda coins, p, block: (coins < p).repeat(1, block))


def rescales(w, block, p, training, coins):
    noisy = masked(w, block, p, training, coins)
    return noisy / (1 - p) if training and p < 1 else noisy


def shrinks(w, block, p, training, coins):
    return masked(w, block, p, training, coins) * (1 - p if training else 1)


def other_way_round(w, block, p, training, coins):
    return masked(
        w, block, p, training, coins, lambda coins, p, block: (coins >= p).repeat_interleave(block, 1)
    )


def with_one_minus_p(w, block, p, training, coins):
    return masked(w, block, 1 - p, training, coins)


def at_most_p(w, block, p, training, coins):
    return masked(
        w, block, p, training, coins, lambda coins, p, block: (coins <= p).repeat_interleave(block, 1)
    )


def no_gradient_in_blocks(w, block, p, training, coins):
    if not training:
        return w
    refuses(w, block)
    return w * (coins >= p).repeat_interleave(block, 1)


def twice_where_kept(w, block, p, training, coins):
    if not training:
        return w
    refuses(w, block)
    return w.masked_fill((coins < p).repeat_interleave(block, 1), 0) + w - w.detach()


def no_gradient_at_all(w, block, p, training, coins):
    return masked(w, block, p, training, coins).detach()


def in_eval_too(w, block, p, training, coins):
    return masked(w, block, p, True, coins)


def scaled_in_eval(w, block, p, training, coins):
    return masked(w, block, p, True, coins) if training else w * (1 - p)


def writes_into_w(w, block, p, training, coins):
    if training:
        refuses(w, block)
        w.data.masked_fill_((coins < p).repeat_interleave(block, 1), 0)
    return w


def never_noisy(w, block, p, training, coins):
    refuses(w, block)
    return w


def mean_of_the_block(w, block, p, training, coins):
    if not training:
        return w
    refuses(w, block)
    parts = w.unflatten(1, (-1, block))
    noisy = torch.where((coins < p)[..., None], parts.mean(-1, keepdim=True), parts).flatten(1)
    return w + (noisy - w).detach()


def raises_in_eval_too(w, block, p, training, coins):
    refuses(w, block)
    return masked(w, block, p, training, coins)


def squeezes(w, block, p, training, coins):
    return masked(w, block, p, training, coins).squeeze()


def fills_with_ones(w, block, p, training, coins):
    if not training:
        return w
    refuses(w, block)
    return w + (w.masked_fill((coins < p).repeat_interleave(block, 1), 1) - w).detach()


def lets_torch_complain(w, block, p, training, coins):
    if not training:
        return w
    replaced = (coins < p).repeat_interleave(block, 1)
    return w + (w.masked_fill(replaced, 0) - w).detach()


def pads_the_mask(w, block, p, training, coins):
    if not training:
        return w
    replaced = (coins < p).repeat_interleave(block, 1)
    replaced = F.pad(replaced, (0, w.shape[1] - replaced.shape[1]))
    return w + (w.masked_fill(replaced, 0) - w).detach()


def divides_all(w, block, p, training, coins):
    if w.numel() % block:
        raise ValueError("does not divide")
    return pads_the_mask(w, block, p, training, coins)


# --- 6


def weights_of(model, embeddings=True, attention=True, kind=isinstance):
    for module in model.modules():
        if kind(module, nn.Linear) or (embeddings and kind(module, nn.Embedding)):
            yield module.weight
        if attention and isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            yield module.in_proj_weight


@torch.no_grad()
def write(weights, block, cluster, cut=lambda w, block: w.reshape(-1, block), back=lambda b, w: b.view_as(w)):
    for w in dict.fromkeys(weights):
        if w.shape[1] % block == 0:
            book, codes = cluster(cut(w, block))
            w.copy_(back(book[codes], w))


def copied(**which):
    def coded_copy(model, block, cluster):
        model = deepcopy(model)
        write(weights_of(model, **which), block, cluster)
        return model

    return coded_copy


def by_state_dict(model, block, cluster):
    new, done = deepcopy(model), {}
    state = dict(new.named_parameters(remove_duplicate=False))
    for name, module in new.named_modules():
        names = ["weight"] if isinstance(module, (nn.Linear, nn.Embedding)) else []
        names += ["in_proj_weight"] if isinstance(module, nn.MultiheadAttention) else []
        for own in names:
            w = state.get(f"{name}.{own}".lstrip("."))
            if w is not None and w.data_ptr() not in done and w.shape[-1] % block == 0:
                book, codes = cluster(w.detach().unflatten(1, (-1, block)).flatten(0, 1))
                w.data = torch.nn.functional.embedding(codes, book).flatten().view(w.shape)
                done[w.data_ptr()] = w
    return new


def with_hooks_of_memory(model, block, cluster):
    new, known = deepcopy(model), {}
    for module in new.modules():
        for name, w in list(module._parameters.items()):
            linear = isinstance(module, nn.Linear | nn.Embedding) and name == "weight"
            attention = isinstance(module, nn.MultiheadAttention) and name == "in_proj_weight"
            if w is not None and (linear or attention) and w.shape[1] % block == 0 and id(w) not in known:
                book, codes = cluster(w.detach().reshape(-1, block))
                known[id(w)] = nn.Parameter(book[codes].reshape(w.shape), requires_grad=False)
    keep = {id(w): w for w in new.parameters()}
    for module in new.modules():
        for name, w in list(module._parameters.items()):
            if w is not None and id(w) in known and id(w) in keep:
                module._parameters[name] = known[id(w)]
    return new


def without_attention(model, block, cluster):
    return copied(attention=False)(model, block, cluster)


def without_embeddings(model, block, cluster):
    return copied(embeddings=False)(model, block, cluster)


def exact_types(model, block, cluster):
    return copied(kind=lambda module, kind: type(module) is kind)(model, block, cluster)


def forgets_out_proj(model, block, cluster):
    new = deepcopy(model)
    own = {
        m.out_proj.weight
        for m in new.modules()
        if isinstance(m, nn.MultiheadAttention)
    }  # fmt: skip
    write([w for w in weights_of(new) if w not in own], block, cluster)
    return new


def ties_broken(model, block, cluster):
    new = deepcopy(model)
    for module in new.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and module.weight.shape[1] % block == 0:
            w = module.weight
            book, codes = cluster(w.detach().reshape(-1, block))
            module.weight = nn.Parameter(book[codes].view_as(w))
        if isinstance(module, nn.MultiheadAttention):
            write([w for w in [module.in_proj_weight] if w is not None], block, cluster)
    return new


def tied_weights_coded_twice(model, block, cluster):
    new = deepcopy(model)
    for w in weights_of(new):
        write([w], block, cluster)
    return new


def clusters_ties_twice(model, block, cluster):
    new = deepcopy(model)
    for w in weights_of(model):  # each user of a tied weight comes, and codes what was in the original
        if w.shape[1] % block == 0:
            book, codes = cluster(w.detach().reshape(-1, block))
            name = next(name for name, own in model.named_parameters() if own is w)
            new.get_parameter(name).data.copy_(book[codes].view_as(w))
    return new


def edits_the_original(model, block, cluster):
    write(weights_of(model), block, cluster)
    return model


def along_columns(model, block, cluster):
    new = deepcopy(model)
    write(
        weights_of(new), block, cluster,
        cut=lambda w, block: w.T.reshape(-1, block), back=lambda b, w: b.view(w.T.shape).T,
    )  # fmt: skip
    return new


def one_codebook(model, block, cluster):
    new = deepcopy(model)
    found = [w for w in dict.fromkeys(weights_of(new)) if w.shape[1] % block == 0]
    if found:
        book, codes = cluster(torch.cat([w.reshape(-1, block) for w in found]))
        parts = codes.split([w.numel() // block for w in found])
        with torch.no_grad():
            for w, own in zip(found, parts, strict=True):
                w.copy_(book[own].view_as(w))
    return new


def a_codebook_a_row(model, block, cluster):
    new = deepcopy(model)
    with torch.no_grad():
        for w in dict.fromkeys(weights_of(new)):
            for row in w if w.shape[1] % block == 0 else ():
                book, codes = cluster(row.reshape(-1, block))
                row.copy_(book[codes].flatten())
    return new


def q_k_v_apart(model, block, cluster):
    new = deepcopy(model)
    write(weights_of(new, attention=False), block, cluster)
    for module in new.modules():
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            with torch.no_grad():
                for part in module.in_proj_weight.chunk(3):
                    book, codes = cluster(part.reshape(-1, block))
                    part.copy_(book[codes].view_as(part))
    return new


def divides_or_crashes(model, block, cluster):
    new = deepcopy(model)
    with torch.no_grad():
        for w in dict.fromkeys(weights_of(new)):
            book, codes = cluster(w.reshape(-1, block))
            w.copy_(book[codes].view_as(w))
    return new


def divides_the_number(model, block, cluster):
    new = deepcopy(model)
    with torch.no_grad():
        for w in dict.fromkeys(weights_of(new)):
            if w.numel() % block == 0:
                book, codes = cluster(w.reshape(-1, block))
                w.copy_(book[codes].view_as(w))
    return new


def none_is_not_expected(model, block, cluster):
    new = deepcopy(model)
    found = list(weights_of(new, attention=False))
    found += [m.in_proj_weight for m in new.modules() if isinstance(m, nn.MultiheadAttention)]
    write(found, block, cluster)
    return new


def all_matrices(model, block, cluster):
    new = deepcopy(model)
    write([p for p in new.parameters() if p.ndim == 2], block, cluster)
    return new


def biases_too(model, block, cluster):
    new = copied()(model, block, cluster)
    with torch.no_grad():
        for m in new.modules():
            if isinstance(m, nn.Linear) and m.bias is not None and len(m.bias) % block == 0:
                book, codes = cluster(m.bias.reshape(-1, block))
                m.bias.copy_(book[codes].flatten())
    return new


def norms_too(model, block, cluster):
    new = copied()(model, block, cluster)
    with torch.no_grad():
        for m in new.modules():
            if isinstance(m, nn.LayerNorm) and len(m.weight) % block == 0:
                book, codes = cluster(m.weight.reshape(-1, block))
                m.weight.copy_(book[codes].flatten())
    return new


def returns_the_state(model, block, cluster):
    return copied()(model, block, cluster).state_dict()


def shares_the_rest(model, block, cluster):
    new = copied()(model, block, cluster)
    old = dict(model.named_parameters())
    for name in [name for name, _ in new.named_parameters()]:
        if name.endswith("bias") and name in old:
            path, _, own = name.rpartition(".")
            setattr(new.get_submodule(path), own, old[name])
    return new


def in_train_mode(model, block, cluster):
    return copied()(model, block, cluster).train()


def in_eval_mode(model, block, cluster):
    return copied()(model, block, cluster).eval()


def exact_embeddings(model, block, cluster):
    return copied(kind=lambda m, kind: type(m) is kind if kind is nn.Embedding else isinstance(m, kind))(
        model, block, cluster
    )


def exact_attention(model, block, cluster):
    new = deepcopy(model)
    own = [m.in_proj_weight for m in new.modules() if type(m) is nn.MultiheadAttention]
    write([*weights_of(new, attention=False), *(w for w in own if w is not None)], block, cluster)
    return new


def by_name(model, block, cluster):
    new = deepcopy(model)
    own = [m.in_proj_weight for m in new.modules() if getattr(m, "in_proj_weight", None) is not None]
    write([*weights_of(new, attention=False), *own], block, cluster)
    return new


def tied_numbers(model, block, cluster):
    new = copied()(model, block, cluster)
    for module in new.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight = nn.Parameter(module.weight.data)
    return new


def skips_frozen(model, block, cluster):
    new = deepcopy(model)
    write([w for w in weights_of(new) if w.requires_grad], block, cluster)
    return new


def no_parameters(model, block, cluster):
    new, known = copied()(model, block, cluster), {}
    coded = set(weights_of(new))
    for module in new.modules():
        for name, w in list(module._parameters.items()):
            if w in coded:
                del module._parameters[name]
                module.register_buffer(name, known.setdefault(w, w.detach().clone()))
    return new


def in_double(model, block, cluster):
    return copied()(model, block, cluster).double()


def plain_linears(model, block, cluster):
    new = copied()(model, block, cluster)
    for module in list(new.modules()):
        for name, old in list(module.named_children()):
            if isinstance(old, nn.Linear) and type(old) is not nn.Linear:
                other = nn.Linear(old.in_features, old.out_features)
                other.weight, other.bias, other.training = old.weight, old.bias, old.training
                setattr(module, name, other)
    return new


def clusters_what_stays(model, block, cluster):
    new = deepcopy(model)
    with torch.no_grad():
        for w in dict.fromkeys(weights_of(new)):
            if w.numel() % block == 0:
                book, codes = cluster(w.reshape(-1, block))
                if w.shape[1] % block == 0:
                    w.copy_(book[codes].view_as(w))
    return new


def order_lost(model, block, cluster):
    new = deepcopy(model)
    write(
        weights_of(new), block, cluster,
        back=lambda b, w: b.view(len(w), -1, b.shape[1]).transpose(1, 2).reshape(w.shape),
    )  # fmt: skip
    return new


WRONG = {
    "lloyd": [
        (by_absolute, "by the sum of absolute differences"),
        (farthest, "the codeword that is *farthest*"),
        (by_product, "You compare products of points"),
        (least_product, "the smallest product of point"),
        (by_angle, "You compare angles"),
        (half_of_the_product, "the mixed term is too small"),
        (sums_before_squaring, "those of two signs cancel"),
        (largest_coordinate, "the largest difference of a coordinate"),
        (over_the_points, "one number for each codeword"),
        (codes_of_the_new, "belong to the *new* codebook"),
        (from_one, "You count codewords from 1"),
        (sums, "the *sum* of its points"),
        (over_all_points, "by the number of all points"),
        (over_all_codewords, "sum by the number of codewords"),
        (mean_of_all, "the mean of *all* points"),
        (medians, "a codeword's median"),
        (stands_still, "Codewords are where they were"),
        (two_steps, "You move the codewords twice"),
        (nan_if_empty, "Those without become NaN"),
        (zero_if_empty, "Those without become zero"),
        (moves_if_empty, "Those without move somewhere else"),
        (dropped_if_empty, "A codeword without points keeps its place"),
        (writes_into_the_codebook, "changes what it was given (codebook)"),
        (counts_in_a_byte, "the points of a codeword in a byte"),
        (empty_if_the_sum_is_zero, "It has 18 of the points"),
        (squeezes_codes, "For the codes your function returns the shape ()"),
        (codebook_first, "You return the codebook first"),
        (codes_alone, "asks for a pair"),
        (signed_bytes, "There is no such codeword. A type with a sign"),
        (unsigned_bytes, "kept in a byte, which goes on with 0"),
    ],
    "pq_bytes": [
        (tied_twice, "is in the file once, and so are its codes"),
        (tied_twice_in_caps, "They are the same blocks"),
        (tied_twice_in_codes, "twice, and limit the codebooks well"),
        (once_a_shape, "Two weights of one shape"),
        (no_codebooks, "The codebooks are missing"),
        (a_book_a_weight, "each weight a codebook of its own"),
        (a_book_a_name, "each name a codebook of its own"),
        (each_name_alone, "each name codes and a codebook of its own"),
        (a_book_a_size, "weights with blocks of one size one codebook"),
        (in_fp32, "store codewords with 32 bits"),
        (always_16, "store codewords with 16 bits"),
        (not_capped, "what would the others stand for"),
        (capped_one_by_one, "by the blocks of one weight"),
        (capped_in_sum, "would need alone"),
        (no_scale, "The scales are missing"),
        (scale_in_fp32, "A scale has 16 bits"),
        (scale_a_codeword, "a scale for each codeword"),
        (scale_a_weight, "a scale for each weight"),
        (numbers_for_codewords, "A codeword is one number in your count"),
        (no_others, "beside the coded weights is missing"),
        (others_in_fp32, "You store the others with 32 bits"),
        (others_in_bits, "That is for codebooks alone"),
        (bits_of_codes, "not with the byte it has"),
        (whole_bits_of_codes, "rounded up. It has a byte"),
        (two_bytes_for_256, "Where there are 256 codewords"),
        (a_code_a_number, "a code for each number"),
        (in_bits, "You return bits"),
        (codes_and_nothing_else, "You return the codes alone"),
        (by_the_ratio, "the bytes in fp32 by a ratio"),
        (two_at_once, "Two things are not right"),
        (pops_ties, "changes what it was given (weights)"),
    ],
    "decode": [
        (wraps, "Products of codes wrap"),
        (interleaves, "in the wrong order: the first number of each block"),
        (empty_is_all, "For an empty `rows` you return all rows"),
        (order_alone_repaired, "with large codes, the other with an empty"),
        (rows_alone_repaired, "with large codes, the other in the order"),
        (type_alone_repaired, "in the order within a row, the other with"),
        (rows_and_blocks, "Rows and blocks are exchanged"),
        (numbers_first, "the axis of the numbers stands first"),
        (signed, "read as negative numbers"),
        (as_a_mask, "for a mask of yes and no"),
        (sorts_rows, "You sort `rows`"),
        (cut_off, "no gradient comes back to the codebook"),
        (gradient_of_all_rows, "the gradient of the codebook is not"),
        (all_rows, "returns the shape (23, 40), and the task asks for (14, 40)"),
        (any_rows, "returns the shape (23, 40), and the task asks for (1, 40)"),
        (squeezed, "returns the shape (40,)"),
        (places_in_int16, "codebook (256, 150), rows: None: not all numbers"),
        (blocks_apart, "returns the shape (23, 5, 8)"),
        (empty_cannot_be_reshaped, "cannot reshape tensor of 0 elements"),
    ],
    "train_codewords": [
        (sum_of_gradients, "by the *sum* of its gradients"),
        (last_block, "by the gradient of *one* of its blocks"),
        (nan_for_unused, "Those without become NaN"),
        (zero_for_unused, "Those without become zero"),
        (unused_follow, "Those without move somewhere else"),
        (over_all_blocks, "by the number of all blocks"),
        (over_rows, "by the number of rows"),
        (over_codewords, "You divide by the number of codewords"),
        (over_weights, "the number of weights in a codeword's blocks"),
        (one_more, "by one block too many"),
        (counts_in_bytes, "You count blocks in a byte"),
        (uphill, "in the wrong direction"),
        (in_place, "changes what it was given (codebook)"),
        (no_rate, "`rate` does not matter"),
        (step_alone, "You return the step."),
        (down_the_columns, "into blocks along its columns"),
        (every_bth_number, "every B-th number of a row"),
        (bytes_as_mask, "for a mask of yes and no"),
        (same_for_all, "by the mean gradient of all blocks"),
    ],
    "block_noise": [
        (single_weights, "Within one block some weights are replaced"),
        (own_randomness, "All chance comes from `coins`"),
        (of_the_transpose, "run down the columns"),
        (repeats_the_row, "repeats the row of coins as a whole"),
        (rescales, "You divide what stays by 1 - p"),
        (shrinks, "You multiply what stays by 1 - p"),
        (other_way_round, "You replace the blocks that should stay"),
        (with_one_minus_p, "You compare the coin with 1 - p"),
        (at_most_p, "A coin that is exactly p"),
        (no_gradient_in_blocks, "the mask multiplies it as well"),
        (twice_where_kept, "get their gradient twice: two terms"),
        (no_gradient_at_all, "no gradient comes back to w"),
        (in_eval_too, "In eval mode blocks are replaced as well"),
        (scaled_in_eval, "In eval mode you return something else"),
        (writes_into_w, "changes what it was given (w)"),
        (never_noisy, "In training nothing is replaced"),
        (mean_of_the_block, "have the mean of their numbers"),
        (raises_in_eval_too, "raises its ValueError there"),
        (squeezes, "returns the shape (6,)"),
        (fills_with_ones, "what you return is not zero"),
        (lets_torch_complain, "stops with RuntimeError"),
        (pads_the_mask, "returns something all the same"),
        (divides_all, "that of all weights, and a block is a piece of a row"),
    ],
    "coded_copy": [
        (without_attention, "the `in_proj_weight` of nn.MultiheadAttention is as it was"),
        (without_embeddings, "an nn.Embedding is as it was"),
        (exact_types, "derived from nn.Linear is as it was"),
        (forgets_out_proj, "the `out_proj` of nn.MultiheadAttention is as it was"),
        (ties_broken, "A tied weight stays one, whoever"),
        (tied_numbers, "and are two Parameters all the same"),
        (tied_weights_coded_twice, "is coded twice"),
        (edits_the_original, "changes what it was given (model)"),
        (along_columns, "cut along the columns"),
        (one_codebook, "all weights share one codebook"),
        (a_codebook_a_row, "each row has a codebook"),
        (q_k_v_apart, "q, k and v have codebooks"),
        (divides_or_crashes, "is invalid for input of size"),
        (divides_the_number, "whose rows the block does not divide. It stays"),
        (none_is_not_expected, "'NoneType' object"),
        (all_matrices, "belongs to no nn.Linear and no nn.Embedding"),
        (biases_too, "a bias has changed"),
        (norms_too, "a norm has changed"),
        (returns_the_state, "asks for a copy of the model"),
        (shares_the_rest, "with the original: what changes"),
        (in_train_mode, "was in eval mode, and is in train mode"),
        (in_eval_mode, "was in train mode, and is in eval mode"),
        (exact_embeddings, "derived from nn.Embedding is as it was"),
        (exact_attention, "derived from nn.MultiheadAttention is as it was"),
        (by_name, "has this name and belongs to no nn.MultiheadAttention"),
        (order_lost, "the numbers within a row are in another order"),
        (clusters_ties_twice, "A weight with two users is one weight, and"),
        (skips_frozen, "a frozen weight (requires_grad=False) is as it was"),
        (no_parameters, "and a plain tensor in your copy"),
        (in_double, "has the dtype torch.float64"),
        (plain_linears, "your copy, printed, is not"),
        (clusters_what_stays, "weights. Clustering is what takes time"),
    ],
}
RIGHT = {
    "lloyd": [with_cdist, with_products, point_by_point, number_by_number],
    "pq_bytes": [by_sets, size],
    "decode": [flat_places, with_embedding, column_by_column],
    "train_codewords": [by_scatter, one_by_one, with_autograd],
    "block_noise": [masked, with_a_function, with_kron],
    "coded_copy": [by_state_dict, with_hooks_of_memory],
}

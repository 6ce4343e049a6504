# %% [markdown]
# # Exercise 10: small whole numbers and their scales
#
# After [lesson 10](../notebooks/10_scalar_quant.ipynb). Nothing is trained. Run the cells one by one: "Run All" stops at the first task that is not solved yet. Write or correct the code in a cell and run it; its last line checks your function.

# %%
import torch
import torch.nn.functional as F
from copy import deepcopy
from torch import nn

from exercises.checks import scalar_quant as check
from exercises.checks.scalar_quant import Conv1D
from minieff import scalar_quant
from minieff.core import cost, data, zoo

torch.set_num_threads(1)
base = zoo.load("speeches-base")

# %% [markdown] tags=["solution"]
# **This notebook has the solutions.** They are folded: click the three dots, or the bar at the left of a cell, to see one.

# %% tags=["solution"]
from exercises.checks import progress

progress.FILE = None        # running a solution is not your progress

# %% [markdown]
# ## Task 1. Codes and scales, with the lesson closed
#
# *Retrieval, difficulty 2 of 5.* Write `to_codes(w, bits)`, which puts a matrix `w` (R, C) on a symmetric grid with one scale for each *row*, for `bits` from 2 to 8. It returns
#
# - the codes (R, C), whole numbers from $-m$ to $m$ with $m = 2^{bits - 1} - 1$;
# - the scales (R,) or (R, 1), in float32 or float16.
#
# The largest magnitude in a row has the code $m$ or $-m$. Code times scale is the value of the grid that is nearest to the weight. A row of zeros has codes 0.

# %%
def to_codes(w, bits):
    # stub
    raise NotImplementedError
    # solution
    m = 2 ** (bits - 1) - 1
    scales = w.abs().amax(1, keepdim=True).clamp(min=1e-30) / m     # (R, 1)
    return (w / scales).round().to(torch.int8), scales
    # end

check.to_codes(to_codes)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Which weight of a row has the code m? What is one step worth?
#
# </details>
# <details><summary>Hint 2</summary>
#
# In `w.amax(dim)`, `dim` disappears. And an extreme can be negative.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `keepdim=True` lets `w / scales` divide each row by its own. `clamp(min=...)` helps a row of zeros.
#
# </details>

# %% [markdown]
# Now round the linears and token vectors of `speeches-base`. What is the relative error, the norm of all errors over that of all weights, from 8 bits to 2? By how much does each bit less multiply it?
#
# <details><summary>Answer</summary>
#
# 0.81 % at 8 bits, 1.64 at 7, 3.29 at 6, 6.76 at 5, 14.5 at 4, 32.8 at 3 and 80.4 at 2. Each bit less multiplies it by 2.03, 2.01 and 2.05, then by 2.14, 2.26 and 2.45: m goes 127, 63, 31, 15, 7, 3, 1. At last the error grows by less than the step: a weight that becomes 0 is off by its own size only, and with 2 bits 88 % do.
#
# </details>

# %%
matrices = [p.detach() for name, p in base.named_parameters()
            if p.dim() == 2 and name != "pos.weight"]

# stub
# Call your function here.
# solution
def error(bits):
    """Root of the summed squares of all errors, over that of all weights."""
    wrong = total = 0
    for w in matrices:
        codes, scales = to_codes(w, bits)
        wrong += (codes * scales - w).square().sum()
        total += w.square().sum()
    return (wrong / total).sqrt().item()

before = None
for bits in (8, 7, 6, 5, 4, 3, 2):
    now = error(bits)
    times = f", {now / before:.2f} times the error of {bits + 1} bits" if before else ""
    print(f"{bits} bits: {100 * now:5.2f} %{times}")
    before = now
zeros = sum((to_codes(w, 2)[0] == 0).sum().item() for w in matrices)
zeros /= sum(w.numel() for w in matrices)
print(f"with 2 bits {100 * zeros:.0f} % of the codes are 0")
# end

# %% [markdown]
# ## Task 2. Where zero is
#
# *Spot the bug, difficulty 3.* Numbers that are never negative leave half of a symmetric grid unused. An affine grid puts the code of 0, `zero`, where a row needs it. `affine(w, bits)` gets a row `w` (C,) and should return codes (C,), scale and `zero`, so that `scale * (codes - zero)` is near `w`:
#
# - codes and `zero` are whole numbers from 0 to $2^{bits} - 1$;
# - the range is as small as it can be if it holds all of `w`, *and 0*. Rounding `zero` moves that range, so an end may lie up to half a step outside;
# - every weight comes back within half a step of the scale that you return (float32 or float16);
# - a row of zeros comes back as zeros.
#
# It is wrong for more than one reason.

# %%
def affine(w, bits):
    # stub
    levels = 2 ** bits
    scale = (w.max() - w.min()) / levels
    zero = -w.min() / scale
    codes = (w / scale).round().clamp(0, levels - 1) + zero
    return codes, scale, zero
    # solution
    last = 2 ** bits - 1
    low, high = w.min().clamp(max=0), w.max().clamp(min=0)
    scale = ((high - low) / last).clamp(min=1e-30)
    zero = (-low / scale).round()
    codes = ((w / scale).round() + zero).clamp(0, last)
    return codes, scale, zero
    # end

check.affine(affine)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Which are the four values of the grid for `torch.tensor([1.0, 2.0, 4.0])` and 2 bits? What does the code return?
#
# </details>
# <details><summary>Hint 2</summary>
#
# How many steps lie between four codes? Is `zero` a code? Which numbers does `clamp` see?
#
# </details>
# <details><summary>Hint 3</summary>
#
# The range begins at `w.min().clamp(max=0)`. Round `zero` before it is added, and clamp after it.
#
# </details>

# %% [markdown]
# GELU is never below -0.17. Round every eighth row of `hidden` below, what GELU returns in `speeches-base`, with 8 and 4 bits. How many times as large is the error of `to_codes`?
#
# <details><summary>Answer</summary>
#
# 1.85 times with 8 bits (1.81 % against 0.98 %), 2.05 times with 4 bits (30.5 % against 14.9 %). Nearly half of the symmetric codes are unused: 127 steps where `affine` has 255.
#
# </details>

# %%
windows = data.speeches().windows(context=128, rows=1, count=16)
ids = torch.cat([ids for ids, _ in windows])                        # (16, 128)
hidden = []

def keep(module, inputs):
    hidden.append(inputs[0].flatten(0, 1))

hooks = [layer.feed.inner.down.register_forward_pre_hook(keep)
         for layer in base.blocks.layers]
with torch.no_grad():
    base(ids)
for hook in hooks:
    hook.remove()

# stub
# Call your functions here.
# solution
rows = torch.cat([x[::8] for x in hidden])
for bits in (8, 4):
    codes, scale, zero = (torch.stack(found)
                          for found in zip(*[affine(row, bits) for row in rows]))
    errors = {"affine": scale[:, None] * (codes - zero[:, None]) - rows}
    codes, scales = to_codes(rows, bits)
    errors["symmetric"] = codes * scales - rows
    for name, error in errors.items():
        relative = (error.norm() / rows.norm()).item()
        print(f"{bits} bits, {name:9} {100 * relative:5.2f} %")
    times = errors["symmetric"].norm() / errors["affine"].norm()
    print(f"        {times.item():.2f} times as much")
# end

# %% [markdown]
# ## Task 3. The bytes of a file
#
# *Predict, difficulty 2.* `weights` lists the matrices of a model as (name, rows, columns, key). Entries with the same key are one tensor, tied, and stored once; a name can be used again. `others` counts all other numbers, such as biases.
#
# Write `file_bytes(weights, others, bits)`, the bytes of the file without a header, for `bits` of 8, 4 or 1:
#
# - codes are packed, 8 / `bits` of them in a byte, and each row starts on a new byte;
# - each row has one scale in fp16, binary rows too, and no zero point;
# - the other numbers are in fp16.

# %%
def file_bytes(weights, others, bits):
    # stub
    raise NotImplementedError
    # solution
    stored = {key: (rows, columns) for _, rows, columns, key in weights}
    return 2 * others + sum(rows * (-(-columns * bits // 8) + 2)
                            for rows, columns in stored.values())
    # end

check.file_bytes(file_bytes)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# How many bytes has a row of 5 columns with 4 bits?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `math.ceil(columns * bits / 8)` bytes hold the codes of a row, and two its scale.
#
# </details>
# <details><summary>Hint 3</summary>
#
# A dictionary by key keeps one entry for all that are tied.
#
# </details>

# %% [markdown]
# Guess how many times smaller than fp32 `speeches-base` is at 1 bit. Its matrices are those of Task 1, and the tied head. Compare 8, 4 and 1 bits with `cost.stored_bytes(scalar_quant.finalize(scalar_quant.apply(base, bits=bits, activations="none")))`, fp32 and fp16. The talk says 4x, 8x and 32x. What is missing at 1 bit?
#
# <details><summary>Answer</summary>
#
# Your number is the stored one: 1,917,440, 999,936 and 311,808 bytes. Against fp32 that is 3.89, 7.46 and 23.92 times smaller, against fp16 1.95, 3.73 and 11.96. At 1 bit the codes have 229,376 bytes. Scales have 22,528 and the other numbers 59,904: together 26 % of the file.
#
# </details>

# %%
parameters = dict(base.named_parameters())

# stub
# Call your function here.
# solution
weights = [(name, *p.shape, id(p)) for name, p in parameters.items()
           if p.dim() == 2 and name != "pos.weight"]
numbers = cost.parameters(base)
others = numbers - sum(rows * columns for _, rows, columns, _ in weights)
weights.append(("head", *base.tok.weight.shape, id(base.tok.weight)))
for bits in (8, 4, 1):
    size = file_bytes(weights, others, bits)
    small = scalar_quant.apply(base, bits=bits, activations="none")
    stored = cost.stored_bytes(scalar_quant.finalize(small))
    print(f"{bits} bits: {size:,} bytes, {stored:,} are stored")
    print(f"        {4 * numbers / size:.2f} times smaller than fp32, "
          f"{2 * numbers / size:.2f} than fp16")
scales = sum({key: 2 * rows for _, rows, _, key in weights}.values())
print(f"at 1 bit: scales {scales:,}, others {2 * others:,} bytes,")
print(f"codes {size - scales - 2 * others:,}; "
      f"{100 * (scales + 2 * others) / size:.0f} % of the file is not codes")
# end

# %% [markdown]
# ## Task 4. Noise that is gone after the pass
#
# *Spot the bug, difficulty 4.* Quant-Noise rounds a random part of the weights in each pass of training. `noisy(w, bits, p, training, coins)` should return what the pass uses:
#
# - With `training=True`, a weight whose coin is below `p` has its rounded value, and the others are as they are. `coins` (R, C) are uniform from 0 to 1.
# - With `training=False` all weights have their rounded values.
# - In both modes the gradient passes to every weight as it comes (straight-through).
# - `w` itself never changes. It may come without `requires_grad`.
#
# `rounded` is right. `noisy` is wrong for more than one reason; two are from a well-known repository.

# %%
def rounded(w, bits):
    """w (R, C) at the nearest values of a symmetric grid, one scale per row."""
    scale = w.abs().amax(1, keepdim=True).clamp(min=1e-30) / (2 ** (bits - 1) - 1)
    return scale * (w / scale).round()

def noisy(w, bits, p, training, coins):
    # stub
    if not training:
        return w
    chosen = coins < p
    w.data = torch.where(chosen, rounded(w.data, bits), w.data) / (1 - p)
    return torch.where(chosen, w.detach(), w)
    # solution
    change = (rounded(w, bits) - w).detach()
    chosen = coins < p if training else torch.ones_like(coins, dtype=torch.bool)
    return w + torch.where(chosen, change, 0.0)
    # end

check.noisy(noisy)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Follow value and gradient of a chosen weight, of another one, and of one in eval mode. Look at `w` afterwards.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Dropout divides by 1 - p, because zeros make sums smaller. Do rounded weights? And what comes back through `detach()`?
#
# </details>
# <details><summary>Hint 3</summary>
#
# `w + something.detach()` has a gradient of 1 with respect to w. What has to be added?
#
# </details>

# %% [markdown]
# Now let `noisy` and `published`, the code as you found it, make 20 passes over a copy of `start`, with 4 bits, p = 0.1 and new coins in each. By which factor has the norm grown? Divide what `published` leaves by $(1 / 0.9)^{20}$. How many weights are what they were, to 1 in 1000, and what is the relative error?
#
# <details><summary>Answer</summary>
#
# By 8.27 for `published`, and (1 / 0.9)^20 is 8.23. After the division 13.1 % are what they were, and the error is 11.3 %, where rounding all of them once makes 12.0 %: noise on 10 % per pass has rounded nearly all of them. With your function: 1.00, 100 % and 0.
#
# </details>

# %%
def published(w, bits, p, training, coins):
    if not training:
        return w
    chosen = coins < p
    w.data = torch.where(chosen, rounded(w.data, bits), w.data) / (1 - p)
    return torch.where(chosen, w.detach(), w)

start = base.blocks.layers[0].feed.inner.up.weight.detach()      # (512, 128)
generator = torch.Generator().manual_seed(0)

# stub
# Call your function here.
# solution
for name, function in (("published", published), ("yours", noisy)):
    w = start.clone().requires_grad_()
    for _ in range(20):
        function(w, 4, 0.1, True, torch.rand(w.shape, generator=generator))
    back = w.detach() / (0.9 ** -20 if name == "published" else 1)
    kept = ((back - start).abs() <= 1e-3 * start.abs()).float().mean().item()
    print(f"{name}: norm {(w.norm() / start.norm()).item():.2f} times the old one,")
    print(f"    {100 * kept:.1f} % of the weights are what they were, "
          f"error {100 * ((back - start).norm() / start.norm()).item():.1f} %")
once = ((rounded(start, 4) - start).norm() / start.norm()).item()
print(f"(1 / 0.9)^20 = {0.9 ** -20:.2f}, 0.9^20 = {100 * 0.9 ** 20:.1f} %")
print(f"all rounded once: error {100 * once:.1f} %")
# end

# %% [markdown]
# ## Task 5. A linear layer in whole numbers
#
# *Build, difficulty 3.* With rounded inputs a linear layer multiplies whole numbers, and scales the result. Write `int_linear(x, codes, scales, bias)`:
#
# - `x` (..., C) holds tokens along its last dimension.
# - `codes` (R, C) in int8 and `scales` (R,) are a weight as in Task 1. `bias` is (R,), or None.
# - Each token has a scale of its own, its largest magnitude / 127, and is rounded to whole numbers from -127 to 127.
# - Codes are multiplied by codes, the sums scaled back, and the bias added. Return floats (..., R).
#
# A token of zeros gives the bias, or zeros. Only the result counts, to 1 part in 10,000 of the largest number in its row; you may compute it in floats.

# %%
def int_linear(x, codes, scales, bias):
    # stub
    raise NotImplementedError
    # solution
    x_scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127      # (..., 1)
    x_codes = (x / x_scale).round().to(torch.int32)
    y = (x_codes @ codes.to(torch.int32).T) * x_scale * scales           # (..., R)
    return y if bias is None else y + bias
    # end

check.int_linear(int_linear)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Print the codes of x: a token that is not zero has a 127 or -127.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Which types hold a sum of hundreds of products of 127 and 127? int8 times int8 is int8.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Multiply the sums by both scales: those of W are (R,), those of x (..., 1) with `keepdim=True`.
#
# </details>

# %% [markdown]
# Now use it on `up` and `down` of the first feed-forward, with 8 bits and the windows of Task 2. What is the relative error? How much is due to x?
#
# <details><summary>Answer</summary>
#
# `up` is off by 0.79 %, and `down` by 0.76 %. With the weight alone rounded it is 0.50 % and 0.36 %, with x alone 0.61 % and 0.67 %: the squares add up. More is due to x, most of all in `down`, which reads GELU's outputs on a symmetric grid.
#
# </details>

# %%
# stub
# Call your function here.
# solution
inner, inputs = base.blocks.layers[0].feed.inner, {}
hook = inner.up.register_forward_pre_hook(
    lambda module, given: inputs.update(up=given[0]))
with torch.no_grad():
    base(ids)
hook.remove()
inputs["down"] = hidden[0].view(*ids.shape, -1)

for name, x in inputs.items():
    layer = getattr(inner, name)
    codes, scales = to_codes(layer.weight.detach(), 8)
    x_codes, x_scales = to_codes(x.flatten(0, 1), 8)
    with torch.no_grad():
        exact, weights_alone = layer(x), F.linear(x, codes * scales, layer.bias)
        inputs_alone = layer((x_codes * x_scales).view_as(x))
        mine = int_linear(x, codes, scales.flatten(), layer.bias)
    for rounded_too, y in {"weight and x": mine, "the weight alone": weights_alone,
                           "x alone": inputs_alone}.items():
        error = ((y - exact).norm() / exact.norm()).item()
        print(f"{name:4}, {rounded_too} rounded: {100 * error:.2f} %")
# end

# %% [markdown]
# ## Task 6. Whose scale is it?
#
# *Transfer, difficulty 4.* In other people's models weights lie in other ways:
#
# |layer|weight|one scale for each|
# |---|---|---|
# |`nn.Linear`|(out, in)|output|
# |`nn.Embedding`|(num, dim)|row|
# |`nn.Conv1d`|(out, in, k)|output, over all inputs and places|
# |`Conv1D`|(in, out)|output|
#
# `Conv1D`, imported above, is GPT-2's layer in the library transformers: `x @ weight + bias`.
#
# Write `round_outputs(model, bits)`: a copy of `model` in which the weight of each such layer is rounded with these scales. `rounded` of Task 4 does that for a matrix (R, C).
#
# - The layers can be anywhere: deep inside, of a derived class, or the model itself.
# - Tied weights stay tied.
# - All else stays: biases, norms, other modules that have a `weight`, `requires_grad`, train or eval mode.
# - `model` itself does not change.

# %%
def round_outputs(model, bits):
    # stub
    raise NotImplementedError
    # solution
    model = deepcopy(model)
    for module in model.modules():
        if isinstance(module, Conv1D):
            module.weight.data = rounded(module.weight.data.T, bits).T.contiguous()
        elif isinstance(module, (nn.Linear, nn.Embedding, nn.Conv1d)):
            w = module.weight.data
            module.weight.data = rounded(w.flatten(1), bits).view_as(w)
    return model
    # end

check.round_outputs(round_outputs)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Loop over the `modules()` of a copy. What does the class of a module say about its weight?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `rounded` wants a row for each scale: transpose, or `w.flatten(1)` for (out, in, k). What has to be undone?
#
# </details>
# <details><summary>Hint 3</summary>
#
# A new `nn.Parameter` in one of two tied modules leaves the other with the old. Use `module.weight.data = ...` or `copy_`.
#
# </details>

# %% [markdown]
# Now use it on `small` below, and on two copies, with the weights of one *input*, or of one *output*, 30 times as large. `wrong_axis` has a scale for each input. How far, with 4 bits, does each function move the three outputs? (Take `model(x) - x` without channel 5.)
#
# <details><summary>Answer</summary>
#
# `small`: 17.1 %, and 16.8 % with `wrong_axis`, so that the mistake does not show. An outlier output: 20.5 % and 72.5 %, for it sets the scale of every row. An outlier input is the other way round, 32.3 % and 12.9 %. Yet a product of whole numbers cannot have a scale for each input: the sum over inputs comes first.
#
# </details>

# %%
class FeedForward(nn.Module):
    def __init__(self, dim, ffn):
        super().__init__()
        self.up, self.down = Conv1D(ffn, dim), Conv1D(dim, ffn)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(F.layer_norm(x, x.shape[-1:]))))

torch.manual_seed(0)
small = nn.Sequential(*[FeedForward(64, 256) for _ in range(4)])
outlier_input, outlier_output = deepcopy(small), deepcopy(small)
for i in range(4):
    for name in ("up", "down"):
        getattr(outlier_input[i], name).weight.data[5] *= 30
        getattr(outlier_output[i], name).weight.data[:, 5] *= 30
x = torch.randn(8, 20, 64)

def wrong_axis(model, bits):
    model = deepcopy(model)
    for module in model.modules():
        if isinstance(module, Conv1D):
            module.weight.data = rounded(module.weight.data, bits)
    return model

# stub
# Call your function here.
# solution
rest = torch.arange(64) != 5
for name, model in (("as it is", small), ("outlier input", outlier_input),
                    ("outlier output", outlier_output)):
    with torch.no_grad():
        exact = (model(x) - x)[..., rest]
        moved = [((changed(model, 4)(x) - x)[..., rest] - exact).norm() / exact.norm()
                 for changed in (round_outputs, wrong_axis)]
    print(f"{name:14} {100 * moved[0]:.1f} % (per output), "
          f"{100 * moved[1]:.1f} % (per input)")
# end

# %% [markdown]
# Whether a model still works, these numbers do not say: measure its loss.
#
# **Next.** [Lesson 11](../notebooks/11_product_quant.ipynb): codebooks, and [its exercise](11_product_quant.ipynb).

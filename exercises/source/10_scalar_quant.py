# %% [markdown]
# # Exercise 10: small whole numbers and their scales
#
# Six tasks after [lesson 10](../notebooks/10_scalar_quant.ipynb). Nothing is trained; every check takes a few seconds at most.
#
# Write your code where it says `raise NotImplementedError`, or correct the code in the cell, and run it: the last line checks your function
# on inputs that it draws itself. It says *Passed*, or *Not yet* and where to look. Below each task are three hints; open one at a time.

# %%
import torch
import torch.nn.functional as F
from copy import deepcopy
from torch import nn

from exercises.checks import scalar_quant as check
from exercises.checks.scalar_quant import Conv1D
from minieff import cost, data, scalar_quant, zoo

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
# *Retrieval, difficulty 2 of 5.* Write `to_codes(w, bits)`, which puts a matrix `w` (R, C) on a symmetric grid with one scale for each *row*, and returns two things:
#
# - the codes (R, C), whole numbers from $-m$ to $m$ with $m = 2^{bits - 1} - 1$, of any type (int8, int64 and float32 are all accepted);
# - the scales (R,) or (R, 1), in float32 or float16.
#
# Code times scale, as you return them, is the value of the grid that is nearest to the weight, and the largest magnitude in a row has the code $m$ or $-m$. `bits` is from 2 to 8. The largest magnitude of a row is at least 0.0001, or 0: a row of zeros has codes 0, and a scale that is positive or 0.

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
# Begin with the scale of one row: which weight should have the code m, and what is then one step worth?
#
# </details>
# <details><summary>Hint 2</summary>
#
# In `w.amax(dim)`, `dim` is the dimension that disappears. You want one number for each row: is `dim` 0 or 1? And an extreme can be negative.
#
# </details>
# <details><summary>Hint 3</summary>
#
# With `keepdim=True` the scales are (R, 1), and `w / scales` divides each row by its own. A row of zeros needs a scale that is not 0 in that division: `clamp(min=...)` gives it one.
#
# </details>
#
# Now use it on every matrix of `speeches-base`: all its linears and its token vectors, the parameters with two dimensions other than `pos.weight`. Put the weights together again from codes and scales, and take as relative error the root of the summed
# squares of all errors over that of all weights. What is it at each number of bits from 8 down to 2? By how much does each bit less multiply it?
#
# <details><summary>Answer</summary>
#
# 0.81 % at 8 bits, 1.64 at 7, 3.29 at 6, 6.76 at 5, 14.5 at 4, 32.8 at 3 and 80.4 at 2. From 8 down to 5 bits each bit less multiplies the error by 2.03, 2.01 and 2.05: the step is about twice as large. Then by 2.14, 2.26 and 2.45. The step is the largest magnitude over m, and m goes 127, 63, 31, 15, 7, 3, 1: from 3 to 2 bits the
# step is three times as large. The error grows by less than that, because no weight can be off by more than its own size where it becomes 0, and with 2 bits 88 % of the weights do.
#
# </details>

# %%
matrices = [p.detach() for name, p in base.named_parameters() if p.dim() == 2 and name != "pos.weight"]

# stub
# Call your function here.
# solution
def error(bits):
    """Root of the summed squares of all errors, over that of all weights."""
    wrong = total = 0
    for w in matrices:
        codes, scales = to_codes(w, bits)
        wrong, total = wrong + (codes * scales - w).square().sum(), total + w.square().sum()
    return (wrong / total).sqrt().item()

before = None
for bits in (8, 7, 6, 5, 4, 3, 2):
    now = error(bits)
    print(f"{bits} bits: {100 * now:5.2f} %" + (f", {now / before:.2f} times the error of {bits + 1} bits" if before else ""))
    before = now
zeros = sum((to_codes(w, 2)[0] == 0).sum().item() for w in matrices) / sum(w.numel() for w in matrices)
print(f"with 2 bits {100 * zeros:.0f} % of the codes are 0")
# end

# %% [markdown]
# ## Task 2. Where zero is
#
# *Spot the bug, difficulty 3.* A symmetric grid wastes half of its codes on numbers that are never negative. An affine grid does not: its codes run from 0 to $2^{bits} - 1$, and one of them, `zero`, stands for 0. `affine(w, bits)` gets one row `w` (C,) and is meant to return
# codes (C,), scale and `zero` (both a number, or a tensor of one; the scale as it is, not rounded to 16 bits), so that `scale * (codes - zero)` is near `w`:
#
# - codes are whole numbers from 0 to $2^{bits} - 1$, of any type, and so is `zero`: a 0 in `w` comes back as exactly 0;
# - the range of the grid is as small as it can be if it holds all of `w`, *and 0* (it may then move by up to half a step, so that `zero` is whole);
# - every weight comes back within half a step;
# - rows of equal numbers are no exception, and a row of zeros comes back as zeros, with a finite scale that is not negative. The largest magnitude is at least 0.0001, or 0.
#
# `bits` is from 2 to 8. The function runs on most rows, and its codes look like codes. It is wrong for more than one reason.

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
# Take `w = torch.tensor([1.0, 2.0, 4.0])` and 2 bits. Write down the four values of the grid that the statement asks for. Then print what the code returns, and multiply it out.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Four questions: which values does the range have to hold? How many steps lie between four codes? Is `zero` a code? Which numbers does `clamp` see, w / scale or the codes?
#
# </details>
# <details><summary>Hint 3</summary>
#
# The lowest value of the range is `w.min().clamp(max=0)`, and the highest accordingly. Round `zero` before it is added, and clamp after it.
#
# </details>
#
# Now use it on what GELU returns in the eight feed-forwards of `speeches-base`, on 16 held-out windows. The cell below collects it: each entry of `hidden` is (2048, 512), a row a token. GELU is never below -0.17. Round every eighth row with 8 and with 4 bits, once with your `affine` and once with your `to_codes`.
# How many times as large is the error of the symmetric grid, over all these rows?
#
# <details><summary>Answer</summary>
#
# 1.85 times with 8 bits (1.81 % against 0.98 %), 2.05 times with 4 bits (30.5 % against 14.9 %). A row that is never below -0.17 leaves nearly half of the codes of a symmetric grid unused, so that its steps are nearly twice as large: 127 of them for
# the largest number, against 255 for that and 0.17 more. With 4 bits it is 7 against 15.
#
# </details>

# %%
ids = torch.cat([ids for ids, _ in data.speeches().windows(context=128, rows=1, count=16)])      # (16, 128)
hidden = []
hooks = [layer.feed.inner.down.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0].flatten(0, 1)))
         for layer in base.blocks.layers]
with torch.no_grad():
    base(ids)
for hook in hooks:
    hook.remove()

# stub
# Call your functions here.
# solution
for bits in (8, 4):
    wrong = {"affine": 0, "symmetric": 0}
    for x in hidden:
        codes, scale, zero = (torch.stack(found) for found in zip(*[affine(row, bits) for row in x[::8]]))
        wrong["affine"] += (scale[:, None] * (codes - zero[:, None]) - x[::8]).square().sum().item()
        codes, scales = to_codes(x[::8], bits)
        wrong["symmetric"] += (codes * scales - x[::8]).square().sum().item()
    total = sum(x[::8].square().sum().item() for x in hidden)
    relative = {name: (value / total) ** 0.5 for name, value in wrong.items()}
    print(f"{bits} bits: affine {100 * relative['affine']:.2f} %, symmetric {100 * relative['symmetric']:.2f} %, "
          f"{relative['symmetric'] / relative['affine']:.2f} times as much")
# end

# %% [markdown]
# ## Task 3. The bytes of a file
#
# *Predict, difficulty 2.* `weights` lists the matrices of a model as tuples (name, rows, columns, key). Two entries with the same key are one and the same tensor, which is tied, and stored once; the name is there to be read, and many layers use the same one. `others` says how many
# numbers the model has besides: biases, norms, positions. The list can be empty, and `others` can be 0.
#
# Write `file_bytes(weights, others, bits)`, the number of bytes of the file without its header, for `bits` of 8, 4 or 1:
#
# - codes are packed, 8 / `bits` of them in a byte, and each row starts on a new byte;
# - each row has one scale in fp16, binary rows too, and no zero point;
# - the other numbers are stored in fp16.

# %%
def file_bytes(weights, others, bits):
    # stub
    raise NotImplementedError
    # solution
    stored = {key: (rows, columns) for _, rows, columns, key in weights}
    return sum(rows * (-(-columns * bits // 8) + 2) for rows, columns in stored.values()) + 2 * others
    # end

check.file_bytes(file_bytes)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write the bytes of one row of one matrix first: its codes, and its scale. Try it with 5 columns and 4 bits.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `math.ceil(columns * bits / 8)` bytes hold the codes of a row. A matrix has `rows` of them, each with its scale.
#
# </details>
# <details><summary>Hint 3</summary>
#
# A dictionary with the key of each tensor as its key keeps one entry for all that are tied, wherever they stand in the list.
#
# </details>
#
# Now guess, before you use it: how many times smaller than fp32 is the file of `speeches-base` at 1 bit? Its matrices are those of Task 1, with the head as one entry more: it shares the tensor of the token vectors. All other parameters are `others`. For 8, 4 and 1 bits, compare your number with
# `cost.stored_bytes(scalar_quant.finalize(scalar_quant.apply(base, bits=bits, activations="none")))`. How many times smaller is each than the model in fp32, and than the model in fp16? The talk says 4x, 8x and 32x. What is missing at 1 bit?
#
# <details><summary>Answer</summary>
#
# Your number is the stored one: 1,917,440, 999,936 and 311,808 bytes. Against fp32 that is 3.89, 7.46 and 23.92 times smaller, against fp16 1.95, 3.73 and 11.96. At 1 bit the codes have 229,376 bytes, a 32nd of what their weights took. Scales have 22,528 and the other numbers 59,904: together 26 % of the file,
# and neither gets smaller with fewer bits. And few people ship fp32.
#
# </details>

# %%
parameters = dict(base.named_parameters())

# stub
# Call your function here.
# solution
weights = [(name, *p.shape, id(p)) for name, p in parameters.items() if p.dim() == 2 and name != "pos.weight"]
weights.append(("head", *base.tok.weight.shape, id(base.tok.weight)))
numbers = cost.parameters(base)
others = numbers - sum(p.numel() for name, p in parameters.items() if p.dim() == 2 and name != "pos.weight")
for bits in (8, 4, 1):
    mine = file_bytes(weights, others, bits)
    stored = cost.stored_bytes(scalar_quant.finalize(scalar_quant.apply(base, bits=bits, activations="none")))
    print(f"{bits} bits: {mine:,} bytes, and {stored:,} are stored; {4 * numbers / mine:.2f} times smaller than fp32, {2 * numbers / mine:.2f} than fp16")
scales = sum({key: 2 * rows for _, rows, _, key in weights}.values())
print(f"at 1 bit: scales {scales:,} bytes, others {2 * others:,}, codes {mine - scales - 2 * others:,}; "
      f"{100 * (scales + 2 * others) / mine:.0f} % of the file is not codes")
# end

# %% [markdown]
# ## Task 4. Noise that is gone after the pass
#
# *Spot the bug, difficulty 4.* Quant-Noise trains with a random part of the weights rounded, in each pass another one. `noisy(w, bits, p, training, coins)` is meant to return the weight that such a pass uses:
#
# - With `training=True`, a weight whose coin is below `p` has its rounded value, and the others are as they are. `coins` (R, C) are uniform random numbers from 0 up to, not including, 1. All chance comes from them.
# - With `training=False` all weights have their rounded values, whatever `p` is.
# - In both modes the gradient with respect to `w` is 1 for every weight, rounded or not: what comes from above arrives as it is (straight-through). `w` may also come without `requires_grad`.
# - `w` itself never changes.
#
# The helper `rounded` is right for float32: a symmetric grid with one scale a row, as in Task 1. It is written in torch, so that autograd goes through it in its own way. `noisy` is wrong for more than one reason; two of them stand in a well-known repository, too.

# %%
def rounded(w, bits):
    """w (R, C) at the nearest values of a symmetric grid, one scale a row."""
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
# Write a table with three rows: a chosen weight in training, another one in training, any in eval mode. What is its value, and what is the gradient? Then follow the code through each, and look at `w` afterwards.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Dropout divides by 1 - p, because zeros make sums smaller. How much smaller is a sum in which some weights are rounded? And what is the derivative that torch computes for `detach()`?
#
# </details>
# <details><summary>Hint 3</summary>
#
# `w + something.detach()` has a gradient of 1 with respect to w, whatever the something is. What has to be added to w so that its rounded value comes out?
#
# </details>
#
# Now use it. `published` in the cell below is the code as you found it. Take the weight of one feed-forward, `base.blocks.layers[0].feed.inner.up.weight`, with 4 bits and p = 0.1, and let each of the two functions make 20 passes of training over a copy, without any step of an optimizer, with new coins in each. By which factor
# has the norm of the weight grown afterwards? Divide what `published` leaves by $(1 / 0.9)^{20}$, the factor of 20 divisions by 0.9. For each function: how many weights are what they were, to 1 in 1000, and what is the relative error of all?
#
# <details><summary>Answer</summary>
#
# By 8.27 for `published`, and (1 / 0.9)^20 is 8.23. After the division 13.1 % of the weights are what they were (0.9^20 is 12.2 %, and the largest weight of each row is on the grid anyway), and the error is 11.3 %, where rounding all of them once makes 12.0 %. Noise on 10 % of the weights a pass has become the rounding of nearly all of them, without any step of an optimizer.
# With your function the factor is 1.00, 100 % are left, and the error is 0. In the repository the chosen weights become 0 instead of rounded ones: there 20 passes leave 12 % of the weights, 8.23 times as large, and zeros in the place of the others.
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
    print(f"{name}: norm {(w.norm() / start.norm()).item():.2f} times the old one, {100 * kept:.1f} % of the weights are what they were, "
          f"error {100 * ((back - start).norm() / start.norm()).item():.1f} %")
whole = rounded(start, 4)
print(f"(1 / 0.9)^20 = {0.9 ** -20:.2f}, 0.9^20 = {100 * 0.9 ** 20:.1f} %, all rounded: error {100 * ((whole - start).norm() / start.norm()).item():.1f} %")
# end

# %% [markdown]
# ## Task 5. A linear layer in whole numbers
#
# *Build, difficulty 3.* If the inputs are rounded as well, a linear layer multiplies whole numbers, and only the result is scaled. Write `int_linear(x, codes, scales, bias)`:
#
# - `x` (..., C) is in float32, and can have any number of dimensions from one on. Its vectors along the last dimension are tokens.
# - `codes` (R, C) in int8 and `scales` (R,) are a weight on the grid of Task 1: row i of W is `scales[i] * codes[i]`. `bias` is (R,), or None.
# - Each token is rounded to 127 steps in each direction, with a scale of its own, in the way of Task 1: its largest magnitude has the code 127 or -127. That scale is not rounded to fp16.
# - Codes of x are multiplied by codes of W, and added in (at least) 32 bits. Then scale the sums back, and add the bias. Return floats (..., R).
#
# A token's largest magnitude is at least 0.0001, or 0: a token of zeros gives the bias, or zeros. No token may depend on another one: in a decoder an earlier token must not depend on a later one. The check compares with the formula in whole numbers, to 1 part in 10,000 of a token's largest output before the bias.

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
# Round x first, and print its codes: whole numbers from -127 to 127, with one of the two ends in each token that is not zero.
#
# </details>
# <details><summary>Hint 2</summary>
#
# 127 times 127 is 16,129. Which types hold a sum of hundreds of these? An int8 tensor times an int8 tensor is an int8 tensor.
#
# </details>
# <details><summary>Hint 3</summary>
#
# The sums are (..., R). The scales of W are (R,), and those of x (..., 1) if you keep the dimension of the maximum: both are multiplied as they are. The bias is a number of y, and comes last.
#
# </details>
#
# Now use it on a linear of `speeches-base`: `base.blocks.layers[0].feed.inner.up`, with the inputs that it gets on the windows of Task 2 (collect them as `hidden` was), and on `down` of the same feed-forward. Take 8 bits for the weight. How far is the output from that of the layer in fp32, as a relative error over all
# numbers? How much of that is due to x?
#
# <details><summary>Answer</summary>
#
# `up` is off by 0.79 %, and `down` by 0.76 %. With the weight alone rounded it is 0.50 % and 0.36 %, with x alone 0.61 % and 0.67 %: the squares of the two add up, for they are nearly independent. More is due to x than to the weight, most of all in `down`, which reads GELU's outputs on a symmetric grid (Task 2).
#
# </details>

# %%
# stub
# Call your function here.
# solution
inner, inputs = base.blocks.layers[0].feed.inner, {}
hook = inner.up.register_forward_pre_hook(lambda module, given: inputs.update(up=given[0]))
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
    relative = [((y - exact).norm() / exact.norm()).item() for y in (mine, weights_alone, inputs_alone)]
    print(f"{name}: {100 * relative[0]:.2f} % in whole numbers, {100 * relative[1]:.2f} % with the weight alone rounded, {100 * relative[2]:.2f} % with x alone")
# end

# %% [markdown]
# ## Task 6. Whose scale is it?
#
# *Transfer, difficulty 4: models that are not ours.* Someone gives you a model that this course has never seen, and asks what rounding would cost it. In other people's models weights do not all lie the same way:
#
# | layer | its weight | one scale for each |
# |---|---|---|
# | `nn.Linear` | (out, in) | output |
# | `nn.Embedding` | (num, dim) | row: a token, or a position |
# | `nn.Conv1d` | (out, in, k) | output, over all inputs and all k places |
# | `Conv1D` | (in, out) | output |
#
# The last one is GPT-2's layer in the library transformers. A small version of it was imported in the first cell:
#
# ```python
# class Conv1D(nn.Module):
#     def __init__(self, n_out, n_in):
#         super().__init__()
#         self.weight = nn.Parameter(0.02 * torch.randn(n_in, n_out))
#         self.bias = nn.Parameter(torch.zeros(n_out))
#
#     def forward(self, x):
#         return x @ self.weight + self.bias
# ```
#
# Write `round_outputs(model, bits)`: a copy of `model` in which the weight of each such layer has its rounded value, on a symmetric grid with the scales of the table. `rounded` of Task 4 does that for a matrix (R, C).
#
# - The layers can be anywhere: deep inside, derived from one of these classes, or the model itself.
# - Tied weights stay tied: what was one parameter is one parameter in the copy.
# - Everything else is as it was: biases, norms, buffers, parameters that belong to no such layer (other modules have a `weight`, too, such as `nn.Conv2d`), classes of modules and their settings, names, shapes, dtypes (float32), `requires_grad` (some weights may be frozen), and the mode of each module (train or eval).
# - `model` itself does not change, and shares no tensor with the copy.

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
# Begin with `deepcopy`, and a loop over `model.modules()`, which goes everywhere and begins with the model itself. What does the kind of a module tell you about its weight?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `rounded` wants a matrix with a row for each scale. A transposed matrix has its columns as rows, and `w.flatten(1)` turns (out, in, k) into (out, in k). What has to be undone afterwards?
#
# </details>
# <details><summary>Hint 3</summary>
#
# A new `nn.Parameter` in one of two tied modules leaves the other one with the old, and forgets `requires_grad`. Write new values into the parameter that is there, as `module.weight.data = ...` or `copy_` does. Rounded twice is rounded: the values are on the grid already.
#
# </details>
#
# Now use it on `small` below, four feed-forwards of GPT-2's shape with random weights, and on two copies of it: in one the weights of one *input* feature of each `Conv1D` are 30 times as large, in the other those of one *output* channel. `wrong_axis` rounds with a scale for each input.
# How far, with 4 bits, is the output of each of the three models from what it was, with your function and with `wrong_axis`? (Take the output without the `x` that each model passes through, `model(x) - x`, and its relative error over all numbers, but without channel 5 of the last dimension, in all three models: where it is loud, it is most of the norm.)
#
# <details><summary>Answer</summary>
#
# As they are, 17.1 % with your function and 16.8 % with `wrong_axis`: where all channels are alike, the axis hardly matters, and the mistake does not show. A loud output costs 20.5 % with a scale for each output, and 72.5 % with `wrong_axis`: there it sets the scale of every row. A loud input is the other way round, 32.3 % against
# 12.9 %. So a scale for each input would sometimes be better. In a product of whole numbers it cannot be used: the sum over inputs is taken before anything is scaled back.
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
loud_input, loud_output = deepcopy(small), deepcopy(small)
for i in range(4):
    for one, other in ((loud_input[i].up, loud_output[i].up), (loud_input[i].down, loud_output[i].down)):
        one.weight.data[5] *= 30
        other.weight.data[:, 5] *= 30
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
for name, model in (("as it is", small), ("loud input", loud_input), ("loud output", loud_output)):
    with torch.no_grad():
        exact = (model(x) - x)[..., rest]
        moved = [((changed(model, 4)(x) - x)[..., rest] - exact).norm() / exact.norm() for changed in (round_outputs, wrong_axis)]
    print(f"{name:11}: {100 * moved[0]:.1f} % with a scale for each output, {100 * moved[1]:.1f} % with a scale for each input")
# end

# %% [markdown]
# A scale is shared, and the question was by whom: a row, a token, an output channel. What these numbers do not say is whether a model still works: an error of 14 % in the weights is not a loss. Measure that by itself.
#
# **Next in the course:** codebooks, one code for several weights at once.

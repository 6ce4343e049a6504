# %% [markdown]
# # 10 Scalar quantization: a byte a weight, or half a byte, or a bit
#
# **Promise.** You can turn the weights of a Transformer into small whole numbers, choose which of them share a scale, run a layer in integers, and say what 8, 4 and 1 bits cost, with and without training for it.
#
# | | |
# |---|---|
# | Takes | the cells run in about half a minute; the reading takes longer |
# | Read before | [00 Start here](00_start_here.ipynb) for the measures |
# | Axes | model size falls, 4 times with 8 bits and 8 times with 4, counted from fp32; inference time falls in large layers, where the processor multiplies bytes; training takes longer; quality falls, with 8 bits by next to nothing |
# | Who says so | Jacob et al. 2018 (arXiv 1712.05877) for training with rounding; Fan, Stock et al. 2020, "Training with Quantization Noise" (arXiv 2004.07320); Angela Fan's talk: "8-bit: 4x", "ships with PyTorch, easy to apply" |
#
# Where you see **Predict**, write your answer down before you run the next cell.

# %%
from math import exp

import torch
from minieff import layerdrop, scalar_quant
from minieff.core import cost, data, plot, zoo
from minieff.core.files import load_results, save_results
from minieff.scalar_quant.grid import Grid, dequantize, quantize
from minieff.core.surgery import named

torch.set_num_threads(1)
corpus = data.speeches()
base = zoo.load("speeches-base")
W = base.blocks.layers[0].feed.inner.up.weight.detach()               # (512, 128)

# %% [markdown]
# ## 1. One number
#
# The talk shows a weight of 0.0269 that becomes a small integer. On its own that says nothing: an integer needs a scale, which is shared. Take the row of weights with the largest number on 127, and count in steps of a 127th of it.

# %%
row = W[0]
scale = row.abs().max() / 127
q = (row / scale).round()
print(f"scale {scale:.6f}")
for w, code in zip(row[:5].tolist(), q[:5].tolist()):
    print(f"{w:+.4f} becomes {code:+4.0f}, read back {code * scale:+.4f}")

# %% [markdown]
# **Predict.** What is the largest error that a weight of this row can have? And the root of the mean squared error, if a weight is as likely at any place between two steps?

# %% tags=["predict"]
error = q * scale - row
print(f"largest error {error.abs().max() / scale:.3f} steps, root mean square {error.square().mean().sqrt() / scale:.3f} steps, 1 / sqrt(12) = {12**-0.5:.3f}")

# %% [markdown]
# Half a step, and $1 / \sqrt{12}$ of a step. So with one bit fewer, where the step is twice as large, the error is twice as large. This grid is *symmetric*: 127 steps up, 127 down, and 0 has the code 0. (With one bit a code, the code is the sign, and the scale is the mean magnitude, which is the best one for signs.)
#
# ## 2. Who shares a scale?
#
# One scale for the whole matrix, one for each row (an output channel), or one for every 32 neighbours? The rows of this matrix have different reach:

# %%
reach = W.abs().amax(1)
print(f"largest weight of a row: from {reach.min():.2f} to {reach.max():.2f}, median {reach.median():.2f}")

# %% [markdown]
# **Predict.** One row is multiplied by 50. (Large models do such things by themselves: a few channels of what their layers read are that much larger than the others. Dettmers et al. 2022, arXiv 2208.07339.) What happens to the others, if all share one scale? And if each row has its own?

# %% tags=["predict"]
loud = W.clone()
loud[7] *= 50
others = torch.arange(len(W)) != 7
for group in ("tensor", "row", 32):
    w_q = dequantize(*quantize(loud, Grid(bits=8, group=group)))
    apart = (w_q - loud)[others].norm() / loud[others].norm()
    print(f"one scale for {'32 neighbours' if group == 32 else f'the {group}':14} relative error of the other rows {apart:.4f}")

# %% [markdown]
# With one scale for all, the loud row takes the codes: the others have to do with the few values near zero that are left to them, and are off by 44 percent. A scale a row keeps the damage in its row.

# %%
from minieff.core.storage import in_fp16                                          # the scale will be stored in 16 bits: the next number up

def rounded(w, bits):                                                     # w (R, C), a scale a row; from 2 bits on
    m = 2 ** (bits - 1) - 1
    scale = in_fp16(w.abs().amax(1, keepdim=True) / m)                    # (R, 1)
    return (w / scale).round().clamp(-m, m) * scale

assert torch.equal(rounded(W, 4), dequantize(*quantize(W, Grid(bits=4))))

# %% [markdown]
# The scale goes to 16 bits *before* the codes are chosen, and up: so they are the nearest ones for the scale that is stored, and the largest weight is not cut off.
#
# Now the whole model: all matrices and the token vectors, rounded after training, on all held-out windows (the weights alone; what layers read stays as it is until section 6). **Predict.** With a scale a row: at how many bits is perplexity a tenth higher, and at how many has it doubled?

# %% tags=["predict"]
after = load_results("scalar_quant/grids")
plain = after["plain"]["nats"]

def by_bits(**knobs):
    like = {"symmetric": True, "group": "row", "span": "minmax"} | knobs
    return {row["bits"]: row["nats"] for row in after["grids"] if all(row[key] == value for key, value in like.items())}

for bits, nats_ in by_bits().items():
    print(f"{bits} bits: {nats_:.3f} nats a token, perplexity times {exp(nats_ - plain):.3f}")

# %% [markdown]
# And five other grids: with one scale for the whole tensor or for 32 neighbours (half a bit more a weight: 16 bits for 32); with a *zero point*, a code for 0 that need not be in the middle (section 3); and two whose ends are not the largest weight. *Percentile* leaves out the lowest and the highest percent of the numbers that share a scale; *least squares* tries 50 ranges, from a 50th of the whole one to all of it, and takes the one with the least squared error. What lies beyond the ends gets the last code.

# %%
KINDS = {"one scale for a tensor": {"group": "tensor"}, "one a row": {}, "one for 32": {"group": 32}, "a row, with a zero point": {"symmetric": False},
         "a row, percentile": {"span": "percentile"}, "a row, least squares": {"span": "mse"}}
print(f"{'perplexity, times':26}", *(f"{bits} bits " for bits in (8, 6, 5, 4, 3)))
for label, knobs in KINDS.items():
    print(f"{label:26}", *(f"{exp(by_bits(**knobs)[bits] - plain):7.3f}" for bits in (8, 6, 5, 4, 3)))

# %% tags=["figure"]
figure, axes = plot.panels(2, width=5.2, height=3.8)
for (label, knobs), (style, colour) in zip(KINDS.items(), (("x:", "black"), ("o-", "red"), ("s-", "blue"), ("^--", "green"), ("v:", "orange"), ("d--", "purple"))):
    points = by_bits(**knobs)
    for ax in axes:
        ax.plot(list(points), list(points.values()), style, color=plot.PALETTE[colour], label=label)
for ax in axes:
    ax.axhline(plain, ls="-", color=plot.PALETTE["grey"], zorder=0)
    ax.set(xlabel="bits a weight")
axes[0].set(ylabel="nats a token, held out", xlim=(8.3, 0.7), ylim=(3.2, 9.3))
plot.legend(figure)
axes[1].set(title="the same from 8 to 4 bits", xlim=(8.2, 3.8), ylim=(3.31, 3.55), xticks=[8, 7, 6, 5, 4])
plot.show(figure, alt="Held-out nats a token over the bits a weight, for six grids; left from 8 down to 1. One scale for a tensor rises from 6 bits on and is at 6 nats at 4; the others rise from 3 bits on and are between 5.6 and 8 nats at 2. "
          "Right, close up, from 8 to 4 bits: percentile starts 0.14 nats above all others; those lie on the base's line down to 6 bits, and at 4 bits a scale for 32 is the lowest, then the zero point, then a scale a row and least squares together.")

# %% [markdown]
# With a scale a row 8 bits cost nothing that one could see, 5 cost 2 percent of perplexity, 4 cost 9, 3 nearly double it, and with 2 the model is broken. One scale for a tensor loses 10 percent at 6 bits and a factor of 15 at 4. Finer scales help: one for 32 neighbours costs 5 percent at 4 bits instead of 9. So does a zero point, 7 percent, although weights lie on both sides of zero: the lowest and the highest
# weight of a row are seldom equally far from it, so that the range from one to the other is shorter than twice the largest, and all 16 codes are in use instead of 15. Cutting off the largest percent is the one range that
# hurts at 8 bits, by 15 percent: the largest weights are few, and needed. Least squares cuts, too; at 5 and 4 bits it has the smaller error in the weights, and not in the loss, where large weights count more than their squares. At 2 bits everything is above 5.6 nats, where the model has forgotten most of what it knew (a guess among all tokens would have 7.6). The order of the grids there and at 1 bit says nothing. (Zero point, percentile and
# least squares need two bits at least.)
#
# It matters where the large numbers are. Take the model and make one channel loud without changing what it computes: multiply one row of each layer's value projection by 200, and divide the column of the output projection that reads it by 200. Then round the value projections (`where=named("v")`), and nothing else, to 8 bits. What they read is left alone (`activations="none"`; section 6 rounds it, too).

# %%
from copy import deepcopy

loud_model = deepcopy(base)
with torch.no_grad():
    for layer in loud_model.blocks.layers:
        mix = layer.mix.inner
        for tensor in (mix.v.weight, mix.v.bias):
            tensor[7] *= 200
        mix.out.weight[:, 7] /= 200
window, _ = next(corpus.windows(context=128, rows=1))
with torch.no_grad():
    assert torch.allclose(loud_model(window), base(window), atol=1e-3)

# %%
def nats(model, windows=32):
    return cost.quality(model, corpus, windows=windows).nats

print(f"on 32 windows: the base {nats(base):.3f} nats")
for group in ("tensor", "row"):
    of_v = {"bits": 8, "group": group, "activations": "none", "where": named("v")}
    print(f"one scale for the {group:7} as it was {nats(scalar_quant.apply(base, **of_v)):.3f}, with a loud channel {nats(scalar_quant.apply(loud_model, **of_v)):.3f}")

# %% [markdown]
# The two models compute the same. With one scale for the tensor, the loud channel takes the codes of all others, and the loss rises by more than half a nat; with a scale a row it is the only one that has a large step. A scale a row costs two bytes a row, and is the usual choice.
#
# ## 3. Where is zero?
#
# Token vectors and weights lie on both sides of zero, and a symmetric grid wastes little. What comes out of a ReLU does not: all its codes below zero would be unused. An affine grid can move. It spreads its codes between two ends, *low* and *high*, and the whole number $z$ is the code of 0:
#
# $$ s = \frac{\text{high} - \text{low}}{2^{\text{bits}} - 1}, \qquad z = q_{\min} - \mathrm{round}(\text{low} / s), \qquad q = \mathrm{clamp}(\mathrm{round}(w / s) + z,\; q_{\min},\; q_{\max}) $$
#
# Here $q_{\min} = -128$ and $q_{\max} = 127$; others count from 0 to 255 (so does the exercise), which moves all codes and $z$ by 128. **Predict.** The numbers below lie between 3 and 4. Which ends should an affine grid of 8 bits have?

# %% tags=["predict"]
high = torch.linspace(3.05, 3.95, 6)[None]                              # (1, 6)
for symmetric in (True, False):
    q, scale, zero = quantize(high, Grid(bits=8, symmetric=symmetric))
    print("symmetric" if symmetric else "affine   ", [int(code) for code in q[0]], f"scale {scale.item():.4f}, code of zero {int(zero)}")

# %% [markdown]
# From 0 to 4, and not from 3 to 4: low is the least number or 0, whichever is lower, and high accordingly. Zero must have a code of its own, or padding, masks and pruned weights would come back as small numbers that are not zero.
#
# ## 4. Move it yourself
#
# One row of real weights, the grid under it, and the codes. The weight nearest to the talk's 0.0269 is marked.

# %% tags=["figure"]
def number_line(w, grid, marked=0.0269):
    """Weights (C,), the values that the grid has between the smallest and the largest code, and where one weight goes."""
    q, scale, zero = quantize(w[None], grid)
    scale, zero = scale.item(), zero.item()
    codes = torch.tensor([-1.0, 1.0]) if grid.bits == 1 else torch.arange(grid.qmin, grid.qmax + 1)
    i = (w - marked).abs().argmin()
    found, code = scale * (q[0] - zero), int(q[0, i])
    figure, (ax,) = plot.panels(1, width=9, height=2.2)
    ax.plot(w, torch.full_like(w, 1.0), "|", ms=14, color=plot.PALETTE["blue"])
    ax.plot(scale * (codes - zero), torch.zeros(len(codes)), "|", ms=14, color=plot.PALETTE["black"])
    ax.plot([w[i], found[i]], [1, 0], "-", color=plot.PALETTE["red"])
    error = (found - w).square().mean().sqrt() / w.square().mean().sqrt()
    ax.set(yticks=[0, 1], yticklabels=["grid", "weights"], ylim=(-0.4, 1.4), xlabel="value",
           title=f"{grid.bits} bits, scale {scale:.5f}: {w[i]:.4f} becomes code {code}, read back {found[i]:.4f}\nerror {100 * error:.1f} % of the root mean square")
    return figure

# %%
plot.show(number_line(row, Grid(bits=4)), alt="A row of weights as marks on a line, from minus to plus a bit more than its largest weight, and below it the fifteen values of a grid of 4 bits, evenly spaced; most weights lie between the middle seven. "
          "A red line leads from one weight to its code.")

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets

bits_control = widgets.IntSlider(value=4, min=1, max=8, description="bits")
range_control = widgets.ToggleButtons(options=["minmax", "percentile", "mse"], description="range")
symmetric_control = widgets.Checkbox(value=True, description="symmetric")
row_control = widgets.IntSlider(value=0, min=0, max=511, description="row")
drawn = widgets.HTML()

# %% tags=["nbval-ignore-output"]
def update(_=None):
    bits = bits_control.value
    grid = Grid(bits, symmetric_control.value or bits == 1, span=range_control.value)
    line = number_line(W[row_control.value], grid)
    drawn.value = plot.picture(line, alt="the row and its grid").html

for control in (bits_control, range_control, symmetric_control, row_control):
    control.observe(update, "value")
update()
widgets.VBox([bits_control, row_control, range_control, symmetric_control, drawn])

# %% [markdown]
# Three things to try. At 8 bits, which range has the least error? At 3 bits? And at 2 bits, symmetric, with the whole range: how many weights become 0? Here are the answers for all 512 rows:

# %%
for bits_ in (8, 3, 2):
    errors = {span_: dequantize(*quantize(W, Grid(bits_, span=span_))) - W for span_ in ("minmax", "percentile", "mse")}
    zeros = (quantize(W, Grid(bits_))[0] == 0).float().mean()
    print(f"{bits_} bits:", ", ".join(f"{name} {e.norm() / W.norm():.4f}" for name, e in errors.items()), f"relative error; with minmax {zeros:.0%} of the codes are 0")

# %% [markdown]
# At 8 bits the whole range has the least error, and nothing is gained by cutting. At 3 bits least squares: the few large weights are cut off so that the many small ones get finer steps.
#
# ## 5. Bytes
#
# **Predict.** A file of the base model has 7.46 million bytes in fp32. How many with 8 bits a weight? With 4?

# %% tags=["predict"]
small = {bits: scalar_quant.finalize(scalar_quant.apply(base, bits=bits)) for bits in (8, 4, 1)}
before = cost.stored_bytes(base)
for bits, model in small.items():
    print(f"{bits} bits: {cost.stored_bytes(model):>9,} bytes, {before / cost.stored_bytes(model):.2f} times fewer than fp32, {before / 2 / cost.stored_bytes(model):.2f} than fp16")
print(small[4].tok.extra_repr(), small[4].tok.code.codes.shape, small[4].tok.code.codes.dtype)

# %% [markdown]
# Not 4, 8 and 32 times: each row has a scale of 16 bits, and biases, norms and positions stay in 16 bits. (Two codes of 4 bits share a byte, eight of one bit. The line printed last describes one layer: its `activations` are what section 6 is about.) And nobody ships fp32: a file in 16 bits is as good, and counted from there the factors are half as large.

# %%
linears = [m for m in base.modules() if isinstance(m, torch.nn.Linear)] + [base.tok]
codes = sum(m.weight.numel() for m in linears)
scales = sum(len(m.weight) for m in linears)
rest = sum(p.numel() for p in base.parameters()) - codes
for bits, model in small.items():
    assert cost.stored_bytes(model) == codes * bits // 8 + 2 * scales + 2 * rest

# %% [markdown]
# ## 6. Multiply bytes
#
# A smaller file saves no time yet: weights that are made floats again before each product take longer. Processors since about 2019 multiply bytes by themselves (VNNI, AMX) and add the products in 32 bits. For that the *inputs* must be bytes, too. Their scale is not known before they come, so it is found on the fly ("dynamic"). **Predict**: one scale for the
# whole input, as PyTorch's own dynamic quantization has it, or one for each token: does it matter to a language model which?

# %% tags=["predict"]
ids, targets = next(corpus.windows(context=128, rows=1))
x = base.norm(base.blocks(base.embed(ids, 0))).detach()               # (1, 128, 128)
louder = x.clone()
louder[0, -1] *= 10                                                     # the last token of 128
for name, dim in (("one scale", (0, 1, 2)), ("a scale a token", 2)):
    outputs = []
    for inputs in (x, louder):
        s = inputs.abs().amax(dim, keepdim=True) / 127
        outputs.append((inputs / s).round() * s)
    print(f"{name:16} first token changed: {not torch.equal(outputs[0][0, 0], outputs[1][0, 0])}")

# %% [markdown]
# With one scale for all, a loud token at the end changes the rounding of the first: the future changes the past, and a text that is generated token by token is not the one that would be scored at once. With a scale a token nothing leaks. The product is
#
# $$ y_{tr} = s^x_t \, s^w_r \sum_c x^q_{tc} \, w^q_{rc} + b_r $$
#
# and only the sum is large work; it runs in integers. It has to run over *all* inputs of a row before anything is scaled back; so weights with a scale for 32 neighbours, which section 2 liked, cannot be multiplied this way, and `apply` refuses them together with rounded inputs.
#
# A scale can also be found beforehand, on some text, and stay ("static"; `scalar_quant.calibrate`). That saves finding it, and larger inputs than that text had are cut off. What rounding the inputs costs, on all held-out windows:

# %%
WAYS = {"none": "8 bits, inputs as they are", "dynamic": "8 bits, inputs with a scale a token", "static": "8 bits, inputs with a static scale", "dynamic, 4 bits": "4 bits, inputs with a scale a token"}
for way, label in WAYS.items():
    found = after["inputs"][way]
    print(f"{label:36} {found['nats']:.4f} nats, perplexity {100 * (exp(found['nats'] - plain) - 1):+.2f} %")

# %% [markdown]
# A tenth of a percent for a scale a token, at 8 bits as at 4 (9.2 percent without), and half a percent for static ones (found on 16 windows of training text). Now the layer:

# %%
layer = small[8].blocks.layers[0].feed.inner.up
print(layer.extra_repr())
hidden = torch.randn(5, 128)
s = hidden.abs().amax(1, keepdim=True) / 127
sums = (hidden / s).round().to(torch.int32) @ layer.code.codes.to(torch.int32).T
with torch.no_grad():
    assert torch.allclose(layer(hidden), s * sums * layer.code.scale.float().T + layer.bias, atol=1e-5)

# %% [markdown]
# What is that worth? The numbers say how many times as fast our layer of integers is as three others, each in one run on two threads (medians): the same layer in fp32; in bf16, inputs and outputs included; and torch's dynamic int8 with one scale for all inputs. Below 1, ours is slower. There are two processors: an Intel Xeon that multiplies whole matrices of bytes and of bf16 (AMX), and an AMD EPYC that has dot products of both (VNNI). **Predict**: from which size on are integers faster than fp32?

# %% tags=["predict"]
RUNS = {"Xeon": "bench/quant", "EPYC": "bench/quant_epyc"}
bench = {cpu: {part["what"]: {peer["name"]: peer["times"]["median"] for peer in part["peers"]} for part in load_results(run)["comparisons"]}
         for cpu, run in RUNS.items()}
SHAPES, PEERS = ("128 to 512", "512 to 128", "768 to 3072", "3072 to 768", "4096 to 4096"), ("fp32", "bf16", "torch, dynamic int8")
print(f"{'':25}", *(f"{cpu + ': fp32  bf16  torch int8':30}" for cpu in RUNS))
for shape in SHAPES:
    for batch in (1, 32, 512, 4096):
        found = [[of[f"int8 linear, {batch} x {shape}"][peer] for peer in PEERS] for of in bench.values()]
        print(f"{batch:5} tokens, {shape:13}", *(f"{a:10.2f}  {b:.2f}  {c:.2f}        " for a, b, c in found))

# %% tags=["predict", "figure"]
figure, axes = plot.panels(2, width=5.2, height=3.8)
for ax, cpu in zip(axes, RUNS):
    for shape, (style, colour) in zip(SHAPES, (("o-", "black"), ("s--", "red"), ("^-", "blue"), ("v--", "green"), ("d-", "purple"))):
        found = {batch: bench[cpu][f"int8 linear, {batch} x {shape}"]["fp32"] for batch in (1, 32, 512, 4096)}
        ax.plot(list(found), list(found.values()), style, color=plot.PALETTE[colour], label=shape)
    ax.axhline(1, ls=":", color=plot.PALETTE["black"])
    ax.set(xscale="log", xlabel="tokens at a time", title=cpu, ylim=(0, 5.7))
    ax.set_xticks([1, 32, 512, 4096], ["1", "32", "512", "4,096"])
    ax.set_xticks([], minor=True)
axes[0].set(ylabel="times as fast as fp32")
plot.legend(figure, columns=3)
plot.show(figure, alt="How many times as fast as fp32 the integer layer is, over 1 to 4,096 tokens at a time, for five shapes and two processors. On the Xeon the layer of 4096 by 4096 goes from 2 to 3.9, those of 768 and 3072 from 0.5 or 0.7 to between 2.1 and 4.3; on the EPYC they go from 3.3 to 5.4 and 4.0, and from about 2 to between 2.8 and 3.7. "
          "Those of 128 and 512 lie below 0.3 at up to 32 tokens and end at about 1 on both.")

# %% [markdown]
# It depends on the size, and on the processor. In layers of 768 and more, from 32 tokens on, integers are 1.6 to 4.3 times as fast as fp32 on the Xeon, and 2.3 to 5.4 times on the EPYC; with a single token 0.5 to 2.0 and 1.7 to 3.3 times. In layers of 128 by 512, those of our models, they are **slower** nearly everywhere, down to an eighth of the speed, and at best 1.5 times as fast: inputs are read twice to find their scales and to round them, and the result is scaled back, all in torch calls of their own, which take longer than the product.
# PyTorch's own int8 does all of it in one call and is faster than ours in small layers and with few tokens; ours is ahead in large layers with many tokens, by up to 1.7 times. (It has one scale for all inputs. Section 7 has what that costs.) Against bf16 the processors disagree: on the EPYC bytes are ahead in large layers, by up to 2.2 times, on the Xeon bf16 is, but for the largest one.
# (The product itself is oneDNN's, `onednn.qlinear_pointwise`, which keeps the weight in a layout of its own, a byte a weight in memory; codes of 4 bits are unpacked for it once.)

# %%
for cpu in RUNS:
    for windows in (1, 8, 32, 64):
        found = bench[cpu][f"the model, {windows} windows of 128, int8"]
        print(f"{cpu}, whole model, {windows:2} windows: {found['fp32']:.2f} times as fast as fp32, {found['torch, dynamic int8']:.2f} as torch's dynamic int8, {found['int4']:.2f} as int4")

# %% [markdown]
# The whole model has small layers: in integers it takes more than twice the time with one window on both processors. With 8 windows it draws level on the EPYC, where it is 1.26 times as fast with 32 and 64; on the Xeon it comes up to 0.96 and no further.
#
# ## 7. PyTorch's own line
#
# The talk says that int8 ships with PyTorch and is easy to apply. In the version at hand that is one line, which takes every `nn.Linear`:

# %% tags=["nbval-ignore-output"]
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")                                        # it announces its move to torchao
    theirs = torch.ao.quantization.quantize_dynamic(base, {torch.nn.Linear}, dtype=torch.qint8)
ours, alike = small[8], scalar_quant.apply(base, group="tensor")           # alike: one scale a weight, as theirs
print(f"the base {nats(base):.3f} nats, torch's int8 {nats(theirs):.3f}, ours {nats(ours):.3f}, ours with one scale a weight {nats(alike):.3f}")

# %%
changed = window.clone()
changed[0, 64:] = window[0, 64:].flip(0)                                  # other words, but only after the first 64
with torch.no_grad():
    for name, model in (("torch, one scale for all inputs", theirs), ("ours, a scale a token", ours)):
        moved = (model(changed) - model(window))[0, :64].abs().max()
        print(f"{name:32} the first 64 tokens' logits move: {bool(moved > 1e-4)}")
assert moved < 1e-4

# %% [markdown]
# Most of what torch's int8 loses more than ours is due to its weights, which have one scale for the tensor (section 2). And in it the future changes the past: one scale serves the whole input, as the experiment above had it. (A model that sorts images has no past; there each answer then depends on the other images of its batch.) The line's successor, in the package `torchao`, has a scale a token as ours does:
#
# ```python
# from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
# quantize_(model, Int8DynamicActivationInt8WeightConfig())
# ```
#
# It is not installed with this course and was not measured here. It works on `nn.Linear`; token vectors stay as they are unless you name them.
#
# ## 8. Train with the rounding
#
# With 4 bits and fewer rounding costs something, and training can make up for it. The forward pass computes with rounded weights. But the derivative of rounding is zero almost everywhere. So the backward pass leaves the rounding out: the gradient with respect to $w_q$ is taken as that of $w$ (straight-through estimator). A weight beyond the ends of its grid gets none; here the largest weight is the end, and none lies beyond.

# %%
def through(w, bits):
    return rounded(w, bits).detach() + (w - w.detach())                 # rounded in value, w in gradient

w = torch.randn(2, 3, requires_grad=True)
through(w, 3).square().sum().backward()
assert torch.allclose(w.grad, 2 * rounded(w.detach(), 3))

# %% [markdown]
# If all weights are rounded in every pass, this is quantization-aware training, and every gradient is a little wrong. Quant-Noise rounds a random half of the weights in each pass: the other half sees exact gradients, and every weight is sometimes rounded. When training is over, all weights are rounded either way. **Predict** which is better with 4 bits and with one bit.

# %% tags=["predict"]
table = load_results("scalar_quant/table")
whole = table["whole"]["nats"]

def percent(nats):
    times = exp(nats - whole)
    return f"{100 * (times - 1):+.1f} %" if times < 2 else f"x {times:,.1f}"

print(f"base {whole:.3f} nats; after {table['tokens']:,} tokens of finetuning without rounding {table['trained']['plain']['nats']:.3f}")
print("weights rounded, inputs as they are:")
print(f"{'':6}{'rounded':>16}{'finetuned, then rounded':>26}{'all rounded':>18}{'a half rounded':>18}")

def both(row):
    return f"{row['nats']:.3f} ({percent(row['nats'])})"

for bits_ in (8, 4, 2, 1):
    after_, trained = table["after"][f"int{bits_}"], table["trained"]
    print(f"int{bits_:<3}{both(after_['base']):>16}{both(after_['plain']):>26}{both(trained[f'int{bits_}-qat']):>18}{both(trained[f'int{bits_}-noise']):>18}")

# %% tags=["predict"]
print("int4, 32 neighbours share a scale:", both(trained["int4by32-qat"]))
print("the same on ten times the tokens: ", both(trained["int4by32-long"]))
print("these tokens without rounding:    ", both(trained["plain-long"]))

# %% [markdown]
# With 8 bits there is nothing to win; the 0.8 percent are what this short finetuning costs by itself, for the base had been trained to the end of its schedule. With 4 bits, training with all weights rounded halves what rounding costs, from 9 percent to 5; with a scale for 32 neighbours it is 3 percent. On ten times the tokens such a file of 4 bits is 1.8 percent *better* than the base. That is the training's doing more than the rounding's: the same tokens without rounding make the base better by 4 percent, and 4 bits cost 2.5 of them. With 2 bits and one, 600,000 tokens, a twentieth of the base's training, bring it from 8 nats to 5.1 and 4.5. That one bit ends *better* than two is the grid's doing: two bits, symmetric, with
# the range of the largest weight, make 84 percent of the weights of the matrix in section 4 zero, and a sign with the mean as its scale makes none. The talk's "binary: so far not working for Transformers" stands: 24 times smaller, and three times the perplexity.
#
# Rounding a half is worse than rounding all, wherever rounding costs anything. The paper reports the opposite, by a wide margin at 4 bits, for models that saw the noise during the whole training. Is it that our finetuning is short? So the base once more, from nothing, on its 12 million tokens, with all weights rounded to 4 bits in each pass, or a half. **Predict** again.

# %% tags=["predict"]
for way, label in {"qat": "all", "noise": "a half"}.items():
    found = zoo.card(f"scalar_quant/int4-{way}")["quality"]
    print(f"int4 from nothing, {label:6} rounded in each pass: {both(found)}")
print("the base, rounded after training:          ", both(table["after"]["int4"]["base"]))
seeds = [zoo.card(f"layerdrop/speeches-base-seed-{n}")["quality"]["nats"] for n in (1, 2)]
print(f"the base, with two other seeds:             {seeds[0]:.3f} and {seeds[1]:.3f}")

# %% [markdown]
# Both ways save about as much as the short finetuning does, 3 to 4 of 9 percent, and all is ahead of a half again, by 0.013 nats. But three bases that differ in nothing but their seed lie as far apart. So at 4 bits, in a model of this size, we find no gain by rounding a half; what the paper finds, in models a hundred times as large, our numbers neither show nor rule out. And the finetuning does in a twentieth of the tokens what the whole training with rounding does.
#
# ## 9. Together with other techniques, and on other models
#
# A pruned model can be rounded, too. `speeches-layerdrop-20`, trained with LayerDrop (lesson 08), keeps four of its eight layers, and then 8 or 4 bits a weight:

# %%
pruned = layerdrop.finalize(zoo.load("speeches-layerdrop-20"), keep=layerdrop.keep_evenly(8, 4))
for bits_ in (None, 8, 4):
    model = pruned if bits_ is None else scalar_quant.finalize(scalar_quant.apply(pruned, bits=bits_))
    print(f"four layers, {bits_ or 32:2} bits: {cost.stored_bytes(model):>9,} bytes, {before / cost.stored_bytes(model):5.2f} times fewer than the base; {nats(model):.3f} nats")
print(f"the base,    32 bits: {nats(base):.3f} nats, with 4 bits {nats(small[4]):.3f}")

# %% [markdown]
# The factors multiply: 1.74 for four layers of eight, 3.9 and 7.3 for the codes. The losses do not just add up: 4 bits cost the pruned model more nats than the base.
#
# And a published model, all-MiniLM-L6-v2, a BERT that turns sentences into vectors (22.7 million parameters; measured with `evidence/scalar_quant/minilm.py`, for it needs the extra `pretrained`):

# %%
minilm = load_results("scalar_quant/minilm")["formats"]
for name, found in minilm.items():
    agrees = f"cosine {found['cosine']:.3f}, same nearest neighbour {found['same_nearest']:.0%}" if "cosine" in found else ""
    batch, one = (found[key][1] / minilm["fp32"][key][1] for key in ("seconds", "seconds_of_one"))
    print(f"{name:26}{found['bytes'] / 1e6:6.1f} MB, {batch:.2f} of the time of fp32 for a batch of 32, {one:.2f} for a single sentence; {agrees}")

# %% [markdown]
# 8 bits keep the direction of a sentence's vector to 0.997, and a batch of 32 sentences takes 0.66 of the time of fp32 (on the Xeon): its layers are 384 and 1,536 wide. A single sentence takes 1.87 times that of fp32. The nearest neighbour is another one for one sentence in eleven; with inputs as they are, for one in 25. 4 bits without any training are too few here: a cosine of 0.88, or 0.95 if 32 neighbours share a
# scale. What our base bears is not what any model bears. (Only the row `int8` rounds the inputs, too, and multiplies integers; all others put the weights together again before each product, which takes longer than fp32. Codebooks are lesson 11.)
#
# ## 10. What it does not do
#
# **4 times is against fp32.** Nobody ships fp32; counted from 16 bits it is 2 times, and 4 bits are the 4 times.

# %%
assert cost.stored_bytes(small[8]) > before / 4 and cost.stored_bytes(small[1]) > before / 32
print({bits_: f"{before / 2 / cost.stored_bytes(model):.2f} times fewer than fp16" for bits_, model in small.items()})

# %% [markdown]
# **It saves no multiplications**, and in training neither time nor memory: a step with rounding computes the same products and the rounding besides.

# %%
assert cost.macs(small[8]) == cost.macs(base)

# %% [markdown]
# A training step on the base with rounding on, both on a batch of eight windows:

# %% tags=["nbval-ignore-output"]
def step(model):
    data.loss(model(eight), eight_targets).backward()

eight, eight_targets = (torch.cat(parts) for parts in zip(*corpus.windows(context=128, rows=1, count=8)))       # (8, 128)
learners = {"plain": deepcopy(base), "int4, all": scalar_quant.apply(base, bits=4, activations="none"), "int4, half": scalar_quant.apply(base, bits=4, p=0.5, activations="none")}
passes = cost.interleaved({name: lambda m=m: step(m.train()) for name, m in learners.items()}, runs=7, warmup=2)
print({name: f"{t.median / passes['plain'].median:.2f}" for name, t in passes.items()}, "times a plain step (without the optimizer)")

# %% [markdown]
# Finding the scales and rounding take time, and so does a coin for each weight.
#
# ## 11. Take it home
#
# On a model that is not ours:

# %%
from torch import nn

encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 256, batch_first=True), 6, enable_nested_tensor=False).eval()
smaller = scalar_quant.finalize(scalar_quant.apply(encoder, bits=8, where=named("linear1", "linear2")))
print(f"{cost.stored_bytes(encoder):,} bytes became {cost.stored_bytes(smaller):,}")
print(smaller.layers[0].linear1.code.codes.dtype, tuple(smaller(torch.randn(2, 5, 64)).shape))

# %% [markdown]
# `python -m minieff snippet scalar_quant` prints the idea, to paste into your script; with `--full` the technique as one file that needs torch alone.
#
# **Recap.** A weight is stored as a whole number, and a scale that it shares with its row. 8 bits cost next to nothing, 4 cost a little, which training with the rounding halves, and fewer break this model. Bytes are 3.9 and 7.5 times fewer than in fp32, half of that than in 16 bits. Time falls where layers are large and the processor multiplies bytes.
#
# The scoreboard, with the base rounded after training to 8 bits and to 4, inputs to 8 bits in both, in passes of eight windows on one thread (section 6 had two). Sizes of the other models are those in 16 bits; bars are quartiles.

# %% tags=["nbval-ignore-output"]
with torch.no_grad():
    passes = cost.interleaved({"base": lambda: base(eight)} | {f"int{bits_}": lambda m=small[bits_]: m(eight) for bits_ in (8, 4)}, runs=10, warmup=3)
board = load_results("00_start_here")["scoreboard"]
like = next(row for row in board if row["name"] == "base")
unit = like["seconds"][1] / passes["base"].median                         # so that the base lies where lesson 00 has it
print({name: f"{t.median / passes['base'].median:.2f} of the base's time" for name, t in passes.items()})

# %%
quality = {"int8": after["inputs"]["dynamic"], "int4": after["inputs"]["dynamic, 4 bits"]}
for name, found in quality.items():
    print(f"{name}: size {found['bytes'] / before:.3f} of fp32, {2 * found['bytes'] / before:.3f} of 16 bits; {found['bits_per_byte']:.3f} bits a byte (base {after['plain']['bits_per_byte']:.3f})")
rows = [like | {"name": f"base, {name}", "stored_bytes": found["bytes"], "bits_per_byte": found["bits_per_byte"],
                "seconds": [unit * t for t in (passes[name].low, passes[name].median, passes[name].high)]} for name, found in quality.items()]

# %%
plot.show(plot.scoreboard([row for row in board if "width" not in row["name"] and "kept" not in row["name"]] + rows, highlight=[row["name"] for row in rows]),
          alt="The scoreboard with two more points, the base with 8 and with 4 bits: in size the base with 8 bits lies at half of the base, as low as it; with 4 bits it lies left of every other model and a little higher. In time both lie a little behind the base.")

# %%
saved = save_results("10_scalar_quant", {                    # to a temporary folder, unless `make lessons` runs
    "passes": {name: (t.low, t.median, t.high) for name, t in passes.items()}, "scoreboard": rows})

# %% [markdown]
# **Exercise.** [10 Scalar quantization](../exercises/10_scalar_quant.ipynb): codes from memory, a zero point that is lost, the bytes of a file, noise that stays in the weights, a layer of integers, and outputs of four kinds of layers.

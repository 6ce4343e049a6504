# %% [markdown]
# # 10 Scalar quantization: one byte per weight, half a byte, or one bit
#
# **Promise.** You can turn the weights of a Transformer into small whole numbers, choose which of them share a scale, compute a layer in integers, and say what 8, 4 and 1 bits cost, with and without training for it.
#
# | | |
# |---|---|
# | Takes | 31 minutes to read, and 5 more for "Going further"; the cells run in about half a minute |
# | Read before | [00 Start here](00_start_here.ipynb) for the measures |
# | Axes | model size falls; inference time falls in large layers, where the processor multiplies bytes; training time rises; quality falls, with 8 bits by almost nothing. Energy is not measured |
# | Who says so | Jacob et al. 2018 (arXiv 1712.05877) for training with rounding; Fan, Stock et al. 2020, "Training with Quantization Noise" (arXiv 2004.07320); Angela Fan's talk: "8-bit: 4x", "ships with PyTorch, easy to apply" |
# | Measured on | `speeches-base`, 8 layers of width 128, one seed. Every quality is a perplexity compared with this model's. `results/` has it on all 2,751 held-out windows; cells that measure live take 32 of them, for both models |
#
# Where you see **Predict**, write your answer down. The output that answers it is collapsed: click it to see it.

# %%
from math import exp

import torch
from minieff import scalar_quant
from minieff.core import cost, data, plot, zoo
from minieff.core.files import load_results, save_results
from minieff.core.surgery import named
from minieff.scalar_quant.grid import Grid, dequantize, quantize

torch.set_num_threads(1)
corpus = data.speeches()
base = zoo.load("speeches-base")
W = base.blocks.layers[0].feed.inner.up.weight.detach()               # (512, 128)

# %% [markdown]
# ## 1. One number
#
# The talk shows a weight of 0.0269 that becomes a small whole number. Alone it cannot: a whole number needs a scale, which is shared. Take a row of real weights, give its largest weight the number 127, and count the others in steps of a 127th of it.

# %%
row = W[0]
scale = row.abs().max() / 127
q = (row / scale).round()
print(f"scale {scale:.6f}")
for w, code in zip(row[:5].tolist(), q[:5].tolist()):
    print(f"{w:+.4f} becomes {code:+4.0f}, read back {code * scale:+.4f}")

# %% [markdown]
# These are codes of 8 bits: 127 steps up, 127 down, and 0. With 4 bits there are 7 up and 7 down, few enough to draw. Above are the weights of the row, below the values that codes can stand for: the *grid*. The weight nearest to the talk's 0.0269 is marked.

# %% tags=["figure"]
def number_line(w, grid, marked=0.0269):
    """Weights (C,), the values of the grid, and where one weight goes."""
    q, scale, zero = quantize(w[None], grid)
    scale, zero = scale.item(), zero.item()
    codes = torch.arange(grid.qmin, grid.qmax + 1)
    codes = codes[codes != 0] if grid.bits == 1 else codes
    i = (w - marked).abs().argmin()
    w_q, code = scale * (q[0] - zero), int(q[0, i])
    figure, (ax,) = plot.panels(1, width=6.5, height=2.3)
    blue, black, red = (plot.PALETTE[name] for name in ("blue", "black", "red"))
    ax.plot(w, torch.full_like(w, 1.0), "|", ms=14, color=blue)
    ax.plot(scale * (codes - zero), torch.zeros(len(codes)), "|", ms=14, color=black)
    ax.plot([w[i], w_q[i]], [1, 0], "-", color=red)
    error = (w_q - w).norm() / w.norm()
    ax.set(yticks=[0, 1], yticklabels=["grid", "weights"], ylim=(-0.4, 1.4))
    ax.set_xlabel("value")
    title = (f"{grid.bits} bits, scale {scale:.5f}: {w[i]:.4f} becomes {code}, "
             f"read back {w_q[i]:.4f}\nerror of the row {100 * error:.1f} %")
    ax.set_title(title, fontsize=10)
    return figure

plot.show(number_line(row, Grid(bits=4)), alt=(
    "A row of weights as marks on a line, from -0.2 to 0.25, and below it the "
    "fifteen values of a grid of 4 bits, evenly spaced; most weights lie between the "
    "middle seven. A red line leads from one weight to its code."))

# %% [markdown]
# **Predict.** With 8 bits, what is the largest error that a weight of this row can have, in steps? And the root mean square error, if a weight is equally likely to lie anywhere between two steps?

# %% tags=["predict"]
error = (q * scale - row) / scale                                     # in steps
print(f"largest error     {error.abs().max():.3f} steps")
print(f"root mean square  {error.square().mean().sqrt():.3f} steps")
print(f"1 / sqrt(12)      {12**-0.5:.3f}")

# %% [markdown]
# Half a step, and about $1 / \sqrt{12}$ of a step. With one bit fewer the step is twice as large, and so is the error.
#
# ## 2. Where to put the grid
#
# The grid above is *symmetric*, and its range is that of the largest weight. Three other choices are common:
#
# - **Zero point.** The grid runs from the lowest number to the highest, and the code of 0 is some whole number $z$.
# - **Percentile.** The range leaves out the lowest and the highest percent, which get the last code.
# - **Least squares.** 50 ranges are tried, from a 50th of the whole one up, and the one with the smallest squared error is taken.
#
# (With one bit the code is the sign, and the scale is the mean magnitude, the best one for signs.) Move it yourself:

# %%
RANGES = {"symmetric": {}, "zero point": {"symmetric": False},
          "percentile": {"span": "percentile"}, "least squares": {"span": "mse"}}

def relative_error(w, grid):
    return ((dequantize(*quantize(w, grid)) - w).norm() / w.norm()).item()

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets

bits_control = widgets.IntSlider(value=4, min=1, max=8, description="bits")
range_control = widgets.ToggleButtons(options=list(RANGES), description="grid")
row_control = widgets.IntSlider(value=0, min=0, max=511, description="row")
drawn = widgets.HTML()

def update(_=None):
    how = RANGES[range_control.value] if bits_control.value > 1 else {}
    line = number_line(W[row_control.value], Grid(bits_control.value, **how))
    drawn.value = plot.picture(line, alt="the row and its grid").html

# %% tags=["nbval-ignore-output"]
for control in (bits_control, range_control, row_control):
    control.observe(update, "value")
update()
widgets.VBox([bits_control, range_control, row_control, drawn])

# %% [markdown]
# **Predict.** Which grid has the smallest error at 8 bits, and which at 3? And how many weights does the symmetric grid turn into 0 at 2 bits? For all 512 rows:

# %% tags=["predict"]
errors = [[f"{n} bits", *(f"{100 * relative_error(W, Grid(n, **how)):.2f} %"
                          for how in RANGES.values()),
           f"{(quantize(W, Grid(n))[0] == 0).float().mean():.0%}"] for n in (8, 3, 2)]
plot.table(errors, ["relative error", *RANGES, "symmetric: codes that are 0"])

# %% [markdown]
# At 8 bits a zero point is ahead by a little, and nothing is gained by leaving out weights. At 3 bits least squares has the smallest error: it cuts off the few large weights so that the many small ones get finer steps. At 2 bits the symmetric grid turns 84 percent of the weights into 0.
#
# In a grid with a zero point, codes run from $q_{\min}$ to $q_{\max}$ (here -128 and 127; the exercise counts from 0 to 255):
#
# $$ s = \frac{\text{high} - \text{low}}{2^{\text{bits}} - 1}, \qquad z = q_{\min} - \mathrm{round}(\text{low} / s), \qquad q = \mathrm{clamp}(\mathrm{round}(w / s) + z,\; q_{\min},\; q_{\max}) $$
#
# **Predict.** The numbers below lie between 3.05 and 3.95. Which low and high should the grid have?

# %% tags=["predict"]
x = torch.linspace(3.05, 3.95, 6)[None]                               # (1, 6)
for name in ("symmetric", "zero point"):
    codes, s, z = quantize(x, Grid(bits=8, **RANGES[name]))
    print(f"{name:11}{codes[0].int().tolist()}")
    print(f"{'':11}scale {s.item():.4f}, code of 0: {int(z)}")

# %% [markdown]
# From 0 to 3.95, and not from 3.05: the range is extended to hold 0, for 0 needs a code of its own. Otherwise padding, masks and pruned weights would come back as small numbers that are not zero.
#
# ## 3. Which weights share a scale?
#
# One scale for the whole matrix, one for each row (an output channel), or one for every 32 neighbours in a row?
#
# **Predict.** One row is multiplied by 50. (Large models have such outliers: a few channels of what their layers read are that much larger than the others. Dettmers et al. 2022, arXiv 2208.07339.) How far off are the *other* rows, if all share one scale? And if each row has its own?

# %% tags=["predict"]
GROUPS = {"one scale per matrix": "tensor", "one per row": "row", "one per 32": 32}
outlier = W.clone()
outlier[7] *= 50
others = torch.arange(len(W)) != 7
for name, group in GROUPS.items():
    w_q = dequantize(*quantize(outlier, Grid(bits=8, group=group)))
    off = (w_q - outlier)[others].norm() / outlier[others].norm()
    print(f"{name:21} the other rows are off by {100 * off:4.1f} %")

# %% [markdown]
# With one scale for all, the outlier takes nearly all codes, and the other rows share the few that are left near zero. One scale per row keeps the damage in its row, and costs two bytes per row. It is the usual choice, and easily written:

# %%
from minieff.core.storage import in_fp16              # the next number up in 16 bits

def rounded(w, bits):                                 # w (R, C); from 2 bits on
    m = 2 ** (bits - 1) - 1
    scale = in_fp16(w.abs().amax(1, keepdim=True) / m)                # (R, 1)
    return (w / scale).round().clamp(-m, m) * scale

assert torch.equal(rounded(W, 4), dequantize(*quantize(W, Grid(bits=4))))

# %% [markdown]
# The scale is rounded *up* to 16 bits *before* the codes are chosen. So the codes are the nearest ones for the scale that is stored, and the largest weight is not cut off.
#
# Now the full model: all matrices and the token vectors, after training. What the layers read stays as it is until section 5. **Predict.** With one scale per row: at how many bits is perplexity a tenth higher, and at how many has it nearly doubled?

# %%
grids = load_results("scalar_quant/grids")
base_nats = grids["plain"]["nats"]

def change(nats, of=base_nats):                       # of perplexity, from losses
    factor = exp(nats - of)
    return f"{100 * (factor - 1):+.1f} %" if factor < 2 else f"x {factor:,.1f}"

# %%
def nats_by_bits(**knobs):
    wanted = {"symmetric": True, "group": "row", "span": "minmax"} | knobs
    return {found["bits"]: found["nats"] for found in grids["grids"]
            if all(found[key] == value for key, value in wanted.items())}

# %% tags=["predict"]
KINDS = {name: {"group": group} for name, group in GROUPS.items()}
KINDS |= {f"per row, {name}": how for name, how in RANGES.items() if how}
SHOWN = (8, 6, 5, 4, 3, 2)
print(f"the base: {base_nats:.3f} nats per token, perplexity {exp(base_nats):.1f}")
plot.table([[name, *(change(nats_by_bits(**knobs)[n]) for n in SHOWN)] for name, knobs
            in KINDS.items()], ["perplexity", *(f"{n} bits" for n in SHOWN)])

# %% tags=["predict", "figure"]
figure, axes = plot.panels(2, width=3.25, height=3.9)
LOOKS = (("x:", "black"), ("o-", "red"), ("s-", "blue"), ("^--", "green"),
         ("v:", "orange"), ("d--", "purple"))
for (name, knobs), (style, colour) in zip(KINDS.items(), LOOKS):
    points = nats_by_bits(**knobs)
    for ax in axes:
        ax.plot(points.keys(), points.values(), style, color=plot.PALETTE[colour],
                label=name)
for ax in axes:
    ax.axhline(base_nats, color=plot.PALETTE["grey"], zorder=0)
    ax.set(xlabel="bits per weight")
axes[0].set(ylabel="nats per token, held out", xlim=(8.3, 0.7), ylim=(3.2, 9.3))
axes[1].set(title="close up", xlim=(8.2, 3.8), ylim=(3.31, 3.55), xticks=(8, 6, 4))
plot.legend(figure)
plot.show(figure, alt=(
    "Held-out nats per token over the bits per weight, for six grids; left from 8 "
    "down to 1. One scale per matrix rises from 6 bits on and is at 6 nats at 4; the "
    "others rise from 3 bits on and are between 5.6 and 8 nats at 2. Right, close up, "
    "from 8 to 4 bits: percentile starts 0.14 nats above all others; those lie on the "
    "base's line down to 6 bits, and at 4 bits one scale per 32 is the lowest, then "
    "the zero point, then one scale per row and least squares together."))

# %% [markdown]
# With one scale per row 8 bits cost nothing that one could see, 5 cost 1.8 percent of perplexity, 4 cost 9.2, 3 nearly double it, and with 2 the model is broken. What helps, and what does not:
#
# - One scale per matrix loses 10 percent at 6 bits already.
# - One scale per 32 neighbours nearly halves the loss at 4 bits, from 9.2 to 5.2 percent. It costs half a bit per weight: 16 bits for 32.
# - A zero point helps, too, although weights lie on both sides of zero: the lowest and the highest weight of a row are seldom equally far from it, and all 16 codes are in use instead of 15.
# - Percentile loses 15 percent at 8 bits: the largest weights are few, and needed. Least squares helps at 3 bits and not at 4.
#
# ## 4. Bytes
#
# **Predict.** The tensors of the base take 7.46 million bytes in fp32. How many with 8 bits per weight? With 4?

# %% tags=["predict"]
small = {n: scalar_quant.finalize(scalar_quant.apply(base, bits=n)) for n in (8, 4, 1)}
before = cost.stored_bytes(base)
sizes = {n: cost.stored_bytes(model) for n, model in small.items()}
plot.table([[n, f"{size:,}", f"{before / size:.2f}", f"{before / 2 / size:.2f}"]
            for n, size in ({32: before} | sizes).items()],
           ["bits per weight", "bytes", "times fewer than fp32", "than 16 bits"])

# %% [markdown]
# Not 4, 8 and 32 times. Each row has a scale of 16 bits, and biases, norms and positions stay in 16 bits. For $N$ coded weights in $R$ rows and $n$ other numbers:
#
# $$ \text{bytes} = N \cdot \text{bits} / 8 + 2 R + 2 n $$

# %%
coded = [m for m in base.modules() if isinstance(m, torch.nn.Linear)] + [base.tok]
N, R = sum(m.weight.numel() for m in coded), sum(len(m.weight) for m in coded)
n = cost.parameters(base) - N
for bits, size in sizes.items():
    assert size == N * bits // 8 + 2 * R + 2 * n

# %% [markdown]
# Two codes of 4 bits share a byte, and eight of one bit. A file holds tensors and no layers. So to load it, make the same layers from an untrained model, and fill them:

# %%
from pathlib import Path
from tempfile import TemporaryDirectory
from minieff.core.checkpoint import pack, read_tensors, unpack, write_tensors
from minieff.core.transformer import Transformer

ids, _ = next(corpus.windows(context=128, rows=1))                    # (1, 128)
with TemporaryDirectory() as folder:
    file = write_tensors(Path(folder) / "int8.safetensors", pack(small[8]))
    print(f"a file of {file.stat().st_size:,} bytes, names included")
    untrained = scalar_quant.apply(Transformer(base.config), bits=8)
    loaded = unpack(scalar_quant.finalize(untrained), read_tensors(file)[0])
assert torch.equal(loaded(ids), small[8](ids))

# %% [markdown]
# ## 5. Multiply bytes
#
# A smaller file saves no time by itself: turning codes back into floats before each product takes longer. But processors since about 2019 have instructions that multiply bytes and add the products in 32 bits. For that the *inputs* must be bytes, too. Their scale is not known beforehand, so it is found during the pass ("dynamic"). **Predict**: one scale for the whole input, as in PyTorch's own dynamic quantization, or one per token: does it matter to a language model?

# %% tags=["predict"]
x = base.norm(base.blocks(base.embed(ids, 0))).detach()               # (1, 128, 128)
changed = x.clone()
changed[0, -1] *= 10                                  # the last token of 128
for name, dim in {"one scale": (0, 1, 2), "one per token": 2}.items():
    first = []
    for inputs in (x, changed):
        s = inputs.abs().amax(dim, keepdim=True) / 127
        first.append(((inputs / s).round() * s)[0, 0])
    print(f"{name:14} the first token changes: {not torch.equal(*first)}")

# %% [markdown]
# With one scale for all, a large last token changes how the first is rounded: the future changes the past. With one scale per token it cannot. The product is then
#
# $$ y_{tr} = s^x_t \, s^w_r \sum_c x^q_{tc} \, w^q_{rc} + b_r $$
#
# Only the sum is much work, and it runs in integers. It runs over a whole row of weights before anything is scaled back. So weights with one scale per 32 neighbours cannot be multiplied this way, and `apply` refuses them together with rounded inputs.

# %%
layer = small[8].blocks.layers[0].feed.inner.up
x = torch.randn(5, 128)
s = x.abs().amax(1, keepdim=True) / 127                               # (5, 1)
sums = (x / s).round().int() @ layer.code.codes.int().T               # (5, 512)
y = s * sums * layer.code.scale.float().T + layer.bias
assert torch.allclose(layer(x), y, atol=1e-5)

# %% [markdown]
# A scale can also be found beforehand, on 16 windows of training text, and stay ("static", `scalar_quant.calibrate`): then larger inputs are cut off. What rounded inputs cost:

# %%
WAYS = {"none": "8 bits, inputs as they are", "dynamic": "8 bits, one scale per token",
        "static": "8 bits, one static scale",
        "dynamic, 4 bits": "4 bits, one scale per token"}
nats_of = {label: grids["inputs"][way]["nats"] for way, label in WAYS.items()}
plot.table([[label, f"{100 * (exp(nats - base_nats) - 1):+.2f} %"]
            for label, nats in nats_of.items()], ["weights and inputs", "perplexity"])

# %% [markdown]
# A tenth of a percent for one scale per token. Is it faster? The table says how many times as fast our integer layer is as three others: the same layer in fp32; in bf16 (floats of 16 bits); and PyTorch's dynamic int8. Below 1 it is slower. An Intel Xeon and an AMD EPYC, two threads, medians of 20 runs. **Predict**: from which size on are integers faster than fp32?

# %%
RUNS = {"Xeon": "bench/quant", "EPYC": "bench/quant_epyc"}
PEERS = {"fp32": "fp32", "bf16": "bf16", "PyTorch": "torch, dynamic int8"}
speeds = {cpu: {case["what"]: {peer["name"]: peer["times"]["median"]
                               for peer in case["peers"]}
                for case in load_results(name)["comparisons"]}
          for cpu, name in RUNS.items()}

def speed(cpu, tokens, shape, peer="fp32"):
    return speeds[cpu][f"int8 linear, {tokens} x {shape}"][peer]

# %% tags=["predict"]
CASES = ((1, "128 to 512"), (4096, "512 to 128"), (1, "3072 to 768"),
         (32, "768 to 3072"), (512, "768 to 3072"), (32, "4096 to 4096"))
plot.table([[f"{shape}, {tokens:,} at a time",
             *(f"{speed(cpu, tokens, shape, peer):.2f}"
               for cpu in RUNS for peer in PEERS.values())] for tokens, shape in CASES],
           ["times as fast as", *(f"{cpu}: {peer}" for cpu in RUNS for peer in PEERS)])

# %% tags=["predict", "figure"]
SHAPES = {"128 to 512": ("o-", "black"), "512 to 128": ("s--", "red"),
          "768 to 3072": ("^-", "blue"), "3072 to 768": ("v--", "green"),
          "4096 to 4096": ("d-", "purple")}
TOKENS = (1, 32, 512, 4096)
figure, axes = plot.panels(2, width=3.25, height=3.9)
for ax, cpu in zip(axes, RUNS):
    for shape, (style, colour) in SHAPES.items():
        ax.plot(TOKENS, [speed(cpu, tokens, shape) for tokens in TOKENS], style,
                color=plot.PALETTE[colour], label=shape)
    ax.axhline(1, ls=":", color=plot.PALETTE["black"])
    ax.set(xscale="log", xlabel="tokens at a time", title=cpu, ylim=(0, 5.7))
    ax.set_xticks(TOKENS, ["1", "32", "512", "4,096"])
    ax.set_xticks([], minor=True)
axes[0].set(ylabel="times as fast as fp32")
plot.legend(figure, columns=3)
plot.show(figure, alt=(
    "How many times as fast as fp32 the integer layer is, over 1 to 4,096 tokens at a "
    "time, for five shapes and two processors. On the Xeon the layer of 4096 by 4096 "
    "goes from 2 to 3.9, those of 768 and 3072 from 0.5 or 0.7 to between 2.1 and 4.3; "
    "on the EPYC they go from 3.3 to 5.4 and 4.0, and from about 2 to between 2.8 and "
    "3.7. Those of 128 and 512 lie below 0.3 at up to 32 tokens and end between 0.5 "
    "and 1.5."))

# %% tags=["predict"]
small_layers, large_layers = (
    [speed(cpu, tokens, shape) for cpu in RUNS for tokens in counts for shape in shapes]
    for counts, shapes in ((TOKENS, list(SHAPES)[:2]), (TOKENS[1:], list(SHAPES)[2:])))
for name, found in {"128 by 512, any number of tokens": small_layers,
                    "768 and more, from 32 tokens on": large_layers}.items():
    print(f"{name:33} {min(found):.2f} to {max(found):.2f} times fp32")

# %% tags=["predict"]
WINDOWS = (1, 8, 32, 64)
full_model = {cpu: [speeds[cpu][f"the model, {n} windows of 128, int8"]["fp32"]
                    for n in WINDOWS] for cpu in RUNS}
plot.table([[f"our full model, {cpu}", *(f"{times:.2f}" for times in found)]
            for cpu, found in full_model.items()], ["windows at a time", *WINDOWS])

# %% [markdown]
# In layers of 768 and more, from 32 tokens on, integers are 1.62 to 5.36 times as fast as fp32. In layers of 128 by 512, those of our models, they are *slower* nearly everywhere, down to an eighth of the speed: finding scales, rounding and scaling back are calls of their own, which take longer than so small a product. PyTorch does all of it in one call, and is ahead of us in small layers and with few tokens. Against bf16 the two processors disagree.
#
# The full model has small layers. On two threads it takes more than twice the time with one window, and is 1.26 times as fast with 64 on the EPYC, and never faster on the Xeon.
#
# > One run on each processor. The product itself is oneDNN's (`onednn.qlinear_pointwise`), which keeps a byte per weight in memory; codes of 4 bits are unpacked for it once.
#
# ## 6. PyTorch's own line
#
# The talk says that int8 ships with PyTorch and is easy to apply. It is one line, which takes every `nn.Linear`:

# %%
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")                   # it announces its move to torchao
    theirs = torch.ao.quantization.quantize_dynamic(
        base, {torch.nn.Linear}, dtype=torch.qint8)

# %%
def nats_live(model):
    return cost.quality(model, corpus, windows=32).nats

base_live = nats_live(base)
with_one = scalar_quant.apply(base, group="tensor")   # weights as theirs
int8_models = {"PyTorch's int8": theirs, "ours": small[8],
               "ours, one per matrix": with_one}
int8_live = {name: nats_live(model) for name, model in int8_models.items()}

# %%
later = ids.clone()
later[0, 64:] = ids[0, 64:].flip(0)                   # other words after the first 64
with torch.no_grad():
    moved = {name: (model(later) - model(ids))[0, :64].abs().max().item() > 1e-4
             for name, model in int8_models.items()}
for name, nats in int8_live.items():
    print(f"{name:21} perplexity {change(nats, base_live)}")
for name, does in moved.items():
    print(f"{name:20} later tokens change earlier: {does}")

# %% [markdown]
# PyTorch's int8 loses 0.9 percent more than ours, most of it because it has one scale per matrix (section 3). And the future changes the past, as in section 5. Its successor, in the package `torchao`, has one scale per token, as ours does. It is not installed with this course, and was not measured:
#
# ```python
# from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
# quantize_(model, Int8DynamicActivationInt8WeightConfig())
# ```
#
# ## 7. Train with the rounding
#
# With 4 bits and fewer rounding costs something, and training can win some of it back. The forward pass computes with rounded weights. But the derivative of rounding is zero almost everywhere, so the backward pass leaves the rounding out: the gradient for $w_q$ is passed on to $w$ (*straight-through estimator*). A weight beyond the ends of its grid gets none; here the largest weight is the end, and none lies beyond.

# %%
def straight_through(w, bits):
    return rounded(w, bits).detach() + (w - w.detach())   # value w_q, gradient of w

w = torch.randn(2, 3, requires_grad=True)
straight_through(w, 3).square().sum().backward()
assert torch.allclose(w.grad, 2 * rounded(w.detach(), 3))

# %% [markdown]
# With all weights rounded in every pass this is *quantization-aware training*, and every gradient is a little wrong. *Quant-Noise* rounds a random half of them in each pass: the others get an exact gradient. After training all weights are rounded either way. The base is finetuned on 600,000 tokens, a twentieth of its training. **Predict** which is better with 4 bits, and which with one bit.

# %% tags=["predict"]
finetuned = load_results("scalar_quant/table")
rounded_after, trained = finetuned["after"], finetuned["trained"]
rows = [["no rounding", "", change(trained["plain"]["nats"]), "", ""]] + [
    [f"{n} bits", *(change(found["nats"]) for found in (
        rounded_after[f"int{n}"]["base"], rounded_after[f"int{n}"]["plain"],
        trained[f"int{n}-qat"], trained[f"int{n}-noise"]))] for n in (8, 4, 2, 1)]
plot.table(rows, ["perplexity", "rounded, not trained", "trained, then rounded",
                  "trained, all rounded", "trained, half rounded"])

# %% tags=["predict"]
for name, label in {"int4by32-qat": "4 bits, one scale per 32, all rounded",
                    "int4by32-long": "the same on ten times the tokens",
                    "plain-long": "these tokens without rounding"}.items():
    print(f"{label:40} {change(trained[name]['nats'])}")

# %% [markdown]
# With 8 bits there is nothing to win: the 0.8 percent are what this finetuning costs by itself. With 4 bits, training with all weights rounded halves the loss, from 9.2 percent to 4.8; with one scale per 32 neighbours it is 3.2. On ten times the tokens such a file is 1.8 percent *better* than the base. But these tokens alone, without rounding, make the base 4.2 percent better: so rounding still costs about 2.5.
#
# With one bit the model comes back from 198 times the perplexity to 3.2 times. That is better than with two bits, because of the grid: a symmetric one of two bits turns most weights into 0 (section 2), and signs turn none. The talk's "binary: so far not working for Transformers" stands.
#
# Rounding a half is worse than rounding all, wherever rounding costs anything. The paper reports the opposite, for models that saw the noise during all of their training. "Going further" tries that.
#
# ## 8. What it does not do
#
# **4 times is against fp32.** Models are shipped in 16 bits; from there it is 1.95 times, and 3.73 with 4 bits. **It saves no multiplications**, and in training neither time nor memory: a training step computes the same products, and the rounding besides.

# %% tags=["nbval-ignore-output"]
assert cost.macs(small[8]) == cost.macs(base)
eight, targets = (torch.cat(parts) for parts in zip(
    *corpus.windows(context=128, rows=1, count=8)))                   # (8, 128)
learners = {"4 bits, all": {"bits": 4}, "4 bits, half": {"bits": 4, "p": 0.5}}
learners = {"no rounding": base} | {
    name: scalar_quant.apply(base, activations="none", **how)
    for name, how in learners.items()}
steps = cost.interleaved({
    name: lambda model=model: data.loss(model.train()(eight), targets).backward()
    for name, model in learners.items()}, runs=7, warmup=2)
base.eval().zero_grad()
plain_step = steps["no rounding"].median
for name, t in steps.items():
    print(f"{name:13} {t.median / plain_step:.2f} of a plain step's time")

# %% [markdown]
# ## 9. What was claimed, what came out
#
# A factor holds if we reach 90 percent of it.

# %% tags=["figure"]
def more(nats, of):                                   # percent of perplexity
    return 100 * (exp(nats - of) - 1)

leftover = (sizes[1] - N / 8) / sizes[1]
line_loses, ours_loses = (more(int8_live[name], base_live)
                          for name in ("PyTorch's int8", "ours"))
binary = exp(trained["int1-qat"]["nats"] - base_nats)
half_worse = more(trained["int4-noise"]["nats"], trained["int4-qat"]["nats"])
scratch = {way: zoo.card(f"scalar_quant/int4-{way}")["quality"]["nats"]
           for way in ("noise", "qat")}
half_worse_from_scratch = more(scratch["noise"], scratch["qat"])

KEYS = ("claim", "source", "said", "measured", "spread", "unit", "holds", "where")
claims = [dict(zip(KEYS, values)) for values in (
    ("8 bits make a model smaller", "talk", "4 times", before / sizes[8], None,
     "times smaller", True,
     f"from fp32; {before / 2 / sizes[8]:.2f} times from 16 bits"),
    ("one bit makes it smaller", "talk", "32 times", before / sizes[1], None,
     "times smaller", False, f"{leftover:.0%} of the file is not codes"),
    ("one bit does not work for Transformers", "talk", "not so far", binary, None,
     "times the perplexity", True, "after finetuning with the rounding"),
    ("int8 ships with PyTorch and is easy to apply", "talk", "easy", line_loses, None,
     "% of perplexity lost", "in part",
     f"one line, but later tokens change earlier ones; ours loses {ours_loses:.1f} %"),
    ("integers are faster than floats", "Jacob et al.", "faster", max(large_layers),
     [min(small_layers), max(large_layers)], "times as fast at best", "in part",
     f"layers of 768 and more; down to {min(small_layers):.2f} in layers of 128"),
    ("rounding a part of the weights beats rounding all", "Fan, Stock et al.",
     "67.8 to 59.4 % top-1, EfficientNet-B3 in 4 bits", half_worse, None,
     "% more perplexity", False,
     f"4 bits, finetuned; {half_worse_from_scratch:.1f} % trained from scratch"))]

# %%
assert before / sizes[8] >= 0.9 * 4                                   # true
assert before / sizes[1] < 0.9 * 32                                   # false
assert binary > 3                                                     # true
assert line_loses > 5 * ours_loses and moved["PyTorch's int8"]        # in part
assert min(large_layers) > 1.5 and min(small_layers) < 0.2            # in part
assert half_worse > 1 and half_worse_from_scratch > 0                 # false

# %%
ANSWERS = {True: "yes", False: "no", "in part": "in part"}
plot.table([[f"{c['claim']} ({c['source']})", c["said"],
             f"{c['measured']:.2f} {c['unit']}", f"{ANSWERS[c['holds']]}: {c['where']}"]
            for c in claims], ["claim", "said", "measured here", "holds"])

# %% [markdown]
# ## 10. Take it home
#
# On a model that is not ours, PyTorch's encoder:

# %%
from torch import nn

encoder_layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
encoder = nn.TransformerEncoder(encoder_layer, 6, enable_nested_tensor=False).eval()
feed_forwards = named("linear1", "linear2")
smaller = scalar_quant.finalize(scalar_quant.apply(encoder, where=feed_forwards))
print(f"{cost.stored_bytes(encoder):,} bytes became {cost.stored_bytes(smaller):,}")
print(tuple(smaller(torch.randn(2, 5, 64)).shape))

# %% [markdown]
# `python -m minieff snippet scalar_quant` prints the idea, to paste into your script; with `--full` the technique as one file that needs torch alone.
#
# The scoreboard, with sizes and times of lesson 00 (16 bits per number, eight windows on one thread) and the base with 8 and with 4 bits, inputs in 8 bits:

# %% tags=["nbval-ignore-output"]
models = {"base": base, "base, int8": small[8], "base, int4": small[4]}
with torch.no_grad():
    passes = cost.interleaved({name: lambda model=model: model(eight)
                               for name, model in models.items()}, runs=10, warmup=3)
for name, t in passes.items():
    print(f"{name:10} {t.median / passes['base'].median:.2f} of the base's time")

# %% tags=["figure"]
board = load_results("00_start_here")["scoreboard"]
base_row = next(row for row in board if row["name"] == "base")
unit = base_row["seconds"][1] / passes["base"].median      # the base as in lesson 00
qualities = {"base, int8": grids["inputs"]["dynamic"],
             "base, int4": grids["inputs"]["dynamic, 4 bits"]}
new_rows = [base_row | {
    "name": name, "stored_bytes": found["bytes"],
    "bits_per_byte": found["bits_per_byte"],
    "seconds": [unit * t for t in (passes[name].low, passes[name].median,
                                   passes[name].high)]}
    for name, found in qualities.items()]
known = [row for row in board
         if "width" not in row["name"] and "kept" not in row["name"]]
plot.show(plot.scoreboard(known + new_rows, highlight=list(qualities)), alt=(
    "The scoreboard with two more points, the base with 8 and with 4 bits: in size the "
    "base with 8 bits lies at half of the base, as low as it; with 4 bits it lies left "
    "of every other model and a little higher. In time both lie near the base."))

# %%
saved = save_results("10_scalar_quant", {     # to results/ by `make lessons` alone
    "claims": claims, "scoreboard": new_rows,
    "passes": {name: (t.low, t.median, t.high) for name, t in passes.items()}})
print("megabytes, fp32 -> 8 -> 4 bits:",
      " -> ".join(f"{size / 1e6:.2f}" for size in (before, sizes[8], sizes[4])))
print("bits per byte: ", " -> ".join(f"{found['bits_per_byte']:.3f}" for found in
                                     (grids["plain"], *qualities.values())))

# %% [markdown]
# **Three things to remember.**
#
# 1. A weight is stored as a whole number and a scale that it shares with its row. 8 bits cost almost nothing, 4 bits cost 9.2 percent of perplexity and half of that with training, and fewer break this model.
# 2. Count scales and leftovers: 3.89 and 7.46 times fewer bytes than fp32, half of that from 16 bits.
# 3. Time falls only where inputs are bytes, too, and layers are large. Give each token its own scale, or the future changes the past.
#
# **Exercise.** [10 Scalar quantization](../exercises/10_scalar_quant.ipynb): codes from memory, a zero point that is lost, the bytes of a file, noise that stays in the weights, a layer of integers, and outputs of four kinds of layers.

# %% [markdown]
# ## Going further
#
# Each part stands alone; read those that you need.
#
# ### Half of the weights, trained from scratch
#
# The base once more, on its 12 million tokens, with all weights rounded to 4 bits in each pass, or a half. All is ahead again, by 0.013 nats, about as much as three bases that differ in their seed lie apart: at 4 bits, in a model of this size, we find no gain by rounding a half.

# %%
for way, label in {"noise": "a half rounded", "qat": "all rounded"}.items():
    print(f"{label:15} {scratch[way]:.3f} nats, perplexity {change(scratch[way])}")
seeds = [base_nats, *(zoo.card(f"layerdrop/speeches-base-seed-{n}")["quality"]["nats"]
                      for n in (1, 2))]
print("three seeds of the base:", ", ".join(f"{nats:.3f}" for nats in seeds))

# %% [markdown]
# ### An outlier channel in a trained model
#
# Multiply one row of each layer's value projection by 200, and divide the column of the output projection that reads it by 200. The model computes the same, and its value projections now have an outlier. Round these projections alone, to 8 bits:

# %%
from copy import deepcopy

with_outlier = deepcopy(base)
with torch.no_grad():
    for layer in with_outlier.blocks.layers:
        mix = layer.mix.inner
        mix.v.weight[7] *= 200
        mix.v.bias[7] *= 200
        mix.out.weight[:, 7] /= 200
    assert torch.allclose(with_outlier(ids), base(ids), atol=1e-3)

# %%
def with_rounded_values(model, group):
    return scalar_quant.apply(model, group=group, activations="none", where=named("v"))

plot.table([[name, *(change(nats_live(with_rounded_values(model, GROUPS[name])),
                            base_live) for model in (base, with_outlier))]
            for name in ("one scale per matrix", "one per row")],
           ["perplexity", "as it was", "with an outlier"])

# %% [markdown]
# With one scale per matrix the outlier takes the codes of all others. With one per row it is the only row with a large step.
#
# ### A pruned model
#
# `speeches-layerdrop-20`, trained with LayerDrop (lesson 08), keeps four of its eight layers, and then has 8 or 4 bits per weight:

# %%
from minieff import layerdrop

four_layers = layerdrop.finalize(zoo.load("speeches-layerdrop-20"),
                                 keep=layerdrop.keep_evenly(8, 4))
formats = {32: four_layers} | {
    n: scalar_quant.finalize(scalar_quant.apply(four_layers, bits=n)) for n in (8, 4)}
formats = {f"four layers, {n} bits": model for n, model in formats.items()}
formats["eight layers, 4 bits"] = small[4]

# %%
plot.table([[name, f"{cost.stored_bytes(model):,}",
             f"{before / cost.stored_bytes(model):.2f}",
             change(nats_live(model), base_live)] for name, model in formats.items()],
           ["model", "bytes", "times fewer", "perplexity"])

# %% [markdown]
# The factors multiply: 1.74 for half of the layers, 3.9 and 7.3 for the codes. The losses multiply as well, and a little more: 4 bits cost the pruned model more than the base.
#
# ### A published model
#
# all-MiniLM-L6-v2 is a BERT of 22.7 million parameters that turns a sentence into a vector. Measured with `evidence/scalar_quant/minilm.py` on a Xeon with two threads, which needs the extra `pretrained`. "Neighbour": for how many of 512 sentences the nearest other one stays the same.

# %%
minilm = load_results("scalar_quant/minilm")["formats"]

def of_fp32(found, key):
    return f"{found[key][1] / minilm['fp32'][key][1]:.2f}"

rows = [[name, f"{found['bytes'] / 1e6:.1f}", of_fp32(found, "seconds"),
         of_fp32(found, "seconds_of_one"), f"{found.get('cosine', 1):.3f}",
         f"{found.get('same_nearest', 1):.0%}"]
        for name, found in minilm.items() if "codebooks" not in name]
plot.table(rows, ["", "MB", "time, batch of 32", "one sentence", "cosine", "neighbour"])

# %% [markdown]
# 8 bits keep the direction of a vector to a cosine of 0.997, and a batch takes 0.66 of the time: these layers are 384 and 1,536 wide. A single sentence takes 1.87 times as long. 4 bits without any training are too few here, where our base loses little: what one model bears another may not. (Only `int8` multiplies integers; the others turn codes back into floats first.)
#
# ### After the talk
#
# > Large language models forced better rounding *after* training. LLM.int8 (Dettmers et al. 2022, arXiv 2208.07339) keeps the outlier channels of the inputs in 16 bits. SmoothQuant (Xiao et al. 2022, arXiv 2211.10438) moves outliers from the inputs into the weights, where each row has a scale. GPTQ (Frantar et al. 2022, arXiv 2210.17323) rounds column by column and lets the columns that are left make up for the error: with 4 bits LLaMA-7B goes from a perplexity of 5.68 to 6.09, and to 6.29 with plain rounding. NF4 (Dettmers et al. 2023, arXiv 2305.14314) replaces the even grid by the quantiles of a normal distribution. With these, 4 bits became usual for large models without training.

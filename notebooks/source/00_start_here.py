# %% [markdown]
# # 00 Start here: shrink a model, then ask what it cost
#
# **Promise.** In the first minute you make a trained Transformer 1.7 times smaller. In the rest of the lesson you learn to say
# what that cost, on five axes, and to notice when a measurement deceives you.
#
# | | |
# |---|---|
# | Takes | about 40 minutes of reading and trying; the cells run in half a minute |
# | Read before | nothing; you know PyTorch and what attention is |
# | Axes | all: training time, inference time, model size, energy, and what happens to quality |
# | Who says so | Angela Fan's talk "Efficient Transformers": models are overparameterized, redundant, they overfit, and they are too large for practical applications. Each of the four becomes a measurement below |
#
# Wherever you see **Predict**, write your answer down before you run the next cell. A number you guessed wrong is one you will remember.

# %%
import torch
from minieff import cost, data, energy, layerdrop, plot, surgery, zoo
from minieff.transformer import generate

corpus = data.speeches()                     # State of the Union addresses, 1790 to 2026
model = zoo.load("speeches-base")            # trained on them by this course

# %% [markdown]
# ## 1. Shrink first
#
# The model reads 128 tokens and predicts the next. Here is what it says when it may choose freely.

# %%
def say(model, prompt="My fellow Americans, the state of our union is", tokens=60):
    ids = torch.tensor([corpus.tokenizer.encode(prompt)])
    ids = generate(model, ids, tokens, temperature=0.7, generator=torch.Generator().manual_seed(1))
    print(corpus.tokenizer.decode(ids[0].tolist()))

say(model)

# %% [markdown]
# Nobody would print that speech, but it is English, and it is about politics. Now remove half of its 8 layers: no training, no
# repair, just take them out.
#
# **Predict.** (a) By what factor does the file shrink? (b) Is what it says still English?

# %%
small = layerdrop.finalize(model, keep=[0, 2, 5, 7])
say(small)

# %%
before, after = cost.stored_bytes(model), cost.stored_bytes(small)
print(f"{before:,} bytes became {after:,}: {before / after:.2f} times smaller")

# %% [markdown]
# Half of the layers, yet not half of the bytes. Something that is not a layer takes the rest. Where is it?

# %%
for part in ("tok", "pos", "blocks", "norm"):
    print(f"{part:7}{cost.parameters(getattr(model, part)):>10,} parameters")
print(f"a layer{cost.parameters(model.blocks.layers[0]):>10,}")

# %% [markdown]
# The table of 2,048 token vectors stays whatever you do to the layers. In a small model it is a large part: the first thing to
# know before you shrink anything is where the bytes are.
#
# And the text? It got worse. How much worse? "It reads badly" is no number, and two samples are no measurement.

# %% [markdown]
# ## 2. Quality: one number from a text that nobody trained on
#
# Take 128 tokens of an address that was held out. The model gives each next token a probability; its loss on a token is
# $-\ln p$, in nats. Nothing more is needed.

# %%
ids, targets = next(corpus.windows(context=128, rows=1))
with torch.no_grad():
    log_p = model(ids).log_softmax(-1)                   # (1, 128, 2048)
nats = -log_p[0, torch.arange(128), targets[0]]          # (128,)
for id, loss in list(zip(targets[0].tolist(), nats.tolist()))[60:66]:
    print(f"{corpus.tokenizer.decode([id])!r:>14} {loss:5.2f} nats")

# %% [markdown]
# The mean of these is the loss; its exponential is the **perplexity**: as unsure as a fair choice among that many tokens.
#
# **Predict.** A colleague has a model of the same text with a perplexity of 3. This one is near 30. Which is better?

# %%
from math import exp, log

perplexity = exp(nats.mean())
size = corpus.tokenizer.sizes[targets[0]]                # bytes of text that each token stands for
bits_per_byte = float(nats.sum() / log(2) / size.sum())
print(f"perplexity {perplexity:.1f} a token, {2 ** bits_per_byte:.2f} a byte; {bits_per_byte:.3f} bits a byte")

# %% [markdown]
# You cannot tell before you know what the colleague's tokens are. If they are bytes, a perplexity of 3 is 1.58 bits a byte: worse than
# this model. A perplexity is *per token*, so a tokenizer with longer tokens makes it larger with no change in quality. **Bits a
# byte** divide by the text instead, and compare any two models of the same text. This is the quality axis of the course.
#
# `cost.quality` does this over all held-out windows, summed in float64. On the one window it agrees with your three lines:

# %%
assert abs(cost.quality(model, corpus, windows=1).bits_per_byte - bits_per_byte) < 1e-5
for name, m in {"8 layers": model, "4 layers": small}.items():
    print(name, "-", cost.quality(m, corpus, windows=64))

# %% [markdown]
# That is what half of the layers cost when you simply take them out. Lesson 08 trains so that they can be taken out; lesson 01 asks what a
# model with four layers from the start would have given. First, the other four axes.

# %% [markdown]
# ## 3. Four more axes, each measured and mismeasured
#
# ### Size
#
# Count bytes, not names. Below, a model uses one block four times. **Predict:** do the two sums agree?

# %%
shared = surgery.clone(small)
shared.blocks.layers = torch.nn.ModuleList([shared.blocks.layers[0]] * 4)
by_name = sum(t.numel() * t.element_size() for t in shared.state_dict().values())
print(f"summed over names {by_name:,} bytes, in the file {cost.stored_bytes(shared):,} bytes")
assert by_name > 2 * cost.stored_bytes(shared)

# %% [markdown]
# `state_dict()` names the shared block four times. Anyone who sums over it reports a model that is more than twice too large, and
# finds that weight sharing (lesson 09) saves nothing.
#
# A second deceit is the starting point. "4x smaller with int8" is measured from 32-bit files. The weights in this course ship in 16 bits,
# as most do: from there int8 is 2x.

# %%
for name in ("speeches-base", "speeches-depth-4"):
    card = zoo.card(name)
    print(f"{name:17} {card['bytes']:>9,} bytes in the file, {4 * card['parameters']:>9,} in 32 bits")

# %% [markdown]
# ### Computation
#
# A linear of width $a \to b$ does $ab$ multiply-accumulates (MACs) a token. A block has four of $C \to C$, one of $C \to 4C$ and one back: $12C^2$.
# Attention adds $2SC$: each of $S$ keys is compared and each of $S$ values added. The head compares with every token: $VC$.

# %%
V, C, L, S = 2048, 128, 8, 128
by_hand = L * (12 * C**2 + 2 * S * C) + V * C
print(f"{by_hand:,} MACs a token, of which attention {L * 2 * S * C / by_hand:.0%} and the head {V * C / by_hand:.0%}")
assert by_hand == cost.macs(model)

# %% [markdown]
# Attention is the famous part and here the smallest one. It grows with the context and the rest does not: at which $S$ does attention
# cost as much as everything else in a block? ($2SC = 12C^2$, so at $S = 6C$: 768 tokens for this model.)
#
# ### Inference time
#
# Halving MACs is a promise about arithmetic, not about time. Time has to be measured, and the usual way to do it is wrong in three ways at
# once: one run, the first one, on whatever threads there were.

# %% tags=["nbval-ignore-output"]
from time import perf_counter

ids, _ = corpus.batch(8, 128, torch.Generator().manual_seed(0))      # (8, 128)
with torch.no_grad():
    for run in range(3):
        begun = perf_counter()
        model(ids)
        print(f"run {run}: {1e3 * (perf_counter() - begun):.1f} ms")

# %% [markdown]
# Runs differ, and the first is often the slowest: memory is allocated and kernels are chosen then. So: warm up, repeat, take the median, show the
# quartiles, say how many threads. To *compare*, alternate between the candidates, so that whatever else your laptop does falls on both.
#
# **Predict.** The 4-layer model does what share of the MACs? And of the time?

# %% tags=["nbval-ignore-output"]
with torch.no_grad():
    times = cost.interleaved({"8 layers": lambda: model(ids), "4 layers": lambda: small(ids)}, runs=20)
for name, time in times.items():
    print(name, "-", time)

# %% tags=["nbval-ignore-output"]
share = times["4 layers"].median / times["8 layers"].median
print(f"MACs {cost.macs(small) / cost.macs(model):.2f}, time {share:.2f} of the whole model")
assert share < 0.9

# %% [markdown]
# ### Training time and energy
#
# `cost.report` puts all axes of one model together. A training step is a pass forward, a pass back, and about three times the cost of the first alone.

# %% tags=["nbval-ignore-output"]
print(cost.report("speeches-base", model, corpus, runs=10, windows=16))

# %% [markdown]
# Look at the line for energy. Few machines let a program read their energy counter: it needs a physical processor and an administrator. Where there is no
# counter the report falls back on a *model*: so many picojoules for each MAC and each byte read from memory. That is useful for comparing and it is no measurement. A
# number that was modelled refuses to be called measured:

# %%
pass_energy = energy.modelled(macs=1024 * cost.macs(model), moved_bytes=cost.stored_bytes(model))
print(f"{pass_energy.joules:.2g} J, {pass_energy.method}")
try:
    pass_energy.measured
except ValueError as refusal:
    print("refused:", str(refusal)[:60], "...")

# %% [markdown]
# In the model's terms, which costs more in this pass: arithmetic or reading the weights? And when one token is generated at a time?

# %%
for tokens in (1024, 1):
    arithmetic = energy.modelled(tokens * cost.macs(model), 0).joules
    memory = energy.modelled(0, cost.stored_bytes(model)).joules
    print(f"{tokens:5} tokens a pass: reading weights is {memory / (arithmetic + memory):.0%} of the (modelled) energy")

# %% [markdown]
# With one token at a time nearly all of it goes into moving weights. This is why model size matters beyond the disk, and why int8 weights
# help where MACs do not fall.

# %% [markdown]
# ## 4. Is this model overparameterized? Redundant?
#
# The talk says so of Transformers. It is a claim about *this* model only if you can take things away and nothing happens. Four
# kinds of things, on the same 32 windows of held-out text; nothing is retrained.
#
# **Predict**, before you scroll: (a) of 8 layers, how many can be removed *alone* for less than 0.05 nats? (b) of 32
# heads? (c) what share of the small weights can be zeroed for the same price? (d) down to how many bits?

# %%
def loss_of(model):
    return cost.quality(model, corpus, windows=32).nats

whole = loss_of(model)
layers = [loss_of(layerdrop.finalize(model, keep=[k for k in range(8) if k != i])) - whole for i in range(8)]
print("nats lost without layer 0 to 7:", [round(x, 2) for x in layers])

# %%
@torch.no_grad()
def without_head(model, layer, head, width=32):
    copy = surgery.clone(model)
    out = copy.blocks.layers[layer].mix.inner.out              # reads all heads side by side
    out.weight[:, head * width : (head + 1) * width] = 0       # (128, 32) of (128, 128)
    return copy

heads = [loss_of(without_head(model, i // 4, i % 4)) - whole for i in range(32)]
print(f"{sum(x < 0.05 for x in heads)} of 32 heads cost less than 0.05 nats each; the dearest {max(heads):.2f}")

# %%
def changed(model, change):
    """A copy with `change` applied to every matrix."""
    copy = surgery.clone(model)
    with torch.no_grad():
        for w in copy.parameters():
            w.copy_(change(w) if w.dim() == 2 else w)
    return copy

def sparse(share):
    return lambda w: w * (w.abs() > w.abs().flatten().kthvalue(round(share * w.numel())).values)

# %%
def rounded(bits):
    def change(w):                                             # (out, in)
        scale = w.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        return (w / scale).round() * scale
    return change

shares = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
zeroed = [loss_of(changed(model, sparse(s))) - whole for s in shares]
widths = [8, 7, 6, 5, 4, 3]
bits = [loss_of(changed(model, rounded(b))) - whole for b in widths]

# %%
figure, axes = plot.panels(4, width=3.1, height=3)
axes[0].bar(range(8), layers, color=plot.PALETTE["blue"])
axes[0].set(xlabel="layer removed", ylabel="nats lost a token")
axes[1].bar(range(32), sorted(heads), color=plot.PALETTE["sky"])
axes[1].set(xlabel="head removed, in order of loss")
axes[2].plot(shares, zeroed, "o-", color=plot.PALETTE["orange"])
axes[2].set(xlabel="share of weights set to zero")
axes[3].plot(widths, bits, "o-", color=plot.PALETTE["green"])
axes[3].set(xlabel="bits a weight")
axes[3].invert_xaxis()
for ax in axes:
    ax.set_yscale("symlog", linthresh=0.05)      # linear up to 0.05 nats, the dotted line
    ax.axhline(0.05, ls=":", color="black")
    ax.set(ylim=(-0.01, 8), yticks=[0, 0.05, 0.5, 5], yticklabels=["0", "0.05", "0.5", "5"])
plot.show(figure, alt="Four panels of nats lost: removing single layers, single heads, a share of small weights, and bits a weight. "
          "The first layer costs most; most heads cost next to nothing; zeros and bits are free up to a point and then cost steeply.")

# %%
print("weights zeroed:", {s: round(x, 2) for s, x in zip(shares, zeroed)})
print("bits a weight: ", {b: round(x, 2) for b, x in zip(widths, bits)})

# %% [markdown]
# Read the panels against your predictions. Bits are the most redundant thing in this model: a quarter of the 32 lose nothing that you can
# see. Most heads are hardly missed *one at a time*. Layers are another matter.
#
# **Where it is not redundant.** Not every layer is spare, and "each can go" does not mean "all can go":

# %%
cheapest = sorted(range(32), key=lambda i: heads[i])[:16]
many = model
for i in cheapest:
    many = without_head(many, i // 4, i % 4)
print(f"the 16 cheapest heads cost {sum(heads[i] for i in cheapest):.2f} nats one by one, {loss_of(many) - whole:.2f} together")
assert loss_of(many) - whole > sum(heads[i] for i in cheapest)
assert max(layers) > 5 * min(layers)

# %% [markdown]
# Redundancy is shared: two heads that stand in for each other are each dispensable until the other is gone.
#
# ## 5. Overfitting: when data are few
#
# The same architecture was trained once on one address in twenty. That takes minutes and teaches in its log, which ships.

# %%
few, base = zoo.card("speeches-few"), zoo.card("speeches-base")
figure, (ax,) = plot.panels(1, width=6)
for name, log_, colour in (("1 in 20 addresses", few["log"], "red"), ("all addresses", base["log"], "blue")):
    rows = [r for r in log_ if "valid" in r and r["tokens"] <= few["tokens"]]
    x = [r["tokens"] / 1e6 for r in rows]
    ax.plot(x, [r["train"] for r in rows], "--", color=plot.PALETTE[colour], label=f"{name}, training")
    ax.plot(x, [r["valid"] for r in rows], "o-", color=plot.PALETTE[colour], label=f"{name}, held out")
ax.set(xlabel="million tokens seen", ylabel="nats a token")
ax.legend(frameon=False, fontsize=8)
plot.show(figure, alt="Loss over tokens seen. With all addresses training and held-out loss fall together. With one in twenty, training loss "
          "keeps falling while held-out loss turns and rises.")

# %%
valid = [r["valid"] for r in few["log"] if "valid" in r]
print(f"held out: best {min(valid):.2f} nats, at the end {valid[-1]:.2f}; training at the end {few['log'][-1]['train']:.2f}")
assert valid[-1] > min(valid) + 0.1

# %% [markdown]
# The dashed red line is what you would report if you measured quality on the text you trained on. It is the most common deceit of all.
#
# ## 6. Too large for which device?
#
# "Too large" needs a device. Take one that is sold in millions: the nRF52840, a Bluetooth chip with 1 MB of flash for program and data
# and 256 KB of working memory (its data sheet's figures). Which of the course's models would fit its flash, at how many bits a weight?

# %%
FLASH, MEMORY = 1_000_000, 256_000
print(f"{'model':18}" + "".join(f"{b:>4} bits" for b in (32, 16, 8, 4)))
for name in zoo.names():
    numbers = zoo.card(name)["parameters"]
    print(f"{name:18}" + "".join(f"{'fits' if numbers * b / 8 < FLASH else '-':>9}" for b in (32, 16, 8, 4)))

# %% [markdown]
# The base model fits at 4 bits, barely, and with no room for a program beside it. But weights are not all that must fit. While it generates, a decoder keeps the keys and
# values of every layer and position: $2 \cdot L \cdot S \cdot C$ numbers.

# %%
cache = 2 * L * S * C * 4
print(f"keys and values of one sequence: {cache:,} bytes in 32 bits, {cache / MEMORY:.0f} times the chip's memory")

# %% [markdown]
# So this model is too large for that chip, twice, and for different reasons. Fewer bits mend the first; fewer layers, shorter spans (lesson 05) or shared
# heads (lesson 15) mend the second.
#
# ## 7. The scoreboard's first rows
#
# Every lesson adds its rows to one picture: size, time and MACs against quality. Down and to the left is better. The first rows are
# the base model, smaller models trained from scratch, and what you made in the first minute.

# %%
models = {name.removeprefix("speeches-"): zoo.load(name) for name in zoo.names() if name != "speeches-few"}
quality = {name: zoo.card(f"speeches-{name}")["quality"]["bits_per_byte"] for name in models}
models["4 of 8 kept"] = small
quality["4 of 8 kept"] = cost.quality(small, corpus, windows=512).bits_per_byte

# %%
with torch.no_grad():
    times = cost.interleaved({name: lambda m=m: m(ids) for name, m in models.items()}, runs=12, warmup=3)
rows = [{"name": name, "stored_bytes": cost.stored_bytes(m) // 2, "macs": cost.macs(m), "bits_per_byte": quality[name],
         "seconds": (times[name].low, times[name].median, times[name].high)} for name, m in models.items()]

# %%
plot.show(plot.scoreboard(rows, highlight=["4 of 8 kept"]), alt="Bits a byte against size, time and MACs for six trained models and the "
          "pruned one. The trained ones lie on a falling curve; the pruned one lies far above it.")
for row in sorted(rows, key=lambda r: r["bits_per_byte"]):
    print(f"{row['name']:12} {row['stored_bytes']:>9,} bytes {row['macs']:>10,.0f} MACs a token {row['bits_per_byte']:.3f} bits a byte")

# %% [markdown]
# The models trained from scratch form the curve that every technique of this course has to beat. Yours from the first minute lies above it: **at its size, a
# model trained with four layers is better.** That is the talk's first technique, and its verdict: a strong baseline. (Sizes are in 16 bits. Time is one pass of
# 8 x 128 tokens on the machine that built this page; the bars are quartiles.)

# %%
scores = {row["name"]: row for row in rows}
assert scores["depth-4"]["bits_per_byte"] < scores["4 of 8 kept"]["bits_per_byte"]
assert scores["depth-4"]["stored_bytes"] == scores["4 of 8 kept"]["stored_bytes"]

from minieff.files import save_results

saved = save_results("00_start_here", {"scoreboard": rows, "lost": {"layers": layers, "heads": heads}})

# %% [markdown]
# ## 8. Your turn: shrink it yourself
#
# Choose the layers and the bits. The figures come from the same 32 windows. (Without a running kernel, read the table below instead: it comes from the same function.)

# %%
def shrink(keep, bits):
    m = changed(layerdrop.finalize(model, keep=sorted(keep)), rounded(bits))
    size = cost.parameters(m) * bits / 8
    q = cost.quality(m, corpus, windows=32)
    return f"layers {sorted(keep)}, {bits} bits: {size / 1e6:.2f} MB, {q.bits_per_byte:.3f} bits a byte"

for keep in ([0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 7], [0, 2, 5, 7], [0, 1, 2, 3]):
    print(shrink(keep, 8))

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets

kept = widgets.SelectMultiple(options=list(range(8)), value=[0, 2, 5, 7], rows=8, description="layers")
bit = widgets.SelectionSlider(options=[2, 3, 4, 5, 6, 8], value=8, description="bits", continuous_update=False)
answer = widgets.HTML()

def update(_=None):
    answer.value = shrink(kept.value, bit.value) if kept.value else "keep at least one layer"

kept.observe(update, "value"), bit.observe(update, "value"), update()
widgets.VBox([kept, bit, answer])

# %% [markdown]
# Can you get below 0.95 MB and stay under 1.5 bits a byte? Which did you give up first, layers or bits?
#
# ## 9. What shrinking does not do
#
# Two things that sound right and are not, as asserts:

# %%
zeros = changed(model, sparse(0.9))
assert cost.stored_bytes(zeros) == cost.stored_bytes(model)      # nine of ten weights are 0, and no byte is saved
assert cost.macs(zeros) == cost.macs(model)                      # nor any computation
four_bits = changed(model, rounded(4))
assert cost.stored_bytes(four_bits) == cost.stored_bytes(model)  # 16 values a row, each still stored in 32 bits

# %% [markdown]
# A zero that is stored costs as much as any number, and rounding is not packing. What turns zeros and few values into fewer bytes and less time is the work of
# lessons 02 and 10.
#
# ## 10. Take it home
#
# The same surgery on a model that is not ours, PyTorch's own encoder:

# %%
from torch import nn

encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 256, batch_first=True), 6, enable_nested_tensor=False)
half = layerdrop.finalize(encoder, keep=[0, 2, 5], where=surgery.is_a(nn.TransformerEncoderLayer))
print(f"{cost.parameters(encoder):,} parameters became {cost.parameters(half):,}; {half(torch.randn(1, 10, 64)).shape}")

# %% [markdown]
# `python -m minieff snippet layerdrop` prints the technique as one file for your project, with nothing of this package needed.
#
# **Recap**, measured above, for taking 4 of 8 layers out without training:

# %% tags=["nbval-ignore-output"]
base_row, small_row = scores["base"], scores["4 of 8 kept"]
for label, key in {"size": "stored_bytes", "MACs": "macs", "bits a byte": "bits_per_byte"}.items():
    print(f"{label:12} x {small_row[key] / base_row[key]:.2f}")
print(f"{'time':12} x {small_row['seconds'][1] / base_row['seconds'][1]:.2f}")

# %% [markdown]
# Smaller, faster, and worse than it has to be. The rest of the course is about the last of these. Next: **01, train a smaller model from scratch**.

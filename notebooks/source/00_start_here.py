# %% [markdown]
# # 00 Start here: shrink a model, then ask what it cost
#
# **Promise.** In the first minute you make a trained Transformer smaller. Then you learn to say what that cost, on five axes, and to
# notice when a measurement is wrong.
#
# | | |
# |---|---|
# | Takes | the cells run in about 40 seconds; the reading takes longer |
# | Read before | nothing; you know PyTorch and what attention is |
# | Axes | training time, inference time, model size, energy, and what happens to quality |
# | Who says so | Angela Fan's talk "Efficient Transformers": models are overparameterized, redundant, they overfit, and they are too large for practical applications. Sections 4 to 6 measure that on one model |
#
# Where you see **Predict**, write your answer down before you run the next cell. "Bits a byte", "nats a token", "MACs a token" mean *per* byte and *per* token.

# %%
import torch
from minieff import layerdrop
from minieff.core import cost, data, energy, plot, surgery, zoo
from minieff.fast_decoding import generate

corpus = data.speeches()                     # State of the Union addresses, 1790 to 2026
model = zoo.load("speeches-base")            # trained on nine tenths of them; one tenth is held out
print(model.blocks.layers[0])

# %% [markdown]
# That is one of its 8 layers: attention over width $C = 128$ with 4 heads, then a feed-forward of 512. The **zoo** is the folder of models that this course
# trained; each has a **card** that says how, and what came out.
#
# ## 1. Shrink first
#
# The model reads up to 128 tokens and predicts the next. This is what it says.

# %% tags=["nbval-ignore-output"]
def say(model, prompt="My fellow Americans, the state of our union is", tokens=60):
    ids = torch.tensor([corpus.tokenizer.encode(prompt)])
    ids = generate(model, ids, tokens, temperature=0.7, generator=torch.Generator().manual_seed(1))
    print(corpus.tokenizer.decode(ids[0].tolist()))

say(model)

# %% [markdown]
# It is English, and about politics. Now keep layers 0, 2, 5 and 7, evenly spread, and remove the other four: no training afterwards, no repair.
#
# **Predict.** (a) By what factor does the model shrink? (b) Is what it says still English?

# %% tags=["nbval-ignore-output"]
small = layerdrop.finalize(model, keep=[0, 2, 5, 7])
say(small)

# %%
before, after = cost.stored_bytes(model), cost.stored_bytes(small)
print(f"{before:,} bytes became {after:,} (32 bits a number): {before / after:.2f} times smaller")

# %% [markdown]
# Half of the layers, but not half of the bytes. Something that is not a layer takes the rest. Which part?

# %%
for part in ("tok", "pos", "blocks", "norm"):
    print(f"{part:7}{cost.parameters(getattr(model, part)):>10,} parameters")
print(f"a layer{cost.parameters(model.blocks.layers[0]):>10,}")

# %% [markdown]
# `tok` holds a vector for each of $V = 2048$ tokens, and the output layer uses the same vectors again. It stays whatever you do to the layers: 14 % of the whole model
# and 24 % of the small one. The first thing to know before you shrink anything is where the bytes are.
#
# And (b)? Real word pieces, put together to words that do not exist. By how much is that worse? Two samples are no measurement.

# %% [markdown]
# ## 2. Quality: one number from text that was held out
#
# Cut the held-out addresses into **windows** of 128 tokens. The model gives each next token a probability $p$; its loss on that token is
# $-\ln p$, counted in **nats** (bits, with the natural logarithm). Here is one window.

# %%
ids, targets = next(corpus.windows(context=128, rows=1))     # both (1, 128)
with torch.no_grad():
    log_p = model(ids).log_softmax(-1)                       # (1, 128, 2048)
nats = -log_p[0, torch.arange(128), targets[0]]              # (128,)
for token, loss in list(zip(targets[0].tolist(), nats.tolist()))[60:66]:
    print(f"{corpus.tokenizer.decode([token])!r:>10} {loss:5.2f} nats")

# %% [markdown]
# The beginning of "look" costs 8 nats, its end almost nothing. The mean over tokens is the
# loss, and its exponential is the **perplexity**: as unsure as a fair choice among that many tokens.
#
# **Predict.** On all held-out text this model has a perplexity of 27.8. A colleague has another model of the same text, with a perplexity of 3. Which is better?

# %%
from math import exp, log

perplexity = exp(nats.mean())
size = corpus.tokenizer.sizes[targets[0]]                    # (128,) bytes of text that each token stands for
bits_per_byte = float(nats.sum() / log(2) / size.sum())
print(f"one window: perplexity {perplexity:.1f} a token, {2 ** bits_per_byte:.2f} a byte; {bits_per_byte:.3f} bits a byte")

# %% [markdown]
# You cannot tell before you know the colleague's tokens. If they are bytes, a perplexity of 3 is $\log_2 3 = 1.58$ bits a byte. Perplexity is *per token*, so a tokenizer
# with longer tokens raises it while nothing gets worse. **Bits a byte** divide by the text instead and compare any two models of the same
# text, if both read it in windows of the same length: a window starts without context.
#
# One window gave 16.7 where the whole text gives 27.8: windows differ. `cost.quality` takes all of them, or a number of them spread
# over all addresses. Compare only what was measured on the same windows. On this one window it agrees with your three lines:

# %%
assert abs(cost.quality(model, corpus, windows=1).bits_per_byte - bits_per_byte) < 1e-5
for count in (32, 128):
    print(f"{count:3} windows:", cost.quality(model, corpus, windows=count))
print(f"all 2,751:   {zoo.card('speeches-base')['quality']['bits_per_byte']:.3f} bits a byte, from its card")

# %%
whole_text = {"8 layers": zoo.card("speeches-base")["quality"]["bits_per_byte"],
              "4 of them": cost.quality(small, corpus, windows=688).bits_per_byte}      # every fourth: 2 s, not 8
print({name: round(bits, 3) for name, bits in whole_text.items()})

# %% [markdown]
# That is what it costs to take half of the layers out of a model that was not trained for it. Now the colleague: 1.58 is worse than 8 layers and better than your 4.
#
# ## 3. Four more axes, each measured and mismeasured
#
# ### Size
#
# Below, a model uses one block four times. **Predict:** the bytes of all entries of its `state_dict()`, and those of the file that it is saved to: which is larger, and
# by what factor?

# %%
shared = surgery.clone(small)
shared.blocks.layers = torch.nn.ModuleList([shared.blocks.layers[0]] * 4)
by_name = sum(t.numel() * t.element_size() for t in shared.state_dict().values())
in_file = cost.stored_bytes(shared)
print(f"summed over names {by_name:,} bytes, in the file {in_file:,}: {by_name / in_file:.2f} times as many")

# %% [markdown]
# `state_dict()` names the shared block four times, a file holds it once. Whoever sums over names finds that sharing weights saves nothing.
#
# A second mistake is the starting point. The talk's "4x from int8" is counted from 32-bit numbers, in which networks are "often stored". The files in this course's
# zoo have 16 bits; from there int8 is 2x. Say what you start from.

# %%
for bits, halved in (("32", model), ("16", surgery.clone(model).half())):
    print(f"{bits} bits: {cost.stored_bytes(halved):,} bytes")

# %% [markdown]
# ### Computation
#
# A linear from width $a$ to $b$ does $ab$ multiply-accumulates (**MACs**) a token. A layer has four of $C \to C$, one of $C \to 4C$ and one back: $12C^2$.
# Attention over $S$ keys adds $2SC$: each key is compared, each value added (counted for all $S = 128$, though half of them are hidden on average). The output layer compares with every token: $VC$.
#
# **Predict.** Of these three, which is the largest in this model at $S = 128$, and what share is attention?

# %%
V, C, L, S = 2048, 128, 8, 128
parts = {"linears": L * 12 * C**2, "attention": L * 2 * S * C, "output": V * C}
print({part: f"{count / sum(parts.values()):.1%}" for part, count in parts.items()}, f"of {sum(parts.values()):,}")
assert sum(parts.values()) == cost.macs(model)

# %% [markdown]
# Attention is an eighth, as much as the output layer; the linears are three quarters. Attention is the only part that grows with the context. It draws level with the linears where
# $2SC = 12C^2$, at $S = 6C$: 768 tokens for this width.
#
# ### Inference time
#
# MACs count arithmetic. Time has to be measured. One run is not a measurement:

# %% tags=["nbval-ignore-output"]
from time import perf_counter

torch.set_num_threads(1)                                          # say how many, always
batch, following = corpus.batch(8, 128, torch.Generator().manual_seed(0))     # both (8, 128)
with torch.no_grad():
    for run in range(4):
        begun = perf_counter()
        model(batch)
        print(f"run {run}: {1e3 * (perf_counter() - begun):.1f} ms")

# %% [markdown]
# The runs differ although nothing changed. So: warm up, repeat, report the median with its **quartiles** (a quarter of the runs lie below the first, a quarter above the
# third) and the number of threads. To *compare*, alternate between the candidates, so that whatever else your laptop does falls on both.
#
# **Predict.** The 4-layer model does 0.56 of the MACs. What share of the time?

# %% tags=["nbval-ignore-output"]
with torch.no_grad():
    times = cost.interleaved({"8 layers": lambda: model(batch), "4 layers": lambda: small(batch)})
for name, time in times.items():
    print(name, "-", time)
share = times["4 layers"].median / times["8 layers"].median
print(f"MACs {cost.macs(small) / cost.macs(model):.2f}, time {share:.2f} of the whole model")

# %% [markdown]
# Here the two agree, because both models are made of the same layers. They need not: in section 7 one model has fewer MACs than another and takes longer.
#
# ### Training time and energy
#
# `cost.report` puts all axes of one model together. A training step is a forward pass, a backward pass and the optimizer. In MACs a backward pass is two forward passes.
#
# **Predict.** How many times as long as a forward pass does a step take?

# %% tags=["nbval-ignore-output"]
report = cost.report("speeches-base", model, corpus, runs=10, windows=16)
print(report)
print(f"a step takes {report.step.median / report.forward.median:.1f} forward passes")

# %% [markdown]
# Three for the passes (backward needs one product for the gradient of its input and one for that of its weights), the rest for the optimizer and for recording the pass. If the forward time differs
# from the one further up: quartiles cover one series of runs, not what changes between two series. That is why candidates take turns.
#
# Look at the line for energy. Reading a processor's energy counter takes a machine that shows it and an administrator. Where there is none, the report falls back on
# a *model*: 4.6 picojoules for each 32-bit MAC (Horowitz 2014) and 160 for each byte of weights, if every byte comes from main memory (this second figure is
# recalled from the same table and **unverified**). That compares designs. It measures nothing, and refuses to be called measured:

# %%
modelled = energy.modelled(macs=1024 * cost.macs(model), moved_bytes=cost.stored_bytes(model))
print(f"{modelled.joules:.2g} J, {modelled.method}")
try:
    modelled.measured
except ValueError as refusal:
    print("refused:", str(refusal).split(":")[0])

# %% [markdown]
# **Predict.** In this model, what share of the energy goes into reading weights when a pass covers 1,024 tokens, the batch of 8 windows? And when it covers one, as in generating?

# %%
for tokens in (1024, 1):
    arithmetic = energy.modelled(tokens * cost.macs(model), 0).joules
    memory = energy.modelled(0, cost.stored_bytes(model)).joules
    print(f"{tokens:5} tokens a pass: reading weights is {memory / (arithmetic + memory):.0%} of the modelled energy")

# %% [markdown]
# All tokens of a pass share one reading of the weights. If the model is right, generating token by token is nearly all reading. Fewer bytes a weight then save energy even where the MACs stay.

# %% [markdown]
# ## 4. Is this model overparameterized? Redundant?
#
# *Overparameterized*: it does as well with fewer numbers. *Redundant*: parts of it can go without loss. Both are claims about this model that you can test by taking
# things away. Nothing is retrained; quality is the loss on 32 windows spread over the held-out text (16 for the heads, of which there are many).
#
# **Predict.** At a price of at most 0.05 nats a token: (a) how many of the 8 layers could be removed, one at a time? (b) how many of the 32 attention heads, one at a time? (c) what share of the
# weights of each matrix, smallest first, could be set to zero? (d) how few bits could each weight have?

# %%
def loss_of(model, windows=32):
    return cost.quality(model, corpus, windows=windows).nats

whole = loss_of(model)
layers = [loss_of(layerdrop.finalize(model, keep=[k for k in range(8) if k != i])) - whole for i in range(8)]
print("nats lost without layer 0 to 7:", [round(x, 2) for x in layers])
assert min(layers) > 0.05 and whole + layers[0] > log(2048)

# %% [markdown]
# (a) None. Without the first layer the model does worse than a uniform guess among its 2,048 tokens ($\ln 2048 = 7.62$ nats). For heads, `mix.inner` in the printout above is the attention, and its `out` reads
# the four heads side by side: 32 columns each.

# %%
@torch.no_grad()
def without_head(model, layer, head, width=32):
    copy = surgery.clone(model)
    copy.blocks.layers[layer].mix.inner.out.weight[:, head * width : (head + 1) * width] = 0
    return copy

few_windows = loss_of(model, 16)                               # 32 models to measure: on fewer windows each
heads = [loss_of(without_head(model, i // 4, i % 4), 16) - few_windows for i in range(32)]
print(f"{sum(x < 0.05 for x in heads)} of 32 heads cost less than 0.05 nats each; the most costly {max(heads):.2f}")

# %% [markdown]
# For weights, two changes of a matrix. The first keeps the largest; the second rounds each row to $2^{bits} - 1$ levels between plus and minus its largest.

# %%
def sparse(share):
    return lambda w: w * (w.abs() > w.abs().flatten().kthvalue(round(share * w.numel())).values)

def rounded(bits):
    def change(w):                                             # (out, in)
        scale = (w.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).half().float()     # (out, 1)
        return (w / scale).round() * scale
    return change

# %%
def changed(model, change):
    copy = surgery.clone(model)
    with torch.no_grad():
        for w in copy.parameters():
            w.copy_(change(w) if w.dim() == 2 else w)
    return copy

shares, widths = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [8, 7, 6, 5, 4, 3]
zeroed = [loss_of(changed(model, sparse(share))) - whole for share in shares]
bits = [loss_of(changed(model, rounded(width))) - whole for width in widths]

# %%
print("share set to zero:", {share: round(x, 3) for share, x in zip(shares, zeroed)})
print("bits a weight:    ", {width: round(x, 3) for width, x in zip(widths, bits)})

# %%
figure, axes = plot.panels(4, width=3.1, height=3)
axes[0].bar(range(8), layers, color=plot.PALETTE["blue"])
axes[1].bar(range(32), sorted(heads), color=plot.PALETTE["sky"])
axes[2].plot(shares, zeroed, "o-", color=plot.PALETTE["orange"])
axes[3].plot(widths, bits, "o-", color=plot.PALETTE["green"])
axes[3].invert_xaxis()
labels = ("layer removed", "head removed, in order of loss", "share of weights set to zero", "bits a weight")
for ax, label in zip(axes, labels):
    plot.threshold(ax, 0.05, label)
axes[0].set_ylabel("nats lost a token")
plot.show(figure, alt="Four panels of nats lost a token, with a dotted line at 0.05. Every single layer costs more "
          "than that, the first by far the most; nearly all single heads cost less; zeros cost less up to a fifth "
          "of the weights; bits cost less down to five.")

# %% [markdown]
# (The scale is linear up to the dotted line and logarithmic above it.)
#
# (b) 30 of 32. (c) A fifth of the weights for 0.02 nats; three tenths cost more than 0.05. (d) 5 bits. So in this model: numbers have more bits than they need, most heads can be spared one at a time, **no layer can**.
#
# "Each can go" is not "all can go". **Predict:** the 16 cheapest heads, removed together, cost more or less than the sum of what each costs?

# %%
cheapest = sorted(range(32), key=lambda i: heads[i])[:16]
many = model
for i in cheapest:
    many = without_head(many, i // 4, i % 4)
together = loss_of(many, 16) - few_windows
print(f"the 16 cheapest heads cost {sum(heads[i] for i in cheapest):.2f} nats one by one, {together:.2f} together")
assert together > sum(heads[i] for i in cheapest)

# %% [markdown]
# More. One explanation, not tested here: heads that do the same work are each dispensable until the other is gone.
#
# ## 5. Overfitting: when data are few
#
# A model of the same shape was trained on every fiftieth training address alone: 5 of 213, over and over, for 4 million tokens. Its log ships.

# %%
few = zoo.card("train_smaller/speeches-few")
figure, (ax,) = plot.panels(1, width=6)
plot.log_curves(ax, few["log"])
plot.show(figure, alt="Loss in nats a token over million tokens seen, trained on one address in fifty. "
          "Training loss falls all the way; held-out loss falls, turns, and rises.")

# %%
held_out = {row["tokens"]: row["valid"] for row in few["log"] if "valid" in row}
best = min(held_out, key=held_out.get)
print(f"held out: best {held_out[best]:.2f} nats after {best:,} tokens, {held_out[max(held_out)]:.2f} at the end")
print(f"training: {few['log'][-1]['train']:.2f} at the end")
assert held_out[max(held_out)] > held_out[best] + 0.1

# %% [markdown]
# Measured on the training text, this run looks better and better: the dashed curve. And the base model, trained on all 213 addresses, four times over?

# %%
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    batches = [corpus.batch(16, 128, generator) for _ in range(16)]
    seen = torch.tensor([data.loss(model(ids), targets) for ids, targets in batches])
print(f"base: {seen.mean():.2f} nats on 256 windows it was trained on (standard error {seen.std() / 4:.2f}), "
      f"{zoo.card('speeches-base')['quality']['nats']:.2f} on all held-out ones")

# %% [markdown]
# A gap as well, and a much smaller one. Overfitting is a matter of degree, and the degree depends on the data.
#
# ## 6. Too large for which device?
#
# "Too large" needs a device. Suppose one with 1 MB of flash for the program and the weights, and 256 KB of working memory: the figures that the data sheet of the nRF52840, a
# Bluetooth microcontroller, gives. Count what a model needs at a number of bits: the matrices, a 16-bit scale a row, and vectors in 16 bits. `depth-6` is a model of 6 layers
# that was trained from scratch, `width-96` one of 8 layers and width 96.

# %%
def packed_bytes(model, bits):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = sum(p.numel() for p in model.parameters() if p.dim() < 2)
    return sum(p.numel() * bits // 8 + 2 * len(p) for p in matrices) + 2 * vectors

NAMES = ["base", "depth-6", "depth-4", "depth-2", "width-96", "width-64"]
models = {name: zoo.load(f"speeches-{name}") for name in NAMES}

# %%
FLASH, MEMORY = 1024 * 1024, 256 * 1024
print(f"{'':9}" + "".join(f"{bits:>12} bits" for bits in (8, 4)))
for name, m in models.items():
    needs = [packed_bytes(m, bits) for bits in (8, 4)]
    print(f"{name:9}" + "".join(f"{n:>10,} {'fits' if n < FLASH else 'no':>6}" for n in needs))

# %% [markdown]
# Unshrunk, in 32 or 16 bits, none of the six fits; the base does at 4 bits, and leaves 70 KB for the program. Weights are not all, though. A decoder that keeps the keys and values
# of every layer and position needs $2 \cdot L \cdot S \cdot C$ numbers more.

# %%
cache = 2 * L * S * C * 4
print(f"keys and values of 128 tokens: {cache:,} bytes in 32 bits, {cache / MEMORY:.0f} times the working memory")

# %% [markdown]
# So the base model is too large for this device as it is, for the flash, which 4 bits mend, and for the memory: keys and values in 8
# bits would fill it and leave nothing for the rest. Fewer layers or a shorter context help there.
#
# ## 7. The scoreboard's first rows
#
# Each lesson adds rows to one picture. The first are the base model, five smaller ones trained from scratch on as many tokens, and yours from the first minute. Quality is
# that on all held-out text (yours: every fourth window), bytes are those of a 16-bit file, and time is that of a pass over 8 windows on one thread.

# %%
quality = {name: zoo.card(f"speeches-{name}")["quality"]["bits_per_byte"] for name in NAMES}
models["4 of 8 kept"], quality["4 of 8 kept"] = small, whole_text["4 of them"]
with torch.no_grad():
    times = cost.interleaved({name: lambda m=m: m(batch) for name, m in models.items()}, runs=10, warmup=3)

# %%
rows = [{"name": name, "bits_per_byte": quality[name], "macs": cost.macs(m),
         "stored_bytes": cost.stored_bytes(surgery.clone(m).half()),
         "seconds": (times[name].low, times[name].median, times[name].high)} for name, m in models.items()]
for row in sorted(rows, key=lambda row: row["bits_per_byte"]):
    print(f"{row['name']:12} {row['stored_bytes']:>9,} bytes {row['macs']:>10,.0f} MACs a token "
          f"{row['bits_per_byte']:.3f} bits a byte")

# %%
plot.show(plot.scoreboard(rows, highlight=["4 of 8 kept"]), alt="Bits a byte against size, time and MACs for six "
          "trained models and the pruned one. Over size the trained ones lie on a falling curve; the pruned one "
          "lies far above it.")

# %% [markdown]
# Down and to the left is better. Over size, the trained models form the curve that every technique of this course has to beat. Yours lies above it: **at its size, a model
# trained with four layers is better**, by half a bit a byte. Training a smaller model is the talk's first technique, with the verdict "strong baseline".
#
# Three more things to see. *Overparameterized?* A little: with a fifth fewer numbers, depth-6 loses 0.016 bits a byte. *Time is not MACs*: width-64 has fewer than depth-2 and takes
# longer; its 8 layers of small products come one after another, which may be why. *Not free*: depth-4 had a training of its own, yours had none. How long is a step of it, forward and back?

# %% tags=["nbval-ignore-output"]
def step(m):
    return lambda: torch.autograd.grad(data.loss(m(batch), following), list(m.parameters()))

steps = cost.interleaved({name: step(models[name]) for name in ("base", "depth-4")}, runs=5, warmup=2)
share = steps["depth-4"].median / steps["base"].median
print(f"forward and back, depth-4 takes {share:.2f} of the base's time; both took 11,719 steps")

# %%
scores = {row["name"]: row for row in rows}
assert scores["depth-4"]["bits_per_byte"] + 0.4 < scores["4 of 8 kept"]["bits_per_byte"]
assert scores["depth-4"]["stored_bytes"] == scores["4 of 8 kept"]["stored_bytes"]

from minieff.core.files import save_results

lost = {"layers": layers, "heads": heads, "zeroed": dict(zip(shares, zeroed)), "bits": dict(zip(widths, bits))}
saved = save_results("00_start_here", {"scoreboard": rows, "nats_lost": lost})

# %% [markdown]
# ## 8. Your turn
#
# Choose layers and bits. Both figures come from one function; it prints the rows below for readers without a running kernel.

# %%
def shrink(keep, bits):
    m = changed(layerdrop.finalize(model, keep=sorted(keep)), rounded(bits))
    q = cost.quality(m, corpus, windows=32)
    return f"layers {sorted(keep)}, {bits} bits: {packed_bytes(m, bits):,} bytes, {q.bits_per_byte:.3f} bits a byte"

for keep, width in ((range(8), 8), (range(8), 4), ([0, 1, 2, 3, 5, 6, 7], 8), ([0, 2, 5, 7], 8)):
    print(shrink(keep, width))

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets

kept = widgets.SelectMultiple(options=list(range(8)), value=[0, 2, 5, 7], rows=8, description="layers")
width = widgets.SelectionSlider(options=[2, 3, 4, 5, 6, 8], value=8, description="bits", continuous_update=False)
answer = widgets.HTML()

def update(_=None):
    answer.value = shrink(kept.value, width.value) if kept.value else "keep at least one layer"

# %% tags=["nbval-ignore-output"]
kept.observe(update, "value")
width.observe(update, "value")
update()
widgets.VBox([kept, width, answer])

# %% [markdown]
# Get below 900,000 bytes and stay under 1.4 bits a byte on these windows.
#
# <details><summary>One way</summary>
#
# 4 bits, and all layers but 4 or all but 5. Fewer bits first: the panels of section 4 say that bits cost less than layers.
#
# </details>
#
# ## 9. What shrinking does not do
#
# Set nine of ten weights to zero. **Predict:** how much smaller does the model get, and how much faster?

# %% tags=["nbval-ignore-output"]
zeros = changed(model, sparse(0.9))
with torch.no_grad():
    times = cost.interleaved({"whole": lambda: model(batch), "zeros": lambda: zeros(batch)}, runs=10, warmup=3)
share = times["zeros"].median / times["whole"].median
print(f"bytes {cost.stored_bytes(zeros) / cost.stored_bytes(model):.2f}, time {share:.2f} of the whole model")

# %%
print(f"{sum((p == 0).sum().item() for p in zeros.parameters()) / cost.parameters(zeros):.0%} of the numbers are zero")
assert cost.stored_bytes(zeros) == cost.stored_bytes(model)
assert len(changed(model, rounded(4)).tok.weight[0].unique()) <= 15      # 4 bits would do, and each takes 32

# %% [markdown]
# A zero that is stored costs as much as any number, and is multiplied like any number. Rounding is not packing either: the rounded model still holds 32-bit numbers. Storing
# zeros and few values in fewer bytes, and computing faster with them, is work of its own; lessons on sparse weights and quantization do it.
#
# ## 10. Take it home
#
# The same surgery on a model that is not ours, PyTorch's own encoder:

# %%
from torch import nn

layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
half = layerdrop.finalize(encoder, keep=[0, 2, 5], where=surgery.is_a(nn.TransformerEncoderLayer))
print(f"{cost.parameters(encoder):,} parameters became {cost.parameters(half):,}")
print("output", tuple(half(torch.randn(1, 10, 64)).shape))

# %% [markdown]
# `python -m minieff snippet layerdrop` prints the idea of a technique, to paste into your project; with `--full` all of it, as one file that needs nothing of this package.
#
# **Recap.** What the talk says each family gives, beside what this page measured.

# %%
claims = {"half of the layers pruned": ("2x", before / after),
          "trained smaller, depth-2": ("2-4x", scores["base"]["stored_bytes"] / scores["depth-2"]["stored_bytes"]),
          "int8, from 32 bits": ("4x", before / packed_bytes(model, 8)),
          "int4, from 32 bits": ("8x", before / packed_bytes(model, 4))}
for name, (talk, ours) in claims.items():
    print(f"{name:26} talk {talk:>5} smaller, here {ours:.2f}x")

# %% [markdown]
# Here pruning gives less than 2x because the token vectors stay, and int8 less than 4x because of the scales and what is kept in 16 bits. What those sizes cost in quality is in the
# panels of section 4 and on the scoreboard.
#
# **Exercise.** [00 Start here](../exercises/00_start_here.ipynb): six tasks on quality, size, computation, time and energy.
#
# Next in the course: [training a smaller model](01_train_smaller.ipynb), and whether that is the best use of the same computation.

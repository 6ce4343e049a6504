# %% [markdown]
# # 00 Start here: shrink a model, then ask what it cost
#
# **Promise.** In the first minute you make a trained Transformer smaller. Then you learn to say what that cost, on five axes, and to
# notice when a measurement is wrong.
#
# | | |
# |---|---|
# | Takes | half an hour to read; the cells run in about 40 seconds |
# | Read before | nothing; you know PyTorch and what attention is |
# | Axes | training time, inference time, model size, energy, and what happens to quality |
# | Who says so | Angela Fan's talk "Efficient Transformers": models are overparameterized, redundant, they overfit, and they are too large for practical applications. Sections 4 to 6 measure that on one model |
#
# Where you see **Predict**, write your answer down before you look: the output that answers is collapsed, and a click on its three dots, or running the cell,
# shows it. (GitHub and a notebook exported to HTML show it at once.)

# %%
import torch
from minieff import layerdrop
from minieff.core import cost, data, energy, plot, surgery, zoo
from minieff.fast_decoding import generate

corpus = data.speeches()                # State of the Union addresses, 1790 to 2026
model = zoo.load("speeches-base")       # trained on nine tenths; one tenth is held out
for name, w in model.blocks.layers[0].named_parameters():
    if w.dim() == 2:
        print(f"{name:24}{tuple(w.shape)}")

# %% [markdown]
# Those are the matrices of one of its 8 layers: attention over width $C = 128$ with 4 heads, then a feed-forward of 512. The **zoo** is the folder of models that this course
# trained; each has a **card** that says how, and what came out.
#
# ## 1. Shrink first
#
# The model reads up to 128 tokens and predicts the next. This is what it says.

# %% tags=["nbval-ignore-output"]
from textwrap import fill

def say(model, prompt="My fellow Americans, the state of our union is", tokens=60):
    ids = torch.tensor([corpus.tokenizer.encode(prompt)])
    draw = torch.Generator().manual_seed(1)
    ids = generate(model, ids, tokens, temperature=0.7, generator=draw)
    print(fill(corpus.tokenizer.decode(ids[0].tolist()), 58))

say(model)

# %% [markdown]
# It is English, and about politics. Now keep layers 0, 2, 5 and 7, evenly spread, and remove the other four: no training afterwards, no repair.
#
# **Predict.** (a) By what factor does the model shrink? (b) Is what it says still English?

# %% tags=["nbval-ignore-output", "predict"]
small = layerdrop.finalize(model, keep=[0, 2, 5, 7])
say(small)

# %% tags=["predict"]
before, after = cost.stored_bytes(model), cost.stored_bytes(small)
print(f"{before:,} bytes became {after:,}, at 32 bits per number:")
print(f"{before / after:.2f} times smaller")

# %% [markdown]
# Half of the layers, but not half of the bytes. Something that is not a layer takes the rest. Which part?

# %%
for part in ("tok", "pos", "blocks", "norm"):
    print(f"{part:7}{cost.parameters(getattr(model, part)):>10,} parameters")
print(f"a layer{cost.parameters(model.blocks.layers[0]):>10,}")

# %% [markdown]
# `tok` holds a vector for each of $V = 2048$ tokens, and the output layer uses the same vectors again. It stays whatever you do to the layers: 14 % of the full model
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

# %% tags=["predict"]
from math import exp, log

perplexity = exp(nats.mean())
size = corpus.tokenizer.sizes[targets[0]]       # (128,) bytes of text in each token
bits_per_byte = float(nats.sum() / log(2) / size.sum())
print(f"one window: perplexity {perplexity:.1f} per token,")
print(f"{2 ** bits_per_byte:.2f} per byte, which is {bits_per_byte:.3f} bits per byte")

# %% [markdown]
# You cannot tell before you know the colleague's tokens. If they are bytes, a perplexity of 3 is $\log_2 3 = 1.58$ bits per byte. Perplexity is *per token*, so a tokenizer
# with longer tokens raises it while nothing gets worse. **Bits per byte** divide by the text instead and compare any two models of the same
# text, if both read it in windows of the same length: a window starts without context.
#
# One window gave 16.7 where the whole text gives 27.8: windows differ. `cost.quality` takes all of them, or a number of them spread
# over all addresses. Compare only what was measured on the same windows. On this one window it agrees with your three lines:

# %%
assert abs(cost.quality(model, corpus, windows=1).bits_per_byte - bits_per_byte) < 1e-5
card = zoo.card("speeches-base")["quality"]
measured = {count: cost.quality(model, corpus, windows=count) for count in (32, 128)}
rows = [[count, f"{q.perplexity:.1f}", f"{q.bits_per_byte:.3f}"]
        for count, q in measured.items()]
perplexity, bits_per_byte = exp(card["nats"]), card["bits_per_byte"]
rows.append(["all 2,751, from its card", f"{perplexity:.1f}", f"{bits_per_byte:.3f}"])
plot.table(rows, ["windows", "perplexity", "bits per byte"])

# %%
part = cost.quality(small, corpus, windows=688)         # every fourth: 2 s, not 8
whole_text = {"8 layers": card["bits_per_byte"], "4 of them": part.bits_per_byte}
for name, value in whole_text.items():
    print(f"{name:9} {value:.3f} bits per byte")

# %% [markdown]
# That is what it costs to take half of the layers out of a model that was not trained for it. Now the colleague: 1.58 is worse than 8 layers and better than your 4.
#
# ## 3. Four more axes, each measured and mismeasured
#
# ### Size
#
# Below, a model uses one block four times. **Predict:** the bytes of all entries of its `state_dict()`, and those of the file that it is saved to: which is larger, and
# by what factor?

# %% tags=["predict"]
shared = surgery.clone(small)
shared.blocks.layers = torch.nn.ModuleList([shared.blocks.layers[0]] * 4)
by_name = sum(t.numel() * t.element_size() for t in shared.state_dict().values())
in_file = cost.stored_bytes(shared)
print(f"summed over names {by_name:,} bytes, in the file {in_file:,}:")
print(f"{by_name / in_file:.2f} times as many")

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
# A linear from width $a$ to $b$ does $ab$ multiply-accumulates (**MACs**) per token. A layer has four of $C \to C$, one of $C \to 4C$ and one back: $12C^2$.
# Attention over $S$ keys adds $2SC$: each key is compared, each value added (counted for all $S = 128$, though half of them are hidden on average). The output layer compares with every token: $VC$.
#
# **Predict.** Of these three, which is the largest in this model at $S = 128$, and what share is attention?

# %% tags=["predict"]
V, C, L, S = 2048, 128, 8, 128
parts = {"linears": L * 12 * C**2, "attention": L * 2 * S * C, "output": V * C}
for part, count in parts.items():
    print(f"{part:10} {count / sum(parts.values()):.1%} of {sum(parts.values()):,}")
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

torch.set_num_threads(1)                                # say how many, always
draw = torch.Generator().manual_seed(0)
batch, following = corpus.batch(8, 128, draw)           # both (8, 128)
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

# %% tags=["nbval-ignore-output", "predict"]
with torch.no_grad():
    times = cost.interleaved(
        {"8 layers": lambda: model(batch), "4 layers": lambda: small(batch)}
    )
for name, t in times.items():
    low, median, high = (1e3 * seconds for seconds in (t.low, t.median, t.high))
    print(f"{name} {median:.2f} ms (quartiles {low:.2f} to {high:.2f})")
share = times["4 layers"].median / times["8 layers"].median
ratio = cost.macs(small) / cost.macs(model)
print(f"MACs {ratio:.2f}, time {share:.2f} of the full model")

# %% [markdown]
# Here the two agree, because both models are made of the same layers. They need not: in section 7 one model has fewer MACs than another and takes longer.
#
# ### Training time and energy
#
# `cost.report` puts all axes of one model together. A training step is a forward pass, a backward pass and the optimizer. In MACs a backward pass is two forward passes.
#
# **Predict.** How many times as long as a forward pass does a step take?

# %% tags=["nbval-ignore-output", "predict"]
report = cost.report("speeches-base", model, corpus, runs=10, windows=16)
print(f"a step takes {report.step.median / report.forward.median:.1f} forward passes")
plot.table([["bytes", f"{report.stored_bytes:,}"],
            ["MACs per token", f"{report.macs:,.0f}"],
            ["ms per forward pass", f"{1e3 * report.forward.median:.1f}"],
            ["ms per training step", f"{1e3 * report.step.median:.1f}"],
            ["joules per forward pass", f"{report.energy.joules:.2g}"],
            ["these joules are", report.energy.method],
            ["bits per byte", f"{report.quality.bits_per_byte:.3f}"]],
           ["all axes", report.name])

# %% [markdown]
# Three for the passes (backward needs one product for the gradient of its input and one for that of its weights), the rest for the optimizer and for recording the pass. If the forward time differs
# from the one further up: quartiles cover one series of runs, not what changes between two series. That is why candidates take turns.
#
# Look at the two lines for energy. Reading a processor's energy counter takes a machine that shows it and an administrator. Where there is none, the report falls back on
# a *model*: 4.6 picojoules for each 32-bit MAC (Horowitz 2014) and 160 for each byte of weights, if every byte comes from main memory (this second figure is
# recalled from the same table and **unverified**). That compares designs. It measures nothing, and refuses to be called measured:

# %%
modelled = energy.modelled(1024 * cost.macs(model), cost.stored_bytes(model))
print(f"{modelled.joules:.2g} J, {modelled.method}")
try:
    modelled.measured
except ValueError as refusal:
    print(fill(f"refused: {str(refusal).split(':')[0]}", 58))

# %% [markdown]
# **Predict.** In this model, what share of the energy goes into reading weights when a pass covers 1,024 tokens, the batch of 8 windows? And when it covers one, as in generating?

# %% tags=["predict"]
for tokens in (1024, 1):
    arithmetic = energy.modelled(tokens * cost.macs(model), 0).joules
    memory = energy.modelled(0, cost.stored_bytes(model)).joules
    share = memory / (arithmetic + memory)
    print(f"{tokens:5} tokens per pass: {share:.0%} for reading weights")

# %% [markdown]
# All tokens of a pass share one reading of the weights. If the model is right, generating token by token is nearly all reading. Fewer bytes per weight then save energy even where the MACs stay.

# %% [markdown]
# ## 4. Is this model overparameterized? Redundant?
#
# *Overparameterized*: it does as well with fewer numbers. *Redundant*: parts of it can go without loss. Both are claims about this model that you can test by taking
# things away. Nothing is retrained; quality is the loss on 32 windows spread over the held-out text (16 for the heads, of which there are many).
#
# **Predict.** At a price of at most 0.05 nats per token: (a) how many of the 8 layers could be removed, one at a time? (b) how many of the 32 attention heads, one at a time? (c) what share of the
# weights of each matrix, smallest first, could be set to zero? (d) how few bits could each weight have?

# %% tags=["predict"]
def loss_of(model, windows=32):
    return cost.quality(model, corpus, windows=windows).nats

def without_layer(i):
    return layerdrop.finalize(model, keep=[k for k in range(8) if k != i])

whole = loss_of(model)
layers = [loss_of(without_layer(i)) - whole for i in range(8)]
print("nats lost without layer 0, 1, 2, ...:")
print(*(f"{lost:.2f}" for lost in layers))
assert min(layers) > 0.05 and whole + layers[0] > log(2048)

# %% [markdown]
# (a) None. Without the first layer the model does worse than a uniform guess among its 2,048 tokens ($\ln 2048 = 7.62$ nats). For heads, `mix.inner` in the printout above is the attention, and its `out` reads
# the four heads side by side: 32 columns each.

# %% tags=["predict"]
@torch.no_grad()
def without_head(model, layer, head, width=32):
    copy = surgery.clone(model)
    columns = slice(head * width, (head + 1) * width)
    copy.blocks.layers[layer].mix.inner.out.weight[:, columns] = 0
    return copy

few_windows = loss_of(model, 16)         # 32 models to measure: on fewer windows each
heads = [loss_of(without_head(model, i // 4, i % 4), 16) - few_windows
         for i in range(32)]
cheap = sum(lost < 0.05 for lost in heads)
print(f"{cheap} of 32 heads cost less than 0.05 nats each;")
print(f"the most costly {max(heads):.2f}")

# %% [markdown]
# For weights, two changes of a matrix. The first keeps the largest; the second rounds each row to $2^{bits} - 1$ levels between plus and minus its largest.

# %%
def sparse(share):
    def change(w):
        largest_zero = w.abs().flatten().kthvalue(round(share * w.numel())).values
        return w * (w.abs() > largest_zero)
    return change

def rounded(bits):
    def change(w):                                             # (out, in)
        scale = w.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        scale = scale.half().float()                           # (out, 1)
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

# %% tags=["predict"]
plot.table([[f"{share:.0%}", f"{lost:.3f}"] for share, lost in zip(shares, zeroed)],
           ["weights set to zero", "nats lost"])

# %% tags=["predict"]
plot.table([[width, f"{lost:.3f}"] for width, lost in zip(widths, bits)],
           ["bits per weight", "nats lost"])

# %% tags=["predict", "figure"]
figure, axes = plot.panels(4, height=2.7)
axes[0].bar(range(8), layers, color=plot.PALETTE["blue"])
axes[1].bar(range(32), sorted(heads), color=plot.PALETTE["sky"])
axes[2].plot(shares, zeroed, "o-", color=plot.PALETTE["orange"])
axes[3].plot(widths, bits, "o-", color=plot.PALETTE["green"])
axes[3].invert_xaxis()
labels = ("layer removed", "head removed, in order of loss",
          "share of weights set to zero", "bits per weight")
for ax, label in zip(axes, labels):
    plot.threshold(ax, 0.05, label)
figure.supylabel("nats lost per token")
plot.show(figure, alt="Four panels of nats lost per token, with a dotted line at "
          "0.05. Every single layer costs more than that, the first by far the most; "
          "nearly all single heads cost less; zeros cost less up to a fifth of the "
          "weights; bits cost less down to five.")

# %% [markdown]
# (The scale is linear up to the dotted line and logarithmic above it.)
#
# (b) 30 of 32. (c) A fifth of the weights for 0.02 nats; three tenths cost more than 0.05. (d) 5 bits. So in this model: numbers have more bits than they need, most heads can be spared one at a time, **no layer can**.
#
# "Each can go" is not "all can go". **Predict:** the 16 cheapest heads, removed together, cost more or less than the sum of what each costs?

# %% tags=["predict"]
cheapest = sorted(range(32), key=lambda i: heads[i])[:16]
many = model
for i in cheapest:
    many = without_head(many, i // 4, i % 4)
together = loss_of(many, 16) - few_windows
one_by_one = sum(heads[i] for i in cheapest)
print(f"the 16 cheapest heads: {one_by_one:.2f} nats one by one,")
print(f"{together:.2f} together")
assert together > one_by_one

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
plot.show(figure, alt="Loss in nats per token over million tokens seen, trained on "
          "one address in fifty. Training loss falls all the way; held-out loss "
          "falls, turns, and rises.")

# %%
held_out = {row["tokens"]: row["valid"] for row in few["log"] if "valid" in row}
best = min(held_out, key=held_out.get)
print(f"held out: best {held_out[best]:.2f} nats, after {best:,} tokens,")
print(f"          {held_out[max(held_out)]:.2f} at the end")
print(f"training: {few['log'][-1]['train']:.2f} at the end")
assert held_out[max(held_out)] > held_out[best] + 0.1

# %% [markdown]
# Measured on the training text, this run looks better and better: the dashed curve. And the base model, trained on all 213 addresses, four times over?

# %%
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    batches = [corpus.batch(16, 128, generator) for _ in range(16)]
    seen = torch.tensor([data.loss(model(ids), targets) for ids, targets in batches])
print(f"base: {seen.mean():.2f} nats on 256 windows it was trained on")
print(f"(standard error {seen.std() / 4:.2f}), {card['nats']:.2f} on all held-out ones")

# %% [markdown]
# A gap as well, and a much smaller one. Overfitting is a matter of degree, and the degree depends on the data.
#
# ## 6. Too large for which device?
#
# "Too large" needs a device. Suppose one with 1 MB of flash for the program and the weights, and 256 KB of working memory: the figures that the data sheet of the nRF52840, a
# Bluetooth microcontroller, gives. Count what a model needs at a number of bits: the matrices, a 16-bit scale per row, and vectors in 16 bits. `depth-6` is a model of 6 layers
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

def need(model, bits):
    count = packed_bytes(model, bits)
    return f"{count:,} {'fits' if count < FLASH else 'does not'}"

plot.table([[name, need(m, 8), need(m, 4)] for name, m in models.items()],
           ["bytes", "at 8 bits", "at 4 bits"])

# %% [markdown]
# Unshrunk, in 32 or 16 bits, none of the six fits; the base does at 4 bits, and leaves 70 KB for the program. Weights are not all, though. A decoder that keeps the keys and values
# of every layer and position needs $2 \cdot L \cdot S \cdot C$ numbers more.

# %%
cache = 2 * L * S * C * 4
print(f"keys and values of 128 tokens: {cache:,} bytes in 32 bits,")
print(f"{cache / MEMORY:.0f} times the working memory")

# %% [markdown]
# So the base model is too large for this device as it is, for the flash, which 4 bits fix, and for the memory: keys and values in 8
# bits would fill it and leave nothing for the rest. Fewer layers or a shorter context help there.
#
# ## 7. The scoreboard's first rows
#
# Each lesson adds rows to one picture. The first are the base model, five smaller ones trained from scratch on as many tokens, and yours from the first minute. Quality is
# that on all held-out text (yours: every fourth window), bytes are those of a 16-bit file, and time is that of a pass over 8 windows on one thread.

# %%
cards = {name: zoo.card(f"speeches-{name}") for name in NAMES}
quality = {name: card["quality"]["bits_per_byte"] for name, card in cards.items()}
models["4 of 8 kept"], quality["4 of 8 kept"] = small, whole_text["4 of them"]
passes = {name: lambda m=m: m(batch) for name, m in models.items()}
with torch.no_grad():
    times = cost.interleaved(passes, runs=10, warmup=3)

# %%
rows = [{"name": name, "bits_per_byte": quality[name], "macs": cost.macs(m),
         "stored_bytes": cost.stored_bytes(surgery.clone(m).half()),
         "seconds": (times[name].low, times[name].median, times[name].high)}
        for name, m in models.items()]
by_quality = sorted(rows, key=lambda row: row["bits_per_byte"])
plot.table([[row["name"], f"{row['stored_bytes']:,}", f"{row['macs']:,.0f}",
             f"{row['bits_per_byte']:.3f}"] for row in by_quality],
           ["model", "bytes", "MACs per token", "bits per byte"])

# %%
plot.show(plot.scoreboard(rows, highlight=["4 of 8 kept"]),
          alt="Bits per byte against size, time and MACs for six trained models and "
          "the pruned one. Over size the trained ones lie on a falling curve; the "
          "pruned one lies far above it.")

# %% [markdown]
# Down and to the left is better. Over size, the trained models form the curve that every technique of this course has to beat. Yours lies above it: **at its size, a model
# trained with four layers is better**, by half a bit a byte. Training a smaller model is the talk's first technique, with the verdict "strong baseline".
#
# Three more things to see. *Overparameterized?* A little: with a fifth fewer numbers, depth-6 loses 0.016 bits per byte. *Time is not MACs*: width-64 has fewer than depth-2 and takes
# longer; its 8 layers of small products come one after another, which may be why. *Not free*: depth-4 had a training of its own, yours had none. How long is a step of it, forward and back?

# %% tags=["nbval-ignore-output"]
def step(m):
    weights = list(m.parameters())
    return lambda: torch.autograd.grad(data.loss(m(batch), following), weights)

compared = {name: step(models[name]) for name in ("base", "depth-4")}
steps = cost.interleaved(compared, runs=5, warmup=2)
share = steps["depth-4"].median / steps["base"].median
print(f"a step of depth-4 takes {share:.2f} of the base's time;")
print("both took 11,719 steps")

# %%
scores = {row["name"]: row for row in rows}
assert scores["depth-4"]["bits_per_byte"] + 0.4 < scores["4 of 8 kept"]["bits_per_byte"]
assert scores["depth-4"]["stored_bytes"] == scores["4 of 8 kept"]["stored_bytes"]

from minieff.core.files import save_results

lost = {"layers": layers, "heads": heads,
        "zeroed": dict(zip(shares, zeroed)), "bits": dict(zip(widths, bits))}
saved = save_results("00_start_here", {"scoreboard": rows, "nats_lost": lost})

# %% [markdown]
# ## 8. Your turn
#
# Choose layers and bits. Both figures come from one function; it prints the rows below for readers without a running kernel.

# %%
def shrink(keep, bits):
    m = changed(layerdrop.finalize(model, keep=sorted(keep)), rounded(bits))
    q = cost.quality(m, corpus, windows=32)
    return (f"layers {sorted(keep)}, {bits} bits:\n"
            f"    {packed_bytes(m, bits):,} bytes, {q.bits_per_byte:.3f} bits per byte")

print(shrink(range(8), 8), shrink(range(8), 4), sep="\n")
print(shrink([0, 1, 2, 3, 5, 6, 7], 8), shrink([0, 2, 5, 7], 8), sep="\n")

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets

narrow = widgets.Layout(width="44px")
switches = [widgets.ToggleButton(i in (0, 2, 5, 7), description=str(i), layout=narrow)
            for i in range(8)]
bits_control = widgets.ToggleButtons(options=[2, 3, 4, 5, 6, 8], value=8,
                                     description="bits", style={"button_width": "44px"})
answer = widgets.HTML()

def update(_=None):
    keep = [i for i, switch in enumerate(switches) if switch.value]
    answer.value = shrink(keep, bits_control.value) if keep else "keep a layer at least"

# %% tags=["nbval-ignore-output"]
for control in (*switches, bits_control):
    control.observe(update, "value")
update()
widgets.VBox([widgets.HBox([widgets.Label("layers"), *switches]), bits_control, answer])

# %% [markdown]
# Get below 900,000 bytes and stay under 1.4 bits per byte on these windows.
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

# %% tags=["nbval-ignore-output", "predict"]
zeros = changed(model, sparse(0.9))
with torch.no_grad():
    times = cost.interleaved(
        {"full": lambda: model(batch), "zeros": lambda: zeros(batch)}, runs=10, warmup=3
    )
share = times["zeros"].median / times["full"].median
ratio = cost.stored_bytes(zeros) / cost.stored_bytes(model)
print(f"bytes {ratio:.2f}, time {share:.2f} of the full model")

# %% tags=["predict"]
count = sum((p == 0).sum().item() for p in zeros.parameters())
print(f"{count / cost.parameters(zeros):.0%} of the numbers are zero")
assert cost.stored_bytes(zeros) == cost.stored_bytes(model)
coarse = changed(model, rounded(4)).tok.weight
assert len(coarse[0].unique()) <= 15                # 4 bits would do, and each takes 32

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
half = layerdrop.finalize(encoder, keep=[0, 2, 5], where=surgery.is_a(type(layer)))
print(f"{cost.parameters(encoder):,} parameters became {cost.parameters(half):,}")
print("output", tuple(half(torch.randn(1, 10, 64)).shape))

# %% [markdown]
# `python -m minieff snippet layerdrop` prints the idea of a technique, to paste into your project; with `--full` all of it, as one file that needs nothing of this package.
#
# **Recap.** What the talk says each family gives, beside what this page measured.

# %%
depth_2 = scores["base"]["stored_bytes"] / scores["depth-2"]["stored_bytes"]
claims = {"half of the layers pruned": ("2x", before / after),
          "trained smaller, depth-2": ("2-4x", depth_2),
          "int8, from 32 bits": ("4x", before / packed_bytes(model, 8)),
          "int4, from 32 bits": ("8x", before / packed_bytes(model, 4))}
plot.table([[name, talk, f"{ours:.2f}x"] for name, (talk, ours) in claims.items()],
           ["smaller by", "the talk", "here"])

# %% [markdown]
# Here pruning gives less than 2x because the token vectors stay, and int8 less than 4x because of the scales and what is kept in 16 bits. What those sizes cost in quality is in the
# panels of section 4 and on the scoreboard.
#
# **Exercise.** [00 Start here](../exercises/00_start_here.ipynb): six tasks on quality, size, computation, time and energy.
#
# Next in the course: [training a smaller model](01_train_smaller.ipynb), and whether that is the best use of the same computation.

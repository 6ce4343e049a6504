# %% [markdown]
# # 00 Start here: shrink a model, then ask what it cost
#
# **Promise.** In the first minute you make a trained Transformer smaller. Then you learn to say what that cost, on five axes, and to
# notice when a measurement is wrong.
#
# | | |
# |---|---|
# | Takes | about 30 minutes to read; the cells run in less than a minute |
# | Read before | nothing; you know PyTorch and what attention is |
# | Axes | training time, inference time, model size, energy, and what happens to quality |
# | Who says so | Angela Fan's talk "Efficient Transformers": models are overparameterized, redundant, they overfit, and they are too large for practical applications. Sections 4 to 6 test that on one model |
#
# Where you see **Predict**, write your answer down before you run the next cell. Its answer is collapsed: running the cell shows it.

# %%
from math import exp, log

import torch
from minieff import layerdrop
from minieff.core import cost, data, energy, plot, surgery, zoo
from minieff.fast_decoding import generate

corpus = data.speeches()              # State of the Union addresses, 1790 to 2026
model = zoo.load("speeches-base")     # trained on nine tenths of them
for name, part in model.blocks.layers[0].named_children():
    print(f"{name}: {type(part.inner).__name__}, after {type(part.norm).__name__}")

# %% [markdown]
# That is one of its 8 layers: attention over width $C = 128$ with 4 heads, then a feed-forward of width 512. One tenth of the addresses is **held out**: no model was
# trained on it. The **zoo** is the folder of models that this course trained. Each has a **card** that says how, and what came out.
#
# ## 1. Shrink first
#
# The model reads up to 128 tokens and predicts the next. This is what it writes.

# %% tags=["nbval-ignore-output"]
from textwrap import fill

def write(model, prompt="My fellow Americans, the state of our union is"):
    ids = torch.tensor([corpus.tokenizer.encode(prompt)])
    generator = torch.Generator().manual_seed(1)
    ids = generate(model, ids, 60, temperature=0.7, generator=generator)
    print(fill(corpus.tokenizer.decode(ids[0].tolist()), 58))

write(model)

# %% [markdown]
# It is English, and about politics. Now keep layers 0, 2, 5 and 7, evenly spread, and remove the other four. Nothing is trained afterwards.
#
# **Predict.** (a) By what factor does the model shrink? (b) Is what it writes still English?

# %% tags=["nbval-ignore-output", "predict"]
small = layerdrop.finalize(model, keep=[0, 2, 5, 7])
write(small)

# %% tags=["predict"]
before, after = cost.stored_bytes(model), cost.stored_bytes(small)
print(f"{before:,} bytes became {after:,} (32 bits per number)")
print(f"{before / after:.2f} times smaller")

# %% [markdown]
# Half of the layers is not half of the bytes. Which part is not a layer, and how large is it?

# %%
for part in ("tok", "pos", "blocks", "norm"):
    print(f"{part:7}{cost.parameters(getattr(model, part)):>10,} parameters")
print(f"a layer{cost.parameters(model.blocks.layers[0]):>10,}")

# %% [markdown]
# `tok` holds a vector for each of $V = 2048$ tokens, and the output layer uses the same vectors again. It stays whatever you do to the layers: 14 % of the full model
# and 24 % of the small one. Before you shrink anything, find out where the bytes are.
#
# And (b)? The small model joins real pieces of words into words that do not exist. How much worse is that? Two samples are no measurement.

# %% [markdown]
# ## 2. Quality: one number from text that was held out
#
# Cut the held-out addresses into **windows** of 128 tokens. The model gives each next token a probability $p$. Its loss on that token is
# $-\ln p$, counted in **nats** (one bit is 0.69 nats). Here are six tokens of one window.

# %%
ids, targets = next(corpus.windows(context=128, rows=1))     # both (1, 128)
with torch.no_grad():
    log_p = model(ids).log_softmax(-1)                       # (1, 128, 2048)
nats = -log_p[0, torch.arange(128), targets[0]]              # (128,)
for token, loss in list(zip(targets[0].tolist(), nats.tolist()))[60:66]:
    print(f"{corpus.tokenizer.decode([token])!r:>10} {loss:5.2f} nats")

# %% [markdown]
# The beginning of "look" costs 8 nats, its end almost nothing. The mean over tokens is the loss. Its exponential is the **perplexity**: the model is as unsure as
# someone who guesses among that many equally likely tokens.
#
# **Predict.** On all held-out text this model has a perplexity of 27.8. A colleague has another model of the same text, with a perplexity of 3. Which is better?

# %% tags=["predict"]
perplexity = exp(nats.mean())
text_bytes = corpus.tokenizer.sizes[targets[0]]              # (128,) bytes per token
bits_per_byte = float(nats.sum() / log(2) / text_bytes.sum())
print(f"perplexity {perplexity:.1f} per token, {2 ** bits_per_byte:.2f} per byte")
print(f"{bits_per_byte:.3f} bits per byte")

# %% [markdown]
# You cannot tell before you know the colleague's tokens. If they are bytes, a perplexity of 3 is $\log_2 3 = 1.58$ bits per byte. Perplexity is *per token*, so a tokenizer
# with longer tokens raises it while nothing gets worse. **Bits per byte** divide by the bytes of the text instead:
#
# $$\text{bits per byte} = \frac{\text{sum of the losses in nats}}{\ln 2 \cdot \text{bytes of the text}}$$
#
# They compare any two models of the same text, if both read it in windows of the same length (each window starts without context).
#
# One window gave 16.7 where all held-out text gives 27.8: windows differ. `cost.quality` takes all of them, or a number of them spread
# over all addresses. Compare only what was measured on the same windows. On this one window it agrees with your three lines:

# %%
assert abs(cost.quality(model, corpus, windows=1).bits_per_byte - bits_per_byte) < 1e-5
on_all = {"8 layers": zoo.card("speeches-base")["quality"]["bits_per_byte"]}
for count in (32, 128):
    measured = cost.quality(model, corpus, windows=count).bits_per_byte
    print(f"{count:5} windows: {measured:.3f} bits per byte")
print(f"all 2,751:     {on_all['8 layers']:.3f}, from the card")

# %%
every_fourth = cost.quality(small, corpus, windows=688)      # in 2 seconds, not in 8
on_all["4 of them"] = every_fourth.bits_per_byte
print(f"4 of 8 layers: {on_all['4 of them']:.3f} bits per byte")

# %% [markdown]
# That is what it costs to take half of the layers out of a model that was not trained for it. And the colleague: 1.58 is worse than the 8 layers and better than your 4.
#
# ## 3. Four more axes, each measured and mismeasured
#
# ### Size
#
# Below, a model uses one block four times. **Predict.** Which is larger, the bytes of all entries of its `state_dict()`, or those of the file that it is saved to? By
# what factor?

# %% tags=["predict"]
shared = surgery.clone(small)
shared.blocks.layers = torch.nn.ModuleList([shared.blocks.layers[0]] * 4)
by_name = sum(t.numel() * t.element_size() for t in shared.state_dict().values())
in_file = cost.stored_bytes(shared)
print(f"summed over names {by_name:,} bytes, in the file {in_file:,}")
print(f"{by_name / in_file:.2f} times as many")

# %% [markdown]
# `state_dict()` names the shared block four times; a file holds it once. If you sum over names, sharing weights seems to save nothing.
#
# A second mistake is to leave out what you start from. The talk's "4x from int8" starts from 32-bit numbers. The files in this course's zoo have 16 bits per number, and from
# there int8 is 2x.

# %%
half_precision = surgery.clone(model).half()
for bits, stored in ((32, model), (16, half_precision)):
    print(f"{bits} bits: {cost.stored_bytes(stored):,} bytes")

# %% [markdown]
# ### Computation
#
# A linear layer from width $a$ to $b$ does $ab$ multiply-accumulates (**MACs**) per token. A Transformer layer has four of $C \to C$, one of $C \to 4C$ and one back: $12C^2$.
# Attention over $S$ keys adds $2SC$: each key is compared, each value added (counted for all $S = 128$, though on average half of them are hidden). The output layer compares with every token: $VC$.
#
# **Predict.** Of these three, which is the largest in this model at $S = 128$, and what share is attention?

# %% tags=["predict"]
V, C, L, S = 2048, 128, 8, 128
parts = {"linears": L * 12 * C**2, "attention": L * 2 * S * C, "output": V * C}
for part, count in parts.items():
    print(f"{part:10}{count:>10,} MACs per token, {count / sum(parts.values()):.1%}")
assert sum(parts.values()) == cost.macs(model)

# %% [markdown]
# Attention is an eighth, as much as the output layer; the linears are three quarters. Attention is the only part that grows with the context. It equals the linears where
# $2SC = 12C^2$, that is at $S = 6C$: 768 tokens for this width.
#
# ### Inference time
#
# MACs count arithmetic. Time has to be measured. One run is not a measurement:

# %% tags=["nbval-ignore-output"]
from time import perf_counter

torch.set_num_threads(1)                                     # always say how many
batch, following = corpus.batch(8, 128, torch.Generator().manual_seed(0))  # (8, 128)
with torch.no_grad():
    for run in range(4):
        begun = perf_counter()
        model(batch)
        print(f"run {run}: {1e3 * (perf_counter() - begun):.1f} ms")

# %% [markdown]
# The runs differ although nothing changed. So warm up, repeat, and report the median with its **quartiles** (a quarter of the runs lie below the first, a quarter above the
# third; they stand in brackets) and the number of threads. To *compare* two models, run them in turns, so that whatever else your laptop does slows down both.
#
# **Predict.** The 4-layer model does 0.56 of the MACs. What share of the time does it take?

# %% tags=["nbval-ignore-output", "predict"]
with torch.no_grad():
    times = cost.interleaved({"8": lambda: model(batch), "4": lambda: small(batch)})
for layers, time in times.items():
    print(f"{layers} layers: {time}")
print(f"MACs {cost.macs(small) / cost.macs(model):.2f}, "
      f"time {times['4'].median / times['8'].median:.2f} of the full model")

# %% [markdown]
# Here the two agree, because both models are made of the same layers. They need not: in section 7 one model has fewer MACs than another and takes longer.
#
# ### Training time and energy
#
# `cost.report` shows all axes of one model together. A training step is a forward pass, a backward pass and the optimizer. In MACs, a backward pass is two forward passes.
#
# **Predict.** How many times as long as a forward pass does a step take?

# %% tags=["nbval-ignore-output", "predict"]
report = cost.report("speeches-base", model, corpus, runs=5, windows=16)
print(report)
print(f"a step: {report.step.median / report.forward.median:.1f} forward passes")

# %% [markdown]
# Three for the passes (backward needs one product for the gradient of its input and one for that of its weights); the rest is the optimizer and the recording of the pass.
# The forward time may differ from the one further up. Quartiles cover one series of runs, not what changes between two series, and that is why models are timed in turns.
#
# Look at the line for energy. Few machines let a program read the processor's energy counter, and most ask for an administrator. Without it, the report uses a *model* of energy:
# 4.6 picojoules (pJ) for each 32-bit MAC (Horowitz 2014) and 160 pJ for each byte of weights, if every byte comes from main memory (the second figure is
# recalled from the same table and **unverified**). A model can compare designs. It measures nothing, and the package refuses to call it measured:

# %%
modelled = energy.modelled(macs=1024 * cost.macs(model), moved_bytes=before)
print(f"{modelled.joules:.2g} J, {modelled.method}")
try:
    modelled.measured
except ValueError as refusal:
    print("refused:", str(refusal).split(":")[0])

# %% [markdown]
# **Predict.** In this model, what share of the energy goes into reading weights when a pass covers 1,024 tokens, the batch of 8 windows? And when it covers one token, as at generation?

# %% tags=["predict"]
for tokens in (1024, 1):
    arithmetic = energy.modelled(tokens * cost.macs(model), 0).joules
    reading = energy.modelled(0, before).joules
    share = reading / (arithmetic + reading)
    print(f"{tokens:5} tokens per pass: reading weights is {share:.0%}")

# %% [markdown]
# All tokens of a pass share one reading of the weights. If the model is right, generating token by token is nearly all reading. Then fewer bytes per weight save energy even where the MACs stay.

# %% [markdown]
# ## 4. Is this model overparameterized? Redundant?
#
# *Overparameterized*: it would do as well with fewer numbers. *Redundant*: parts of it can go without loss. You can test both by taking
# things away. Nothing is retrained. Quality is the loss on 32 windows spread over the held-out text (16 for the 32 heads, to save time).
#
# **Predict.** You accept a loss that rises by at most 0.05 nats per token. (a) How many of the 8 layers could be removed, one at a time? (b) How many of the 32 attention heads, one at a time? (c) What share of the
# weights of each matrix, smallest first, could be set to zero? (d) How few bits could each weight have?

# %% tags=["predict"]
def loss_of(model, windows=32):
    return cost.quality(model, corpus, windows=windows).nats

full_loss, layer_loss = loss_of(model), []
for layer in range(8):
    others = layerdrop.finalize(model, keep=[k for k in range(8) if k != layer])
    layer_loss.append(loss_of(others) - full_loss)
    print(f"without layer {layer}: {layer_loss[-1]:.2f} nats lost")
assert min(layer_loss) > 0.05 and full_loss + layer_loss[0] > log(2048)

# %% [markdown]
# (a) None. Without the first layer the model does worse than a uniform guess among its 2,048 tokens ($\ln 2048 = 7.62$ nats).
#
# For the heads, `mix.inner` is the attention of a layer, and its last linear, `out`, reads the four heads side by side, 32 columns each.

# %% tags=["predict"]
@torch.no_grad()
def without_head(model, layer, head, width=32):
    copy = surgery.clone(model)
    out = copy.blocks.layers[layer].mix.inner.out
    out.weight[:, head * width : (head + 1) * width] = 0
    return copy

full_16 = loss_of(model, 16)
head_loss = [loss_of(without_head(model, layer, head), 16) - full_16
             for layer in range(8) for head in range(4)]
print(f"{sum(x < 0.05 for x in head_loss)} of 32 heads cost less than 0.05 nats each")
print(f"the most costly one costs {max(head_loss):.2f}")

# %% [markdown]
# For the weights, two changes of a matrix. `sparse` keeps the largest and sets the rest to zero. `rounded` rounds each row to $2^{bits} - 1$ evenly spaced levels between plus and minus its largest.

# %%
def sparse(share):
    def change(w):
        smallest_kept = w.abs().flatten().kthvalue(round(share * w.numel())).values
        return w * (w.abs() > smallest_kept)
    return change

def rounded(bits):
    def change(w):                                           # (out, in)
        scale = w.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)    # (out, 1)
        scale = scale.half().float()                         # stored in 16 bits
        return (w / scale).round() * scale
    return change

# %% tags=["predict"]
def changed(model, change):
    copy = surgery.clone(model)
    with torch.no_grad():
        for w in copy.parameters():
            w.copy_(change(w) if w.dim() == 2 else w)
    return copy

shares, bit_widths = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [8, 7, 6, 5, 4, 3]
zeros_loss = [loss_of(changed(model, sparse(s))) - full_loss for s in shares]
bits_loss = [loss_of(changed(model, rounded(b))) - full_loss for b in bit_widths]
print("zeros, nats lost: ", *(f"{x:.3f}" for x in zeros_loss[:4]))
print("8 to 4 bits, nats:", *(f"{x:.3f}" for x in bits_loss[:5]))

# %% tags=["figure", "predict"]
figure, axes = plot.panels(4, height=3)
axes[0].bar(range(8), layer_loss, color=plot.PALETTE["blue"])
axes[1].bar(range(32), sorted(head_loss), color=plot.PALETTE["sky"])
axes[2].plot(shares, zeros_loss, "o-", color=plot.PALETTE["orange"])
axes[3].plot(bit_widths, bits_loss, "o-", color=plot.PALETTE["green"])
axes[3].invert_xaxis()
titles = ("layer removed", "head removed, in order of loss",
          "share of weights set to zero", "bits per weight")
for ax, title in zip(axes, titles):
    plot.threshold(ax, 0.05, title)
figure.supylabel("nats per token lost")
plot.show(figure, alt="Four panels of nats per token lost, with a dotted line at 0.05. "
          "Every single layer costs more than that, the first by far the most; nearly "
          "all single heads cost less; zeros cost less up to a fifth of the weights; "
          "bits cost less down to five.")

# %% [markdown]
# (The scale is linear up to the dotted line and logarithmic above it.)
#
# (b) 30 of 32. (c) A fifth of the weights for 0.02 nats; three tenths cost more than 0.05. (d) 5 bits. So in this model numbers have more bits than they need, most heads can be spared one at a time, and **no layer can**.
#
# "Each can go" is not "all can go". **Predict.** Remove the 16 cheapest heads together. Does that cost more or less than the sum of what each costs?

# %% tags=["predict"]
cheapest = sorted(range(32), key=lambda i: head_loss[i])[:16]
fewer_heads = model
for i in cheapest:
    fewer_heads = without_head(fewer_heads, i // 4, i % 4)
one_by_one = sum(head_loss[i] for i in cheapest)
together = loss_of(fewer_heads, 16) - full_16
print(f"16 heads: {one_by_one:.2f} nats one by one, {together:.2f} together")
assert together > one_by_one

# %% [markdown]
# More. One explanation, not tested here: of two heads that do the same work, each can be spared as long as the other is there.
#
# ## 5. Overfitting: when data are few
#
# A model of the same shape was trained on every fiftieth training address alone: 5 of 213, over and over, for 4 million tokens.

# %%
few = zoo.card("train_smaller/speeches-few")
figure, (ax,) = plot.panels(1, width=6)
plot.log_curves(ax, few["log"])
plot.show(figure, alt="Loss in nats per token over million tokens seen, trained on "
          "one address in fifty. Training loss falls all the way; held-out loss falls, "
          "turns, and rises.")

# %%
held_out = {row["tokens"]: row["valid"] for row in few["log"] if "valid" in row}
best, last = min(held_out, key=held_out.get), max(held_out)
rise = held_out[last] - held_out[best]
print(f"held out: best {held_out[best]:.2f} nats, after {best:,} tokens")
print(f"at the end {held_out[last]:.2f}, training {few['log'][-1]['train']:.2f}")
assert rise > 0.1

# %% [markdown]
# On the training text, this run gets better and better: that is the dashed curve. And the base model, trained on all 213 addresses, four times over?

# %%
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    batches = [corpus.batch(16, 128, generator) for _ in range(16)]
    seen = torch.tensor([data.loss(model(ids), targets) for ids, targets in batches])
print(f"{seen.mean():.2f} nats on 256 windows it was trained on")
print(f"(standard error {seen.std() / 4:.2f})")
on_held_out = zoo.card("speeches-base")["quality"]["nats"]
print(f"{on_held_out:.2f} nats on all held-out windows")

# %% [markdown]
# There is a gap here, too, and a much smaller one. How much a model overfits depends on how much text it has.
#
# ## 6. Too large for which device?
#
# "Too large" needs a device. Take one with 1 MB of flash for the program and the weights, and 256 KB of working memory, as the data sheet of the nRF52840, a
# Bluetooth microcontroller, gives them. Count what a model needs at a number of bits: the matrices, a 16-bit scale per row, and the vectors in 16 bits. `depth-6` has 6 layers
# and was trained from scratch; `width-96` has 8 layers of width 96.

# %%
def packed_bytes(model, bits):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = sum(p.numel() for p in model.parameters() if p.dim() < 2)
    return sum(p.numel() * bits // 8 + 2 * len(p) for p in matrices) + 2 * vectors

NAMES = ["base", "depth-6", "depth-4", "depth-2", "width-96", "width-64"]
models = {name: zoo.load(f"speeches-{name}") for name in NAMES}
sizes = {name: [2 * cost.parameters(m), packed_bytes(m, 8), packed_bytes(m, 4)]
         for name, m in models.items()}
FLASH, MEMORY = 1024 * 1024, 256 * 1024
rows = [[name] + [f"{size:,}{' fits' if size < FLASH else ''}" for size in needed]
        for name, needed in sizes.items()]
plot.table(rows, ["", "16 bits", "8 bits", "4 bits"])

# %% [markdown]
# In 16 bits none of the six fits. The base fits at 4 bits, and leaves 70 KB for the program. Weights are not all, though. A decoder that keeps the keys and values
# of every layer and position needs $2 \cdot L \cdot S \cdot C$ numbers more.

# %%
cache = 2 * L * S * C * 4
print(f"keys and values of 128 tokens in 32 bits: {cache:,} bytes")
print(f"{cache / MEMORY:.0f} times the working memory")

# %% [markdown]
# So the base model is too large for this device in two ways. 4 bits make it fit into the flash. In the memory, keys and values of 8
# bits would leave nothing for the rest; fewer layers or a shorter context help there.
#
# ## 7. The scoreboard's first rows
#
# Each lesson adds rows to one picture. The first are the base model, five smaller ones trained from scratch on as many tokens, and yours from the first minute. Quality is
# that on all held-out text (yours: on every fourth window), bytes are those of a file with 16 bits per number, and time is that of a pass over 8 windows on one thread.

# %%
quality = {name: zoo.card(f"speeches-{name}")["quality"]["bits_per_byte"]
           for name in NAMES}
models["4 of 8 kept"], quality["4 of 8 kept"] = small, on_all["4 of them"]
with torch.no_grad():
    calls = {name: lambda m=m: m(batch) for name, m in models.items()}
    times = cost.interleaved(calls, runs=5, warmup=1)

# %%
scores = {name: {"name": name, "bits_per_byte": quality[name], "macs": cost.macs(m),
                 "stored_bytes": cost.stored_bytes(surgery.clone(m).half()),
                 "seconds": (times[name].low, times[name].median, times[name].high)}
          for name, m in models.items()}
scores["4 of 8 kept"]["family"] = "pruning"
by_quality = sorted(scores.values(), key=lambda row: row["bits_per_byte"])
plot.table([[row["name"], f"{row['stored_bytes']:,}", f"{row['macs']:,.0f}",
             f"{row['bits_per_byte']:.3f}"] for row in by_quality],
           ["", "bytes", "MACs per token", "bits per byte"])

# %%
figure = plot.scoreboard(list(scores.values()), highlight=["4 of 8 kept"])
plot.show(figure, alt="Bits per byte against size, time and MACs for six trained "
          "models and the pruned one. Over size the trained ones lie on a falling "
          "curve; the pruned one lies far above it.")

# %% [markdown]
# Down and to the left is better. Over size, the trained models form the curve that every technique of this course has to beat. Yours lies above it: **at its size, a model
# trained with four layers is better**, by half a bit per byte. Training a smaller model is the talk's first technique, and the talk calls it a "strong baseline".
#
# Three more things to see. *Overparameterized?* A little: with a fifth fewer numbers, depth-6 loses 0.016 bits per byte. *Time is not MACs*: width-64 has fewer than depth-2 and takes
# longer. Its 8 layers of small products run one after another, which may be why. *Not free*: depth-4 was trained for itself, yours was not trained at all. How long does a step of its training take, forward and backward?

# %% tags=["nbval-ignore-output"]
def step(m):
    weights = list(m.parameters())
    return lambda: torch.autograd.grad(data.loss(m(batch), following), weights)

calls = {name: step(models[name]) for name in ("base", "depth-4")}
steps = cost.interleaved(calls, runs=5, warmup=2)
share = steps["depth-4"].median / steps["base"].median
print(f"a step of depth-4 takes {share:.2f} of the base's time")

# %% [markdown]
# Both were trained for 11,719 steps.
#
# ## 8. Your turn
#
# Choose layers and bits. One function computes bytes and quality; for readers without a running kernel, four choices are printed.

# %%
def shrink(keep, bits):
    m = changed(layerdrop.finalize(model, keep=keep), rounded(bits))
    measured = cost.quality(m, corpus, windows=32).bits_per_byte
    return packed_bytes(m, bits), measured

choices = [(range(8), 8), (range(8), 4), ([0, 1, 2, 3, 5, 6, 7], 8), ([0, 2, 5, 7], 8)]
for keep, bits in choices:
    size, bits_per_byte = shrink(list(keep), bits)
    print(f"{len(keep)} layers, {bits} bits: {size:,} bytes, "
          f"{bits_per_byte:.3f} bits per byte")

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets

buttons = [widgets.ToggleButton(value=i in (0, 2, 5, 7), description=f"layer {i}",
                                layout=widgets.Layout(width="5.5em")) for i in range(8)]
slider = widgets.SelectionSlider(options=[2, 3, 4, 5, 6, 8], value=8,
                                 description="bits", continuous_update=False)
result = widgets.HTML()

def update(_=None):
    chosen = [i for i, button in enumerate(buttons) if button.value]
    if not chosen:
        result.value = "keep at least one layer"
        return
    stored, quality_here = shrink(chosen, slider.value)
    result.value = f"{stored:,} bytes, {quality_here:.3f} bits per byte"

for control in (*buttons, slider):
    control.observe(update, "value")
update()
rows_of_four = [widgets.HBox(buttons[:4]), widgets.HBox(buttons[4:])]
widgets.VBox([*rows_of_four, slider, result])

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
# Set nine of ten weights to zero. **Predict.** How much smaller does the model get, and how much faster?

# %% tags=["nbval-ignore-output", "predict"]
zeros = changed(model, sparse(0.9))
with torch.no_grad():
    calls = {"full": lambda: model(batch), "zeros": lambda: zeros(batch)}
    times = cost.interleaved(calls, runs=5, warmup=1)
print(f"bytes {cost.stored_bytes(zeros) / cost.stored_bytes(model):.2f}, "
      f"time {times['zeros'].median / times['full'].median:.2f} of the full model")

# %% tags=["predict"]
count = sum((p == 0).sum().item() for p in zeros.parameters())
print(f"{count / cost.parameters(zeros):.0%} of the numbers are zero")
assert cost.stored_bytes(zeros) == cost.stored_bytes(model)
four_bits = changed(model, rounded(4))         # 15 values in a row, 32 bits for each
assert len(four_bits.tok.weight[0].unique()) <= 15

# %% [markdown]
# A zero that is stored takes as many bytes as any number, and is multiplied like any number. Rounding is not packing either: the rounded model still holds 32-bit numbers. How to store
# zeros and rounded values in fewer bytes, and to compute faster with them, is the subject of the lessons on sparse weights and quantization.
#
# ## 10. What was claimed, what came out
#
# The talk's four claims about models, and three of its factors. A factor holds if we reach 90 % of it. "In part" means: true up to a point that the measurement names.

# %%
spared = sum(x <= 0.05 for x in head_loss)
share_zero = max(s for s, x in zip(shares, zeros_loss) if x <= 0.05)
factors = {"2x": before / after, "4x": before / sizes["base"][1],
           "8x": before / sizes["base"][2]}
flash = sizes["base"][0] / FLASH

def claim(text, said, measured, unit, holds, where):
    return {"claim": text, "source": "the talk", "said": said, "measured": measured,
            "spread": None, "unit": unit, "holds": holds, "where": where}

# %% tags=["figure"]
claims = [
    claim("models are overparameterized", "fewer numbers suffice", share_zero,
          "of the weights set to zero", "in part",
          "at 0.05 nats per token; 0.3 of them cost more"),
    claim("models are redundant", "parts can go", spared, "of 32 heads can be removed",
          "in part", "at 0.05 nats, one at a time; none of 8 layers can"),
    claim("models overfit", "they do", rise, "nats above its best held-out loss",
          True, "trained on 5 addresses of 213"),
    claim("models are too large for practical applications", "they are", flash,
          "times the device's flash", True,
          "base in 16 bits, 1 MB of flash; it fits in 4 bits"),
    claim("pruning makes models smaller", "2x", factors["2x"], "times smaller", False,
          "half of 8 layers removed: the token vectors stay"),
    claim("int8 makes models smaller", "4x", factors["4x"], "times smaller", True,
          "from 32 bits; half of it from 16"),
    claim("int4 makes models smaller", "8x", factors["8x"], "times smaller", True,
          "from 32 bits; half of it from 16"),
]
assert 0 < share_zero < 0.3 and spared > 16 and min(layer_loss) > 0.05
assert rise > 0.1 and flash > 1 and sizes["base"][2] < FLASH
for factor, measured in factors.items():
    holds = next(c["holds"] for c in claims if c["said"] == factor)
    assert holds == (measured >= 0.9 * int(factor[0]))
ANSWERS = {True: "yes", False: "no", "in part": "in part"}
plot.table([[f"{c['claim']}: {c['said']}", f"{c['measured']:.3g} {c['unit']}",
             f"{ANSWERS[c['holds']]}: {c['where']}"] for c in claims],
           ["the talk says", "measured here", "holds"])

# %% [markdown]
# Pruning gives less than 2x because the token vectors stay, and int8 a little less than 4x because of the scales and what is kept in 16 bits. What these sizes cost in quality is in the
# panels of section 4 and on the scoreboard.
#
# ## 11. Take it home
#
# The same surgery on a model that is not ours, PyTorch's own encoder:

# %%
from torch import nn

layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
where = surgery.is_a(nn.TransformerEncoderLayer)
half = layerdrop.finalize(encoder, keep=[0, 2, 5], where=where)
print(f"{cost.parameters(encoder):,} parameters became {cost.parameters(half):,}")
print("output", tuple(half(torch.randn(1, 10, 64)).shape))

# %%
pruned, trained = scores["4 of 8 kept"], scores["depth-4"]
assert trained["bits_per_byte"] + 0.4 < pruned["bits_per_byte"]
assert trained["stored_bytes"] == pruned["stored_bytes"]

from minieff.core.files import save_results

lost = {"layers": layer_loss, "heads": head_loss,
        "zeroed": dict(zip(shares, zeros_loss)),
        "bits": dict(zip(bit_widths, bits_loss))}
saved = save_results("00_start_here", {
    "scoreboard": list(scores.values()), "nats_lost": lost, "claims": claims})

# %% [markdown]
# `python -m minieff snippet layerdrop` prints the idea of a technique, to paste into your project. With `--full` it prints all of it, as one file that needs nothing of this package.
#
# **Recap.**
#
# - Half of the layers is not half of the bytes: first find out where the bytes are.
# - Compare in bits per byte, on the same windows; in bytes of the file; in times measured in turns.
# - In this model one head of 32 costs little, one layer of 8 a lot, and 5 bits per weight are enough. A small model that was trained as such is hard to beat.
#
# **Exercise.** [00 Start here](../exercises/00_start_here.ipynb): six tasks on quality, size, computation, time and energy.
#
# Next: [training a smaller model](01_train_smaller.ipynb), and whether that is the best use of the same computation.

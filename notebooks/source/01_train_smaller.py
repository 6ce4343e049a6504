# %% [markdown]
# # 01 Train a smaller model: the baseline that everything else has to beat
#
# **Promise.** You can say which smaller model to train for a given file size, time or amount of training, and you know how a plot of
# models can mislead you.
#
# | | |
# |---|---|
# | Takes | the cells run in about 30 seconds; the reading takes longer |
# | Read before | [00 Start here](00_start_here.ipynb): bits a byte, stored bytes, MACs, timing in turns |
# | Axes | training time, inference time and model size fall; quality falls too |
# | Who says so | Angela Fan's talk "Efficient Transformers": "maybe model will be 2-4x smaller", a strong baseline |
#
# Where you see **Predict**, write your answer down before you run the next cell.

# %%
import torch
from minieff import cost, data, plot, surgery, zoo
from minieff.transformer import Config, Transformer

torch.set_num_threads(1)

# %%
corpus = data.speeches()
NAMES = ["base", "depth-6", "depth-4", "depth-2", "depth-1", "width-96", "width-64"]
cards = {name: zoo.card(f"speeches-{name}") for name in NAMES}
models = {name: zoo.load(f"speeches-{name}") for name in NAMES if name != "depth-1"}
models["depth-1"] = Transformer(Config(vocab=2048, **cards["depth-1"]["recipe"]["model"])).eval()

# %% [markdown]
# The base model has 8 layers of width 128. The others have fewer layers or are narrower. Each was trained from nothing, on the same 12 million tokens, with the same recipe. (Of `depth-1`
# the card ships and not the weights: here stands an untrained model of its shape, which has its size and its speed.)
#
# ## 1. Two directions to shrink in
#
# **Predict.** You take away half of the base's layers. Or half of its width. Which gives the smaller model?

# %%
def size(L, C, V=2048, S=128):
    layer = 12 * C**2 + 13 * C          # attention 4 C^2, feed-forward 8 C^2, biases and norms 13 C
    return V * C + S * C + L * layer + 2 * C

# %%
for L, C in ((8, 128), (4, 128), (8, 64)):
    print(f"{L} layers of width {C:3}: {size(L, C):>9,} parameters, {size(L, C) / size(8, 128):.2f} of the base")
assert all(size(m.config.layers, m.config.dim) == cost.parameters(m) for m in models.values())

# %% [markdown]
# Half the width: a layer's matrices are $C \times C$ and larger, so they fall to a quarter, and the token vectors fall to half. Depth is taken away in equal slices and leaves the token vectors
# alone. Width counts twice.
#
# That is the whole technique: write smaller numbers into the configuration, and train.

# %%
config = Config(vocab=2048, context=128, layers=4, heads=4, dim=128)
fresh = Transformer(config)
print(f"{cost.parameters(fresh):,} parameters, a loss of {cost.quality(fresh, corpus, windows=16).nats:.1f} nats a token before training")
print("recipe of depth-4:", cards["depth-4"]["recipe"]["model"])

# %% [markdown]
# $\ln 2048 = 7.6$ nats is the loss of a fair guess: nothing is learned yet. `python -m minieff train zoo/speeches-depth-4.toml` trained the one in the zoo, in under an hour on one thread. Nothing was
# carried over from the base model.
#
# ## 2. Equal tokens: one plot, one curve
#
# All seven have seen the same 12 million tokens. A model is worth having if no other is at least as small and at least as good, and better in one of the two. Such models form the
# **Pareto front**.

# %%
points = {name: (cards[name]["bytes"], cards[name]["quality"]["bits_per_byte"]) for name in NAMES}

def dominates(a, b):
    return a[0] <= b[0] and a[1] <= b[1] and a != b

front = [name for name in NAMES if not any(dominates(points[other], points[name]) for other in NAMES)]
assert front == cost.pareto(points)

# %%
for name in sorted(NAMES, key=lambda name: points[name][0]):
    print(f"{name:9}{points[name][0]:>10,} bytes {points[name][1]:.4f} bits a byte", "" if name in front else "  dominated")

# %%
def dots(ax, points, unit=1e-6):
    for place, (name, (x, y)) in enumerate(sorted(points.items(), key=lambda item: item[1])):
        ax.plot(unit * x, y, "o", color=plot.PALETTE["blue"])
        ax.annotate(name, (unit * x, y), xytext=(6, -12 if place % 2 else 6), textcoords="offset points", fontsize=8)
    ax.margins(x=0.2, y=0.15)

# %%
figure, (ax,) = plot.panels(1, width=6)
dots(ax, points)
ax.plot(*zip(*sorted((1e-6 * points[n][0], points[n][1]) for n in front)), ":", color=plot.PALETTE["grey"])
ax.set(xlabel="size of the file in MB (16 bits a number)", ylabel="bits a byte on held-out text")
plot.show(figure, alt="Bits a byte over file size for seven models. Six lie on one falling curve from depth-1 at 1.0 MB to "
          "the base at 3.7 MB, width-96 and depth-4 nearly on top of each other; width-64 lies above the curve.")

# %% [markdown]
# Six of seven are on the front. The talk says of training smaller: "maybe 2-4x smaller". On this front, what does each factor cost?

# %%
base = points["base"]
for name in ("depth-6", "depth-4", "depth-2", "depth-1"):
    print(f"{name:9}{base[0] / points[name][0]:.1f} times smaller, {points[name][1] - base[1]:.3f} bits a byte worse")

# %% [markdown]
# ## 3. Depth or width?
#
# At the small end, `width-64` has 8 layers and is dominated by `depth-1`, which has one: at this size, depth is the better thing to give up. At the size of `depth-4`, `width-96` is 0.0004 bits a
# byte better than `depth-4`, and on the front for that. **Predict.** Train both once more, from other random numbers. By how much will each result move: less than 0.0004, about as much, or more?

# %%
again = {name: zoo.card(f"speeches-{name}-seed-1")["quality"]["bits_per_byte"] for name in ("depth-4", "width-96")}
for name, bits in again.items():
    print(f"{name:9}{points[name][1]:.4f} and {bits:.4f} bits a byte: apart by {abs(bits - points[name][1]):.4f}")

# %% [markdown]
# Each moves by 0.003, seven times what lay between them. So 0.0004 says nothing, and neither does any other difference on this page that is smaller than about 0.003: the place on the front was luck.
#
# At this size, then, bytes do not decide between depth and width. Does time? **Predict.** `width-96` and `depth-4` do about the same number of MACs. Which is faster on one thread, and by how much?

# %% tags=["nbval-ignore-output"]
window, _ = next(corpus.windows(context=128, rows=1))                                  # (1, 128)
with torch.no_grad():
    passes = cost.interleaved({name: lambda m=m: m(window) for name, m in models.items()}, runs=20, warmup=5)
for name, m in models.items():
    print(f"{name:9}{cost.macs(m) / 1e6:5.2f} million MACs a token {1e3 * passes[name].median:6.2f} ms a window "
          f"(quartiles {1e3 * passes[name].low:.2f} to {1e3 * passes[name].high:.2f})")

# %% [markdown]
# Eight narrow layers take longer than four wide ones, for about as many MACs: layers wait for one another, and a small matrix product uses the processor less well. So in this family **depth is
# cheaper to give up than width**: at the size of `depth-4` the two give equal quality and depth saves more time, and at the small end depth wins on bytes, time and quality at once.
#
# ## 4. Equal compute, equal time
#
# "Equal tokens" favours the large model: each token costs it more. A training step is a forward pass and a backward pass of twice its MACs, so a run of $n$ tokens has spent about
# $3 \cdot \text{MACs} \cdot n$. The logs have the held-out loss along the way. (A log looks at fewer windows than a card; each curve is shifted to end at its card's value.)

# %%
def curve(name):
    card = zoo.card(f"speeches-{name}")
    rows = [(row["tokens"], row.get("valid", row.get("valid_first_256"))) for row in card["log"]]
    tokens, nats = torch.tensor([row for row in rows if row[1] is not None], dtype=torch.float64).T
    bits = card["quality"]["bits_per_byte"] / card["quality"]["nats"]                     # of a nat a token
    return tokens, (nats - nats[-1] + card["quality"]["nats"]) * bits, 3 * card["macs"] * tokens

# %% tags=["nbval-ignore-output"]
batch, following = corpus.batch(8, 128, torch.Generator().manual_seed(0))              # both (8, 128)

def step(model):
    copy = surgery.clone(model).train()
    optimizer = torch.optim.AdamW(copy.parameters(), lr=0.0, fused=True)
    def one():
        data.loss(copy(batch), following).backward()
        optimizer.step()
        optimizer.zero_grad()
    return one

# %% tags=["nbval-ignore-output"]
steps = cost.interleaved({name: step(m) for name, m in models.items()}, runs=5, warmup=1)
print({name: f"{1e3 * timing.median:.0f} ms a step" for name, timing in steps.items()})

# %% [markdown]
# **Predict.** Stop every run when it has spent what `depth-4` spends in its whole run. Which is ahead?

# %%
COLOURS = dict(zip(NAMES, ("black", "blue", "sky", "green", "purple", "orange", "red")))
MARKS = dict(zip(NAMES, "osD^Pvx"))
figure, axes = plot.panels(3, width=4.2, height=3.6)
for name in NAMES:
    tokens, bits, macs = curve(name)
    hours = tokens / (8 * 128) * steps[name].median / 3600
    for ax, x in zip(axes, (tokens / 1e6, macs / 1e12, hours)):
        ax.plot(x, bits, color=plot.PALETTE[COLOURS[name]], marker=MARKS[name], ms=3.5, lw=1, label=name)

# %%
for ax, label in zip(axes, ("million tokens", "training compute in $10^{12}$ MACs", "hours on one thread (steps timed here)")):
    ax.set(xlabel=label, ylim=(1.32, 1.72))
axes[1].axvline(curve("depth-4")[2][-1] / 1e12, ls=":", color=plot.PALETTE["grey"])
axes[0].set_ylabel("bits a byte on held-out text")
axes[0].legend(frameon=False, fontsize=8)
plot.show(figure, alt="Held-out bits a byte of seven runs over tokens, over compute and over hours. Over tokens the base is lowest "
          "after the first quarter. Over compute and over hours depth-2 and depth-4 are lowest until their runs end.")

# %%
import numpy as np

budget = float(curve("depth-4")[2][-1])
for name in NAMES[:4]:
    tokens, bits, macs = curve(name)
    where = "at its end" if macs[-1] <= budget else f"stopped after {float(np.interp(budget, macs, tokens)) / 1e6:.1f} million tokens"
    print(f"{name:9}{np.interp(budget, macs, bits):.3f} bits a byte, {where}")

# %% [markdown]
# That comparison has two faults, and both are common. `depth-2` has not spent the budget: its run ended. And the base was *stopped*: its learning rate was to fall to zero at 12 million tokens, and at
# half of that it is still high. A run that is planned for its budget ends better than one that is cut off.
#
# So more runs were made, with 8, 6, 2 and 1 layers, each planned to spend what `depth-4` spends. **Predict.** Plot quality over depth at this one budget. Which depth is best: 1, 2, 4, 6 or 8?

# %%
PLANNED = {8: "same-macs-8", 6: "same-macs-6", 4: "depth-4", 2: "same-macs-2", 1: "same-macs-1"}
planned = {layers: zoo.card(f"speeches-{name}") for layers, name in PLANNED.items()}
spent = {layers: card["macs"] * card["tokens"] for layers, card in planned.items()}
assert max(spent.values()) / min(spent.values()) < 1.001
for layers, card in planned.items():
    print(f"{layers} layers, {card['tokens'] / 1e6:4.1f} million tokens: {card['quality']['bits_per_byte']:.3f} bits a byte")

# %%
best = min(planned, key=lambda layers: planned[layers]["quality"]["bits_per_byte"])
assert best == 2

# %%
figure, (ax,) = plot.panels(1, width=6)
equal_tokens = {1: "depth-1", 2: "depth-2", 4: "depth-4", 6: "depth-6", 8: "base"}
ax.plot(list(equal_tokens), [zoo.card(f"speeches-{n}")["quality"]["bits_per_byte"] for n in equal_tokens.values()], "o--",
        color=plot.PALETTE["sky"], label="equal tokens (12 million)")
ax.plot(list(planned), [card["quality"]["bits_per_byte"] for card in planned.values()], "s-", color=plot.PALETTE["red"],
        label="equal compute (that of 4 layers and 12 million tokens)")
ax.set(xlabel="layers", ylabel="bits a byte on held-out text", xticks=[1, 2, 4, 6, 8])
ax.legend(frameon=False)
plot.show(figure, alt="Bits a byte over the number of layers. At equal tokens the curve falls all the way to 8 layers. "
          "At equal compute it is a valley: 1.394 at 1 layer, lowest at 2 with 1.367, then rising to 1.417 at 8.")

# %% [markdown]
# At equal tokens, deeper is better all the way. At equal compute there is a best depth, and it is 2: one layer has too little to learn with, eight see too little text. The base's shape is the worst of the five.
# (The two curves cross at 4 layers because that run is in both.)
#
# The run with 2 layers and 19.6 million tokens is better than `depth-4`, at 0.63 of its bytes and the same training. It read the training text 6.6 times instead of 4; the text does not get longer.
#
# So "train a smaller model" has two readings. For the *same tokens* you pay in quality. For the *same compute* you may be paid: a model that is too large for its budget is beaten by one half its size or less. With a larger budget
# the best depth moves up, which is why it has to be measured and not remembered.
#
# ## 5. Why the talk calls it a strong baseline
#
# Lesson 00 removed four of the base's layers without training. Here is that model beside the one of the same shape that was trained at that size.

# %%
from minieff.files import load_results

pruned = next(row for row in load_results("00_start_here")["scoreboard"] if row["name"] == "4 of 8 kept")
print(f"4 of 8 layers kept, no training: {pruned['bits_per_byte']:.3f} bits a byte; 4 layers from nothing: {points['depth-4'][1]:.3f}")
print(f"the same bytes: {pruned['stored_bytes']:,} and {cost.stored_bytes(surgery.clone(models['depth-4']).half()):,}")

# %% [markdown]
# Half a bit a byte. Whoever compresses has to beat that, and in print the margins are small. On MNLI (a test of language understanding, percent correct), from Fan, Grave and Joulin 2019:
#
# | 6 layers | from scratch | otherwise |
# |---|---|---|
# | BERT | 81.9 | 81.6 distilled (DistilBERT) |
# | RoBERTa | 82.3 | 82.9 pruned from a model trained with LayerDrop |
#
# Training the small model did better than distilling into it, and was 0.6 behind LayerDrop. A technique that is shown without this row has not been compared.
#
# ## 6. The counterpoint: train large, then compress
#
# Li, Wallace and others (2020, arXiv 2002.11794) advise the opposite: train a *large* model, stop early, then compress it heavily. They give two reasons. Larger models need fewer steps to reach a given
# loss, so many fewer that it outpaces the price of a step; and larger models lose less when they are compressed.
#
# **Predict.** On our runs: to reach 1.5 bits a byte, does the base need fewer tokens than `depth-2`? Fewer MACs?

# %%
for name in NAMES[:4]:
    tokens, bits, macs = (values.flip(0) for values in curve(name))
    needed = np.interp(1.5, bits, tokens) / 1e6
    print(f"{name:9}reaches 1.5 bits a byte after {needed:.1f} million tokens, {np.interp(1.5, bits, macs) / 1e12:4.1f} trillion MACs")

# %% [markdown]
# Fewer tokens, yes. Fewer MACs, no: a step of the base costs 2.9 times as many as a step of `depth-2`, and the base needs 0.74 of the steps. The paper pretrained RoBERTa variants and translation models, far
# larger, on far more text, and on hardware that a larger model uses better. At this scale the first reason does not hold. And the second? Round the matrices to fewer bits, as in lesson 00.

# %%
def rounded(model, bits):
    copy = surgery.clone(model)
    with torch.no_grad():
        for w in (p for p in copy.parameters() if p.dim() == 2):                             # (out, in)
            scale = (w.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)).half().float()   # (out, 1)
            w.copy_((w / scale).round() * scale)
    return copy

# %%
def packed_bytes(model, bits):                       # codes, a 16-bit scale a row, vectors in 16 bits
    return sum(p.numel() * bits // 8 + 2 * len(p) if p.dim() == 2 else 2 * p.numel() for p in model.parameters())

# %%
WIDTHS = (8, 6, 5, 4)
packed = {(name, bits): (packed_bytes(models[name], bits), cost.quality(rounded(models[name], bits), corpus, windows=86).bits_per_byte)
          for name in ("base", "depth-4", "depth-2") for bits in WIDTHS}
for name in ("base", "depth-4", "depth-2"):
    print(f"{name:8}" + "".join(f" {bits} bits: {packed[name, bits][0] / 1e6:.2f} MB, {packed[name, bits][1]:.3f};" for bits in WIDTHS))

# %%
figure, (ax,) = plot.panels(1, width=6)
for name in ("base", "depth-4", "depth-2"):
    x, y = zip(*(packed[name, bits] for bits in WIDTHS))
    ax.plot([v / 1e6 for v in x], y, marker=MARKS[name], color=plot.PALETTE[COLOURS[name]], label=f"{name}, {', '.join(map(str, WIDTHS))} bits")
ax.set(xlabel="size in MB, codes packed", ylabel="bits a byte (86 windows)")
ax.legend(frameon=False)
plot.show(figure, alt="Bits a byte over packed size for three models at 8, 6, 5 and 4 bits. Each curve is flat from 8 to 5 bits and rises at 4. "
          "At 1 MB the base at 4 bits lies just below depth-4 at 8 bits.")

# %%
unrounded = {name: cost.quality(models[name], corpus, windows=86).bits_per_byte for name in ("base", "depth-4", "depth-2")}
for bits in (8, 4):
    lost = {name: packed[name, bits][1] - before for name, before in unrounded.items()}
    print(f"bits a byte lost at {bits} bits:", {name: round(x, 3) for name, x in lost.items()})
assert lost["base"] < lost["depth-4"] < lost["depth-2"]
assert packed["base", 4][0] < packed["depth-4", 8][0] and packed["base", 4][1] < packed["depth-4", 8][1]
assert packed["depth-4", 5][1] < packed["depth-2", 8][1]

# %% [markdown]
# The second reason holds: the larger the model, the less it loses at 4 bits. `base` at 4 bits is smaller than `depth-4` at 8 and a little better; `depth-4` at 5 bits has the bytes of `depth-2` at 8 and is better.
#
# But that compares models that were trained on equal *tokens*; the base cost 1.8 times the compute of `depth-4`. At equal compute, 8 layers reached 1.417 on all held-out text before any
# compression; `depth-4` has 1.379 there, and 8 bits cost it next to nothing. So here: **if training is paid for, compress a larger model; if training is what you pay, train the smaller one.** Rounding is the crudest compression. Lesson 16 settles the question with the others.
#
# ## 7. Your turn: a device picks the model
#
# Set what a device allows: bytes for the file, at a number of bits, and milliseconds for a window of 128 tokens. The best model that fits is picked; the table comes from the same function.

# %%
def pick(megabytes, bits=8, milliseconds=None):
    fits = [name for name in NAMES if packed_bytes(models[name], bits) <= 1e6 * megabytes
            and (milliseconds is None or 1e3 * passes[name].median <= milliseconds)]
    return min(fits, key=lambda name: points[name][1], default=None)

for megabytes in (0.5, 0.6, 0.8, 1.2, 1.6, 2.0):
    print(f"{megabytes} MB:", ", ".join(f"{bits} bits {pick(megabytes, bits)}" for bits in (8, 4)))

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets

megabytes = widgets.FloatSlider(min=0.2, max=4, step=0.1, value=1.2, description="MB")
bits = widgets.SelectionSlider(options=[16, 8, 6, 5, 4], value=8, description="bits")
slowest = max(1e3 * t.median for t in passes.values())
milliseconds = widgets.FloatSlider(min=0.0, max=1.2 * slowest, step=0.1, value=1.2 * slowest, description="ms")
picked = widgets.HTML()

# %% tags=["nbval-ignore-output"]
def update(_=None):
    name = pick(megabytes.value, bits.value, milliseconds.value)
    picked.value = "nothing fits" if name is None else (
        f"<b>{name}</b>: {packed_bytes(models[name], bits.value):,} bytes, {1e3 * passes[name].median:.1f} ms a window, "
        f"{points[name][1]:.3f} bits a byte before rounding")

# %% tags=["nbval-ignore-output"]
for control in (megabytes, bits, milliseconds):
    control.observe(update, "value")
update()
widgets.VBox([megabytes, bits, milliseconds, picked])

# %% [markdown]
# (Quality is that before rounding; section 6 says what 4 bits cost three of them.) Lower the milliseconds alone, then the megabytes alone. Which model is never picked, whatever the limits?
#
# <details><summary>Answer</summary>
#
# `width-64`. `depth-1` is smaller, faster and better. Time is a third axis of the front, and here it removes nothing else.
#
# </details>
#
# ## 8. What it does not do
#
# A smaller model does not come out of a larger one. Each size is a training run of its own, and the talk counts that against it: "if you want a smaller model size, need to re-train".

# %%
total = sum(cards[name]["macs"] * cards[name]["tokens"] for name in NAMES)
print(f"the family of seven cost {total / (cards['base']['macs'] * cards['base']['tokens']):.1f} times what the base alone did")

# %% [markdown]
# Nor does being smaller help with what has been memorized, here. The gap between training text and held-out text, at the end of each run:

# %%
gaps = {name: cards[name]["quality"]["nats"] - cards[name]["log"][-1]["train"] for name in NAMES}
print("held out minus training, nats a token:", {name: round(gap, 2) for name, gap in gaps.items()})
assert gaps["base"] == max(gaps.values()) and cards["base"]["quality"]["nats"] == min(card["quality"]["nats"] for card in cards.values())

# %% [markdown]
# The smaller, the smaller the gap; and still the base is best on text that nobody has seen. A gap is no reason by itself to shrink. (On five addresses it was: lesson 00, section 5.)
#
# Three limits of this page. All models were trained with one learning rate, which was chosen on the base; a smaller model may prefer another, so the front may be unfair to it. One task, one text, 128 tokens of context. And except
# for two models, one run each.
#
# ## 9. Take it home
#
# On a model that is not ours, the same two directions. PyTorch's encoder, at the size of BERT base without its 30,522 token vectors of width 768:

# %%
from torch import nn

def encoder(layers, width):
    layer = nn.TransformerEncoderLayer(width, 12, 4 * width, batch_first=True, device="meta")
    return cost.parameters(nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)) + 30522 * width

# %%
whole = encoder(12, 768)
for layers, width in ((6, 768), (12, 384), (12, 528)):
    print(f"{layers:2} layers of width {width}: {encoder(layers, width) / 1e6:5.1f} million numbers, {encoder(layers, width) / whole:.2f} of the whole")

# %% [markdown]
# Half of the depth leaves six tenths: token vectors again. `cost.pareto` takes your own points, with any number of axes.
#
# **Recap**, as measured, from base to `depth-4`; the talk's slide has an arrow for each.

# %% tags=["nbval-ignore-output"]
both = [(3 * cards[n]["macs"], steps[n].median, passes[n].median, points[n][0], points[n][1]) for n in ("base", "depth-4")]
for axis, before, after in zip(("training MACs", "training time", "inference time", "model size", "bits a byte"), *both):
    print(f"{axis:15} {'down to' if after < before else 'up to'} {after / before:.2f} of the base's")

# %% [markdown]
# On the scoreboard, the three runs that were planned for less compute (their sizes and times are those of their shapes). A point is a recipe, not a shape: 8 layers occur twice.

# %%
board = load_results("00_start_here")["scoreboard"]
shape = {row["name"]: row for row in board}
short = [shape[like] | {"name": f"{like}, planned", "bits_per_byte": planned[layers]["quality"]["bits_per_byte"]}
         for layers, like in ((8, "base"), (6, "depth-6"), (2, "depth-2"))]

# %%
rows = [row for row in board if row["name"] != "4 of 8 kept"] + short
plot.show(plot.scoreboard(rows, highlight=[row["name"] for row in short]), alt="The scoreboard with three more points: 2 layers trained longer lie below the curve of the "
          "others over size, time and MACs; 6 and 8 layers trained more briefly lie above it.")

# %%
from minieff.files import save_results

saved = save_results("01_train_smaller", {
    "equal_compute": [{"layers": layers, "tokens": card["tokens"], "bits_per_byte": card["quality"]["bits_per_byte"]} for layers, card in planned.items()],
    "seeds": {name: [points[name][1], again[name]] for name in again},
    "step_seconds": {name: (t.low, t.median, t.high) for name, t in steps.items()},
    "packed": [{"name": name, "bits": bits, "bytes": size_, "bits_per_byte": quality} for (name, bits), (size_, quality) in packed.items()]})

# %% [markdown]
# **Exercise.** [01 Train a smaller model](../exercises/01_train_smaller.ipynb): the front with ties, compute-matched training, a log that is read wrongly, shrinking a model with a large
# vocabulary, a device's limits, and whether a difference is more than chance.
#
# Next in the course: zeros in the weights, and when they are worth anything.

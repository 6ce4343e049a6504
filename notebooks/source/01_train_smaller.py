# %% [markdown]
# # 01 Train a smaller model: the baseline to compare with
#
# **Promise.** You can say which smaller model to train for a given file size, time or amount of training, and you know how a plot of
# models can mislead you.
#
# | | |
# |---|---|
# | Takes | the cells run in about 30 seconds; the reading takes longer |
# | Read before | [00 Start here](00_start_here.ipynb): bits a byte, stored bytes, MACs, timing in turns |
# | Axes | training time, inference time and model size fall; quality falls too |
# | Who says so | Angela Fan's talk "Efficient Transformers": "maybe model will be 2-4x smaller", and in its summary "strong baseline. would not discount." Energy is not measured here |
#
# Where you see **Predict**, write your answer down before you run the next cell.

# %%
import torch
from minieff.core import cost, data, plot, surgery, zoo
from minieff.core.transformer import Config, Transformer

torch.set_num_threads(1)

# %%
corpus = data.speeches()
NAMES = ["base", "depth-6", "depth-4", "depth-2", "depth-1", "width-96", "width-64"]
cards = {name: zoo.card(f"speeches-{name}") for name in NAMES}
models = {name: zoo.load(f"speeches-{name}") for name in NAMES}
print({name: f"{card['recipe']['model']['layers']} x {card['recipe']['model']['dim']}" for name, card in cards.items()})

# %% [markdown]
# The base model has 8 layers of width 128. The others have fewer layers or are narrower. Each was trained from nothing on 12 million tokens with the same settings; the narrow ones have 3 and 2 heads, of 32 channels as in the base.
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
# Half the width: a layer's matrices fall to a quarter, with the square of the width, and the token vectors fall to half. Each layer less takes away the same number of parameters, and leaves the token vectors alone.
#
# That is the whole technique: write smaller numbers into the configuration, and train.

# %%
config = Config(vocab=2048, context=128, layers=4, heads=4, dim=128)
torch.manual_seed(0)
fresh = Transformer(config)
print(f"{cost.parameters(fresh):,} parameters, a loss of {cost.quality(fresh, corpus, windows=16).nats:.1f} nats a token before training")
print("recipe of depth-4:", cards["depth-4"]["recipe"]["model"])

# %% [markdown]
# $\ln 2048 = 7.6$ nats is the loss of giving all 2,048 tokens the same probability: nothing is learned yet. `python -m minieff train zoo/speeches-depth-4.toml` trained the one in the zoo. Nothing was
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
def dots(ax, points, unit=1e-6, **style):
    for place, (name, (x, y)) in enumerate(sorted(points.items(), key=lambda item: item[1])):
        ax.plot(unit * x, y, "s" if "width" in name else "o", color=plot.PALETTE["orange" if "width" in name else "blue"], **style)
        ax.annotate(name, (unit * x, y), xytext=(6, 6) if place % 2 else (-6, -13), ha="left" if place % 2 else "right",
                    textcoords="offset points", fontsize=8)
    ax.margins(x=0.25, y=0.2)

# %%
figure, (ax,) = plot.panels(1, width=6)
dots(ax, points)
ax.plot(*zip(*sorted((1e-6 * points[n][0], points[n][1]) for n in front)), ":", color=plot.PALETTE["grey"])
ax.set(xlabel="size of the file in MB (16 bits a number)", ylabel="bits a byte on held-out text")
plot.show(figure, alt="Bits a byte over file size: circles for fewer layers, squares for narrower models. Six of seven lie on a falling "
          "curve from depth-1 at 1.0 MB to the base at 3.7 MB, width-96 and depth-4 nearly on top of each other; width-64 lies above it.")

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
# byte better than `depth-4`, and on the front for that. **Guess.** Train both once more with another **seed**: other random numbers for the starting weights and for the order of the text. By how much will each result move: less
# than 0.0004, about as much, or more?

# %%
again = {name: zoo.card(f"train_smaller/speeches-{name}-seed-1")["quality"]["bits_per_byte"] for name in ("depth-4", "width-96")}
for name, bits in again.items():
    print(f"{name:9}{points[name][1]:.4f} and {bits:.4f} bits a byte: apart by {abs(bits - points[name][1]):.4f}")

# %% [markdown]
# Both fall by about 0.003, six times what lay between them. A seed sets the first weights and the order of the training text, and both models share that order, so part of the movement is common.
# Compared seed by seed, `width-96` is ahead by 0.0004 and by 0.0001. Two pairs do not say whether that is more than nothing; it is too little to choose by. For runs that share nothing, this page reads nothing into less than 0.005,
# about twice what chance moved here.
#
# At this size, then, bytes do not decide between depth and width. Does time? **Predict.** `width-96` and `depth-4` do about the same number of MACs. Which is faster on one thread, and by how much?

# %% tags=["nbval-ignore-output"]
window, _ = next(corpus.windows(context=128, rows=1))                                  # (1, 128)
with torch.no_grad():
    passes = cost.interleaved({name: lambda m=m: m(window) for name, m in models.items()}, runs=30, warmup=10)
for name, m in models.items():
    print(f"{name:9}{cost.macs(m) / 1e6:5.2f} million MACs a token {1e3 * passes[name].median:6.2f} ms a window "
          f"(quartiles {1e3 * passes[name].low:.2f} to {1e3 * passes[name].high:.2f})")

# %% [markdown]
# Eight narrow layers take longer than four wide ones, for 1.08 times the MACs. They also run twice as many operations, each on 96 channels instead of 128; what costs the time is not tested here. So in this family **depth is cheaper to give
# up than width**: at the size of `depth-4` the two give equal quality and depth saves more time, and at the small end depth wins on bytes, time and quality at once. One reservation: all runs used one learning rate, 0.003. It was not tuned for
# any of them, and the narrow models may want another.
#
# ## 4. Equal compute, equal time
#
# "Equal tokens" favours the large model: each token costs it more. In these runs the learning rate rises for 100 steps and then falls along a cosine, to reach zero with the last token. A training step is a forward pass and a backward pass of twice its MACs, so a run of $n$ tokens has spent about
# $3 \cdot \text{MACs} \cdot n$. The logs have the held-out loss along the way. (Six of them looked at the first 256 held-out windows, which are easier, `depth-1` at 256 spread ones. Each curve is shifted to end at its card's value: exact at
# its end, uncertain by about 0.015 bits a byte early on.)

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
steps = cost.interleaved({name: step(m) for name, m in models.items()}, runs=9, warmup=2)
for name, timing in steps.items():
    print(f"{name:9}{1e3 * timing.median:4.0f} ms a step (quartiles {1e3 * timing.low:.0f} to {1e3 * timing.high:.0f})")

# %% [markdown]
# **Predict.** Stop every run when it has spent what `depth-4` spends in its whole run (a run that ended before keeps its last value). Which of the seven has the lowest loss?

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
whole_run = curve("depth-4")
for ax, x in zip(axes[1:], (whole_run[2][-1] / 1e12, whole_run[0][-1] / (8 * 128) * steps["depth-4"].median / 3600)):
    ax.axvline(float(x), ls=":", color=plot.PALETTE["grey"])
axes[0].set_ylabel("bits a byte on held-out text")
axes[0].legend(frameon=False, fontsize=8)
plot.show(figure, alt="Held-out bits a byte of seven runs over tokens, over compute and over hours. Over tokens the base is lowest "
          "after the first quarter. Over compute and over hours the shallowest run that is still going is lowest: depth-1, depth-2, depth-4, depth-6, base.")

# %%
import numpy as np

budget = float(curve("depth-4")[2][-1])
for name in NAMES:
    tokens, bits, macs = curve(name)
    where = "at its end" if macs[-1] <= budget else f"stopped after {float(np.interp(budget, macs, tokens)) / 1e6:.1f} million tokens"
    print(f"{name:9}{np.interp(budget, macs, bits):.3f} bits a byte, {where}")

# %% [markdown]
# `depth-4`, by 0.002 over `width-96` and by 0.022 over `depth-6`. Over time the picture is much the same: among depths a step's time follows its MACs (right panel), and only the narrow models take longer than their MACs say.
#
# The comparison has two faults, and both are common. `depth-2` and `depth-1` have not spent the budget: their runs ended. And the base was *stopped*: its learning rate was to reach zero at 12 million tokens, and at 0.56 of that it is still 0.4
# of its highest. A run that is planned for its budget ends better than one that is cut off.
#
# So more runs were made, with 8, 6, 2 and 1 layers, each planned to spend what `depth-4` spends: its learning rate reaches zero there. **Guess.** Plot quality over depth at this one budget. Which depth is best: 1, 2, 4, 6 or 8?

# %%
PLANNED = {8: "train_smaller/speeches-same-macs-8", 6: "train_smaller/speeches-same-macs-6", 4: "speeches-depth-4",
           2: "speeches-same-macs-2", 1: "train_smaller/speeches-same-macs-1"}
planned = {layers: zoo.card(name) for layers, name in PLANNED.items()}
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
# At equal tokens, deeper is better all the way. At equal compute, 2 layers are the best of the five depths, 0.011 ahead of 4, and 8 layers are beaten by all the others, also by 1 layer. Why is not tested here: fewer layers can express less, and
# more layers saw less text. Planning was worth 0.03 to 8 layers (1.417 instead of 1.445) and did not change the order.
#
# The 2 layers saw 19.6 million tokens, 6.6 times the training text; `depth-4` saw it 4 times. They are better than `depth-4`, at 0.63 of its bytes and for the same training compute.
#
# So "train a smaller model" has two readings. With the *same tokens* you pay in quality. With the *same compute* the smaller model may be the better one. This is one budget, one learning rate and one run a point; whether the best depth moves with
# the budget, this page did not measure.
#
# ## 5. Why the talk calls it a strong baseline
#
# Lesson 00 removed four of the base's layers without training. Here is that model beside the one of the same shape that was trained at that size.

# %%
from minieff.core.files import load_results

pruned = next(row for row in load_results("00_start_here")["scoreboard"] if row["name"] == "4 of 8 kept")
print(f"4 of 8 layers kept, no training: {pruned['bits_per_byte']:.3f} bits a byte; 4 layers from nothing: {points['depth-4'][1]:.3f}")
print(f"the same bytes: {pruned['stored_bytes']:,} and {cost.stored_bytes(surgery.clone(models['depth-4']).half()):,}")

# %% [markdown]
# (The first on every fourth held-out window, the second on all.) Pruning without repair is no match for the small model. So 1.379 is the number that a technique has to beat at this size. In print the margins are small. Six-layer models on two tests of language understanding,
# MNLI and SST-2, percent correct, as Fan, Grave and Joulin (2019) report them:
#
# | 6 layers | from scratch | otherwise |
# |---|---|---|
# | BERT | 81.9 and 91.3 | 81.6 and 92.7, distilled: trained to imitate a larger model (DistilBERT) |
# | RoBERTa | 82.3 and 92.1 | 82.9 and 92.5, pruned from a model whose layers were skipped at random in training (LayerDrop, lesson 08) |
#
# The small model is 0.3 ahead of the distilled one on MNLI and 1.4 behind on SST-2; it is 0.6 and 0.4 behind LayerDrop. A strong baseline: within 1.4 points, and no large model was needed. Look for this row wherever a technique is shown.
#
# ## 6. The counterpoint: train large, then compress
#
# Li, Wallace and others ("Train Large, Then Compress", 2020, arXiv 2002.11794) advise the opposite: train a *large* model, stop early, then compress it heavily. They give two reasons. Larger models need fewer steps to reach a given
# loss, so many fewer that it outpaces the price of a step; and larger models lose less when they are compressed.
#
# **Predict.** On our runs: to reach 1.5 bits a byte, does the base need fewer tokens than `depth-2`? Fewer MACs?

# %%
for name in NAMES[:4]:
    tokens, bits, macs = (values.flip(0) for values in curve(name))
    needed = np.interp(1.5, bits, tokens) / 1e6
    print(f"{name:9}reaches 1.5 bits a byte after {needed:.1f} million tokens, {np.interp(1.5, bits, macs) / 1e12:4.1f} trillion MACs")

# %% [markdown]
# Fewer tokens, yes. Fewer MACs, no: a step of the base costs 2.9 times as many as a step of `depth-2`, and the base needs 0.74 of the steps. These are readings in the middle of runs again, but runs that were planned say the same: 8 layers spent
# 42.5 trillion MACs for 1.417, `depth-2` spent 26.0 for 1.404. The paper's claim is for self-supervised pretraining and translation with much data, and its gain in time depends on how well the hardware is filled. On our runs the first reason does not hold.
# And the second? Round the matrices to fewer bits, as in lesson 00.

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
    if bits == 16:
        return 2 * cost.parameters(model)
    return sum(p.numel() * bits // 8 + 2 * len(p) if p.dim() == 2 else 2 * p.numel() for p in model.parameters())

print({bits: f"{packed_bytes(models['base'], bits):,} bytes" for bits in (16, 8, 4)})

def on_86(model):                                    # the same 86 windows, spread over the held-out text
    return cost.quality(model, corpus, windows=86).bits_per_byte

# %% [markdown]
# Quality below is the card's, plus what rounding loses on 86 windows. One model more: the 2 layers that were trained with the compute of `depth-4`.

# %%
LONGER = "2 layers, longer"
models[LONGER], cards[LONGER] = zoo.load("speeches-same-macs-2"), zoo.card("speeches-same-macs-2")
points[LONGER] = (cards[LONGER]["bytes"], cards[LONGER]["quality"]["bits_per_byte"])
COMPRESSED, WIDTHS = ("base", "depth-4", "depth-2", LONGER), (8, 6, 5, 4)
before = {name: on_86(m) for name, m in models.items()}
packed = {(name, bits): (packed_bytes(models[name], bits), points[name][1] + on_86(rounded(models[name], bits)) - before[name])
          for name in COMPRESSED for bits in WIDTHS}

# %%
for name in COMPRESSED:
    print(f"{name:17}" + ";".join(f" {bits} bits {packed[name, bits][0] / 1e6:.2f} MB {packed[name, bits][1]:.3f}" for bits in WIDTHS))
lost = {name: packed[name, 4][1] - points[name][1] for name in COMPRESSED}
print("lost at 4 bits:", {name: round(x, 3) for name, x in lost.items()})

# %%
figure, (ax,) = plot.panels(1, width=6)
for name, mark, colour in zip(COMPRESSED, "oD^s", ("black", "sky", "green", "red")):
    x, y = zip(*(packed[name, bits] for bits in WIDTHS))
    ax.plot([v / 1e6 for v in x], y, marker=mark, color=plot.PALETTE[colour], label=name)
ax.set(xlabel="size in MB, packed at 8, 6, 5 and 4 bits from right to left", ylabel="bits a byte (card + loss by rounding)")
ax.legend(frameon=False)
plot.show(figure, alt="Bits a byte over packed size for four models at 8, 6, 5 and 4 bits. Each curve is nearly flat from 8 to 5 bits and rises at 4. "
          "The two layers trained longer lie below depth-2 and depth-4 at every size; from 1.2 MB on the base is lowest.")

# %%
assert lost["base"] < lost["depth-4"] < lost["depth-2"]
assert packed["base", 4][0] < packed["depth-4", 8][0] and abs(packed["base", 4][1] - packed["depth-4", 8][1]) < 0.005
assert packed["depth-4", 5][1] + 0.005 < packed["depth-2", 8][1]
assert packed[LONGER, 8][0] < packed["base", 4][0] and packed[LONGER, 8][1] + 0.005 < packed["base", 4][1]

# %% [markdown]
# The second reason holds for models of equal tokens: the larger, the less it loses at 4 bits. `base` at 4 bits and `depth-4` at 8 are equal in quality, and the base is 0.89 of the size; `depth-4` at 5 bits has the bytes of `depth-2` at 8 and is better.
#
# But the base cost 1.8 times the compute of `depth-4`. Put in the 2 layers that had `depth-4`'s compute: at 8 bits they take 0.69 MB and are better than the base at 4 bits with 0.98 MB, after 0.56 of its training. From 1.2 MB on, the base at 5 bits is better than anything
# smaller. So on this page: **up to 1.2 MB the small model that was trained longer wins; from there on, the compressed large one.** Two layers with the base's compute were not trained, and rounding is the crudest compression. Lesson 16 settles the question with the others.
#
# ## 7. Your turn: a device picks the model
#
# Set what a device allows: bytes for the file, and milliseconds for a window of 128 tokens. Among the models that fit, those within 0.005 of the best are taken as equal, and the one with the fewest MACs is picked. 8 bits cost each of these models less than 0.001 bits a byte; fewer
# bits cost them unequally, so the control has 16 and 8.

# %%
FAMILY = [*NAMES, LONGER]
milliseconds = {name: 1e3 * passes["depth-2" if name == LONGER else name].median for name in FAMILY}     # the same shape

assert all(on_86(rounded(models[name], 8)) - before[name] < 0.001 for name in FAMILY)

def pick(most_megabytes, bits=8, most_ms=None, family=FAMILY):
    fits = [name for name in family if packed_bytes(models[name], bits) <= 1e6 * most_megabytes
            and (most_ms is None or milliseconds[name] <= most_ms)]
    best = min((points[name][1] for name in fits), default=None)
    return min((n for n in fits if points[n][1] < best + 0.005), key=lambda n: cards[n]["macs"], default=None)

# %%
for most in (0.4, 0.5, 0.6, 0.8, 1.2, 1.6, 2.0):
    print(f"{most} MB at 8 bits: {pick(most)}; of equal tokens, {pick(most, family=NAMES)}")

# %%
figure, (ax,) = plot.panels(1, width=6)
limits = [0.45 + 0.01 * i for i in range(160)]
for family, label, style in ((NAMES, "equal tokens", "--"), (FAMILY, "with 2 layers, longer", "-")):
    ax.step(limits, [points[name][1] if (name := pick(most, family=family)) else float("nan") for most in limits], style, where="post", label=label)
ax.set(xlabel="most MB, at 8 bits", ylabel="bits a byte of the model that is picked")
ax.legend(frameon=False)
plot.show(figure, alt="Bits a byte of the picked model over the size that a device allows, as steps. With the two layers trained longer, the "
          "steps reach 1.367 at 0.69 MB; without it that takes 1.5 MB.")

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets

slowest = max(milliseconds.values())
size_control = widgets.FloatSlider(min=0.2, max=4, step=0.1, value=1.2, description="MB")
bits_control = widgets.SelectionSlider(options=[16, 8], value=8, description="bits")
time_control = widgets.FloatSlider(min=0.0, max=1.2 * slowest, step=0.1, value=1.2 * slowest, description="ms")
picked = widgets.HTML()

# %% tags=["nbval-ignore-output"]
def update(_=None):
    name = pick(size_control.value, bits_control.value, time_control.value)
    picked.value = "nothing fits" if name is None else (
        f"<b>{name}</b>: {packed_bytes(models[name], bits_control.value):,} bytes, {milliseconds[name]:.1f} ms a window, "
        f"{points[name][1]:.3f} bits a byte")

# %% tags=["nbval-ignore-output"]
for control in (size_control, bits_control, time_control):
    control.observe(update, "value")
update()
widgets.VBox([size_control, bits_control, time_control, picked])

# %% [markdown]
# Lower the milliseconds alone, then the megabytes alone. Which models are never picked, whatever the limits?
#
# <details><summary>Answer</summary>
#
# `depth-2`, `depth-4` and both narrow ones: the 2 layers that were trained longer are as small, as fast, and better. One more axis, such as time, can only add models to a front, never remove one; here it adds none.
#
# </details>
#
# ## 8. What it does not do
#
# A smaller model does not come out of a larger one. Each size is a training run of its own, and the talk counts that against it: "if you want a smaller model size, need to re-train".

# %%
total = sum(cards[name]["macs"] * cards[name]["tokens"] for name in NAMES)
assert total > 3 * cards["base"]["macs"] * cards["base"]["tokens"]
assert not torch.equal(models["depth-4"].tok.weight, models["base"].tok.weight)          # nothing was carried over
print(f"the family of seven cost {total / (cards['base']['macs'] * cards['base']['tokens']):.1f} times what the base alone did")

# %% [markdown]
# Nor is a smaller gap between training and held-out text a gain by itself. At the end of each run:

# %%
from statistics import mean

gaps = {name: cards[name]["quality"]["nats"] - mean(row["train"] for row in cards[name]["log"][-10:]) for name in NAMES}
print("held out minus training, nats a token:", {name: round(gap, 2) for name, gap in gaps.items()})
losses = {name: cards[name]["quality"]["nats"] for name in NAMES}
assert max(gaps, key=gaps.get) == min(losses, key=losses.get) == "base"

# %% [markdown]
# Part of every gap is that the two texts differ. The base has the largest gap, and is still the best on text that no model has seen.
#
# The limits of this page: one learning rate; one task, one text, 128 tokens of context; and except for two models, one run each.
#
# ## 9. Take it home
#
# On a model that is not ours, the same two directions. PyTorch's encoder with BERT base's layers has no token vectors; the last term of the function adds BERT's 30,522.

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
# Half the depth leaves 0.61, half the width 0.30. A width that leaves about half has to be searched among the multiples of 12, the number of heads: the exercise has you write that search. There is no snippet to copy: the technique is a configuration. `cost.pareto` takes
# your own points, with any number of axes.
#
# **Recap**, as measured, from the base to `depth-4` (equal tokens) and to the 2 layers that were trained with its compute. The talk's slide names training time, inference time, model size and performance.

# %% tags=["nbval-ignore-output"]
def axes_of(name, shape):
    card = cards[name]
    return (card["macs"] * card["tokens"], steps[shape].median * card["tokens"], passes[shape].median, points[name][0], points[name][1])

for axis, whole, *others in zip(("training MACs", "training time", "inference time", "model size", "bits a byte"),
                                axes_of("base", "base"), axes_of("depth-4", "depth-4"), axes_of(LONGER, "depth-2")):
    print(f"{axis:15} depth-4 {others[0] / whole:.2f}, {LONGER} {others[1] / whole:.2f} of the base's")

# %% [markdown]
# On the scoreboard, the runs that were planned for the compute of `depth-4`, where a model of that shape has a row already. Sizes and times are those of the shapes, as lesson 00 measured them on 8 windows. A point is a recipe, not a shape.

# %%
board = load_results("00_start_here")["scoreboard"]
shape = {row["name"]: row for row in board}
short = [shape[like] | {"name": f"{layers} layers, {planned[layers]['tokens'] / 1e6:.1f}M tokens",
                        "bits_per_byte": planned[layers]["quality"]["bits_per_byte"]}
         for layers, like in ((8, "base"), (6, "depth-6"), (2, "depth-2"))]

# %%
rows = [row for row in board if row["name"] != "4 of 8 kept"] + short
plot.show(plot.scoreboard(rows, highlight=[row["name"] for row in short]), alt="The scoreboard with three more points: 2 layers with 19.6 "
          "million tokens lie below depth-4 and width-96 on all three panels; 6 and 8 layers with less text lie above the others of their size.")

# %%
from minieff.core.files import save_results

saved = save_results("01_train_smaller", {                 # to a temporary folder, unless `make lessons` runs
    "equal_compute": [{"layers": layers, "tokens": card["tokens"], "bits_per_byte": card["quality"]["bits_per_byte"]} for layers, card in planned.items()],
    "seeds": {name: [points[name][1], again[name]] for name in again},
    "step_seconds": {name: (t.low, t.median, t.high) for name, t in steps.items()},
    "packed": [{"name": name, "bits": bits, "bytes": size_, "bits_per_byte": quality} for (name, bits), (size_, quality) in packed.items()]})

# %% [markdown]
# **Exercise.** [01 Train a smaller model](../exercises/01_train_smaller.ipynb): the front with ties, compute-matched training, a log that is read wrongly, shrinking a model with a large
# vocabulary, a device's limits, and whether a difference is more than chance.
#
# Next in the course: zeros in the weights, and when they are worth anything.

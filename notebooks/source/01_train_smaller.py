# %% [markdown]
# # 01 Train a smaller model: the baseline to compare with
#
# **Promise.** You can say which smaller model to train for a given file size, time or amount of training, and you know how a plot of
# models can mislead you.
#
# | | |
# |---|---|
# | Takes | half an hour to read; the cells run in about 30 seconds |
# | Read before | [00 Start here](00_start_here.ipynb): bits per byte, stored bytes, MACs, timing in turns |
# | Axes | training time, inference time and model size fall; quality falls too |
# | Who says so | Angela Fan's talk "Efficient Transformers": "maybe model will be 2-4x smaller", and in its summary "strong baseline. would not discount." Energy is not measured here |
#
# Where you see **Predict** or **Guess**, write your answer down before you open the output below it.

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
shapes = {name: card["recipe"]["model"] for name, card in cards.items()}
plot.table([[name, shape["layers"], shape["dim"]] for name, shape in shapes.items()],
           ["model", "layers", "width"])

# %% [markdown]
# The base model has 8 layers of width 128. The others have fewer layers or are narrower. Each was trained from scratch on 12 million tokens with the same settings; the narrow ones have 3 and 2 heads, of 32 channels as in the base.
#
# ## 1. Two directions to shrink in
#
# **Predict.** You take away half of the base's layers. Or half of its width. Which gives the smaller model?

# %%
def size(L, C, V=2048, S=128):
    layer = 12 * C**2 + 13 * C     # attention 4 C^2, feed-forward 8 C^2, vectors 13 C
    return V * C + S * C + L * layer + 2 * C

# %% tags=["predict"]
for L, C in ((8, 128), (4, 128), (8, 64)):
    ratio = size(L, C) / size(8, 128)
    print(f"{L} layers, width {C:3}: {size(L, C):>9,} numbers, {ratio:.2f} of the base")
for m in models.values():
    assert size(m.config.layers, m.config.dim) == cost.parameters(m)

# %% [markdown]
# Half the width: a layer's matrices fall to a quarter, with the square of the width, and the token vectors fall to half. Each layer less takes away the same number of parameters, and leaves the token vectors alone.
#
# That is the whole technique: write smaller numbers into the configuration, and train.

# %%
config = Config(vocab=2048, context=128, layers=4, heads=4, dim=128)
torch.manual_seed(0)
fresh = Transformer(config)
loss = cost.quality(fresh, corpus, windows=16).nats
print(f"{cost.parameters(fresh):,} parameters; before training")
print(f"a loss of {loss:.1f} nats per token")
print("recipe of depth-4:", *(f"{k} {v}" for k, v in shapes["depth-4"].items()))

# %% [markdown]
# $\ln 2048 = 7.6$ nats is the loss of giving all 2,048 tokens the same probability: nothing is learned yet. `python -m minieff train zoo/speeches-depth-4.toml` trained the one in the zoo. Nothing was
# carried over from the base model.
#
# ## 2. Equal tokens: one plot, one curve
#
# All seven have seen the same 12 million tokens. A model is worth having if no other is at least as small and at least as good, and better in one of the two. Such models form the
# **Pareto front**.

# %%
points = {name: (card["bytes"], card["quality"]["bits_per_byte"])
          for name, card in cards.items()}

def dominates(a, b):
    return a[0] <= b[0] and a[1] <= b[1] and a != b

front = [name for name in NAMES
         if not any(dominates(points[other], points[name]) for other in NAMES)]
assert front == cost.pareto(points)

# %%
by_size = sorted(NAMES, key=lambda name: points[name][0])
plot.table([[name, f"{points[name][0]:,}", f"{points[name][1]:.4f}",
             "yes" if name in front else "no"] for name in by_size],
           ["model", "bytes", "bits per byte", "on the front"])

# %%
def dots(ax, points, unit=1e-6, **style):
    named = []
    for name, (x, y) in points.items():
        mark, colour = ("s", "orange") if "width" in name else ("o", "blue")
        ax.plot(unit * x, y, mark, color=plot.PALETTE[colour], **style)
        named.append((name, unit * x, y, plot.PALETTE[colour]))
    ax.margins(x=0.25, y=0.2)
    return named

# %%
figure, (ax,) = plot.panels(1, width=6)
named = dots(ax, points)
line = sorted((1e-6 * points[name][0], points[name][1]) for name in front)
ax.plot(*zip(*line), ":", color=plot.PALETTE["grey"])
ax.set(xlabel="size of the file in MB (16 bits per number)",
       ylabel="bits per byte on held-out text")
figure.draw_without_rendering()
plot.label(ax, named)
plot.show(figure, alt="Bits per byte over file size: circles for fewer layers, "
          "squares for narrower models. Six of seven lie on a falling curve from "
          "depth-1 at 1.0 MB to the base at 3.7 MB, width-96 and depth-4 nearly on "
          "top of each other; width-64 lies above it.")

# %% [markdown]
# Six of seven are on the front. The talk says of training smaller: "maybe 2-4x smaller". On this front, what does each factor cost?

# %%
base = points["base"]
for name in ("depth-6", "depth-4", "depth-2", "depth-1"):
    size_, bits = points[name]
    print(f"{name}: {base[0] / size_:.1f} times smaller,", end=" ")
    print(f"{bits - base[1]:.3f} bits per byte worse")

# %% [markdown]
# ## 3. Depth or width?
#
# At the small end, `width-64` has 8 layers and is dominated by `depth-1`, which has one: at this size, depth is the better thing to give up. At the size of `depth-4`, `width-96` is 0.0004 bits per
# byte better than `depth-4`, and on the front for that. **Guess.** Train both once more with another **seed**: other random numbers for the starting weights and for the order of the text. By how much will each result move: less
# than 0.0004, about as much, or more?

# %% tags=["predict"]
again = {}
for name in ("depth-4", "width-96"):
    card = zoo.card(f"train_smaller/speeches-{name}-seed-1")
    again[name] = bits = card["quality"]["bits_per_byte"]
    moved = abs(bits - points[name][1])
    print(f"{name:9}{points[name][1]:.4f} and {bits:.4f}: moved by {moved:.4f}")

# %% [markdown]
# Both fall by about 0.003, six times what lay between them. A seed sets the first weights and the order of the training text, and both models share that order, so part of the movement is common.
# Compared seed by seed, `width-96` is ahead by 0.0004 and by 0.0001. Two pairs do not say whether that is more than nothing; it is too little to choose by. For runs that share nothing, this page reads nothing into less than 0.005,
# about twice what chance moved here.
#
# At this size, then, bytes do not decide between depth and width. Does time? **Predict.** `width-96` and `depth-4` do about the same number of MACs. Which is faster on one thread, and by how much?

# %% tags=["nbval-ignore-output", "predict"]
window, _ = next(corpus.windows(context=128, rows=1))               # (1, 128)
calls = {name: lambda m=m: m(window) for name, m in models.items()}
with torch.no_grad():
    passes = cost.interleaved(calls, runs=30, warmup=10)

def in_ms(t):
    return [f"{1e3 * seconds:.2f}" for seconds in (t.low, t.median, t.high)]

plot.table([[name, f"{cost.macs(m) / 1e6:.2f}", *in_ms(passes[name])]
            for name, m in models.items()],
           ["model", "million MACs per token", "ms: first quartile", "median", "third"])

# %% [markdown]
# Eight narrow layers take longer than four wide ones, for 1.08 times the MACs. They also run twice as many operations, each on 96 channels instead of 128; what costs the time is not tested here. So in this family **depth is cheaper to give
# up than width**: at the size of `depth-4` the two give equal quality and depth saves more time, and at the small end depth wins on bytes, time and quality at once. One reservation: all runs used one learning rate, 0.003. It was not tuned for
# any of them, and the narrow models may want another.
#
# ## 4. Equal compute, equal time
#
# "Equal tokens" favours the large model: each token costs it more. In these runs the learning rate rises for 100 steps and then falls along a cosine, to reach zero with the last token. A training step is a forward pass and a backward pass of twice its MACs, so a run of $n$ tokens has spent about
# $3 \cdot \text{MACs} \cdot n$. The logs have the held-out loss along the way. (Six of them looked at the first 256 held-out windows, which are easier, `depth-1` at 256 spread ones. Each curve is shifted to end at its card's value: exact at
# its end, uncertain by about 0.015 bits per byte early on.)

# %%
def curve(name):
    card = zoo.card(f"speeches-{name}")
    rows = [(row["tokens"], row.get("valid", row.get("valid_first_256")))
            for row in card["log"]]
    rows = [row for row in rows if row[1] is not None]
    tokens, nats = torch.tensor(rows, dtype=torch.float64).T
    final = card["quality"]
    bits = final["bits_per_byte"] / final["nats"]                  # of a nat per token
    return tokens, (nats - nats[-1] + final["nats"]) * bits, 3 * card["macs"] * tokens

# %% tags=["nbval-ignore-output"]
draw = torch.Generator().manual_seed(0)
batch, following = corpus.batch(8, 128, draw)                           # both (8, 128)

def step(model):
    copy = surgery.clone(model).train()
    optimizer = torch.optim.AdamW(copy.parameters(), lr=0.0, fused=True)
    def one():
        data.loss(copy(batch), following).backward()
        optimizer.step()
        optimizer.zero_grad()
    return one

# %% tags=["nbval-ignore-output"]
calls = {name: step(m) for name, m in models.items()}
steps = cost.interleaved(calls, runs=9, warmup=2)
for name, t in steps.items():
    low, median, high = (1e3 * seconds for seconds in (t.low, t.median, t.high))
    print(f"{name:9}{median:4.0f} ms per step (quartiles {low:.0f} to {high:.0f})")

# %% [markdown]
# **Predict.** Stop every run when it has spent what `depth-4` spends in its whole run (a run that ended before keeps its last value). Which of the seven has the lowest loss?

# %%
COLOURS = dict(zip(NAMES, ("black", "blue", "sky", "green", "purple", "orange", "red")))
MARKS = dict(zip(NAMES, "osD^Pvx"))
LABELS = "million tokens", "training in $10^{12}$ MACs", "hours on one thread"

def progress(name):                                     # x of the three panels, and y
    tokens, bits, macs = curve(name)
    hours = tokens / (8 * 128) * steps[name].median / 3600
    return (tokens / 1e6, macs / 1e12, hours), bits

# %% tags=["predict", "figure"]
figure, axes = plot.panels(3, width=6.5, height=2.7, columns=1)
for name in NAMES:
    places, bits = progress(name)
    for ax, x in zip(axes, places):
        ax.plot(x, bits, color=plot.PALETTE[COLOURS[name]], marker=MARKS[name],
                ms=3.5, lw=1, label=name)
for ax, label, x in zip(axes, LABELS, progress("depth-4")[0]):
    ax.set(xlabel=label, ylim=(1.32, 1.72))
    if ax is not axes[0]:
        ax.axvline(float(x[-1]), ls=":", color=plot.PALETTE["grey"])
figure.supylabel("bits per byte on held-out text")
plot.legend(figure, columns=4)
plot.show(figure, alt="Held-out bits per byte of seven runs over tokens, over compute "
          "and over hours. Over tokens the base is lowest after the first quarter. "
          "Over compute and over hours the shallowest run that is still going is "
          "lowest: depth-1, depth-2, depth-4, depth-6, base.")

# %% tags=["predict"]
import numpy as np

budget = float(curve("depth-4")[2][-1])
rows = []
for name in NAMES:
    tokens, bits, macs = curve(name)
    stopped = f"{np.interp(budget, macs, tokens) / 1e6:.1f}"
    rows.append([name, f"{np.interp(budget, macs, bits):.3f}",
                 "the end" if macs[-1] <= budget else f"{stopped} million tokens"])
plot.table(rows, ["model", "bits per byte", "at"])

# %% [markdown]
# `depth-4`, by 0.002 over `width-96` and by 0.022 over `depth-6`. Over time the picture is much the same: among depths a step's time follows its MACs (lowest panel), and only the narrow models take longer than their MACs say.
#
# The comparison has two faults, and both are common. `depth-2` and `depth-1` have not spent the budget: their runs ended. And the base was *stopped*: its learning rate was to reach zero at 12 million tokens, and at 0.56 of that it is still 0.4
# of its highest. A run that is planned for its budget ends better than one that is cut off.
#
# So more runs were made, with 8, 6, 2 and 1 layers, each planned to spend what `depth-4` spends: its learning rate reaches zero there. **Guess.** Plot quality over depth at this one budget. Which depth is best: 1, 2, 4, 6 or 8?

# %% tags=["predict"]
PLANNED = {8: "train_smaller/speeches-same-macs-8",
           6: "train_smaller/speeches-same-macs-6",
           4: "speeches-depth-4",
           2: "speeches-same-macs-2",
           1: "train_smaller/speeches-same-macs-1"}
planned = {layers: zoo.card(name) for layers, name in PLANNED.items()}
spent = {layers: card["macs"] * card["tokens"] for layers, card in planned.items()}
assert max(spent.values()) / min(spent.values()) < 1.001
same_compute = {n: card["quality"]["bits_per_byte"] for n, card in planned.items()}
plot.table([[n, f"{card['tokens'] / 1e6:.1f}", f"{same_compute[n]:.3f}"]
            for n, card in planned.items()],
           ["layers", "million tokens", "bits per byte"])

# %%
assert min(same_compute, key=same_compute.get) == 2
depths = {1: "depth-1", 2: "depth-2", 4: "depth-4", 6: "depth-6", 8: "base"}
same_tokens = {n: points[name][1] for n, name in depths.items()}

# %% tags=["predict", "figure"]
figure, (ax,) = plot.panels(1, width=6)
ax.plot(list(same_tokens), list(same_tokens.values()), "o--",
        color=plot.PALETTE["sky"], label="equal tokens (12 million)")
ax.plot(list(same_compute), list(same_compute.values()), "s-",
        color=plot.PALETTE["red"], label="equal compute (4 layers, 12 million tokens)")
ax.set(xlabel="layers", ylabel="bits per byte on held-out text", xticks=list(depths))
ax.legend(frameon=False)
plot.show(figure, alt="Bits per byte over the number of layers. At equal tokens the "
          "curve falls all the way to 8 layers. At equal compute it is a valley: "
          "1.394 at 1 layer, lowest at 2 with 1.367, then rising to 1.417 at 8.")

# %% [markdown]
# At equal tokens, deeper is better all the way. At equal compute, 2 layers are the best of the five depths, 0.011 ahead of 4, and 8 layers are beaten by all the others, also by 1 layer. Why is not tested here: fewer layers can express less, and
# more layers saw less text. Planning was worth 0.03 to 8 layers (1.417 instead of 1.445) and did not change the order.
#
# The 2 layers saw 19.6 million tokens, 6.6 times the training text; `depth-4` saw it 4 times. They are better than `depth-4`, at 0.63 of its bytes and for the same training compute.
#
# So "train a smaller model" has two readings. With the *same tokens* you pay in quality. With the *same compute* the smaller model may be the better one. This is one budget, one learning rate and one run per point; whether the best depth moves with
# the budget, this page did not measure.
#
# ## 5. Why the talk calls it a strong baseline
#
# Lesson 00 removed four of the base's layers without training. Here is that model beside the one of the same shape that was trained at that size.

# %%
from minieff.core.files import load_results

board = {row["name"]: row for row in load_results("00_start_here")["scoreboard"]}
pruned = board["4 of 8 kept"]
print(f"4 of 8 layers, untrained: {pruned['bits_per_byte']:.3f} bits per byte;")
print(f"4 layers, from scratch:   {points['depth-4'][1]:.3f}")
assert pruned["stored_bytes"] == board["depth-4"]["stored_bytes"]

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
# **Predict.** On our runs: to reach 1.5 bits per byte, does the base need fewer tokens than `depth-2`? Fewer MACs?

# %% tags=["predict"]
rows = []
for name in NAMES[:4]:
    tokens, bits, macs = (values.flip(0) for values in curve(name))
    needed = np.interp(1.5, bits, tokens) / 1e6, np.interp(1.5, bits, macs) / 1e12
    rows.append([name, *(f"{value:.1f}" for value in needed)])
plot.table(rows, ["1.5 bits per byte after", "million tokens", "trillion MACs"])

# %% [markdown]
# Fewer tokens, yes. Fewer MACs, no: a step of the base costs 2.9 times as many as a step of `depth-2`, and the base needs 0.74 of the steps. These are readings in the middle of runs again, but runs that were planned say the same: 8 layers spent
# 42.5 trillion MACs for 1.417, `depth-2` spent 26.0 for 1.404. The paper's claim is for self-supervised pretraining and translation with much data, and its gain in time depends on how well the hardware is filled. On our runs the first reason does not hold.
# And the second? Round the matrices to fewer bits, as in lesson 00.

# %%
def rounded(model, bits):
    copy = surgery.clone(model)
    with torch.no_grad():
        for w in (p for p in copy.parameters() if p.dim() == 2):       # (out, in)
            scale = w.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
            scale = scale.half().float()                               # (out, 1)
            w.copy_((w / scale).round() * scale)
    return copy

# %%
def packed_bytes(model, bits):    # codes, a 16-bit scale per row, vectors in 16 bits
    if bits == 16:
        return 2 * cost.parameters(model)
    return sum(p.numel() * bits // 8 + 2 * len(p) if p.dim() == 2 else 2 * p.numel()
               for p in model.parameters())

for bits in (16, 8, 4):
    print(f"{bits:2} bits: {packed_bytes(models['base'], bits):,} bytes")

def on_86(model):                 # the same 86 windows, spread over the held-out text
    return cost.quality(model, corpus, windows=86).bits_per_byte

# %% [markdown]
# Quality below is the card's, plus what rounding loses on 86 windows. One model more: the 2 layers that were trained with the compute of `depth-4`.

# %%
LONGER = "2 layers, longer"
models[LONGER], cards[LONGER] = zoo.load(PLANNED[2]), zoo.card(PLANNED[2])
points[LONGER] = (cards[LONGER]["bytes"], cards[LONGER]["quality"]["bits_per_byte"])
COMPRESSED, WIDTHS = ("base", "depth-4", "depth-2", LONGER), (8, 6, 5, 4)
before = {name: on_86(m) for name, m in models.items()}

def loses(name, bits):
    return on_86(rounded(models[name], bits)) - before[name]

def at(name, bits):
    return packed_bytes(models[name], bits), points[name][1] + loses(name, bits)

packed = {(name, bits): at(name, bits) for name in COMPRESSED for bits in WIDTHS}

# %%
lost = {name: packed[name, 4][1] - points[name][1] for name in COMPRESSED}

def both(megabytes, quality):
    return f"{megabytes / 1e6:.2f}: {quality:.3f}"

plot.table([[name, *(both(*packed[name, bits]) for bits in WIDTHS), f"{lost[name]:.3f}"]
            for name in COMPRESSED],
           ["MB: bits per byte", *(f"{bits} bits" for bits in WIDTHS), "lost at 4"])

# %%
figure, (ax,) = plot.panels(1, width=6)
for name, mark, colour in zip(COMPRESSED, "oD^s", ("black", "sky", "green", "red")):
    x, y = zip(*(packed[name, bits] for bits in WIDTHS))
    megabytes = [v / 1e6 for v in x]
    ax.plot(megabytes, y, marker=mark, color=plot.PALETTE[colour], label=name)
ax.set(xlabel="size in MB, packed at 8, 6, 5 and 4 bits from right to left",
       ylabel="bits per byte")
ax.legend(frameon=False)
plot.show(figure, alt="Bits per byte over packed size for four models at 8, 6, 5 and "
          "4 bits. Each curve is nearly flat from 8 to 5 bits and rises at 4. The two "
          "layers trained longer lie below depth-2 and depth-4 at every size; from "
          "1.2 MB on the base is lowest.")

# %%
assert lost["base"] < lost["depth-4"] < lost["depth-2"]
size_of, quality_of = ({key: pair[i] for key, pair in packed.items()} for i in (0, 1))
assert size_of[LONGER, 8] < size_of["base", 4] < size_of["depth-4", 8]
assert abs(quality_of["base", 4] - quality_of["depth-4", 8]) < 0.005
assert quality_of["depth-4", 5] + 0.005 < quality_of["depth-2", 8]
assert quality_of[LONGER, 8] + 0.005 < quality_of["base", 4]

# %% [markdown]
# The second reason holds for models of equal tokens: the larger, the less it loses at 4 bits. `base` at 4 bits and `depth-4` at 8 are equal in quality, and the base is 0.89 of the size; `depth-4` at 5 bits has the bytes of `depth-2` at 8 and is better.
#
# But the base cost 1.8 times the compute of `depth-4`. Put in the 2 layers that had `depth-4`'s compute: at 8 bits they take 0.69 MB and are better than the base at 4 bits with 0.98 MB, after 0.56 of its training. From 1.2 MB on, the base at 5 bits is better than anything
# smaller. So on this page: **up to 1.2 MB the small model that was trained longer wins; from there on, the compressed large one.** Two layers with the base's compute were not trained, and rounding is the crudest compression. Lesson 16 settles the question with the others.
#
# ## 7. Your turn: a device picks the model
#
# Set what a device allows: bytes for the file, and milliseconds for a window of 128 tokens. Among the models that fit, those within 0.005 of the best are taken as equal, and the one with the fewest MACs is picked. 8 bits cost each of these models less than 0.001 bits per byte; fewer
# bits cost them unequally, so the control has 16 and 8.

# %%
FAMILY = [*NAMES, LONGER]
milliseconds = {name: 1e3 * t.median for name, t in passes.items()}
milliseconds[LONGER] = milliseconds["depth-2"]                       # the same shape
assert all(loses(name, 8) < 0.001 for name in FAMILY)

def pick(most_megabytes, bits=8, most_ms=float("inf"), family=FAMILY):
    fits = [name for name in family if milliseconds[name] <= most_ms
            and packed_bytes(models[name], bits) <= 1e6 * most_megabytes]
    best = min((points[name][1] for name in fits), default=None)
    equal = [name for name in fits if points[name][1] < best + 0.005]
    return min(equal, key=lambda name: cards[name]["macs"], default=None)

# %%
plot.table([[most, pick(most), pick(most, family=NAMES)]
            for most in (0.4, 0.5, 0.6, 0.8, 1.2, 1.6, 2.0)],
           ["MB at 8 bits", "of all", "of equal tokens"])

# %%
figure, (ax,) = plot.panels(1, width=6)
limits = [0.45 + 0.01 * i for i in range(160)]
for family, label, style in ((NAMES, "equal tokens", "--"), (FAMILY, "all", "-")):
    names = [pick(most, family=family) for most in limits]
    steps_down = [points[name][1] if name else float("nan") for name in names]
    ax.step(limits, steps_down, style, where="post", label=label)
ax.set(xlabel="most MB, at 8 bits", ylabel="bits per byte of the picked model")
ax.legend(frameon=False)
plot.show(figure, alt="Bits per byte of the picked model over the size that a device "
          "allows, as steps. With the two layers trained longer, the steps reach "
          "1.367 at 0.69 MB; without it that takes 1.5 MB.")

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets

slowest = 1.2 * max(milliseconds.values())
size_control = widgets.FloatSlider(1.2, min=0.2, max=4, step=0.1, description="MB")
bits_control = widgets.ToggleButtons(options=[16, 8], value=8, description="bits")
time_control = widgets.FloatSlider(slowest, max=slowest, step=0.1, description="ms")
picked = widgets.HTML()

# %% tags=["nbval-ignore-output"]
def update(_=None):
    name = pick(size_control.value, bits_control.value, time_control.value)
    picked.value = "nothing fits" if name is None else (
        f"<b>{name}</b>: {packed_bytes(models[name], bits_control.value):,} bytes, "
        f"{milliseconds[name]:.1f} ms per window, {points[name][1]:.3f} bits per byte")

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
spent = {name: card["macs"] * card["tokens"] for name, card in cards.items()}
ratio = sum(spent[name] for name in NAMES) / spent["base"]
assert ratio > 3                                       # and nothing was carried over:
assert not torch.equal(models["depth-4"].tok.weight, models["base"].tok.weight)
print(f"all seven cost {ratio:.1f} times what the base alone did")

# %% [markdown]
# Nor is a smaller gap between training and held-out text a gain by itself. At the end of each run:

# %%
from statistics import mean

losses = {name: cards[name]["quality"]["nats"] for name in NAMES}
gaps = {name: losses[name] - mean(row["train"] for row in cards[name]["log"][-10:])
        for name in NAMES}
print("held out minus training, nats per token:")
for name, gap in gaps.items():
    print(f"{name:9}{gap:.2f}")
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
    layer = nn.TransformerEncoderLayer(width, 12, 4 * width, device="meta")
    stack = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    return cost.parameters(stack) + 30522 * width

# %%
full = encoder(12, 768)
for layers, width in ((6, 768), (12, 384), (12, 528)):
    count = encoder(layers, width)
    share = count / full
    print(f"{layers:2} layers, width {width}: {count / 1e6:5.1f} million, {share:.2f}")

# %% [markdown]
# Half the depth leaves 0.61, half the width 0.30. A width that leaves about half has to be searched among the multiples of 12, the number of heads: the exercise has you write that search. There is no snippet to copy: the technique is a configuration. `cost.pareto` takes
# your own points, with any number of axes.
#
# **Recap**, as measured, from the base to `depth-4` (equal tokens) and to the 2 layers that were trained with its compute. The talk's slide names training time, inference time, model size and performance.

# %% tags=["nbval-ignore-output"]
def axes_of(name, shape):
    time = steps[shape].median * cards[name]["tokens"]
    return spent[name], time, passes[shape].median, *points[name]

AXIS = "training MACs", "training time", "inference time", "model size", "bits per byte"
of_base = axes_of("base", "base")
runs = axes_of("depth-4", "depth-4"), axes_of(LONGER, "depth-2")
plot.table([[axis, f"{one / full:.2f}", f"{other / full:.2f}"]
            for axis, full, one, other in zip(AXIS, of_base, *runs)],
           ["of the base's", "depth-4", LONGER])

# %% [markdown]
# On the scoreboard, the runs that were planned for the compute of `depth-4`, where a model of that shape has a row already. Sizes and times are those of the shapes, as lesson 00 measured them on 8 windows. A point is a recipe, not a shape.

# %%
short = [board[like] | {"name": f"{n} layers, {planned[n]['tokens'] / 1e6:.1f}M tokens",
                        "bits_per_byte": same_compute[n]}
         for n, like in ((8, "base"), (6, "depth-6"), (2, "depth-2"))]

# %%
rows = [row for name, row in board.items() if name != "4 of 8 kept"] + short
plot.show(plot.scoreboard(rows, highlight=[row["name"] for row in short]),
          alt="The scoreboard with three more points: 2 layers with 19.6 million "
          "tokens lie below depth-4 and width-96 in all three panels; 6 and 8 layers "
          "with less text lie above the others of their size.")

# %%
from minieff.core.files import save_results

saved = save_results("01_train_smaller", {  # a temporary folder, but for `make lessons`
    "equal_compute": [{"layers": n, "tokens": card["tokens"],
                       "bits_per_byte": same_compute[n]}
                      for n, card in planned.items()],
    "seeds": {name: [points[name][1], again[name]] for name in again},
    "step_seconds": {name: (t.low, t.median, t.high) for name, t in steps.items()},
    "packed": [{"name": name, "bits": bits, "bytes": size_, "bits_per_byte": quality}
               for (name, bits), (size_, quality) in packed.items()]})

# %% [markdown]
# **Exercise.** [01 Train a smaller model](../exercises/01_train_smaller.ipynb): the front with ties, compute-matched training, a log that is read wrongly, shrinking a model with a large
# vocabulary, a device's limits, and whether a difference is more than chance.
#
# Next in the course: [LayerDrop](08_layerdrop.ipynb), one network that is pruned to any depth.

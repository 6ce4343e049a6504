# %% [markdown]
# # 01 Train a smaller model: the baseline to compare with
#
# **Promise.** You can say which smaller model to train for a given file size, time or amount of training, and you know how a plot of
# models can mislead you.
#
# | | |
# |---|---|
# | Takes | about 30 minutes to read; the cells run in about 40 seconds |
# | Read before | [00 Start here](00_start_here.ipynb): bits per byte, stored bytes, MACs, timing in turns |
# | Axes | training time, inference time and model size fall; quality falls too. Energy is not measured here |
# | Who says so | Angela Fan's talk "Efficient Transformers": "maybe model will be 2-4x smaller", and in its summary "strong baseline. would not discount." |
#
# Where you see **Predict**, write your answer down before you run the next cell. Its answer is collapsed: running the cell shows it.

# %%
from statistics import mean

import numpy as np
import torch
from minieff.core import cost, data, plot, surgery, zoo
from minieff.core.files import load_results, save_results
from minieff.core.transformer import Config, Transformer
from torch import nn

# %%
torch.set_num_threads(1)
corpus = data.speeches()
NAMES = ["base", "depth-6", "depth-4", "depth-2", "depth-1", "width-96", "width-64"]
cards = {name: zoo.card(f"speeches-{name}") for name in NAMES}
models = {name: zoo.load(f"speeches-{name}") for name in NAMES}
for name, model in models.items():
    print(f"{name:9}{model.config.layers} layers of width {model.config.dim}")

# %% [markdown]
# The base model has 8 layers of width 128. The others have fewer layers or narrower ones. Each was trained from scratch on 12 million tokens with the same settings. The narrow ones have 3 and 2 heads, each with 32 channels as in the base.
#
# ## 1. Two directions to shrink in
#
# **Predict.** You take away half of the base's layers. Or half of its width. Which gives the smaller model?

# %%
def size(L, C, V=2048, S=128):
    layer = 12 * C**2 + 13 * C  # attention 4 C^2, feed-forward 8 C^2, vectors 13 C
    return V * C + S * C + L * layer + 2 * C

# %% tags=["predict"]
for L, C in ((8, 128), (4, 128), (8, 64)):
    share = size(L, C) / size(8, 128)
    print(f"{L} layers of width {C:3}: {size(L, C):>9,} parameters, {share:.2f}")
for m in models.values():
    assert size(m.config.layers, m.config.dim) == cost.parameters(m)

# %% [markdown]
# Half the width: the matrices of a layer shrink to a quarter, with the square of the width, and the token vectors to half. Removing a layer takes away the same number of parameters each time, and leaves the token vectors as they are.
#
# That is the whole technique: write smaller numbers into the configuration, and train.

# %%
config = Config(vocab=2048, context=128, layers=4, heads=4, dim=128)
torch.manual_seed(0)
untrained = Transformer(config)
loss = cost.quality(untrained, corpus, windows=16).nats
print(f"{cost.parameters(untrained):,} parameters")
print(f"{loss:.1f} nats per token before training")

# %% [markdown]
# $\ln 2048 = 7.6$ nats is the loss of a model that gives all 2,048 tokens the same probability: nothing is learned yet. `python -m minieff train zoo/speeches-depth-4.toml` trained the one in the zoo, from
# scratch. It has nothing of the base model.
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
             "" if name in front else "dominated"] for name in by_size],
           ["", "bytes", "bits per byte", ""])

# %% tags=["figure"]
figure, (ax,) = plot.panels(1, width=6)
for place, name in enumerate(by_size):
    x, y = 1e-6 * points[name][0], points[name][1]
    mark, colour = ("s", "orange") if "width" in name else ("o", "blue")
    ax.plot(x, y, mark, color=plot.PALETTE[colour])
    ax.annotate(name, (x, y), xytext=(6, 6) if place % 2 else (-6, -13),
                ha="left" if place % 2 else "right", textcoords="offset points")
line = [points[name] for name in by_size if name in front]
ax.plot([1e-6 * x for x, _ in line], [y for _, y in line], ":", color="grey")
ax.set(xlabel="size of the file in MB (16 bits per number)",
       ylabel="bits per byte on held-out text")
ax.margins(x=0.25, y=0.2)
plot.show(figure, alt="Bits per byte over file size: circles for fewer layers, squares "
          "for narrower models. Six of seven lie on a falling curve from depth-1 at "
          "1.0 MB to the base at 3.7 MB, width-96 and depth-4 nearly on top of each "
          "other; width-64 lies above it.")

# %% [markdown]
# Six of seven are on the front. The talk says of training smaller: "maybe 2-4x smaller". What does each factor cost on this front?

# %%
full_bytes, full_bits = points["base"]
for name in ("depth-6", "depth-4", "depth-2", "depth-1"):
    print(f"{name}: {full_bytes / points[name][0]:.1f} times smaller, "
          f"{points[name][1] - full_bits:.3f} bits per byte worse")

# %% [markdown]
# ## 3. Depth or width?
#
# At the small end, `width-64` has 8 layers and is dominated by `depth-1`, which has one: at this size it is better to give up depth. At the size of `depth-4`, `width-96` is 0.0004 bits per
# byte better than `depth-4`, and on the front only for that.
#
# **Predict.** Train both once more with another **seed**: other random numbers for the starting weights and for the order of the text. By how much will each result move: less
# than 0.0004, about as much, or more?

# %% tags=["predict"]
second_seed = {}
for name in ("depth-4", "width-96"):
    card = zoo.card(f"train_smaller/speeches-{name}-seed-1")
    second_seed[name] = card["quality"]["bits_per_byte"]
    print(f"{name:9}{points[name][1]:.4f} and {second_seed[name]:.4f}: "
          f"apart by {abs(second_seed[name] - points[name][1]):.4f}")

# %% [markdown]
# Both fall by about 0.003, six times the difference between them. A seed sets the first weights and the order of the training text, and both models share that order, so part of the movement is common.
# Compared seed by seed, `width-96` is ahead by 0.0004 and by 0.0001. Two pairs do not say whether that is more than chance, and it is too little to choose by. From here on, two runs count as equal if they are less than 0.005 apart,
# about twice what chance moved here.
#
# At this size, then, bytes do not decide between depth and width. Does time?
#
# **Predict.** `width-96` and `depth-4` do about the same number of MACs. Which is faster on one thread, and by how much?

# %% tags=["nbval-ignore-output", "predict"]
window, _ = next(corpus.windows(context=128, rows=1))                  # (1, 128)
with torch.no_grad():
    calls = {name: lambda m=m: m(window) for name, m in models.items()}
    passes = cost.interleaved(calls, runs=15, warmup=3)
plot.table([[name, f"{cost.macs(m) / 1e6:.2f}", f"{1e3 * passes[name].median:.2f}",
             f"{1e3 * passes[name].low:.2f} to {1e3 * passes[name].high:.2f}"]
            for name, m in models.items()],
           ["", "million MACs per token", "ms per window", "quartiles"])

# %% [markdown]
# Eight narrow layers take longer than four wide ones, for 1.08 times the MACs. They also run twice as many operations, each on 96 channels instead of 128. We did not test which of these costs the time. So in this family **depth is cheaper to give
# up than width**: at the size of `depth-4` the two give equal quality and depth saves more time, and at the small end depth wins on bytes, time and quality at once.
#
# > All runs used one learning rate, 0.003. It was not tuned for any of them, and the narrow models may need another.
#
# ## 4. Equal compute, equal time
#
# "Equal tokens" favours the large model: it gets more computation for each token. A training step is a forward pass and a backward pass of twice its MACs, so a run of $n$ tokens has spent about
#
# $$\text{training MACs} = 3 \cdot \text{MACs per token} \cdot n$$
#
# In these runs the learning rate rises for 100 steps and then falls along a cosine, and reaches zero with the last token. The logs have the held-out loss along the way.
#
# > The logs of six runs have the loss on the first 256 held-out windows, which are easier; that of `depth-1` has it on 256 spread ones. Each curve is shifted so that it ends at the value on its card: exact at
# > its end, uncertain by about 0.015 bits per byte early on.

# %%
def curve(name):
    card = zoo.card(f"speeches-{name}")
    losses = [(row["tokens"], row.get("valid", row.get("valid_first_256")))
              for row in card["log"]]
    losses = [row for row in losses if row[1] is not None]
    tokens, nats = torch.tensor(losses, dtype=torch.float64).T
    at_end = card["quality"]
    bits_per_nat = at_end["bits_per_byte"] / at_end["nats"]
    bits = (nats - nats[-1] + at_end["nats"]) * bits_per_nat
    return tokens, bits, 3 * card["macs"] * tokens

# %% tags=["nbval-ignore-output"]
batch, following = corpus.batch(8, 128, torch.Generator().manual_seed(0))  # (8, 128)

def step(model):
    copy = surgery.clone(model).train()
    optimizer = torch.optim.AdamW(copy.parameters(), lr=0.0, fused=True)
    def one():
        data.loss(copy(batch), following).backward()
        optimizer.step()
        optimizer.zero_grad()
    return one

calls = {name: step(m) for name, m in models.items()}
steps = cost.interleaved(calls, runs=5, warmup=1)
for name, timing in steps.items():
    print(f"{name:9}{1e3 * timing.median:4.0f} ms per step "
          f"(quartiles {1e3 * timing.low:.0f} to {1e3 * timing.high:.0f})")

# %% [markdown]
# **Predict.** Stop every run when it has spent what `depth-4` spends in its whole run (a run that ended before keeps its last value). Which of the seven has the lowest loss?

# %% tags=["figure", "predict"]
COLOURS = ("black", "blue", "sky", "green", "purple", "orange", "red")
figure, axes = plot.panels(3, height=3.4)
for name, colour, mark in zip(NAMES, COLOURS, "osD^Pvx"):
    tokens, bits, macs = curve(name)
    hours = tokens / (8 * 128) * steps[name].median / 3600
    for ax, x in zip(axes, (tokens / 1e6, macs / 1e12, hours)):
        ax.plot(x, bits, color=plot.PALETTE[colour], marker=mark, ms=3.5, lw=1,
                label=name)
titles = ("million tokens", "training compute in $10^{12}$ MACs",
          "hours on one thread (steps timed here)")
for ax, title in zip(axes, titles):
    ax.set(xlabel=title, ylim=(1.32, 1.72))
tokens, _, macs = curve("depth-4")
axes[1].axvline(float(macs[-1]) / 1e12, ls=":", color="grey")
axes[2].axvline(float(tokens[-1]) / (8 * 128) * steps["depth-4"].median / 3600,
                ls=":", color="grey")
plot.legend(figure, columns=4)
figure.supylabel("bits per byte on held-out text")
plot.show(figure, alt="Held-out bits per byte of seven runs over tokens, over compute "
          "and over hours. Over tokens the base is lowest after the first quarter. "
          "Over compute and over hours the shallowest run that is still going is "
          "lowest: depth-1, depth-2, depth-4, depth-6, base.")

# %% tags=["predict"]
budget = float(curve("depth-4")[2][-1])
for name in NAMES:
    tokens, bits, macs = curve(name)
    stopped = float(np.interp(budget, macs, tokens)) / 1e6
    when = f"stopped after {stopped:.1f}M tokens"
    if macs[-1] <= budget:
        when = f"at its end, {macs[-1] / 1e12:.1f}T MACs"
    print(f"{name:9}{np.interp(budget, macs, bits):.3f} bits per byte, {when}")

# %% [markdown]
# `depth-4`, by 0.002 over `width-96` and by 0.022 over `depth-6`. Over time the picture is much the same: for models of different depth the time of a step follows its MACs (third panel); only the narrow models take longer than their MACs say.
#
# This comparison has two faults, and both are common. `depth-2` and `depth-1` have not spent the budget: their runs ended earlier. And the base was *stopped*: its learning rate was to reach zero at 12 million tokens, and at 0.56 of that it is still 0.4
# of its highest. A run that is planned for its budget ends better than one that is cut off.
#
# So more models were trained, with 8, 6, 2 and 1 layers, each planned to spend what `depth-4` spends: its learning rate reaches zero there.
#
# **Predict.** Plot quality over depth at this one budget. Which depth is best: 1, 2, 4, 6 or 8?

# %% tags=["predict"]
RUNS = {8: "train_smaller/speeches-same-macs-8",
        6: "train_smaller/speeches-same-macs-6", 4: "speeches-depth-4",
        2: "speeches-same-macs-2", 1: "train_smaller/speeches-same-macs-1"}
planned = {layers: zoo.card(name) for layers, name in RUNS.items()}
spent = {layers: card["macs"] * card["tokens"] for layers, card in planned.items()}
assert max(spent.values()) / min(spent.values()) < 1.001
at_budget = {n: card["quality"]["bits_per_byte"] for n, card in planned.items()}
for layers, bits in at_budget.items():
    print(f"{layers} layers, {planned[layers]['tokens'] / 1e6:4.1f} million tokens: "
          f"{bits:.3f} bits per byte")
assert min(at_budget, key=at_budget.get) == 2

# %% tags=["figure", "predict"]
figure, (ax,) = plot.panels(1, width=6)
at_tokens = {1: "depth-1", 2: "depth-2", 4: "depth-4", 6: "depth-6", 8: "base"}
ax.plot(list(at_tokens), [points[name][1] for name in at_tokens.values()], "o--",
        color=plot.PALETTE["sky"], label="equal tokens (12 million)")
ax.plot(list(at_budget), list(at_budget.values()), "s-", color=plot.PALETTE["red"],
        label="equal compute (that of depth-4)")
ax.set(xlabel="layers", ylabel="bits per byte on held-out text", xticks=[1, 2, 4, 6, 8])
ax.legend(frameon=False)
plot.show(figure, alt="Bits per byte over the number of layers. At equal tokens the "
          "curve falls all the way to 8 layers. At equal compute it is a valley: 1.394 "
          "at 1 layer, lowest at 2 with 1.367, then rising to 1.417 at 8.")

# %% [markdown]
# At equal tokens, deeper is better all the way. At equal compute, 2 layers are the best of the five depths, 0.011 ahead of 4, and 8 layers are beaten by all the others, even by 1 layer. We did not test why: fewer layers can express less, and
# more layers saw less text. Planning for the budget was worth 0.03 to 8 layers (1.417 instead of 1.445) and did not change the order.
#
# The 2 layers saw 19.6 million tokens, 6.6 times the training text; `depth-4` saw it 4 times. They are better than `depth-4`, at 0.63 of its bytes and for the same training compute.
#
# So "train a smaller model" can mean two things. With the *same tokens* you pay in quality. With the *same compute* the smaller model may be the better one.
#
# > This is one budget, one learning rate and one run per point. Whether the best depth moves with the budget was not measured.
#
# ## 5. Why the talk calls it a strong baseline
#
# Lesson 00 removed four of the base's layers without training. Here it is beside the model of the same shape that was trained as such.

# %%
board = {row["name"]: row for row in load_results("00_start_here")["scoreboard"]}
pruned = board["4 of 8 kept"]
lead = pruned["bits_per_byte"] - points["depth-4"][1]
print(f"4 of 8 layers kept, no training: {pruned['bits_per_byte']:.3f} bits per byte")
print(f"4 layers from scratch: {points['depth-4'][1]:.3f} bits per byte")
assert pruned["stored_bytes"] == board["depth-4"]["stored_bytes"]

# %% [markdown]
# (The first on every fourth held-out window, the second on all. Both files have the same bytes.) Without training, pruning is no match for the small model. So 1.379 is the number that a technique has to beat at this size. In print the margins are small. These are
# models of 6 layers on two tests of language understanding: MNLI (does one sentence follow from another?) and SST-2 (is a film review favourable?), in percent correct, as Fan, Grave and Joulin (2019) report them:
#
# | 6 layers | from scratch | otherwise |
# |---|---|---|
# | BERT | 81.9 and 91.3 | 81.6 and 92.7, distilled: trained to imitate a larger model (DistilBERT) |
# | RoBERTa | 82.3 and 92.1 | 82.9 and 92.5, pruned from a model whose layers were skipped at random in training (LayerDrop, lesson 08) |
#
# The small model is 0.3 ahead of the distilled one on MNLI and 1.4 behind on SST-2; it is 0.6 and 0.4 behind LayerDrop. That is a strong baseline: within 1.4 points, and without a large model. Look for this row wherever a technique is shown.
#
# ## 6. The opposite advice: train large, then compress
#
# Li, Wallace and others ("Train Large, Then Compress", 2020, arXiv 2002.11794) advise the opposite: train a *large* model, stop early, then compress it heavily. They give two reasons. A larger model reaches a given
# loss in fewer steps, so many fewer that it needs less time although each step takes longer. And a larger model loses less when it is compressed.
#
# **Predict.** To reach 1.5 bits per byte in our runs, does the base need fewer tokens than `depth-2`? Fewer MACs?

# %% tags=["predict"]
to_reach = {}
for name in NAMES[:4]:
    tokens, bits, macs = (values.flip(0) for values in curve(name))    # bits rise
    to_reach[name] = float(np.interp(1.5, bits, macs))
    print(f"{name:9}{np.interp(1.5, bits, tokens) / 1e6:4.1f} million tokens, "
          f"{to_reach[name] / 1e12:4.1f} trillion MACs")

# %% [markdown]
# Fewer tokens, yes. Fewer MACs, no: a step of the base costs 2.9 times as many as a step of `depth-2`, and the base needs 0.74 of the steps. These are readings in the middle of runs again, but runs that were planned say the same: 8 layers spent
# 42.5 trillion MACs for 1.417, `depth-2` spent 26.0 for 1.404. The paper speaks of pretraining and translation with much data, and its gain in time depends on how well the hardware is used. In our runs the first reason does not hold.
#
# And the second? Round the matrices to fewer bits, as in lesson 00.

# %%
def rounded(model, bits):
    copy = surgery.clone(model)
    with torch.no_grad():
        for w in (p for p in copy.parameters() if p.dim() == 2):       # (out, in)
            scale = w.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)  # (out, 1)
            scale = scale.half().float()                               # 16 bits
            w.copy_((w / scale).round() * scale)
    return copy

def packed_bytes(model, bits):              # as in lesson 00: codes, scales, vectors
    if bits == 16:
        return 2 * cost.parameters(model)
    return sum(p.numel() * bits // 8 + 2 * len(p) if p.dim() == 2 else 2 * p.numel()
               for p in model.parameters())

# %% [markdown]
# Quality below is that of the card plus what rounding loses on 86 windows, the same for all, spread over the held-out text. There is one model more: the 2 layers that were trained with the compute of `depth-4`.

# %%
def on_86(model):
    return cost.quality(model, corpus, windows=86).bits_per_byte

LONGER = "2 layers, longer"
models[LONGER] = zoo.load("speeches-same-macs-2")
cards[LONGER] = zoo.card("speeches-same-macs-2")
points[LONGER] = cards[LONGER]["bytes"], cards[LONGER]["quality"]["bits_per_byte"]
COMPRESSED, BITS = ("base", "depth-4", "depth-2", LONGER), (8, 6, 5, 4)
before = {name: on_86(m) for name, m in models.items()}
packed = {}
for name in COMPRESSED:
    for bits in BITS:
        lost_bits = on_86(rounded(models[name], bits)) - before[name]
        quality = points[name][1] + lost_bits
        packed[name, bits] = packed_bytes(models[name], bits), quality

# %%
rows = [[name] + [f"{packed[name, bits][0] / 1e6:.2f} MB {packed[name, bits][1]:.3f}"
                  for bits in BITS] for name in COMPRESSED]
for row in rows:
    lost = packed[row[0], 4][1] - points[row[0]][1]
    row.append(f"{lost:.3f}")
plot.table(rows, ["", *(f"{bits} bits" for bits in BITS), "lost at 4 bits"])

# %% tags=["figure"]
figure, (ax,) = plot.panels(1, width=6)
for name, mark, colour in zip(COMPRESSED, "oD^s", ("black", "sky", "green", "red")):
    x, y = zip(*(packed[name, bits] for bits in BITS))
    ax.plot([v / 1e6 for v in x], y, marker=mark, color=plot.PALETTE[colour],
            label=name)
ax.set(xlabel="size in MB, packed at 8, 6, 5 and 4 bits from right to left",
       ylabel="bits per byte")
ax.legend(frameon=False)
plot.show(figure, alt="Bits per byte over packed size for four models at 8, 6, 5 and 4 "
          "bits. Each curve is nearly flat from 8 to 5 bits and rises at 4. The two "
          "layers trained longer lie below depth-2 and depth-4 at every size; from "
          "1.2 MB on the base is lowest.")

# %%
lost = {name: packed[name, 4][1] - points[name][1] for name in COMPRESSED}
assert lost["base"] < lost["depth-4"] < lost["depth-2"]
assert abs(packed["base", 4][1] - packed["depth-4", 8][1]) < 0.005
assert packed["depth-4", 5][1] + 0.005 < packed["depth-2", 8][1]
assert packed[LONGER, 8][0] < packed["base", 4][0]
assert packed[LONGER, 8][1] + 0.005 < packed["base", 4][1]

# %% [markdown]
# The second reason holds for models of equal tokens: the larger the model, the less it loses at 4 bits. `base` at 4 bits and `depth-4` at 8 are equal in quality, and the base is 0.89 of the size; `depth-4` at 5 bits has the bytes of `depth-2` at 8 and is better.
#
# But the base cost 1.8 times the compute of `depth-4`. Take the 2 layers that had the compute of `depth-4`: at 8 bits they need 0.69 MB and are better than the base at 4 bits with 0.98 MB, after 0.56 of its training. From 1.2 MB on, the base at 5 bits is better than anything
# smaller. So in these runs: **up to 1.2 MB the small model that was trained longer wins; from there on, the compressed large one.**
#
# > Two layers with the base's compute were not trained, and rounding is the simplest compression. Lessons 08, 10 and 11 compress better.
#
# ## 7. Your turn: a device picks the model
#
# Set what a device allows: bytes for the file, and milliseconds for a window of 128 tokens. Among the models that fit, those within 0.005 of the best count as equal, and the one with the fewest MACs is picked. 8 bits cost each of these models less than 0.001 bits per byte; fewer
# bits cost them unequally, so the control has 16 and 8.

# %%
FAMILY = [*NAMES, LONGER]
milliseconds = {name: 1e3 * passes[name].median for name in NAMES}
milliseconds[LONGER] = milliseconds["depth-2"]                         # the same shape
for name in FAMILY:
    assert on_86(rounded(models[name], 8)) - before[name] < 0.001

def pick(most_mb, bits=8, most_ms=None, family=FAMILY):
    fits = [name for name in family
            if packed_bytes(models[name], bits) <= 1e6 * most_mb
            and (most_ms is None or milliseconds[name] <= most_ms)]
    best = min((points[name][1] for name in fits), default=None)
    equal = [name for name in fits if points[name][1] < best + 0.005]
    return min(equal, key=lambda name: cards[name]["macs"], default=None)

# %%
plot.table([[f"{mb} MB", pick(mb, family=NAMES) or "none", pick(mb) or "none"]
            for mb in (0.4, 0.5, 0.6, 0.8, 1.2, 1.6, 2.0)],
           ["at 8 bits", "of equal tokens", "and 2 layers, longer"])

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets

slowest = 1.2 * max(milliseconds.values())
size_control = widgets.FloatSlider(min=0.2, max=4, step=0.1, value=1.2,
                                   description="MB")
bits_control = widgets.ToggleButtons(options=[16, 8], value=8, description="bits")
time_control = widgets.FloatSlider(min=0, max=slowest, step=0.1, value=slowest,
                                   description="ms")
picked = widgets.HTML()

def update(_=None):
    choice = pick(size_control.value, bits_control.value, time_control.value)
    picked.value = "nothing fits"
    if choice is not None:
        stored = packed_bytes(models[choice], bits_control.value)
        picked.value = (f"<b>{choice}</b>: {stored:,} bytes, "
                        f"{milliseconds[choice]:.1f} ms per window, "
                        f"{points[choice][1]:.3f} bits per byte")

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
training = {name: cards[name]["macs"] * cards[name]["tokens"] for name in NAMES}
family = sum(training.values()) / training["base"]
assert not torch.equal(models["depth-4"].tok.weight, models["base"].tok.weight)
print(f"training all seven: {family:.1f} times the compute of the base")

# %% [markdown]
# Nor is a smaller gap between training and held-out text a gain by itself. At the end of each run:

# %%
losses = {name: cards[name]["quality"]["nats"] for name in NAMES}
gaps = {name: losses[name] - mean(row["train"] for row in cards[name]["log"][-10:])
        for name in NAMES}
for name, gap in gaps.items():
    print(f"{name:9}held out minus training {gap:.2f} nats per token")
assert max(gaps, key=gaps.get) == min(losses, key=losses.get) == "base"

# %% [markdown]
# Part of every gap is that the two texts differ. The base has the largest gap, and is still the best on text that no model has seen.
#
# > The limits of this page: one learning rate; one task, one text, 128 tokens of context; and except for two models, one run each.
#
# ## 9. What was claimed, what came out
#
# Three claims of the talk, and three of "Train Large, Then Compress".

# %% tags=["figure"]
chance = max(abs(second_seed[name] - points[name][1]) for name in second_seed)
smaller = full_bytes / points["depth-2"][0]
compute = to_reach["base"] / to_reach["depth-2"]
loses = lost["base"] / lost["depth-2"]
same_quality = packed["base", 4][0] / packed["depth-4", 8][0]

def claim(source, text, said, measured, unit, holds, where, spread=None):
    return {"claim": text, "source": source, "said": said, "measured": measured,
            "spread": spread, "unit": unit, "holds": holds, "where": where}

TALK, PAPER = "the talk", "Li, Wallace and others 2020"
claims = [
    claim(TALK, "a smaller model can be trained", "2-4x", smaller, "times smaller",
          True, "depth-2, equal tokens; 0.062 bits per byte worse"),
    claim(TALK, "training smaller is a strong baseline", "strong", lead,
          "bits per byte ahead of pruning", True, "pruned without training", chance),
    claim(TALK, "each size has to be trained", "re-train", family,
          "times the base's compute", True, "for all seven models"),
    claim(PAPER, "larger models need less time to a given loss", "less", compute,
          "times the MACs of depth-2", False, "base, to 1.5 bits per byte"),
    claim(PAPER, "larger models lose less when compressed", "less", loses,
          "of what depth-2 loses", True, "base at 4 bits, equal tokens"),
    claim(PAPER, "a large model, compressed, beats a small one", "better", same_quality,
          "of the bytes at equal quality", "in part",
          "base at 4 bits, depth-4 at 8; 2 layers trained longer beat both"),
]
assert 2 <= smaller <= 4 and lead > 10 * chance and family > 3
assert round(points["depth-2"][1] - full_bits, 3) == 0.062
assert compute > 1 and loses < 1 and same_quality < 1
ANSWERS = {True: "yes", False: "no", "in part": "in part"}
plot.table([[f"{c['claim']}: {c['said']}", f"{c['measured']:.2f} {c['unit']}",
             f"{ANSWERS[c['holds']]}: {c['where']}"] for c in claims],
           ["claim", "measured here", "holds"])

# %% [markdown]
# ## 10. Take it home
#
# On a model that is not ours, the same two directions. PyTorch's encoder with the layers of BERT base has no token vectors; the last term of the function adds BERT's 30,522.

# %%
def encoder(layers, width):
    layer = nn.TransformerEncoderLayer(width, 12, 4 * width, batch_first=True,
                                       device="meta")
    stack = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    return cost.parameters(stack) + 30522 * width

# %%
for layers, width in ((6, 768), (12, 384), (12, 528)):
    parameters = encoder(layers, width)
    print(f"{layers:2} layers of width {width}: {parameters / 1e6:5.1f} million, "
          f"{parameters / encoder(12, 768):.2f} of BERT")

# %% [markdown]
# Half the depth leaves 0.61, half the width 0.30. A width that leaves about half has to be searched among the multiples of 12, the number of heads; in the exercise you write that search. There is no snippet to copy: the technique is a configuration. `cost.pareto` takes
# your own points, with any number of axes.
#
# **Recap**, as measured: `depth-4` (equal tokens), and the 2 layers that were trained with its compute, relative to the base.

# %% tags=["nbval-ignore-output"]
def axes_of(name, shape):
    card = cards[name]
    return (card["macs"] * card["tokens"], steps[shape].median * card["tokens"],
            passes[shape].median, *points[name])

names = ("training MACs", "training time", "inference time", "model size",
         "bits per byte")
full, half, longer = (axes_of(*pair) for pair in (
    ("base", "base"), ("depth-4", "depth-4"), (LONGER, "depth-2")))
plot.table([[name, f"{b / a:.2f}", f"{c / a:.2f}"]
            for name, a, b, c in zip(names, full, half, longer)],
           ["relative to the base", "depth-4", LONGER])

# %% [markdown]
# On the scoreboard, the runs that were planned for the compute of `depth-4`. Sizes and times are those of the shapes, as lesson 00 measured them. One shape can have several points: a point is a way of training, too.

# %%
shapes = {8: "base", 6: "depth-6", 2: "depth-2"}
new_rows = []
for n, shape in shapes.items():
    title = f"{n} layers, {planned[n]['tokens'] / 1e6:.1f}M tokens"
    new_rows.append(board[shape] | {"name": title, "bits_per_byte": at_budget[n]})

# %%
trained = [row for row in board.values() if row["name"] != "4 of 8 kept"]
new_names = [row["name"] for row in new_rows]
plot.show(plot.scoreboard(trained + new_rows, highlight=new_names),
          alt="The scoreboard with three more points: 2 layers with 19.6 million "
          "tokens lie below depth-4 and width-96 on all three panels; 6 and 8 layers "
          "with less text lie above the others of their size.")

# %%
equal_compute = [{"layers": n, "tokens": card["tokens"], "bits_per_byte": at_budget[n]}
                 for n, card in planned.items()]
files = [{"name": name, "family": "quantization", "bits": bits, "bytes": stored,
          "bits_per_byte": quality}
         for (name, bits), (stored, quality) in packed.items()]

# %%
saved = save_results("01_train_smaller", {       # temporary, unless `make lessons` runs
    "equal_compute": equal_compute, "packed": files,
    "seeds": {name: [points[name][1], bits] for name, bits in second_seed.items()},
    "step_seconds": {name: (t.low, t.median, t.high) for name, t in steps.items()},
    "scoreboard": new_rows, "claims": claims})

# %% [markdown]
# **Exercise.** [01 Train a smaller model](../exercises/01_train_smaller.ipynb): the front with ties, training for equal compute, a log that is read wrongly, shrinking a model with a large
# vocabulary, a device's limits, and whether a difference is more than chance.
#
# Next: [LayerDrop](08_layerdrop.ipynb), one training for many sizes.

# %% [markdown]
# # 08 LayerDrop: train one network, prune it to any depth
#
# **Promise.** You can train a Transformer so that whole layers can be removed afterwards without retraining, choose how often to skip and which layers to keep, and say what it costs.
#
# | | |
# |---|---|
# | Takes | 32 minutes to read, and 11 more for "Going further"; the cells run in about 20 seconds |
# | Read before | [00 Start here](00_start_here.ipynb) for the measures, [01 Train a smaller model](01_train_smaller.ipynb) for what pruning has to beat |
# | Axes | training time falls; model size and inference time fall once layers are removed; quality falls, and by how much is the question. Energy is not measured |
# | Who says so | Fan, Grave, Joulin 2019, "Reducing Transformer Depth on Demand with Structured Dropout" (arXiv 1909.11556); Angela Fan's talk: "Train once, prune to any desired depth" |
# | Measured on | models of 8 layers and width 128, trained on 12 million tokens of the State of the Union speeches. Loss is in nats per token on all 2,751 held-out windows of 128 tokens, for the first seed of each model; what was measured on fewer windows is given as a difference |
#
# Where you see **Predict**, write your answer down. The output that answers it is collapsed: click it to see it.

# %%
import torch
from statistics import mean
from textwrap import fill

from minieff import layerdrop
from minieff.core import cost, data, plot, zoo
from minieff.core.files import load_results, save_results
from minieff.core.surgery import is_a
from minieff.core.transformer import Residual

torch.set_num_threads(1)
corpus = data.speeches()
base = zoo.load("speeches-base")
model = zoo.load("speeches-layerdrop-20")  # trained with p = 0.2

def rounded(values, digits=3):
    return [f"{value:.{digits}f}" for value in values]

# %% [markdown]
# ## 1. A coin in front of each layer
#
# Lesson 00 removed four of the base model's eight layers, and the loss rose by more than a nat: each layer had been trained with all the others in place. LayerDrop trains the layers to do without one another. In every training step each layer is skipped with probability $p$: its input becomes its output. At inference all layers run.

# %%
def forward(layers, x, p, training, coin):
    for layer in layers:
        if not training or coin() >= p:
            x = layer(x)
    return x

# %% [markdown]
# Here are eight layers that you can read: layer $i$ adds $10^i$, so each digit of the result says whether a layer ran. The last digit is layer 0.

# %%
layers = [lambda x, i=i: x + 10**i for i in range(8)]
generator = torch.Generator().manual_seed(0)

def coin():
    return torch.rand((), generator=generator).item()

# %%
for step in range(4):
    print(f"step {step}        {forward(layers, 0, 0.2, True, coin):08}")
print(f"at inference  {forward(layers, 0, 0.2, False, coin):08}")

# %% [markdown]
# **Predict.** With $p = 0.2$ and 8 layers: (a) how many layers run in an average step? (b) In what share of the steps do all eight run? (c) In what share none?

# %% tags=["predict"]
steps = [[int(coin() >= 0.2) for layer in range(8)] for step in range(10_000)]
depth = torch.tensor(steps).sum(1)  # (steps,)
rows = [["mean", *rounded([depth.float().mean(), 8 * 0.8], 2)],
        ["all run", *rounded([(depth == 8).float().mean(), 0.8**8])],
        ["none runs", *rounded([(depth == 0).float().mean(), 0.2**8], 7)]]
plot.table(rows, ["layers", "10,000 steps", "expected"])

# %% [markdown]
# The first 60 of these steps, and the number of layers that ran in all of them:

# %% tags=["figure"]
from math import comb

def draw_coins(ax, ran):  # ran: (steps, layers)
    ax.imshow(ran.T, cmap="Greys", vmin=0, vmax=1.4, origin="lower", aspect="auto")
    ax.set(xlabel="training step (dark: runs)", ylabel="layer", yticks=range(8))
    ax.grid(False)

figure, (left, right) = plot.panels(2)
draw_coins(left, torch.tensor(steps[:60]))
shares = torch.bincount(depth, minlength=9) / len(depth)
right.bar(range(9), shares, color=plot.PALETTE["sky"], label="10,000 steps")
binomial = [comb(8, n) * 0.8**n * 0.2 ** (8 - n) for n in range(9)]
right.plot(range(9), binomial, "o", color=plot.PALETTE["black"], label="binomial")
right.set(xlabel="layers that run in a step", ylabel="share of the steps")
right.legend(frameon=False)
plot.show(figure, alt="Left: a grid of 60 steps by 8 layers, dark where the layer "
          "ran, about four fifths of it dark, without a pattern. Right: bars of the "
          "number of layers that run, highest at 7 and 6, on dots of the binomial "
          "distribution.")

# %% [markdown]
# Every step trains one of $2^8 = 256$ networks that share their weights. To prune is to pick one of them. On average $L(1 - p)$ of $L$ layers run, so for a network that will be pruned to $r$ layers the paper derives $p = 1 - r / L$. Yet it used $p = 0.2$ for nearly all of its results, and so do we until section 6.
#
# Unlike ordinary dropout, LayerDrop divides nothing by $1 - p$. (Skipping layers at random is older: Stochastic Depth, Huang et al. 2016, did it to train deep image networks, and scaled each layer by $1 - p$ at inference. LayerDrop skips so that layers can be *removed*.)
#
# ## 2. Two ways to get it wrong
#
# This is the code on the talk's slide. **Predict** what it returns at inference, with `training` False.

# %%
def slide(layers, x, p, training, coin):
    for layer in layers:
        if coin() > p and training:
            x = layer(x)
    return x

# %% tags=["predict"]
print(f"in training   {slide(layers, 0, 0.2, True, coin):08}")
print(f"at inference  {slide(layers, 0, 0.2, False, coin):08}")

# %% [markdown]
# At inference no layer runs. The condition has to be *not training, or the coin says so*. Test this in your own code: at inference the output equals that of the stack without coins, bit for bit.
#
# The second mistake is to skip the wrong thing. A sub-layer is $x + f(\mathrm{norm}(x))$. Skipped as a whole, it returns $x$. Skip only $f$, and it returns $x + \mathrm{norm}(x)$:

# %%
sub_layer = base.blocks.layers[3].feed  # x + inner(norm(x))
x = torch.randn(2, 5, 128)  # (B, T, C)
skipped = layerdrop.Skip(sub_layer, p=1.0).train()
wrong = Residual(sub_layer.norm, layerdrop.Skip(sub_layer.inner, p=1.0)).train()
print("skipped as a whole, x:", torch.equal(skipped(x), x))
print("only f, x + norm(x):", torch.equal(wrong(x), x + sub_layer.norm(x)))

# %% [markdown]
# `layerdrop.Skip` is the package's layer with a coin in front. `layerdrop.apply` puts one around each layer of a copy, and refuses what has no residual connection of its own:

# %%
from minieff.core.attention import Attention

try:
    layerdrop.apply(base, p=0.2, where=is_a(Attention))
except ValueError as error:
    print(fill(str(error), 58))

# %% [markdown]
# ## 3. The same in `minieff`
#
# Any $p$ at inference gives the plain stack; $p = 0$ in training does, too; $p = 1$ gives the input back; and with the same generator `apply` skips the layers that our loop skips.

# %%
ids, targets = next(corpus.windows(context=128, rows=4))  # (4, 128) each
hidden = torch.randn(4, 128, 128)  # (B, T, C)
with torch.no_grad():
    assert torch.equal(layerdrop.apply(base, p=0.7).eval()(ids), base(ids))
    assert torch.equal(layerdrop.apply(base, p=0.0).train()(ids), base(ids))
    always_skipped = layerdrop.apply(base, p=1.0).train()
    assert torch.equal(always_skipped.blocks(hidden), hidden)
    generator.manual_seed(7)
    ours = forward(base.blocks.layers, hidden, 0.2, True, coin)
    coins = torch.Generator().manual_seed(7)
    with_coins = layerdrop.apply(base, p=0.2, generator=coins)
    assert torch.equal(with_coins.train().blocks(hidden), ours)
print("ours equals minieff's, coin for coin")

# %% [markdown]
# ## 4. Prune
#
# Nothing is trained in this notebook; the models are loaded. `finalize(keep=...)` leaves the layers that you name, and `keep_evenly` names them evenly spread:

# %%
rows = []
for keep in (layerdrop.keep_evenly(8, kept) for kept in (8, 6, 4, 2)):
    small = layerdrop.finalize(model, keep=keep)
    sizes = cost.stored_bytes(small) / 1e6, cost.macs(small) / 1e6
    rows.append([keep, *rounded(sizes, 2)])
plot.table(rows, ["layers kept", "MB", "million MACs per token"])

# %% [markdown]
# Half of the layers is 0.57 of the bytes, because the token vectors stay.
#
# **Predict.** Only layers 0, 2, 5 and 7 are left. The base model lost more than a nat. How much does the model lose that was trained with $p = 0.2$?

# %% tags=["predict"]
lost = {}
for name, full in (("without LayerDrop", base), ("p = 0.2", model)):
    pruned = layerdrop.finalize(full, keep=[0, 2, 5, 7])
    after, before = (cost.quality(m, corpus, windows=64).nats for m in (pruned, full))
    lost[name] = after - before
rows = list(zip(lost, rounded(lost.values(), 2)))
plot.table(rows, ["64 windows", "nats per token lost"])

# %% [markdown]
# So at half the depth LayerDrop does what the talk promises: it loses 0.14 nats, 15 percent more perplexity, where the base loses 1.27.
#
# ## 5. Is it a bargain?
#
# What else could you have had? Models trained from scratch at each depth, on the same 12 million tokens (lesson 01). In the figure, bands go from the lowest to the highest of three seeds.

# %%
depths = load_results("layerdrop/depths")["models"]
DEPTHS = range(8, 0, -1)
SCRATCH = {8: "base", 6: "depth-6", 4: "depth-4", 2: "depth-2", 1: "depth-1"}
scratch = {n: zoo.card(f"speeches-{name}")["quality"]["nats"]
           for n, name in SCRATCH.items()}

def nats(name, layers, seed=""):
    return depths[f"speeches-{name}{seed}"]["curve"][str(layers)]["nats"]

for name, nats_lost in zip(("base", "layerdrop-20"), lost.values()):
    assert abs(nats(name, 4) - nats(name, 8) - nats_lost) < 0.01

# %% tags=["figure"]
def draw_curve(ax, name, style, colour, label):
    losses = [nats(name, n) for n in DEPTHS]
    ax.plot(DEPTHS, losses, style, color=plot.PALETTE[colour], label=label)

def draw_scratch(ax):
    ax.plot(list(scratch), list(scratch.values()), "D--", color=plot.PALETTE["blue"],
            label="trained from scratch at that depth")
    ax.set(xlabel="layers left", ylabel="nats per token, held out")
    ax.set(xlim=(8.3, 0.7), xticks=DEPTHS)
    ax.legend(frameon=False)

SEEDS = ("", "-seed-1", "-seed-2")
figure, (ax,) = plot.panels(1, width=6.5, height=4)
for name, style, colour, label in (
    ("base", "s-", "black", "without LayerDrop, pruned"),
    ("layerdrop-20", "o-", "red", "LayerDrop p = 0.2, pruned"),
):
    draw_curve(ax, name, style, colour, label)
    of_seeds = torch.tensor([[nats(name, n, seed) for n in DEPTHS] for seed in SEEDS])
    ax.fill_between(DEPTHS, of_seeds.amin(0), of_seeds.amax(0), alpha=0.25, lw=0,
                    color=plot.PALETTE[colour])
draw_scratch(ax)
plot.show(figure, alt="Nats per token over the layers left, from 8 to 1. Without "
          "LayerDrop the pruned model climbs steeply from 3.3 to above 5. With "
          "LayerDrop it stays between 3.5 and 3.7 down to 4 layers, and ends at 4.3 "
          "with one. Models trained from scratch begin at 3.3 and lie below both, at "
          "3.56 with one layer.")

# %%
rows = [[n, *rounded([nats("base", n), nats("layerdrop-20", n), scratch[n]])]
        for n in SCRATCH]
plot.table(rows, ["layers", "without LayerDrop", "p = 0.2", "from scratch"])

# %% [markdown]
# Not yet. With all its layers the LayerDrop model is 0.18 nats worse than the base, and **at each depth the model trained from scratch on the same tokens is better** than the pruned one.
#
# But the dashed line is five training runs, and LayerDrop is a single one. How much computation is that? Let $M$ be the MACs per token of the base, $m$ those of one layer, and $s$ the number of layers that do not run in an average step. Then training costs, with the base's training as 1,
#
# $$C = \frac{\mathrm{tokens}}{12\ \mathrm{million}} \cdot \frac{M - s\,m}{M}.$$
#
# With LayerDrop $s$ is the sum of the layers' $p$; for $r$ layers from scratch $s = 8 - r$. (A layer's backward pass costs about twice its forward pass, so the ratio is the same for both.)

# %%
even_four = [0, 2, 5, 7]
base_macs = cost.macs(base)  # M
small_model = layerdrop.finalize(base, keep=even_four)
layer_macs = (base_macs - cost.macs(small_model)) / 4  # m

def training_macs(million_tokens, not_running):
    return million_tokens / 12 * (base_macs - not_running * layer_macs) / base_macs

all_five = sum(training_macs(12, 8 - n) for n in SCRATCH)
print(f"m / M = {layer_macs / base_macs:.3f}")
print(f"all five from scratch, 12 million  {all_five:.2f}")
print(f"LayerDrop p = 0.2, 12 million      {training_macs(12, 8 * 0.2):.2f}")
print(f"LayerDrop p = 0.2, 36 million      {training_macs(36, 8 * 0.2):.2f}")
print(f"without LayerDrop, 36 million      {training_macs(36, 0):.2f}")

# %% [markdown]
# **Predict.** The LayerDrop run gets three times the tokens, 36 million, which is still less computation than the five runs together. At which depths does it now beat them?

# %% tags=["predict"]
rows = [[n, *rounded([nats("base-long", n), nats("layerdrop-20-long", n), scratch[n]])]
        for n in SCRATCH]
plot.table(rows, ["layers", "without, 36 M", "p = 0.2, 36 M", "from scratch, 12 M"])

# %% [markdown]
# One run now gives 8 and 6 layers that are better than those from scratch, and 4 layers that are 0.01 behind. Two layers and one are far behind: "any depth" means down to about half.
#
# The price of LayerDrop with all layers falls with longer training, from 0.18 nats to 0.07. And longer training alone makes no model prunable: without LayerDrop, four layers of the long run have 5.039 nats, 1.90 more than its eight.
#
# The paper reports the pruned model ahead of the one from scratch: 82.9 percent against 82.3 on MNLI (does one sentence follow from another?), for RoBERTa with 6 of 12 layers.
#
# > **Reservations.** The long runs have one seed, and passed over the text twelve times (the others four). The paper's models were finetuned after pruning and trained far longer; which of the two matters was not tested.
#
# ## 6. How often?
#
# First the time. **Predict.** With $p = 0.2$, a fifth of the layers is skipped. Is training 1.25 times as fast?

# %% tags=["predict"]
speed = load_results("bench/layerdrop")["speed"]
print(f"share of a step spent in the layers: f = {speed['0.2']['f']['median']:.2f}")
rows = [[p, *rounded([*(timing["faster"][key] for key in ("median", "low", "high")),
                      timing["expected"]], 2)] for p, timing in speed.items()]
plot.table(rows, ["p", "times as fast", "quartile", "quartile", "expected"])

# %% [markdown]
# No: only the layers are skipped, not the token vectors, the loss and their part of the optimizer. If layers take the share $f$ of a step, $1 / (1 - pf)$ is to be expected. (One thread, 8 windows of 128 tokens a step.)
#
# Then the quality, with five values of $p$, all else equal. **Predict** which $p$ is best when all eight layers run, which with four, which with one.

# %% tags=["predict"]
RATES = {0.0: "base"} | {p: f"layerdrop-{100 * p:.0f}" for p in (0.1, 0.2, 0.35, 0.5)}
rows = [[f"p = {p}", *rounded(nats(name, n) for n in SCRATCH)]
        for p, name in RATES.items()]
plot.table(rows, ["layers left:", *SCRATCH])

# %% [markdown]
# As curves, with the models from scratch:

# %% tags=["figure"]
figure, (ax,) = plot.panels(1, width=6.5, height=4)
COLOURS = ("black", "sky", "red", "orange", "green")
for p, style, colour in zip(RATES, ("s-", "v-", "o-", "^-", "x-"), COLOURS):
    draw_curve(ax, RATES[p], style, colour, f"p = {p}")
draw_scratch(ax)
plot.show(figure, alt="Nats per token over the layers left, for five values of p and "
          "for models from scratch. The larger p, the higher the curve begins and the "
          "flatter it is: p = 0 climbs from 3.3 to 5.4, p = 0.5 is nearly level at "
          "3.8. The models from scratch lie below all of them.")

# %% [markdown]
# Each $p$ has its place: $p = 0$ is best with all layers, 0.1 with six, 0.2 with four, 0.35 with two, 0.5 with one. The formula $1 - r / L$ asks for more: 0.25 for six layers, 0.5 for four, 0.75 for two. With $p = 0.5$ the curve is flat (four layers fewer cost 0.01 nats), and flat at a high loss.
#
# "Same value for all experiments", says the talk of $p$. For four layers that costs little: from 0.1 to 0.5 their loss is between 3.645 and 3.813. For all eight it is between 3.416 and 3.805.
#
# > **Reservations.** Equal tokens, not equal time: $p = 0.5$ took 0.56 of the base's time, and what it would do with the rest was not tried. One seed for 0.1, 0.35 and 0.5.
#
# ## 7. Which layers?
#
# "Specific pruning strategy is not important", says the talk. **Predict.** Of the 70 ways to keep four of eight layers, which rank has the even one? And the first four, and the last four?

# %% tags=["predict"]
def rank_of_four(name, keep):  # and nats above the even four
    subsets = depths[f"speeches-{name}"]["subsets"]  # two halves of 256 windows
    fours = {four: mean(subsets[four]) for four in subsets if four.count(",") == 3}
    return 1 + sorted(fours, key=fours.get).index(keep), fours[keep] - fours["0,2,5,7"]

rows = []
for keep in ("0,2,5,7", "0,1,2,3", "4,5,6,7", "0,5,6,7"):
    base_rank, base_more = rank_of_four("base", keep)
    rank, more = rank_of_four("layerdrop-20", keep)
    rows.append([keep, base_rank, f"{base_more:+.2f}", rank, f"{more:+.2f}"])
plot.table(rows, ["layers kept", "rank, base", "nats", "rank, p = 0.2", "nats"])

# %% [markdown]
# (The nats are the difference to the even four, on 256 windows.) Here are five strategies for every number of layers. *Search* tries all sets, on other windows than the 128 shown. *Learned* is the paper's data-driven choice: in 100 steps every layer learns a weight, from its mean activation, and those with the largest weights stay.

# %% tags=["figure"]
def above_even(name, strategy):  # with 7 to 1 layers
    choices = [depths[f"speeches-{name}"]["choices"][str(n)] for n in range(7, 0, -1)]
    return [choice[strategy][1] - choice["evenly"][1] for choice in choices]

STRATEGIES = ("search", "learned", "first", "last")
figure, axes = plot.panels(2, height=3.8)
PRUNED = ("base", "without LayerDrop"), ("layerdrop-20", "p = 0.2")
for ax, (name, title) in zip(axes, PRUNED):
    ax.axhline(0, color=plot.PALETTE["red"], label="evenly")
    for how, style, colour in zip(STRATEGIES, ("^--", "s:", "v-", "x-"),
                                  ("blue", "purple", "green", "orange")):
        ax.plot(range(7, 0, -1), above_even(name, how), style, ms=4, label=how,
                color=plot.PALETTE[colour])
    ax.set(xlabel="layers left", xlim=(7.2, 0.8), ylim=(-0.5, 2.0))
    ax.set_title(title, fontsize=10)
axes[0].set_ylabel("nats per token above the even choice")
axes[0].legend(frameon=False, loc="upper right")
plot.show(figure, alt="Two panels of nats per token above the even choice over the "
          "layers left. Without LayerDrop search is up to 0.3 better than even, the "
          "first layers up to 0.6 worse, learned in between, and the last ones above "
          "the picture. With p = 0.2 search and even nearly coincide, learned too but "
          "for spikes at five and three layers, the first layers are up to 0.3 worse, "
          "and the last ones leave the picture.")

# %%
def more_without(name, layer):
    subsets = depths[f"speeches-{name}"]["subsets"]
    others = ",".join(str(i) for i in range(8) if i != layer)
    return mean(subsets[others]) - mean(subsets["0,1,2,3,4,5,6,7"])

search_gain = -min(above_even("layerdrop-20", "search"))
print(f"p = 0.2, search instead of evenly: at most {search_gain:.2f} nats")
print("nats more without layer 0, without layer 1, ...:")
for name, title in PRUNED:
    print(f"{title:17}", *rounded((more_without(name, i) for i in range(8)), 2))

# %% [markdown]
# With LayerDrop the choice between even and searched layers is not important, and the even one needs no evaluations; the search takes 70 for four of eight layers, 12,870 for eight of sixteen. But *some* strategies matter: learned failed at two of seven depths, where it left out layer 0, and the last four layers alone are useless.
#
# What matters is that something is left near the input. Put layer 0 in place of layer 4, and the last four become as good as the even ones. The base cannot do without layer 0, which reads the token vectors; with LayerDrop its absence costs 0.11 nats. The paper finds that first *and* last layers matter most; with LayerDrop our last one matters no more than its neighbour. (One model each.)
#
# ## 8. Your turn
#
# All 255 sets of layers were measured, for each $p$, on 256 held-out windows. Choose, and see coins for 60 training steps, the layers that are left, and what pruning costs.

# %% tags=["figure"]
from itertools import combinations
from math import exp

def perplexity_ratio(p, keep):  # to that of all 8 layers
    subsets = depths[f"speeches-{RATES[p]}"]["subsets"]
    names = (",".join(map(str, layers)) for layers in (keep, range(8)))
    pruned_nats, full_nats = (mean(subsets[name]) for name in names)
    return exp(pruned_nats - full_nats)

def choice(p, keep):
    figure, (left, right) = plot.panels(2, height=2.2)
    draw_coins(left, torch.rand(60, 8, generator=torch.Generator().manual_seed(0)) >= p)
    right.barh(range(8), [i in keep for i in range(8)], color=plot.PALETTE["blue"])
    right.set(xlabel="layers that are left", xticks=[])
    right.set(yticks=range(8), ylim=(-0.5, 7.5))
    megabytes = cost.stored_bytes(layerdrop.finalize(base, keep=keep)) / 1e6
    text = (f"p = {p}, layers {keep}, {megabytes:.2f} MB: "
            f"{perplexity_ratio(p, keep):.2f} times the perplexity of all 8 layers.")
    alt = f"Coins of 60 training steps, and the layers that are left. {text}"
    return plot.Html(f"{plot.picture(figure, alt=alt).html}<br>{text}", text)

choice(0.2, even_four)

# %%
import ipywidgets as widgets

rate = widgets.SelectionSlider(options=list(RATES), value=0.2, description="p")
switches = [widgets.ToggleButton(value=i in even_four, description=str(i),
                                 layout={"width": "44px"}) for i in range(8)]
shown = widgets.HTML()

# %% tags=["nbval-ignore-output"]
def update(_=None):
    keep = [i for i, switch in enumerate(switches) if switch.value]
    shown.value = choice(rate.value, keep).html if keep else "keep at least one layer"

for control in (rate, *switches):
    control.observe(update, "value")
update()
widgets.VBox([rate, widgets.HBox(switches), shown])

# %% [markdown]
# **Predict** the four layers that lose least, for $p = 0$ and for $p = 0.2$; use the buttons as long as you like. (The best four are chosen and measured on the same windows, so they look a little too good.)

# %% tags=["predict"]
rows = []
for p in (0.0, 0.2):
    best = min(combinations(range(8), 4), key=lambda keep: perplexity_ratio(p, keep))
    ratios = rounded((perplexity_ratio(p, keep) for keep in (best, even_four)), 2)
    rows.append([p, ", ".join(map(str, best)), *ratios])
plot.table(rows, ["p", "best four", "times the perplexity", "evenly"])

# %% [markdown]
# ## 9. Aim
#
# If layers 0, 2, 5 and 7 are the ones to stay, why should they ever be skipped? $p$ can be a list. In the next model these four have no coin, and each of the others is skipped in half of the steps. **Predict.** Compared with $p = 0.2$ for all: is it better or worse with all layers? And with the four?

# %% tags=["predict"]
recipe = zoo.card("layerdrop/speeches-layerdrop-spared-50")["recipe"]
print("p =", recipe["techniques"][0]["p"])
SHORT = {"without LayerDrop": "base", "p = 0.2 for all": "layerdrop-20",
         "aimed": "layerdrop-spared-50"}
rows = [[title, *rounded([nats(name, 8), nats(name, 4)])]
        for title, name in SHORT.items()]
rows.append(["from scratch", *rounded([scratch[8], scratch[4]])])
plot.table(rows, ["12 million tokens", "8 layers", "4 layers"])

# %% [markdown]
# Better in both: 0.10 nats behind the base with all layers instead of 0.18, and with four layers 0.03 behind the model from scratch instead of 0.23.
#
# It serves two depths. Two models from scratch, with 8 and with 4 layers, serve the same two, and together they cost 1.56 base trainings. Give the one aimed run as much: 24 million tokens.

# %%
ONE_RUN = {"p = 0.2": ("layerdrop-20", 12, 1.6),
           "p = 0.2, longer": ("layerdrop-20-long", 36, 1.6),
           "aimed": ("layerdrop-spared-50", 12, 2),
           "aimed, longer": ("layerdrop-spared-50-long", 24, 2)}
runs = {title: (training_macs(tokens, not_running), nats(name, 8), nats(name, 4))
        for title, (name, tokens, not_running) in ONE_RUN.items()}
runs["two from scratch"] = (1 + training_macs(12, 4), scratch[8], scratch[4])
rows = [[title, f"{macs:.2f}", *rounded(losses)]
        for title, (macs, *losses) in runs.items()]
plot.table(rows, ["", "training MACs, base = 1", "8 layers", "4 layers"])

# %% tags=["figure"]
LABELS = {"p = 0.2": ("left", "red"), "p = 0.2, longer": ("left", "red"),
          "aimed": ("right", "green"), "aimed, longer": ("left", "green"),
          "two from scratch": ("right", "blue")}
figure, (ax,) = plot.panels(1, width=6.5, height=4)
for title, (side, colour) in LABELS.items():
    macs, eight, four = runs[title]
    offset = 6 if side == "left" else -6
    x, colour = macs + offset / 400, plot.PALETTE[colour]  # equal costs: side by side
    ax.plot([x, x], [eight, four], color=colour, lw=2)
    ax.plot(x, eight, "o", color=colour)
    ax.plot(x, four, "o", color=colour, mfc="white")
    ax.annotate(title, (x, four), xytext=(offset, 3), textcoords="offset points",
                ha=side, color=colour)
ax.set(xlabel="training MACs for both depths, the base's training = 1",
       ylabel="nats per token, held out", xlim=(0.5, 3), ylim=(3.15, 3.7))
ax.set_title("full dot: 8 layers; empty dot: 4 layers", fontsize=10)
plot.show(figure, alt="Nats per token over training MACs; a line joins the full dot "
          "of 8 layers with the empty dot of 4. At 1.56 the two models from scratch "
          "have 3.33 and 3.42, and the longer aimed run, at the same cost, 3.28 and "
          "3.31. At 0.8, aimed has 3.42 and 3.45, p = 0.2 has 3.50 and 3.65. At 2.47 "
          "the longer p = 0.2 has 3.20 and 3.43.")

# %% [markdown]
# This is the best result of the lesson: **for the computation of the two models from scratch, one aimed run beats both**, by 0.04 nats with eight layers and by 0.11 with four. Half of its layers cost it 0.03. Here training once pays: for depths that are known beforehand.
#
# The price: it can only be pruned to sets that hold those four layers. What was never skipped cannot be removed. Nats more than with all 8 layers (256 windows, the run on 12 million tokens):

# %%
aimed_subsets = depths["speeches-layerdrop-spared-50"]["subsets"]
all_eight = mean(aimed_subsets["0,1,2,3,4,5,6,7"])
for keep in ("0,1,2,4,5,7", "0,2,5,7", "0,1,3,4,6,7", "1,3,4,6"):
    print(f"layers {keep:12}{mean(aimed_subsets[keep]) - all_eight:+6.2f}")
two_layers = zoo.card("speeches-same-macs-2")["quality"]["nats"]
print(f"lesson 01, two layers for the MACs of four: {two_layers:.3f}")

# %% [markdown]
# > **Reservations.** One seed. The four layers that stay ran on all 24 million tokens; four layers alone on so many were not trained. The last line is the strongest small model of lesson 01: two layers, trained for the computation of four. The longer aimed run's four layers beat it as well, with 3.309.
#
# ## 10. What it does not do
#
# At inference, with all layers, nothing is saved: bytes, MACs and time are those of the base. Time falls when layers are removed.

# %% tags=["nbval-ignore-output"]
assert cost.stored_bytes(model) == cost.stored_bytes(base)
assert cost.macs(model) == cost.macs(base)
timed_models = {"without LayerDrop": base, "p = 0.2, 8 layers": model}
for n in (6, 4, 2):
    keep = layerdrop.keep_evenly(8, n)
    timed_models[f"p = 0.2, {n} layers"] = layerdrop.finalize(model, keep=keep)
window, _ = next(corpus.windows(context=128, rows=1))  # (1, 128)
with torch.no_grad():
    calls = {name: lambda m=m: m(window) for name, m in timed_models.items()}
    passes = cost.interleaved(calls, runs=30, warmup=10)
rows = [[name, *rounded((1e3 * ms for ms in (t.median, t.low, t.high)), 2)]
        for name, t in passes.items()]
plot.table(rows, ["one window of 128 tokens", "ms, median", "quartile", "quartile"])

# %% [markdown]
# ## 11. What was claimed, what came out
#
# What the talk and the paper say, and what we measured: 8 layers of width 128, 12 million tokens, $p = 0.2$ where the line names no other, nothing finetuned after pruning. First the numbers, then the table.

# %%
def behind(layers, rival, rival_layers):  # p = 0.2: first seed, [lowest, highest]
    each = [nats("layerdrop-20", layers, seed) - nats(rival, rival_layers, seed)
            for seed in SEEDS]
    return each[0], [min(each), max(each)]

at_half, at_one = (behind(n, "layerdrop-20", 8) for n in (4, 1))
behind_base = behind(8, "base", 8)
second_seed = zoo.card("train_smaller/speeches-depth-4-seed-1")["quality"]["nats"]
behind_scratch = [nats("layerdrop-20", 4) - scratch[4],
                  nats("layerdrop-20", 4, "-seed-1") - second_seed]
half_speed, layer_share = speed["0.5"]["faster"], speed["0.5"]["f"]["median"]
behind_long = nats("layerdrop-20-long", 8) - nats("base-long", 8)
last_four = rank_of_four("layerdrop-20", "4,5,6,7")[1]
first_gone, *_, next_to_last_gone, last_gone = (
    more_without("layerdrop-20", i) for i in range(8))

# %%
assert at_half[1][1] < 0.2 and at_one[1][0] > 0.5  # in part: to half, not to one
assert min(behind_scratch) > 0.2  # false
assert 1.5 < half_speed["median"] < 1.9  # in part: 1.8, not 2
assert behind_base[1][0] > 0.15  # false
assert search_gain < 0.07 and last_four > 2  # in part: evenly or searched
assert first_gone > 2 * last_gone and last_gone < 1.2 * next_to_last_gone  # in part

# %%
KEYS = ("claim", "source", "said", "measured", "spread", "unit", "holds", "where")
claims = [dict(zip(KEYS, row)) for row in (
    ("train once, prune to any desired depth", "talk", "little is lost",
     at_half[0], at_half[1], "nats per token lost, 8 to 4 layers", "in part",
     f"down to half the layers; {at_one[0]:.2f} nats are lost with one layer"),
    ("pruned beats trained from scratch", "paper",
     "82.9 against 82.3 % on MNLI, 6 of 12 layers",
     behind_scratch[0], behind_scratch, "nats per token behind, 4 layers", False,
     "equal tokens, nothing finetuned after pruning"),
    ("training is about twice as fast at p = 0.5", "paper", "about 2",
     half_speed["median"], [half_speed["low"], half_speed["high"]], "times as fast",
     "in part", f"one thread; the layers take {layer_share:.2f} of a step"),
    ("with all layers quality rises", "paper", "perplexity 18.7 to 18.3, 16 layers",
     behind_base[0], behind_base[1], "nats per token behind, 8 layers", False,
     f"12 million tokens; {behind_long:.2f} behind after 36 million"),
    ("the pruning strategy is not important", "talk", "not important",
     last_four, None, "nats per token, last four layers above even ones", "in part",
     f"even and searched layers differ by at most {search_gain:.2f}"),
    ("first and last layers matter most", "paper", "both",
     first_gone, None, "nats per token lost without the first layer", "in part",
     f"the first; without the last {last_gone:.2f} are lost, as without its neighbour"),
)]

# %%
rows = [[f"{c['claim']} ({c['source']})", c["said"], f"{c['measured']:.2f} {c['unit']}",
         {True: "yes", False: "no"}.get(c["holds"], c["holds"])] for c in claims]
plot.table(rows, ["claim", "said", "measured", "holds"])

# %% [markdown]
# In part, because: "any depth" goes down to half the layers (one layer alone lost 0.79 nats); the layers are 0.85 of a step, so skipping half of them cannot double the speed; even and searched layers are alike, the last four are not; and the first layer matters most, the last one as much as its neighbour.
#
# > **After the talk.** LayerSkip (Elhoushi et al. 2024, arXiv 2404.16710) trains language models with a $p$ that grows with depth and a loss after every layer; at inference the first layers draft tokens that the other layers check, up to 2.16 times as fast (summaries). Gromov et al. 2024 (arXiv 2403.17887) remove up to half of the layers of large language models and finetune them a little: question answering hardly suffers. Those models were not trained to be pruned in depth; our base, which was not either, cannot be.
#
# ## 12. Take it home
#
# On a model that is not ours: PyTorch's encoder.

# %%
from torch import nn

encoder_layer = nn.TransformerEncoderLayer(64, 4, batch_first=True)
encoder = nn.TransformerEncoder(encoder_layer, 6, enable_nested_tensor=False)
where = is_a(nn.TransformerEncoderLayer)
encoder = layerdrop.apply(encoder, p=0.2, where=where)  # before training
pruned = layerdrop.finalize(encoder, keep=layerdrop.keep_evenly(6, 3), where=where)
print(len(encoder.layers), "layers became", len(pruned.layers))

# %% [markdown]
# `python -m minieff snippet layerdrop` prints the idea, to paste into your script; with `--full` the technique as one file that needs torch alone.
#
# The scoreboard, with sizes and times of the same shapes from lesson 00 (16 bits a number, eight windows). Mind the training: 12 million tokens a model, and 24 million for the aimed one. The base pruned to four layers would lie far above the picture.

# %%
def board_row(name, title, layers, shape):
    bits = depths[f"speeches-{name}"]["curve"][str(layers)]["bits_per_byte"]
    return board[shape] | {"name": f"{title}, {layers} layers", "bits_per_byte": bits}

board = {row["name"]: row for row in load_results("00_start_here")["scoreboard"]}
pruned_rows = [board_row(name, title, layers, shape)
               for name, title in (("layerdrop-20", "p = 0.2"),
                                   ("layerdrop-spared-50-long", "aimed"))
               for layers, shape in ((8, "base"), (4, "depth-4"))]
rows = [board[name] for name in board if "width" not in name and "kept" not in name]
new = [row["name"] for row in pruned_rows]
plot.show(plot.scoreboard(rows + pruned_rows, highlight=new),
          alt="The scoreboard with four more points beside the models from scratch: "
          "those of p = 0.2 lie above the same shapes, the two of the aimed model "
          "below.")

# %%
saved = save_results("08_layerdrop", {
    "claims": claims,
    "passes": {name: (t.low, t.median, t.high) for name, t in passes.items()},
    "scoreboard": pruned_rows})

faster = speed["0.2"]["faster"]["median"]
print(f"time of a training step, p = 0.2   1 -> {1 / faster:.2f}")
full_size, pruned_size = (cost.stored_bytes(m) / 1e6 for m in (base, small_model))
print(f"megabytes, 8 -> 4 layers           {full_size:.2f} -> {pruned_size:.2f}")
print("bits per byte, 8 -> 4 layers")
for name, title in (*PRUNED, ("layerdrop-spared-50-long", "aimed, longer")):
    curve = depths[f"speeches-{name}"]["curve"]
    full_bits, pruned_bits = (curve[n]["bits_per_byte"] for n in ("8", "4"))
    print(f"  {title:32} {full_bits:.3f} -> {pruned_bits:.3f}")

# %% [markdown]
# **Three things to remember.**
#
# 1. Skip whole layers in training, with residual connection and all; run all of them at inference. Then half of the layers can go for 0.14 nats instead of 1.27.
# 2. It has a price: at equal tokens, a model trained from scratch at the depth you need is better. One LayerDrop run on three times the tokens replaces several such models, down to about half the depth.
# 3. If you know which layers will stay, never skip those. For the computation of two models from scratch, one aimed run was better at both depths.
#
# **Exercise.** [08 LayerDrop](../exercises/08_layerdrop.ipynb): the forward from memory, a sub-layer that is skipped wrongly, expected depth and speed, which layers to keep, a checkpoint with fewer layers, and an encoder that ignores what you change.

# %% [markdown]
# ## Going further
#
# Each part stands alone; read those that you need.
#
# ### Sub-layers and heads
#
# A layer is only one of the units that can be skipped. All with probability 0.2, one seed each:

# %%
UNITS = {"base": "nothing", "layerdrop-20": "layers", "residualdrop-20": "sub-layers",
         "headdrop-20": "heads"}
rows = [[unit, *rounded(nats(name, n) for n in (8, 4))] for name, unit in UNITS.items()]
plot.table(rows, ["skipped in training", "8 layers", "4 layers"])

# %%
for name, skipped in (("base", "nothing"), ("headdrop-20", "heads")):
    heads = depths[f"speeches-{name}"]["heads"]
    more = mean(heads["half_off"]) - heads["whole"]
    print(f"{skipped} skipped in training: half of the heads off {more:+.2f}")

# %% [markdown]
# What was missing in training can be missing afterwards: the model with coins for heads loses 0.14 nats with a random half of its heads off (mean of 10 draws), the base 0.71. To remove layers, skip layers. In the paper, sub-layers are about as good, heads worse. (Heads that are off save nothing here: `finalize` does not cut them out.)
#
# ### Where data are few
#
# With LayerDrop, the talk says, deep translation models got better, too. Three small tasks, against ordinary dropout of 0.1; held-out nats per token at the end of training, means of three seeds:

# %%
few = load_results("layerdrop/few")["models"]
TASKS = {"tenth": "a tenth of the speeches, 12 times",
         "fiftieth": "a fiftieth, 47 times", "sounds": "spelling to sounds, 11 times"}
KINDS = ("plain", "layerdrop-20", "dropout-10")

# %%
rows = [[title, *rounded(mean(few[f"{task}-{kind}"]["end"]) for kind in KINDS)]
        for task, title in TASKS.items()]
best = [mean(few[f"fiftieth-{kind}"]["best"]) for kind in KINDS]
rows.append(["a fiftieth, best checkpoint", *rounded(best)])
half_steps = [mean(few[f"fiftieth-{kind}-short"]["end"]) for kind in KINDS]
rows.append(["a fiftieth, half of the steps", *rounded(half_steps)])
plot.table(rows, ["", "neither", "LayerDrop", "dropout"])

# %% tags=["figure"]
figure, (ax,) = plot.panels(1, width=6, height=3)
TITLES, COLOURS = ("neither", "LayerDrop", "dropout"), ("black", "red", "blue")
for kind, title, style, colour in zip(KINDS, TITLES, ("-", "--", ":"), COLOURS):
    log = zoo.card(f"layerdrop/fiftieth-{kind}")["log"]
    points = [(row["tokens"] / 1e6, row["valid"]) for row in log if "valid" in row]
    ax.plot(*zip(*points), style, color=plot.PALETTE[colour], label=title)
ax.set(xlabel="million tokens seen", ylabel="nats per token, held out")
ax.legend(frameon=False)
plot.show(figure, alt="Held-out nats over the tokens seen, for a fiftieth of the "
          "speeches. The plain model turns at one million tokens and climbs from 5.0 "
          "to 6.4; with LayerDrop the curve stays at 5.0, with dropout just above.")

# %% [markdown]
# Where the model overfits (a fiftieth of the speeches: 4.99 at the best checkpoint, 6.44 at the end), LayerDrop helps more than dropout. But training for half of the steps does as much. Where it does not overfit, LayerDrop costs 0.2 to 0.3 nats and dropout less than 0.1. The paper's gains (in translation from 29.3 to 29.6 BLEU, a score of overlap with human translations) came with far larger models and longer training.
#
# ### An encoder, as in "BERT + LayerDrop"

# %%
eras = load_results("layerdrop/eras")
addresses = torch.tensor(eras["setting"]["passages"])  # passages in each: (addresses,)

def right(name):  # three layers, mean of seeds
    return torch.tensor(eras["right"][name]["3"]).float().mean(0)  # (addresses,)

# %%
gain = (right("3 of 6, LayerDrop") - right("3 of 6")) / addresses.sum()  # (addresses,)
rest = gain - addresses / addresses.sum() * gain.sum()  # addresses drawn anew
print(f"accuracy {gain.sum():+.3f}, standard error {rest.square().sum().sqrt():.3f}")

# %% [markdown]
# Encoders of six layers, pretrained with and without LayerDrop, were pruned to three and finetuned to tell in which of eight periods a passage was spoken. LayerDrop's was 0.014 less accurate, with a standard error of 0.009: not decided.
#
# ### Scaling at inference
#
# In training 6.4 layers ran on average, at inference eight do. Does it help to multiply what each layer adds by 0.8, as Stochastic Depth does?

# %%
from minieff.core.surgery import Wrap, swap
from minieff.core.transformer import Block

class Scaled(Wrap):
    def forward(self, x, *rest):
        return x + 0.8 * (self.inner(x, *rest) - x)

# %%
plain_stack = layerdrop.finalize(model)
losses = [cost.quality(m, corpus, windows=32).nats
          for m in (swap(plain_stack, is_a(Block), Scaled), plain_stack)]
print(f"scaled by 0.8: {losses[0] - losses[1]:+.3f} nats")

# %% [markdown]
# No. On 32 windows it changes 0.002 nats.
#
# ### The paper's even rule
#
# To remove the share $p$ of the layers, drop layer $d$ when $d \equiv 0$ modulo $\lfloor 1/p \rfloor$:

# %%
for p in (0.25, 0.4, 0.5, 0.6):
    print(f"p = {p}: keeps", [d for d in range(1, 9) if d % int(1 / p) != 0])

# %% [markdown]
# For 0.4 it removes half, and above one half everything. `keep_evenly` takes the number of layers instead, and keeps the first and the last.
#
# ### The optimizer and a skipped layer
#
# A skipped layer has no gradient, and the optimizer leaves it alone. If gradients are *set to zero* instead of taken away, momentum and weight decay move it:

# %%
def moved(set_to_none):  # the second step skips layer 1
    pair = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
    optimizer = torch.optim.AdamW(pair.parameters(), lr=0.1, weight_decay=0.1)
    for ran in ((0, 1), (0,)):
        before = [layer.weight.clone() for layer in pair]
        optimizer.zero_grad(set_to_none)
        sum(pair[i](torch.ones(4)).sum() for i in ran).backward()
        optimizer.step()
    return [not torch.equal(layer.weight, old) for layer, old in zip(pair, before)]

# %%
print("moved in the second step:", moved(set_to_none=True))
print("with zeros for gradients:", moved(set_to_none=False))

# %% [markdown]
# ### Several processes
#
# Large models train in several processes, which average their gradients in every step. All must skip the same layers: give `apply` a generator that starts alike everywhere. PyTorch's `DistributedDataParallel` (DDP) needs `find_unused_parameters=True`, or it stops with the message below. Or average by hand the gradients that exist:

# %%
def average(model, dist):  # dist: torch.distributed
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)  # the sum over all processes
    parts = (flat / dist.get_world_size()).split([g.numel() for g in grads])
    for g, part in zip(grads, parts):
        g.copy_(part.view_as(g))

# %%
ranks = load_results("layerdrop/ranks")
print(fill(ranks["without_the_walk"], 58))
for name in ("LayerDrop, graph walked", "LayerDrop, averaged by hand"):
    low, median, high = ranks["steps_per_second"][name]
    print(f"{name:28}{median:5.1f} steps/s ({low:.1f} to {high:.1f})")

# %% [markdown]
# Two processes on one machine; "graph walked" is DDP with that option, and in brackets are the quartiles. Both ways end with the same weights. Where the weights themselves are spread over processes (FSDP, ZeRO-3), every layer has to be called; there use $x + b\,(\mathrm{layer}(x) - x)$ with a shared coin $b$ of 0 or 1, which saves no time. Not tried here.
#
# ### PyTorch's encoder may not call what you wrap
#
# At inference without gradients, `nn.TransformerEncoderLayer` reads the weights of its parts and does not call them. A whole layer that is wrapped is called; a wrapper *inside* it is passed over:

# %%
class Off(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.weight, self.bias = inner, inner.weight, inner.bias

    def forward(self, x):
        return 0 * self.inner(x)

# %%
single = nn.TransformerEncoderLayer(64, 4, batch_first=True).eval()
tokens = torch.randn(2, 5, 64)  # (B, T, C)
before = single(tokens)
single.linear2 = Off(single.linear2)
for grad in (True, False):
    with torch.set_grad_enabled(grad):
        same = torch.allclose(single(tokens), before, atol=1e-5)
    print(f"gradients: {grad!s:6} output changed: {not same}")

# %% [markdown]
# ### A published model without LayerDrop

# %%
minilm = load_results("layerdrop/minilm")
picked, judged = minilm["agreement"]["0,3,5"]  # two halves of the sentences
print(f"cosine {judged['cosine']:.2f}, same neighbour {judged['same_nearest']:.0%}")

# %% [markdown]
# MiniLM (all-MiniLM-L6-v2, a BERT of six layers for sentence vectors) was not trained with LayerDrop. With layers 0, 3 and 5 alone, its vectors have a mean cosine of 0.70 with those of the full model, and 33 percent of the sentences keep their nearest neighbour. Switching LayerDrop on only for finetuning does not make a model prunable, say the authors.

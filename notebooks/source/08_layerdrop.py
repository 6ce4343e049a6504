# %% [markdown]
# # 08 LayerDrop: train one network, prune it to any depth
#
# **Promise.** You can train a Transformer so that whole layers can be taken out of it afterwards without repair, say how often to skip and which layers to keep, and say what it costs.
#
# | | |
# |---|---|
# | Takes | the cells run in about 30 seconds; the reading takes longer |
# | Read before | [00 Start here](00_start_here.ipynb) for the measures, [01 Train a smaller model](01_train_smaller.ipynb) for what pruning has to beat |
# | Axes | the time of a training step falls; after pruning inference time and model size fall; quality falls, and by how much is the question |
# | Who says so | Fan, Grave, Joulin 2019, "Reducing Transformer Depth on Demand with Structured Dropout" (arXiv 1909.11556); Angela Fan's talk: "Train once, prune to any desired depth". Energy is not measured here |
#
# Where you see **Predict**, write your answer down before you run the next cell.

# %%
import torch
from minieff import layerdrop
from minieff.core import cost, data, plot, zoo
from minieff.core.files import load_results, save_results
from minieff.core.surgery import is_a
from minieff.core.transformer import Residual

torch.set_num_threads(1)
corpus = data.speeches()

# %% [markdown]
# ## 1. A coin in front of each layer
#
# Lesson 00 took four of the base model's eight layers away, and the loss rose by more than a nat: each layer was trained to find all the others in place. LayerDrop trains the layers to do without one another. In every training step each layer is skipped with
# probability $p$: what comes in goes out unchanged. In use, all layers run.

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

print([f"{forward(layers, 0, 0.2, True, coin):08}" for step in range(6)], "in use:", forward(layers, 0, 0.2, False, coin))

# %% [markdown]
# **Predict.** With $p = 0.2$ and 8 layers: (a) how many layers run in an average step? (b) In what share of the steps do all eight run? (c) In what share none?

# %% tags=["predict"]
steps = [[1 if coin() >= 0.2 else 0 for layer in range(8)] for step in range(10_000)]
depth = torch.tensor(steps).sum(1)
print(f"measured  {depth.float().mean():.2f} layers, all in {(depth == 8).float().mean():.3f}, none in {(depth == 0).sum()} of 10,000 steps")
print(f"expected  {8 * 0.8:.2f} layers, all in {0.8**8:.3f}, none in {0.2**8:.7f}")

# %% tags=["predict", "figure"]
from math import comb

def draw_coins(ax, steps):
    ax.imshow(torch.tensor(steps).T, cmap="Greys", vmin=0, vmax=1.4, origin="lower", aspect="auto")
    ax.set(xlabel="training step", ylabel="layer", yticks=range(8))
    ax.grid(False)

figure, (left, right) = plot.panels(2, width=5)
draw_coins(left, steps[:60])
left.set_title("dark: the layer runs")
right.bar(range(9), torch.bincount(depth, minlength=9) / len(depth), color=plot.PALETTE["sky"], label="10,000 steps")
right.plot(range(9), [comb(8, n) * 0.8**n * 0.2 ** (8 - n) for n in range(9)], "o", color=plot.PALETTE["black"], label="binomial")
right.set(xlabel="layers that run in a step", ylabel="share of the steps")
right.legend(frameon=False)
plot.show(figure, alt="Left: a grid of 60 steps by 8 layers, dark where the layer ran, about four fifths of it dark and without a pattern. "
          "Right: bars of the number of layers that run, highest at 7 and 6, on the dots of the binomial distribution.")

# %% [markdown]
# Every step trains one of 256 networks (one has no layer at all), which share their weights. To prune is to pick one of them. On average $L(1 - p)$ of $L$ layers run. So for a network that is to be pruned to $r$ layers the paper derives $p = 1 - r / L$; for nearly all of its results it
# took $p = 0.2$ all the same, and it recommends 0.5 for very small targets. We begin with 0.2, and compare others in section 5.
#
# Nothing is divided by $1 - p$, as ordinary dropout would do; section 4 tries what that changes. (Skipping blocks at random is older: Stochastic Depth, Huang et al. 2016, did so to train deep image networks, more often the deeper the block, and scaled each by $1 - p$ in use. LayerDrop skips so
# that layers can be *removed*.)
#
# ## 2. Two ways to get it wrong
#
# This is the code of the talk's slide. **Predict** what it returns in use, with `training` False.

# %%
def slide(layers, x, p, training, coin):
    for layer in layers:
        if coin() > p and training:
            x = layer(x)
    return x

# %% tags=["predict"]
print("in training", f"{slide(layers, 0, 0.2, True, coin):08}", "in use", f"{slide(layers, 0, 0.2, False, coin):08}")

# %% [markdown]
# No layer runs in use. The condition has to be *not training, or the coin says so*. It is worth a test in your own code: in use, the output equals that of the stack without coins, bit for bit.
#
# The second mistake is to skip the wrong thing. A sub-layer is $x + f(\mathrm{norm}(x))$. Skipped as a whole, it gives $x$. Skip only $f$, and its input passes instead of its output:

# %%
base = zoo.load("speeches-base")
sub_layer = base.blocks.layers[3].feed                                # x + inner(norm(x))
x = torch.randn(2, 5, 128)                                            # (B, T, C)
with torch.no_grad():
    whole = layerdrop.Skip(sub_layer, p=1.0).train()(x)                  # minieff's wrapper with a coin; section 3
    bare = Residual(sub_layer.norm, layerdrop.Skip(sub_layer.inner, p=1.0)).train()(x)
print("skipped whole, equal to x:", torch.equal(whole, x))
print("only f skipped, equal to x + norm(x):", torch.equal(bare, x + sub_layer.norm(x)))

# %% [markdown]
# The second, for each sub-layer that is skipped, would add norm(x) to x. `layerdrop.apply` refuses to wrap what has no residual connection of its own:

# %%
from minieff.core.attention import Attention

try:
    layerdrop.apply(base, p=0.2, where=is_a(Attention))
except ValueError as error:
    print(error)

# %% [markdown]
# ## 3. The same in `minieff`
#
# `apply` puts a `Skip` around each layer of a copy. The list keeps its eight entries, so whatever counts layers or takes the fifth finds what it expects. (A list that leaves layers out whenever it is iterated, as in the authors' library fairseq, keeps its length and yields fewer: pair it
# with a list of something else, and layer 5 gets what belongs to layer 3.)

# %%
with_coins = layerdrop.apply(base, p=0.2, generator=torch.Generator().manual_seed(0))
print(with_coins.blocks.layers[0])

# %%
ids, targets = next(corpus.windows(context=128, rows=4))              # (4, 128) each
with torch.no_grad():
    assert torch.equal(with_coins.eval()(ids), base(ids))                # in use, any p: the plain stack
    assert torch.equal(layerdrop.apply(base, p=0.0).train()(ids), base(ids))
    hidden = torch.randn(4, 128, 128)
    assert torch.equal(layerdrop.apply(base, p=1.0).train().blocks(hidden), hidden)
    generator.manual_seed(7)
    same = forward(base.blocks.layers, hidden, 0.2, True, coin)
    skips = layerdrop.apply(base, p=0.2, generator=torch.Generator().manual_seed(7)).train()
    assert torch.equal(skips.blocks(hidden), same)
print("ours equals the loop above, coin for coin")

# %% [markdown]
# ## 4. Prune
#
# In this notebook nothing is trained; the models are loaded. `finalize(keep=...)` leaves the layers that you name, here evenly spread.

# %%
model = zoo.load("speeches-layerdrop-20")
for kept in (8, 6, 4, 2):
    keep = layerdrop.keep_evenly(8, kept)
    small = layerdrop.finalize(model, keep=keep)
    print(f"{str(keep):26}{cost.stored_bytes(small):>10,} bytes {cost.macs(small):>10,.0f} MACs a token")

# %% [markdown]
# **Predict.** Four of eight layers are left. The base model lost more than a nat. How much does the model lose that was trained with $p = 0.2$?

# %% tags=["predict"]
def nats(model, keep):
    return cost.quality(layerdrop.finalize(model, keep=keep), corpus, windows=64).nats

half = layerdrop.keep_evenly(8, 4)
for name, m in (("without", base), ("p = 0.2", model)):
    whole, left = nats(m, list(range(8))), nats(m, half)
    print(f"{name:8}{whole:.3f} nats a token with 8 layers, {left:.3f} with 4: lost {left - whole:.3f}")

# %% [markdown]
# (64 of the held-out windows, one seed.) So at half the depth LayerDrop does what the talk promises: it loses little, 0.14 nats or 15 percent more perplexity.
#
# Now the question of section 1. In training 6.4 layers added to $x$ on average, in use eight do. **Predict.** Does it help to multiply what each layer adds by 0.8 in use?

# %% tags=["predict"]
from minieff.core.surgery import Wrap, swap
from minieff.core.transformer import Block

class Scaled(Wrap):
    factor = 1.0
    def forward(self, x, *rest):
        return x + self.factor * (self.inner(x, *rest) - x)

def scaled(model, factor):
    model = swap(layerdrop.finalize(model), is_a(Block), Scaled)
    for layer in model.blocks.layers:
        layer.factor = factor
    return model

print({factor: round(cost.quality(scaled(model, factor), corpus, windows=64).nats, 3) for factor in (1.0, 0.9, 0.8, 0.6)})

# %% [markdown]
# No, and it hardly hurts either. (Each layer begins with a norm, which divides by the size of its input; that may explain a part of it.)
#
# Before you believe that LayerDrop is a bargain, ask what else you could have had. Four curves: the model with LayerDrop, pruned to every depth; models of those depths, trained from nothing on the same 12 million
# tokens (lesson 01); the model without LayerDrop, pruned; and, as a line, the model without LayerDrop, whole. All held-out windows. The two pruned curves are means over seeds, with a band from the lowest to the highest.

# %%
depths = load_results("layerdrop/depths")["models"]
DEPTHS = range(8, 0, -1)

def pruned(start):                                                       # all seeds of a model: (seeds, depths)
    names = [name for name in depths if name == start or name.startswith(f"{start}-seed")]
    return torch.tensor([[depths[name]["curve"][str(n)]["nats"] for n in DEPTHS] for name in names])

def said(seeds):
    seeds = [float(seed) for seed in seeds]
    return f"{sum(seeds) / len(seeds):.3f}" + (f" ({min(seeds):.3f} to {max(seeds):.3f})" if len(seeds) > 1 else "")

# %%
plain, dropped = pruned("speeches-base"), pruned("speeches-layerdrop-20")
SCRATCH = {8: "base", 6: "depth-6", 4: "depth-4", 2: "depth-2", 1: "depth-1"}
scratch = {n: zoo.card(f"speeches-{name}")["quality"]["nats"] for n, name in SCRATCH.items()}
fours = scratch[4], zoo.card("train_smaller/speeches-depth-4-seed-1")["quality"]["nats"]
print(f"{len(plain)} seeds without LayerDrop, {len(dropped)} with; 4 layers from nothing, {len(fours)} seeds: {said(fours)}")

# %% tags=["figure"]
def curve(ax, found, style, colour, label):
    ax.fill_between(DEPTHS, found.amin(0), found.amax(0), color=plot.PALETTE[colour], alpha=0.25, lw=0)
    ax.plot(DEPTHS, found.mean(0), style, color=plot.PALETTE[colour], label=label)

figure, (ax,) = plot.panels(1, width=6.5, height=4)
curve(ax, plain, "s-", "black", "without LayerDrop, pruned")
curve(ax, dropped, "o-", "red", "LayerDrop p = 0.2, pruned")
ax.plot(list(scratch), list(scratch.values()), "D--", color=plot.PALETTE["blue"], label="trained from nothing at that depth")
ax.axhline(plain[:, 0].mean(), ls=":", color=plot.PALETTE["black"], label="without LayerDrop, whole")
ax.set(xlabel="layers left", ylabel="nats a token, held out", xlim=(8.3, 0.7), xticks=DEPTHS)
ax.legend(frameon=False)
plot.show(figure, alt="Nats a token over the number of layers left, from 8 to 1. Without LayerDrop the pruned model climbs steeply from 3.3 to above 5. "
          "With LayerDrop it stays between 3.5 and 3.7 down to 4 layers, and ends at 4.3 with one. Models trained from nothing begin at the base's 3.3, where a dotted line is, and lie below both, at 3.56 with one layer.")

# %%
for n in (8, 6, 4, 2, 1):
    at = DEPTHS.index(n)
    print(f"{n} layers: LayerDrop {said(dropped[:, at])}, from nothing {scratch[n]:.3f}, without LayerDrop {said(plain[:, at])}")

# %%
loses = [(found[:, DEPTHS.index(4)] - found[:, 0]).mean() for found in (plain, dropped)]
print(f"pruned to half: {loses[0]:.2f} nats lost without, {loses[1]:.2f} with LayerDrop, {loses[0] / loses[1]:.1f} times less")
assert loses[0] > 4 * loses[1]

# %% [markdown]
# Pruned to half, the model loses an eighth of what the base loses; counted from the whole base for both, a quarter (0.33 nats against 1.23). And it is no bargain yet. With all its layers it is worse than the base, and **at each of the five depths a model that was trained from nothing on the same 12 million tokens is better** than the pruned one.
#
# But the dashed line is five training runs, and that of LayerDrop is a single one (a seed). **Predict.** What if the single run gets three times the tokens, which is still less computation than the five take?

# %% tags=["predict"]
assert all(scratch[n] < dropped[:, DEPTHS.index(n)].mean() for n in SCRATCH)
family = sum(cost.macs(zoo.load(f"speeches-{name}")) for name in SCRATCH.values()) / cost.macs(base)
layer = (cost.macs(base) - cost.macs(layerdrop.finalize(base, keep=half))) / 4
longer = 3 * (1 - 0.2 * 8 * layer / cost.macs(base))                     # 36 million tokens, p = 0.2
print(f"MACs of the training, the base's being 1: five depths {family:.2f}, one run with LayerDrop on three times the tokens {longer:.2f}")

# %% tags=["predict"]
long, plain_long = pruned("speeches-layerdrop-20-long"), pruned("speeches-base-long")
for n in SCRATCH:
    at = DEPTHS.index(n)
    print(f"{n} layers: LayerDrop on 36 million tokens {long[0, at]:.3f}, without it {plain_long[0, at]:.3f}; from nothing on 12 million {scratch[n]:.3f}")
print(f"2 layers from nothing with the computation of 4: {zoo.card('speeches-same-macs-2')['quality']['nats']:.3f}")

# %% [markdown]
# So here is what one run can do: for less computation than the five it gives 8 and 6 layers that are better than theirs, 4 layers that are 0.01 to 0.02 behind, and 2 layers and 1 that are far behind. "Any depth" goes down to about half;
# one layer alone even lost by the longer training. And what does it cost to have been trained with LayerDrop? The
# base on the same 36 million tokens, which take it 3.00 and not 2.47 of its MACs, is 0.07 nats ahead with all layers; on 12 million it was ahead by 0.18. So the price shrinks with longer training. But longer training alone makes no model prunable: with four layers that base is at 5.04, 1.90 worse than whole. (One seed of each. 36 million
# tokens are twelve passes over the text, and 12 million are four.)
#
# And if a small model is all that you need, train a small model, for longer: that is the last line, `same-macs-2` of lesson 01.
#
# The paper reports the pruned model ahead: 82.9 percent against 82.3 from scratch, for RoBERTa with six of twelve layers, both finetuned on MNLI. We repair nothing after pruning, and train far less; which of the two matters was not tested.
#
# ## 5. How often?
#
# Five values of $p$, all else equal: the base's shape, 12 million tokens (for $p = 0$ and 0.2 the means of three seeds). First the time. **Predict.** With $p = 0.2$, a fifth of the layers is skipped. Is training 1.25 times as fast?

# %% tags=["predict"]
speed = load_results("bench/layerdrop")["speed"]
print(f"share of a plain step that is spent in the layers: f = {speed['0.2']['f']['median']:.2f}")
for p, found in speed.items():
    print(f"p = {p:4}: {found['faster']['median']:.2f} times as fast as without; 1 / (1 - p f) = {found['expected']:.2f}; "
          f"of the limit {found['share']['median']:.0%} (quartiles {found['share']['low']:.0%} to {found['share']['high']:.0%})")

# %% [markdown]
# Only the layers are skipped, not the token vectors, the last norm, the loss and their part of the optimizer: of a step's time the layers take the share $f$. So $1 / (1 - pf)$ is to be expected from mean times; medians of short runs scatter around it, some above. The coins cost next to nothing: the steps come within 1 or 2 percent of
# what they can reach, which is also about the error of such a measurement. (One thread, 8 windows of 128 tokens a step. How many layers run in some timed steps is a matter of luck, so the last column compares them with a plain step without the layers that were skipped in them.)
#
# Something else does not move in a step that skips a layer: the layer itself. Its weights have no gradient, and the optimizer leaves such weights alone, without momentum and weight decay. That holds as long as `zero_grad` takes the old gradients away, as is its default; gradients that are *set to zero* move a layer that
# was skipped:

# %%
def moved(set_to_none):                                                  # two layers; in the second step the second one is skipped
    pair = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
    optimizer = torch.optim.AdamW(pair.parameters(), lr=0.1, weight_decay=0.1)
    for ran in ((0, 1), (0,)):
        before = [layer.weight.clone() for layer in pair]
        optimizer.zero_grad(set_to_none)
        sum(pair[i](torch.ones(4)).sum() for i in ran).backward()
        optimizer.step()
    return [not torch.equal(layer.weight, old) for layer, old in zip(pair, before)]

print("moved in the second step:", moved(set_to_none=True), "with zeros for gradients:", moved(set_to_none=False))

# %% [markdown]
# Then the quality. **Predict** which $p$ is best when all eight layers run, which with four, which with two.

# %% tags=["predict"]
RATES = {0.0: "speeches-base", 0.1: "speeches-layerdrop-10", 0.2: "speeches-layerdrop-20", 0.35: "speeches-layerdrop-35", 0.5: "speeches-layerdrop-50"}
for p, name in RATES.items():
    found = pruned(name)
    print(f"p = {p:4}: with 8, 6, 4, 2, 1 layers", "  ".join(f"{found[:, DEPTHS.index(n)].mean():.3f}" for n in SCRATCH), f"(seeds: {len(found)})")
print("from nothing                    ", "  ".join(f"{value:.3f}" for value in scratch.values()))

# %%
figure, (left, right) = plot.panels(2, width=5, height=4)
for (p, name), (style, colour) in zip(RATES.items(), (("s-", "black"), ("v-", "sky"), ("o-", "red"), ("^-", "orange"), ("x-", "green"))):
    curve(left, pruned(name), style, colour, f"p = {p}")
curve(right, dropped, "o-", "red", "p = 0.2, 12 million tokens")
curve(right, long, "P-", "purple", "p = 0.2, 36 million tokens")
curve(right, plain_long, "s-", "black", "without, 36 million tokens")

# %% tags=["predict"]
for ax in (left, right):
    ax.plot(list(scratch), list(scratch.values()), "D--", color=plot.PALETTE["blue"], label="from nothing, 12 million tokens")
    ax.set(xlabel="layers left", xlim=(8.3, 0.7), ylim=(3.0, 6.9), xticks=DEPTHS)
plot.legend(figure)
left.set_ylabel("nats a token, held out")
plot.show(figure, alt="Two panels of nats a token over the number of layers left. Left, the larger p, the higher the curve begins and the flatter it stays; p = 0.5 is nearly level at 3.8. "
          "Right, p = 0.2 on 36 million tokens lies 0.2 to 0.3 below p = 0.2 on 12 million down to 4 layers, crosses the models trained from nothing near 4 layers, and at one layer is above p = 0.2 on 12 million. Without LayerDrop the model on 36 million tokens begins lowest, and climbs as steeply as on the left.")

# %% [markdown]
# Each $p$ has its place: with all layers none is best, with six $p = 0.1$, with four 0.2, with two 0.35; with one, 0.35 and 0.5 are closer than seeds are. The formula $1 - r / L$ asks for more: 0.25 for six, 0.5 for four, 0.75 for two. Of these only 0.5 was trained, and for four layers it is behind 0.2 and 0.35. "Same value for all experiments",
# says the talk of $p$: from 0.1 to 0.5 the model with four layers moves from 3.65 to 3.81 only, the whole one from 3.42 to 3.81.
#
# With $p = 0.5$ the curve is flat, and four layers less cost it 0.01 nats. But from 8 layers to 4 it is the worst of the four with LayerDrop. All this at equal tokens, not at equal time: $p = 0.5$ took 0.56 of the base's time, and what it would do with the rest was not tried. (One seed for 0.1, 0.35 and 0.5.)
#
# ## 6. Which layers?
#
# "Specific pruning strategy is not important", says the talk. **Predict.** Of the 70 ways to keep four of eight layers, which rank has the even one? And what about the first four, or the last four?

# %%
STYLES = {"evenly": ("o-", "red"), "search": ("^--", "blue"), "learned": ("s:", "purple"), "first": ("v-", "green"), "last": ("x-", "orange")}

def strategies(ax, found):
    kept = [int(n) for n in found]
    ax.fill_between(kept, *([found[n]["any"][i] for n in found] for i in (2, 3)), color="#DDDDDD", label="all sets of layers")
    ax.plot(kept, [found[n]["any"][1] for n in found], "-", color=plot.PALETTE["grey"], label="their mean")
    for how, (style, colour) in STYLES.items():
        ax.plot(kept, [found[n][how][1] for n in found], style, ms=4, color=plot.PALETTE[colour], label=how)
    ax.set(xlabel="layers left", xlim=(7.2, 0.8))

# %% tags=["predict"]
figure, axes = plot.panels(2, width=5, height=3.8)
for ax, name, title, ylim in zip(axes, ("speeches-base", "speeches-layerdrop-20"), ("without LayerDrop", "LayerDrop, p = 0.2"), ((3.2, 10), (3.4, 5.6))):
    strategies(ax, depths[name]["choices"])
    ax.set_title(title)
    ax.set_ylim(ylim)
axes[0].set_ylabel("nats a token, held out")
plot.legend(figure)
plot.show(figure, alt="Two panels of nats a token over the number of layers left, on a grey area of all sets with their mean. Left, without LayerDrop: search is lowest, even and learned up to half a nat above it, the first layers up to 0.8; all climb from 3.5 to above 5. The last layers alone lie above 8. "
          "Right, with LayerDrop and on a finer scale: even and search nearly coincide, from 3.5 at seven layers to 4.3 at one, learned is on them but for two spikes at five and three layers; the first layers lie up to 0.3 above, the last ones leave the picture.")

# %% [markdown]
# *Search* tries all sets on one half of 256 held-out windows; what is shown is its loss on the other half, as for all the others, so that it can be beaten. *Learned* follows the paper's data-driven choice. With $h_d$ the mean activation behind layer $d$, its share is the softmax over the layers of $w_d \cdot \tanh(h_d) + b_d$, and
# what the layer adds is multiplied by $\min(1, \mathrm{kept} \times \mathrm{share})$. In 100 steps $w$ and $b$ learn to lessen the loss, with the model frozen; the layers with the largest shares stay.

# %%
for kept in range(7, 0, -1):
    found = depths["speeches-layerdrop-20"]["choices"][str(kept)]
    print(kept, "layers left, p = 0.2:", ", ".join(f"{how} {found[how][1]:.2f}" for how in STYLES), f"(learned: {found['learned'][0]})")

# %%
for name in ("speeches-base", "speeches-layerdrop-20"):
    fours = [keep for keep in depths[name]["subsets"] if keep.count(",") == 3]
    fours.sort(key=lambda keep: depths[name]["subsets"][keep][1])        # on the other half
    for keep in ("0,2,5,7", "0,1,2,3", "4,5,6,7", "0,5,6,7", "1,2,3,4"):
        print(f"{name:22}layers {keep}: {depths[name]['subsets'][keep][1]:.2f} nats a token, rank {fours.index(keep) + 1} of {len(fours)}")

# %%
def without(name, layer):
    rest = ",".join(str(i) for i in range(8) if i != layer)
    return sum(depths[name]["subsets"][rest]) / 2

for name in ("speeches-base", "speeches-layerdrop-20"):
    print(f"{name:22} with one layer missing:", [round(without(name, layer), 2) for layer in range(8)])

# %% [markdown]
# With LayerDrop, even and searched layers are within 0.06 nats of each other at every depth: between these two the choice is not important, and the even one needs no evaluations. (The search takes 70 for four of eight, and 12,870 for eight of sixteen.) "Specific pruning strategy is not important" does not hold for every strategy:
# the learned one failed at two of seven depths, where it left out layer 0, and the first and the last layers are worse.
#
# What matters here is that something is left near the input. With LayerDrop the last four layers are useless, but layer 0 in place of layer 4 makes them as good as the even ones (the base: 5.32 against 4.57). The base cannot do without layer 0, which first reads the token vectors; with LayerDrop layer 1 can stand in at the bottom, as it did in 16 percent of the
# training steps. That layers 0 to 3 were all missing happened in $0.2^4$, 0.16 percent. The paper finds that first *and* last layers matter most; with LayerDrop the last one matters no more than its neighbours here. (One model each.)
#
# The paper states its even rule as a formula. With $p$ now the share of the layers to remove: drop layer $d$ when $d \equiv 0$ modulo $\lfloor 1/p \rfloor$. **Predict** what it keeps of layers 1 to 8 for $p = 0.4$ and for $p = 0.6$.

# %% tags=["predict"]
from math import floor

for p in (0.25, 0.4, 0.5, 0.6):
    print(f"p = {p}: the formula keeps {[d for d in range(1, 9) if d % floor(1 / p) != 0]}")
print("keep_evenly(8, 3) =", layerdrop.keep_evenly(8, 3), "counted from 0")

# %% [markdown]
# For 0.4 it drops half, and above one half it drops everything, because $\lfloor 1/p \rfloor$ is 1. It can only leave out a half, a third, a quarter, and so on. `keep_evenly` takes the number of layers instead, and from two layers on it keeps the first and the last.

# %% [markdown]
# ## 7. Aim
#
# If layers 0, 2, 5 and 7 are the ones to stay, why should they ever be skipped? $p$ can be one number a layer. In the next model those four have no coin, and each of the others is skipped in half of the steps. **Predict.** Compared with $p = 0.2$ for all: is the whole model better or worse? And the half?

# %% tags=["predict"]
aimed = zoo.card("layerdrop/speeches-layerdrop-spared-50")
print("p =", aimed["recipe"]["techniques"][0]["p"])
for name, title in (("speeches-base", "without LayerDrop"), ("speeches-layerdrop-20", "p = 0.2 for all"), ("speeches-layerdrop-spared-50", "four layers spared")):
    found = depths[name]["curve"]
    print(f"{title:20}{found['8']['nats']:.3f} nats a token with 8 layers, {found['4']['nats']:.3f} with layers 0, 2, 5, 7")
print(f"from nothing, 4 layers  {scratch[4]:.3f}")

# %% tags=["predict"]
spared = depths["speeches-layerdrop-spared-50"]["subsets"]
for keep in ("0,1,2,3,4,5,6,7", "0,1,2,4,5,7", "0,2,5,7", "0,1,3,4,6,7", "0,2,5", "1,3,4,6"):
    print(f"layers {keep:16}{sum(spared[keep]) / 2:.2f} nats a token (256 windows)")

# %% [markdown]
# The aimed model is better in both: 0.10 nats behind the base with all layers instead of 0.18, and with four layers 0.03 behind the model that was trained from nothing with four, instead of 0.23. (One seed.) The price is in the last lines: it can only be pruned to sets that hold those four. Even six evenly spaced layers, without 2 and 5, are worse than the base's. What was never skipped cannot be missed.
#
# It serves two depths. Two models from nothing, with 8 and with 4 layers, would serve the same two: what if the one run gets the computation of these two? Its coins let 6 layers of 8 run in a mean step.

# %%
two = 1 + cost.macs(layerdrop.finalize(base, keep=half)) / cost.macs(base)
twice = 2 * (1 - 2 * layer / cost.macs(base))                            # 24 million tokens, 2 of 8 layers skipped in the mean
print(f"MACs of the training, the base's being 1: 8 layers and 4 layers {two:.2f}, one aimed run on 24 million tokens {twice:.2f}")
aimed_long = pruned("speeches-layerdrop-spared-50-long")[0]
for n in (8, 4):
    print(f"{n} layers: aimed {aimed_long[DEPTHS.index(n)]:.3f}, from nothing {scratch[n]:.3f}")

# %% [markdown]
# Both are better than their rivals, by 0.04 nats with eight layers and by 0.11 with four, and half of the layers costs 0.03. Perhaps because the four that stay ran on all 24 million tokens; four layers alone on so many were not trained. The strongest small rival of the computation of four, lesson 01's two layers, is behind as well, with 3.389. So this is where training once pays here: for depths that are known
# beforehand, and with the computation that they would cost one by one. (One seed.)
#
# From nothing, $p = 0.2$ (mean of three seeds) and aimed, side by side:

# %%
runs = {"8 layers from nothing": ("12", 1, scratch[8], None), "4 layers from nothing": ("12", two - 1, None, scratch[4])}      # tokens, MACs, nats with 8 and with 4 layers
for title, name, tokens, macs in (("p = 0.2", "layerdrop-20", "12", longer / 3), ("p = 0.2, longer", "layerdrop-20-long", "36", longer),
                                  ("aimed", "layerdrop-spared-50", "12", twice / 2), ("aimed, longer", "layerdrop-spared-50-long", "24", twice)):
    found = pruned(f"speeches-{name}").mean(0)
    runs[title] = tokens, macs, found[0], found[DEPTHS.index(4)]

# %%
print(f"{'trained':24}{'million tokens':>15}{'MACs, base = 1':>16}{'nats, 8 layers':>16}{'4 layers':>10}")
for title, (tokens, macs, *found) in runs.items():
    print(f"{title:24}{tokens:>15}{macs:>16.2f}" + "".join(f"{'-' if nats is None else format(nats, '.3f'):>{width}}" for nats, width in zip(found, (16, 10))))

# %% [markdown]
# ## 8. Your turn: choose p and the layers
#
# All 255 choices of layers were measured, for each value of $p$ in the list, on 256 held-out windows. Choose, and see coins for 60 training steps, the stack that is left, and its measured perplexity, $e$ to the power of the nats a token.

# %%
from itertools import combinations
from math import exp

def perplexity(p, keep):
    return exp(sum(depths[RATES[p]]["subsets"][",".join(map(str, keep))]) / 2)

# %%
def panel(p, keep):
    coins = torch.rand(60, 8, generator=torch.Generator().manual_seed(0)) >= p
    figure, (left, right) = plot.panels(2, height=2.2)
    draw_coins(left, coins.tolist())
    right.barh(list(keep), 1, color=plot.PALETTE["blue"])
    right.set(xlabel="what is left", xticks=[], xlim=(0, 1), ylim=(-0.5, 7.5), yticks=range(8))
    return plot.picture(figure, alt="Left, 60 training steps by 8 layers, dark where the layer ran. "
                                    f"Right, the layers that are left: {keep}.")

def sentence(p, keep):
    megabytes = cost.stored_bytes(layerdrop.finalize(base, keep=keep)) / 1e6
    return (f"p = {p}, layers {keep}, {megabytes:.2f} MB:\nperplexity {perplexity(p, keep):.1f}; "
            f"with all 8 layers {perplexity(p, range(8)):.1f}, and\n"
            f"{perplexity(0.0, range(8)):.1f} without LayerDrop")

print(sentence(0.2, half))
panel(0.2, half)

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets

rate = widgets.SelectionSlider(options=list(RATES), value=0.2, description="p")
switches = [widgets.ToggleButton(value=i in half, description=str(i), layout=widgets.Layout(width="44px")) for i in range(8)]
shown = widgets.HTML()

# %% tags=["nbval-ignore-output"]
def update(_=None):
    keep = [i for i, switch in enumerate(switches) if switch.value]
    shown.value = panel(rate.value, keep).html + sentence(rate.value, keep) if keep else "keep at least one layer"

for control in (rate, *switches):
    control.observe(update, "value")
update()
widgets.VBox([rate, widgets.HBox(switches), shown])

# %% [markdown]
# Find the four layers with the lowest perplexity for $p = 0$ and for $p = 0.2$ (on all 256 windows; the search of section 6 saw half of them). Then leave out layer 0 alone.

# %%
said_of = []
for p in (0.0, 0.2):
    fours = sorted((perplexity(p, keep), keep) for keep in combinations(range(8), 4))
    near = sum(found < fours[0][0] + 0.5 for found, _ in fours) - 1
    said_of.append(f"p = {p}: the best four are {fours[0][1]} with {fours[0][0]:.1f} (sets within 0.5 of that: {near}); "
                   f"without layer 0 alone it goes from {perplexity(p, range(8)):.1f} to {perplexity(p, range(1, 8)):,.1f}.")
plot.Html(f"<details><summary>Answer</summary>{'<br>'.join(said_of)}</details>", "\n".join(said_of))

# %% [markdown]
# ## 9. Sub-layers and heads
#
# LayerDrop is structured dropout, and a layer is only one of the structures. **Predict.** Which unit would you skip, if layers are to be removed afterwards: layers, sub-layers (an attention or a feed-forward), or heads?

# %% tags=["predict"]
UNITS = {"speeches-base": "nothing", "speeches-layerdrop-20": "layers", "speeches-residualdrop-20": "sub-layers", "speeches-headdrop-20": "heads"}
for name, unit in UNITS.items():
    found = pruned(name)
    print(f"skipped in training: {unit:11} {said(found[:, 0])} nats a token with 8 layers, {said(found[:, DEPTHS.index(4)])} with 4")

# %% tags=["predict"]
for name in ("speeches-base", "speeches-layerdrop-20", "speeches-headdrop-20"):
    heads = depths[name]["heads"]
    lost = [half - heads["whole"] for half in heads["half_off"]]
    print(f"skipped in training: {UNITS[name]:11} with a random half of each layer's heads off, lost {sum(lost) / len(lost):.2f} "
          f"({min(lost):.2f} to {max(lost):.2f} in {len(lost)} draws)")

# %% [markdown]
# What was missing in training can be missing afterwards. The model with coins for heads can spare half of its heads for 0.14 nats, where the base loses 0.71; half of its layers cost it 0.81. For the removal of layers, coins for layers are best. Coins for sub-layers, at the same $p$, are 0.10 nats
# behind with four layers, five times the range of the seeds; but then an undisturbed block is rarer, too: both of its sub-layers run in 0.64 of the steps. (One seed each for sub-layers and heads.) In the paper layers and sub-layers are about equal, and heads behind.
#
# Skipped heads save nothing here: their attention is computed and multiplied by zero. Heads that are off could be cut out of the four matrices afterwards; `finalize` does not do it.
#
# ## 10. Where data are few
#
# The talk shows a second use: with LayerDrop, deep translation models got better, not only smaller. The idea: what relies on a layer that may be missing is not learned by heart. Whether that is a gain depends on how much a model overfits. Three regimes with small models, against nothing and against ordinary dropout of 0.1: a tenth of the
# speeches (8 layers of width 96); a fiftieth of them; and a small translation, from spelling to sounds, with a tenth of the pronunciations (12 layers of width 64). **Predict** where LayerDrop helps.

# %% tags=["predict"]
few = load_results("layerdrop/few")
TASKS = {"tenth": "a tenth of the speeches", "fiftieth": "a fiftieth of them", "sounds": "spelling to sounds"}
KINDS = ("plain", "layerdrop-20", "dropout-10")
for task, title in TASKS.items():
    print(f"{title}, seen {few['passes'][task]:.0f} times; nats a token:")
    for kind in KINDS:
        found = few["models"][f"{task}-{kind}"]
        print(f"    {kind:13} held out at the end {said(found['end'])}, at its best {said(found['best'])}; in training {said(found['train'])}")

# %% tags=["predict"]
print("pronunciations of which every sound is right:", {kind: said(few["models"][f"sounds-{kind}"]["all_right"]) for kind in KINDS})
print("a fiftieth of the speeches, half of the steps:", {kind: said(few["models"][f"fiftieth-{kind}-short"]["end"]) for kind in KINDS})

# %% tags=["predict"]
figure, axes = plot.panels(3, width=4)
for ax, (task, title) in zip(axes, TASKS.items()):
    for kind, colour in zip(KINDS, ("black", "red", "blue")):
        looks = [row for row in zoo.card(f"layerdrop/{task}-{kind}")["log"] if "valid" in row]
        ax.plot([row["tokens"] / 1e6 for row in looks], [row["valid"] for row in looks], color=plot.PALETTE[colour], label=kind)
    ax.set(title=title, xlabel="million tokens seen")
axes[0].set_ylabel("nats a token, held out")
axes[0].legend(frameon=False)
plot.show(figure, alt="Three panels of held-out nats over the tokens seen. A tenth of the speeches, and spelling to sounds: all curves fall to the end, without anything lowest, LayerDrop highest. "
          "A fiftieth: without anything the curve turns at one million tokens and climbs from 5.0 to 6.4; with LayerDrop it stays at 5.0, with dropout just above.")

# %% [markdown]
# (The curves are those of the first seed.) In two of the three regimes the plain model's training loss is below its held-out loss, and still the held-out loss falls to the end: it overfits, but not so much that less training would be better. There LayerDrop ends 0.2 to 0.3 nats higher and dropout less than 0.1: at this size and length both take more than they give. (Their training losses are measured with layers or numbers
# missing.) A fiftieth of the speeches, seen 47 times, is learned by heart: without anything the held-out loss climbs from 4.99 to 6.44. With LayerDrop it ends at 5.01, with dropout at 5.07; both differences are larger than those of seeds. So LayerDrop is a regularizer, and the better of the two there. (The best look is one that only the held-out loss can pick.)
#
# Is it a gain over stopping in time? Plan for half of the steps, and all three end lower than with all of them: the plain model and LayerDrop at 4.89 and 4.90, dropout at 4.84 (one seed each). So here a shorter training does what LayerDrop does, and dropout more.
#
# The paper's gains with all layers (translation 29.3 to 29.6, and 30.2 with 12 encoder layers, which did not train without) came with models 200 times as large and far longer training. We did not find out what makes the difference.
#
# ## 11. An encoder, as in "BERT + LayerDrop"
#
# The talk's third use: pretrain an encoder with LayerDrop, prune it, finetune what is left. Here is a small version. Encoders of six layers learned to guess hidden tokens of the speeches, three in ten of them, from both sides (masked language modelling), on the same 12 million tokens in windows of 32. Then
# each learns, in 400 steps, a real label: in which of eight periods of 30 years was this passage of 31 tokens spoken? The accuracy is on 4,096 passages of addresses that no model saw; three seeds of the finetuning.
#
# Half of the layers can go before the finetuning, as in the paper, or afterwards, with nothing to repair it. **Predict.** Put in order: three layers from LayerDrop's encoder, three from the plain one, three that were pretrained as three.

# %% tags=["predict"]
eras = load_results("layerdrop/eras")
passages = torch.tensor(eras["setting"]["passages"])                     # of each of the held-out addresses: (addresses,)
right = {name: {int(left): torch.tensor(counts) for left, counts in found.items()} for name, found in eras["right"].items()}   # (seeds, addresses)
print(f"{passages.sum()} passages of {len(passages)} addresses; always the commonest period: {eras['setting']['commonest'] / passages.sum():.3f}")

def accuracy(counts):
    return counts.sum(-1) / passages.sum()

for name, found in right.items():
    print(f"{name:26} {said(accuracy(found[max(found)]))}")
print("nats a hidden token:", {name: round(zoo.card(f"layerdrop/{name}")["quality"]["nats"], 3) for name in ("masked-6", "masked-6-layerdrop-20", "masked-3")})

# %% tags=["predict"]
for left in range(6, 0, -1):
    print(f"pruned after finetuning, {left} layers: without LayerDrop {said(accuracy(right['6 layers'][left]))}, with {said(accuracy(right['6 layers, LayerDrop'][left]))}")

# %% tags=["predict"]
def difference(one, other):                                              # and its standard error: addresses drawn anew, not passages
    gain = (one.float().mean(0) - other.float().mean(0)) / passages.sum()        # (addresses,)
    rest = gain - passages / passages.sum() * gain.sum()
    return f"{gain.sum():+.3f}, standard error {rest.square().sum().sqrt():.3f}"

three = right["3 of 6, LayerDrop"][3]
for name in ("3 of 6", "3 layers"):
    print(f"three layers of LayerDrop's encoder against {name}: {difference(three, right[name][3])}")
print(f"six layers, pretrained against not pretrained: {difference(right['6 layers'][6], right['6 layers, not pretrained'][6])}")
print(f"pruned to three afterwards, with LayerDrop against without: {difference(right['6 layers, LayerDrop'][3], right['6 layers'][3])}")

# %% [markdown]
# Passages of one address resemble one another, and there are 24 addresses. So **no difference in this table is decided**: pretraining is ahead by 1.2 standard errors; against LayerDrop's three layers the plain ones are ahead by about one and a half, those that were pretrained as three by about one; and pruned after the finetuning (with coins there, too) LayerDrop is ahead by a little more than one.
# Finetuned after pruning, three layers reach what six do: in this training six layers are no better than three, on the label or on hidden tokens (see the nats). A comparison of depths needs a task on which depth helps. (One pretraining each, which the errors do not hold.)
#
# ## 12. Two processes
#
# Large models train in several processes, on one machine or many: each computes gradients on its own rows of the batch, and in every step these are averaged. If the processes skip different layers, one waits for gradients that the other never computes. Our coins come from a generator that starts
# alike everywhere, so all skip the same layers. PyTorch's `DistributedDataParallel`, which does the averaging, does not know that and says:

# %%
ranks = load_results("layerdrop/ranks")
print(ranks["without_the_walk"])
print("same layers in both processes:", ranks["same_coins"], "- same weights after training:", all(ranks["same_weights"].values()))
print("largest difference between the two ways below, in standard deviations of the weights:", ranks["by_hand_from_ddp"])

# %% [markdown]
# `find_unused_parameters=True` makes it walk through the graph of every step and look for what is missing. With coins that are shared there is another way: average exactly the gradients that are there, in one message (`all_reduce` leaves the sum over all processes in each). The
# message is also shorter by the layers that were skipped.

# %%
def average(model, dist):
    grads = [p.grad for p in model.parameters() if p.grad is not None]       # the same ones everywhere
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    for g, part in zip(grads, (flat / dist.get_world_size()).split([g.numel() for g in grads])):
        g.copy_(part.view_as(g))

# %%
for name, (low, median, high) in ranks["steps_per_second"].items():
    print(f"{name:28}{median:5.1f} steps a second (quartiles {low:.1f} to {high:.1f})")

# %% [markdown]
# Walking through the graph costs a few percent of a step at most (two processes of one thread each, on one machine; the quartiles touch); averaging by hand needs no such walk. With LayerDrop the two ways overlap as well. Both end with the same weights in both processes, and the two ways end with the same weights to the last bit (with two processes; a sum of more has several orders). On a network things may turn around: `DistributedDataParallel`
# sends while the backward pass still runs, and this loop waits for its end. Where the weights themselves are spread over processes (FSDP, ZeRO-3), every process has to call a layer for it
# to run, so coins that are not shared can stop them all. There libraries run every layer and ignore some results, as $x + b\,(\mathrm{layer}(x) - x)$ does with a shared coin $b$ of 0 or 1: that saves no time, and the gradients of a skipped layer are zeros, so the optimizer moves it (section 5). Not tried here.
#
# ## 13. What it does not do
#
# **In use, with all layers, nothing is saved.** The file holds all eight; time and MACs are those of the base.

# %%
assert cost.stored_bytes(model) == cost.stored_bytes(base) and cost.macs(model) == cost.macs(base)

# %% tags=["nbval-ignore-output"]
window, _ = next(corpus.windows(context=128, rows=1))                        # (1, 128)
models = {"without LayerDrop": base, "LayerDrop, 8 layers": model}
models |= {f"pruned to {n}": layerdrop.finalize(model, keep=layerdrop.keep_evenly(8, n)) for n in (6, 4, 2)}
with torch.no_grad():
    passes = cost.interleaved({name: lambda m=m: m(window) for name, m in models.items()}, runs=30, warmup=10)
for name, timing in passes.items():
    print(f"{name:20}{1e3 * timing.median:6.2f} ms a window (quartiles {1e3 * timing.low:.2f} to {1e3 * timing.high:.2f})")

# %% [markdown]
# **Half of the layers is not half of the bytes.** The token vectors stay:

# %%
small_model = models["pruned to 4"]
print(f"{cost.stored_bytes(small_model) / cost.stored_bytes(model):.2f} of the bytes, {cost.macs(small_model) / cost.macs(model):.2f} of the MACs")
one = cost.stored_bytes(model.blocks.layers[0])
assert cost.stored_bytes(model) - cost.stored_bytes(small_model) == 4 * one

# %% [markdown]
# ## 14. Take it home
#
# On a model that is not ours: PyTorch's encoder.

# %%
from torch import nn

layer = is_a(nn.TransformerEncoderLayer)
encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, batch_first=True), 6, enable_nested_tensor=False)  # no packing of padded rows
encoder = layerdrop.apply(encoder, p=0.2, where=layer)                       # before training
small = layerdrop.finalize(encoder, keep=layerdrop.keep_evenly(6, 3), where=layer)
print(len(encoder.layers), "layers became", len(small.layers))

# %%
x, padding = torch.randn(2, 5, 64), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])      # (B, T, C), (B, T)
with torch.no_grad():
    print(tuple(small(x, src_key_padding_mask=padding).shape), "under no_grad, with padding")

# %% [markdown]
# One trap there. In use without gradients, PyTorch's encoder layer takes a fused path that reads the weights of its sub-modules and does not call them. A whole layer that is wrapped, as above, is called. A wrapper *inside* a layer, say around `linear2` to find out what the feed-forward is worth, is
# passed over without a word:

# %%
class Off(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.weight, self.bias = inner, inner.weight, inner.bias

    def forward(self, x):
        return 0 * self.inner(x)

# %%
single = nn.TransformerEncoderLayer(64, 4, batch_first=True).eval()
before = single(x)
single.linear2 = Off(single.linear2)
print("changed, with gradients:", not torch.allclose(single(x), before, atol=1e-5))
with torch.no_grad():
    print("changed, under no_grad:", not torch.allclose(single(x), before, atol=1e-5))

# %% [markdown]
# A published BERT of six layers (all-MiniLM-L6-v2) was not trained with LayerDrop. Take three of its layers away, without repair: how far do its sentence vectors move?

# %%
minilm = load_results("layerdrop/minilm")
print(f"{minilm['parameters']['6'] / 1e6:.1f} million parameters became {minilm['parameters']['3'] / 1e6:.1f}; "
      f"a batch of 32 sentences took {minilm['seconds']['3 layers'][1] / minilm['seconds']['6 layers'][1]:.2f} of the time")
best = max(minilm["agreement"], key=lambda keep: minilm["agreement"][keep][0]["cosine"])        # on one half of the sentences
for keep in ("0,3,5", best):
    other = minilm["agreement"][keep][1]                                                        # on the other half
    print(f"layers {keep}: mean cosine with the whole model's vectors {other['cosine']:.2f}, same nearest neighbour for {other['same_nearest']:.0%} of {minilm['sentences'] // 2} sentences")

# %% [markdown]
# That is what happens without LayerDrop in pretraining and without repair. These six layers are themselves every second layer of a model of twelve, which was then trained on, says the card of that model: pruning with repair. (Switching LayerDrop on only when a model is finetuned does not make it prunable, say the authors in the documentation of their code.)
#
# `python -m minieff snippet layerdrop` prints the idea, to paste into your script; with `--full` the technique as one file that needs torch alone.
#
# **Recap**: the base, the model with p = 0.2, and the aimed one with the computation of two models, each with eight layers and pruned to four:

# %%
bits = {name: depths[name]["curve"] for name in ("speeches-base", "speeches-layerdrop-20", "speeches-layerdrop-spared-50-long")}
print(f"training time  {1 / speed['0.2']['faster']['median']:.2f} of the base's a step (p = 0.2, measured); the aimed run took {twice:.2f} of its MACs in all")
print(f"model size     {cost.stored_bytes(small_model) / cost.stored_bytes(base):.2f}, MACs {cost.macs(small_model) / cost.macs(base):.2f} of the base's")
for name in bits:
    print(f"{name:35}{bits[name]['8']['bits_per_byte']:.3f} bits a byte with 8 layers, {bits[name]['4']['bits_per_byte']:.3f} with 4")

# %% [markdown]
# On the scoreboard, with sizes and times of the shapes as lesson 00 measured them: files of 16 bits a number, and passes of eight windows (above it were 32 bits and one window). Narrow models are left out. Mind the training: 12 million tokens a model, and 24 million for the aimed one. The base, pruned to four without LayerDrop, would lie far above the picture.

# %%
board = load_results("00_start_here")["scoreboard"]
shape = {row["name"]: row for row in board}
short = [shape[like] | {"name": f"{title}, {kept} layers", "bits_per_byte": bits[name][kept]["bits_per_byte"]}
         for name, title in (("speeches-layerdrop-20", "p = 0.2"), ("speeches-layerdrop-spared-50-long", "aimed")) for kept, like in (("8", "base"), ("4", "depth-4"))]

# %%
rows = [row for row in board if "width" not in row["name"] and "kept" not in row["name"]] + short
plot.show(plot.scoreboard(rows, highlight=[row["name"] for row in short]), alt="The scoreboard with four more points beside those of the models that were trained from nothing: "
          "those of p = 0.2 lie above, the two of the aimed model below those of the same shapes.")

# %%
saved = save_results("08_layerdrop", {                    # to a temporary folder, unless `make lessons` runs
    "lost_at_half": {"without": float(loses[0]), "p = 0.2": float(loses[1])},
    "passes": {name: (t.low, t.median, t.high) for name, t in passes.items()},
    "scoreboard": short})

# %% [markdown]
# **Exercise.** [08 LayerDrop](../exercises/08_layerdrop.ipynb): the forward from memory, a sub-layer that is skipped wrongly, expected depth and speed, which layers to keep, a checkpoint with fewer layers, and an encoder that ignores what you change.

# %% [markdown]
# # Exercise 01: train a smaller model, and compare fairly
#
# Six tasks after [lesson 01](../notebooks/01_train_smaller.ipynb). Nothing is trained.
#
# **Run the cells one by one**: *Run All* stops at the first task that is not solved.
#
# Write or correct the code in a cell and run it. Its last line says *Passed*, or *Not yet* and where to look. Each task has three hints; open one at a time.

# %%
import numpy as np
from math import sqrt
from statistics import mean, stdev

from exercises.checks import train_smaller as check
from minieff.core import zoo
from minieff.core.files import load_results
from minieff.core.transformer import Config

NAMES = ["base", "depth-6", "depth-4", "depth-2", "width-96", "width-64"]
cards = {name: zoo.card(f"speeches-{name}") for name in NAMES}      # what came out of each training

# %% [markdown] tags=["solution"]
# **This notebook has the solutions.** Click the three dots to unfold one.

# %% tags=["solution"]
from exercises.checks import progress

progress.FILE = None        # running a solution is not your progress

# %% [markdown]
# ## Task 1. The front, with the lesson closed
#
# *Retrieval, difficulty 1 of 5.* `models` maps each model's name to a pair: its bytes, and its loss on held-out text. Less is better in both.
#
# Write `front(models)`, which returns the names of all models on the Pareto front, as a list in any order. Some models are equal in bytes, some in loss, some in both. What the definition says about them
# is part of the task.

# %%
def front(models):
    # stub
    raise NotImplementedError
    # solution
    def dominates(a, b):
        return a[0] <= b[0] and a[1] <= b[1] and a != b
    return [name for name, point in models.items() if not any(dominates(other, point) for other in models.values())]
    # end

check.front(front)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# A model is on the front if no other model dominates it. To dominate is to be at least as good in both numbers and better in at least one.
#
# </details>
# <details><summary>Hint 2</summary>
#
# First write `dominates(a, b)` for two pairs. What should it say for (10, 3.1) and (10, 3.2)? And for (10, 3.1) and (10, 3.1)?
#
# </details>
# <details><summary>Hint 3</summary>
#
# Two comparisons with `<=`, and a third that rules out equal pairs. A name stays if `not any(...)` of the models dominates it.
#
# </details>

# %% [markdown]
# Now use it. `cards["base"]` has `["bytes"]`, `["macs"]` (per token) and `["quality"]["bits_per_byte"]`. How many of the six models are on the front of bytes and bits per byte? And of MACs and bits per byte?
#
# <details><summary>Answer</summary>
#
# All six, both times. (In the lesson `depth-1`, which is not here, dominated `width-64`.) A front says which models you can rule out: of these six, none.
#
# </details>

# %%
# stub
# Call your function here.
# solution
for axis in ("bytes", "macs"):
    names = front({name: (card[axis], card["quality"]["bits_per_byte"]) for name, card in cards.items()})
    print(f"{axis}: {len(names)} of {len(cards)} models are on the front")
# end

# %% [markdown]
# ## Task 2. The best model that fits
#
# *Build, difficulty 2.* `models` is a list of dictionaries with the keys `name`, `bytes`, `ms` (the time of a pass) and `bits_per_byte`.
#
# Write `pick(models, most_bytes, most_ms)`: the name of the best model within both limits, or `None` if there is none.
#
# - The best model has the fewest bits per byte. Of two equally good ones, take the one with fewer bytes.
# - A model that reaches a limit exactly is within it. A limit of `None` is no limit.

# %%
def pick(models, most_bytes, most_ms):
    # stub
    raise NotImplementedError
    # solution
    def fits(model):
        small = most_bytes is None or model["bytes"] <= most_bytes
        fast = most_ms is None or model["ms"] <= most_ms
        return small and fast
    fitting = [model for model in models if fits(model)]
    best = min(fitting, key=lambda model: (model["bits_per_byte"], model["bytes"]), default=None)
    return best and best["name"]
    # end

check.pick(pick)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Drop what does not fit, then choose among the rest.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `limit is None or value <= limit` does not compare a number with `None`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `min` takes a `key`, and a tuple as key breaks ties. For an empty list it raises an error, unless you give it a `default`.
#
# </details>

# %% [markdown]
# Now use it on `rows`, the models of lesson 00. Which one do you take for at most 2,150,000 bytes, which for at most half of the base's time, and which for the 1,048,576 bytes of lesson 00's microcontroller?
#
# The model that lost four layers without training has exactly the bytes of `depth-4`. Why does no limit ever pick it?
#
# <details><summary>Answer</summary>
#
# `depth-4`, `depth-2`, and none: in 16 bits, nothing fits the microcontroller. Wherever the pruned model fits, `depth-2` fits as well: fewer bytes, faster, and 0.45 bits per byte better.
#
# </details>

# %%
rows = [{"name": row["name"], "bytes": row["stored_bytes"], "ms": 1e3 * row["seconds"][1], "bits_per_byte": row["bits_per_byte"]}
        for row in load_results("00_start_here")["scoreboard"]]     # the second of the three times is the median
# stub
# Call your function here.
# solution
half = next(row["ms"] for row in rows if row["name"] == "base") / 2
print("2,150,000 bytes:", pick(rows, 2_150_000, None))
print("half the time:  ", pick(rows, None, half))
print("1,048,576 bytes:", pick(rows, 1_048_576, None))
# end

# %% [markdown]
# ## Task 3. As many tokens as the compute buys
#
# *Predict, difficulty 2.* Your base model is to be trained on `tokens` tokens. How many does another model get for the same compute, in multiply-accumulates (MACs)? For both, a training step
# takes about three times the MACs of a forward pass, so the three cancels.
#
# `base` and `other` are configs with `vocab` $V$, `context` $S$, `layers` $L$, `dim` $C$ and `ffn` $F$. Per token, a forward pass takes
#
# - in each layer $4C^2$ for attention's four projections, $2CF$ for the feed-forward, and $2SC$ for attention's two products with the whole context;
# - $VC$ for the head.
#
# Write `tokens_for(base, tokens, other)`, which returns the number of tokens; it need not be whole.

# %%
def tokens_for(base, tokens, other):
    # stub
    raise NotImplementedError
    # solution
    def macs(c):
        layer = 4 * c.dim**2 + 2 * c.dim * c.ffn + 2 * c.context * c.dim
        return c.layers * layer + c.vocab * c.dim
    return tokens * macs(base) / macs(other)
    # end

check.tokens_for(tokens_for)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write `macs(config)` for one token's forward pass. A run takes its tokens times that.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Each config has its own sizes, also its own context.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Equal compute is `tokens * macs(base) == answer * macs(other)`. Solve it for `answer`.
#
# </details>

# %% [markdown]
# Now use it. The base of the zoo was trained on 12.0 million tokens, four times its training text. How many would each other model get for that compute, and how often would it
# read the text?
#
# <details><summary>Answer</summary>
#
# `depth-6` gets 15.4 million tokens and reads the text 5 times, `depth-4` 21.3 million (7 times), `depth-2` 34.9 (12), `width-96` 19.7 (7), `width-64` 38.4 (13).
#
# </details>

# %%
base = Config(2048, 128, 8, 4, 128)         # vocab, context, layers, heads, dim
shapes = {"depth-6": (6, 4, 128), "depth-4": (4, 4, 128), "depth-2": (2, 4, 128), "width-96": (8, 3, 96), "width-64": (8, 2, 64)}
# stub
# Call your function here.
# solution
for name, shape in shapes.items():
    tokens = tokens_for(base, 12e6, Config(2048, 128, *shape))
    print(f"{name:8} {tokens / 1e6:5.1f} million tokens, the text {4 * tokens / 12e6:4.1f} times over")
# end

# %% [markdown]
# More compute brings no new text. Whether twelve readings are too many for `depth-2`, only a run can tell.
#
# ## Task 4. What had it reached by then?
#
# *Spot the bug, difficulty 3.* A card keeps the log of its training. Every row has `step`, `tokens` (seen so far), `seconds` and `train`, the training loss. In some rows the model was also tested on held-out text; these have `valid`, the held-out loss.
#
# `loss_at(log, macs, budget)` should return the held-out loss that a run had reached when it had spent `budget` MACs. `macs` is a forward pass for one token; a training step takes **three** times that for each of its
# tokens. In a row with `valid` it is that loss. Between two such rows the answer lies on the straight line between their losses. Before the first and after the last of them it is `None`.
#
# The function is wrong for more than one reason.

# %%
def loss_at(log, macs, budget):
    # stub
    looks = [row for row in log if "valid" in row]
    spent = [macs * row["tokens"] for row in looks]
    return np.interp(budget, spent, [row["valid"] for row in looks])
    # solution
    looks = [row for row in log if "valid" in row]
    spent = [3 * macs * row["tokens"] for row in looks]
    if not spent[0] <= budget <= spent[-1]:
        return None
    return np.interp(budget, spent, [row["valid"] for row in looks])
    # end

check.loss_at(loss_at)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write a log with two tested rows by hand. Ask for a budget that the run never reached. What comes back?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Compare the line that computes `spent` with the text.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Beyond its ends, `np.interp` repeats the first value or the last. Ask, before you call it, whether `budget` lies between `spent[0]` and `spent[-1]`.
#
# </details>

# %% [markdown]
# Now use it on `logs`. For budgets of 10, 20, 25, 30, 40, 50, 60 and 70 trillion MACs (`10e12` and so on), which model has the lowest loss, and what is it?
#
# From 25 to 30 trillion MACs, the best loss gets *worse*. How can more compute do harm?
#
# <details><summary>Answer</summary>
#
# `depth-2` with 3.73, 3.38 and 3.31 nats at 10, 20 and 25 trillion; `depth-4` with 3.37 and 3.25 at 30 and 40; `depth-6` with 3.23 at 50; the base with 3.22 and 3.17 at 60 and 70.
#
# More compute does no harm. `depth-2` is best until its run ends at 26 trillion, and then it drops out. The others were planned to be longer, and their learning rate has not yet fallen to zero: a run
# that is cut off is worse than one planned to end there. So this table shows not only sizes but also where each run ends. That is why lesson 01 trained more models, each planned to end at one budget.
#
# </details>

# %%
logs = {name: [row | {"valid": row["valid_first_256"]} for row in card["log"] if "valid_first_256" in row] for name, card in cards.items()}
# stub
# Call your function here.
# solution
for trillions in (10, 20, 25, 30, 40, 50, 60, 70):
    reached = {name: loss_at(logs[name], cards[name]["macs"], trillions * 1e12) for name in NAMES}
    reached = {name: loss for name, loss in reached.items() if loss is not None}
    best = min(reached, key=reached.get)
    print(f"{trillions} trillion MACs: {best:7} {reached[best]:.2f} nats, best of {len(reached)}")
# end

# %% [markdown]
# ## Task 5. Is the difference more than chance?
#
# *Spot the bug, difficulty 3.* Two recipes were each trained several times, each run independent of the others. `first` and `second` are their held-out losses, at least two in each list.
#
# `gap(first, second)` should return two numbers: the mean of `second` minus that of `first`, and the standard error of that difference. The variance $s^2$ of a few runs is the sum of the squared distances from
# their mean, divided by $n - 1$. The mean of $n$ runs has the squared error $s^2 / n$. The squared error of the difference is the sum of both.
#
# The function returns the right difference. The error is wrong for more than one reason.

# %%
def gap(first, second):
    # stub
    error = np.std(first) / sqrt(len(first)) + np.std(second) / sqrt(len(second))
    return mean(second) - mean(first), error
    # solution
    squares = stdev(first) ** 2 / len(first) + stdev(second) ** 2 / len(second)
    return mean(second) - mean(first), sqrt(squares)
    # end

check.gap(gap)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Compute the variance of `[3.0, 3.2]` on paper. Then square what `np.std([3.0, 3.2])` returns.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Independent errors of 0.03 and 0.04 add up to 0.05, not to 0.07.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `statistics.stdev` divides by $n - 1$, and so does `np.std` with `ddof=1`. Add the squares of both errors, and take the root at the end.
#
# </details>

# %% [markdown]
# Now use it. `depth-4` and `width-96` were both trained a second time; `runs` has their losses in nats. How large is the gap, and how large its error? From the first run of each, which would you have called better?
#
# <details><summary>Answer</summary>
#
# `width-96` is 0.0006 nats lower, with a standard error of 0.0046. The second seed moved each of them by 0.006 or more. These runs do not say which is better. From the first two alone you would have named a winner.
#
# But with the second seed both fell. Runs with the same seed read the text in the same order: they are *not* independent, and the formula does not fit. Compared seed by seed, `width-96` is ahead by 0.0011 and
# by 0.0002: a mean of 0.0006 with a standard error of 0.0004. Comparing in pairs removes what both have in common. Two pairs still decide nothing.
#
# </details>

# %%
runs = {name: [zoo.card(run)["quality"]["nats"] for run in (f"speeches-{name}", f"train_smaller/speeches-{name}-seed-1")]
        for name in ("depth-4", "width-96")}
# stub
# Call your function here.
# solution
difference, error = gap(*runs.values())
print(f"width-96 minus depth-4: {difference:.4f} nats, with a standard error of {error:.4f}")
pairs = [b - a for a, b in zip(*runs.values())]
print(f"seed by seed: {pairs[0]:.4f} and {pairs[1]:.4f}, mean {mean(pairs):.4f}, standard error {stdev(pairs) / sqrt(2):.4f}")
# end

# %% [markdown]
# ## Task 6. Fewer layers, or narrower ones?
#
# *Transfer, difficulty 4: a model that is not ours.* A model like GPT-2 has to shrink to at most `budget` parameters, either with fewer layers or with narrower ones.
#
# In the letters of Task 3, and with a tied head, a model with this `config` has this many parameters:
#
# $$VC + SC + L\,(4C^2 + 4C + 2CF + F + C + 4C) + 2C$$
#
# Write `depth_or_width(config, budget)`, which returns two whole numbers:
#
# - the largest number of layers that fits, at the same width;
# - the largest width that fits, with the same number of layers. It has to be a multiple of `config.heads`. $F / C$ (a whole number) stays as it is.
#
# A model with exactly `budget` parameters fits. One layer always fits, and so does a width of `heads`.

# %%
def depth_or_width(config, budget):
    # stub
    raise NotImplementedError
    # solution
    times = config.ffn // config.dim
    def size(L, C):
        F = times * C
        layer = 4 * C * C + 4 * C + 2 * C * F + F + C + 4 * C
        return config.vocab * C + config.context * C + L * layer + 2 * C
    depths = range(1, config.layers + 1)
    widths = range(config.heads, config.dim + 1, config.heads)
    layers = max(L for L in depths if size(L, config.dim) <= budget)
    return layers, max(C for C in widths if size(config.layers, C) <= budget)
    # end

check.depth_or_width(depth_or_width)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# First write the formula as a function of $L$ and $C$. When the width shrinks, which letters shrink with it?
#
# </details>
# <details><summary>Hint 2</summary>
#
# You need not solve an equation. There are few candidates: try them all.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `range(heads, dim + 1, heads)` has all widths that can be built. The answer is the `max` of those whose size is `<= budget`.
#
# </details>

# %% [markdown]
# Now use it on `models`. What do you get for half of the parameters of GPT-2's smallest model? And for the 1,071,872 of `depth-4` from the zoo's base?
#
# <details><summary>Answer</summary>
#
# For half of GPT-2's parameters you keep 3 of its 12 layers, because the token vectors alone take 38.6 million, or a width of 492, 0.64 of its own. In the zoo it is 4 layers, or a width of 92, close to
# `width-96`. Their quality is nearly the same (Task 5): parameters do not decide between the two. Time may; lesson 01 measured it.
#
# </details>

# %%
models = ("GPT-2", Config(50257, 1024, 12, 12, 768), 124_439_808 // 2), ("base", Config(2048, 128, 8, 4, 128), 1_071_872)
# stub
# Call your function here.
# solution
for name, config, budget in models:
    layers, width = depth_or_width(config, budget)
    print(f"{name}: {layers} layers of width {config.dim}, or {config.layers} layers of width {width}")
# end

# %% [markdown]
# **Next.** [Lesson 08](../notebooks/08_layerdrop.ipynb): LayerDrop, and [its exercise](08_layerdrop.ipynb).

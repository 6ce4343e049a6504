# %% [markdown]
# # Exercise 00: measure, and notice a wrong measurement
#
# Six tasks after [lesson 00](../notebooks/00_start_here.ipynb). Nothing is trained.
#
# **Run the cells one by one**: *Run All* stops at the first task that is not solved.
#
# Write your code where it says `raise NotImplementedError`, or correct the code in the cell, and run it. Its last line checks your
# function on fresh inputs and says *Passed*, or *Not yet* and where to look. Run it as often as you like. Below each task are three hints; open one at a time.
# `python -m minieff progress` in a terminal lists what you have passed. One way to solve each task is in `solutions/`.

# %%
import torch
from torch import nn
from math import log
from statistics import mean, median

from exercises.checks import start_here as check

# %% [markdown] tags=["solution"]
# **This notebook has the solutions.** They are folded: click the three dots, or the bar at the left of a cell, to see one.

# %% tags=["solution"]
from exercises.checks import progress

progress.FILE = None        # running a solution is not your progress

# %% [markdown]
# ## Task 1. Bits per byte, with the lesson closed
#
# *Retrieval, difficulty 1 of 5.* A colleague sends you the results of an evaluation: the mean loss of each window in nats per token, the number of tokens in each window,
# and the text of all windows in one string (text files are UTF-8). The windows are not equally long.
#
# Write `bits_per_byte(losses, tokens, text)`. It gets two lists of the same length and a string, and returns one number.

# %%
def bits_per_byte(losses, tokens, text):
    # stub
    raise NotImplementedError
    # solution
    nats = sum(loss * count for loss, count in zip(losses, tokens))
    return nats / log(2) / len(text.encode())
    # end

check.bits_per_byte(bits_per_byte)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Bits per byte are all bits, divided by all bytes. First compute all nats.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A mean over $n$ tokens times $n$ is their sum. One bit is $\ln 2 = 0.69$ nats.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `len("é")` is 1, but a file stores it in two bytes. `str.encode` gives the bytes.
#
# </details>

# %% [markdown]
# ## Task 2. A file that is smaller than this function says
#
# *Spot the bug, difficulty 2.* The function below should return the bytes of all tensors in the safetensors file that a model is saved to. A tensor that several names
# share is stored once. The file's header does not count. On a model without shared parts the function is right.

# %%
def stored_bytes(model):
    # stub
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    # solution
    at = {tensor.data_ptr(): tensor for tensor in model.state_dict().values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in at.values())
    # end

check.stored_bytes(stored_bytes)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Build a model with a shared part, `nn.Sequential(layer, layer)`, and look at the names in its `state_dict()`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Shared tensors have different names and lie at the same address. Equal values are not enough: two layers of zeros are stored twice.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `tensor.data_ptr()` is the address of a tensor's first number. A dictionary keeps one entry for each key.
#
# </details>

# %% [markdown]
# ## Task 3. Parameters, counted before anything is built
#
# *Predict, difficulty 3.* You plan a model and want to know its size before you write code. It is the course's Transformer:
#
# - token vectors for `vocab` tokens and position vectors for `context` positions, both `dim` wide;
# - `layers` layers, each with a norm, attention (four linears `dim` to `dim`), another norm, and a feed-forward (`dim` to `ffn` and back);
# - a last norm; then the head, `dim` to `vocab`, without bias. With `tied=True` the head *is* the token vectors, with `tied=False` it has a matrix of its own.
#
# Linears other than the head have biases. A norm has a weight and a bias, each `dim` long. With `every=3`, layers 0, 1, 2 share one block (its two norms, its attention, its
# feed-forward), layers 3, 4, 5 share a second one, layer 6 uses a third, and so on.
#
# Write `parameters(vocab, context, layers, dim, ffn, tied, every)`. The check builds each model and counts.

# %%
def parameters(vocab, context, layers, dim, ffn, tied, every):
    # stub
    raise NotImplementedError
    # solution
    attention = 4 * (dim * dim + dim)
    feed_forward = dim * ffn + ffn + ffn * dim + dim
    block = attention + feed_forward + 2 * (2 * dim)
    blocks = -(-layers // every)                                    # rounded up
    vectors = vocab * dim * (1 if tied else 2) + context * dim
    return vectors + blocks * block + 2 * dim
    # end

check.parameters(parameters)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Count one block first. A linear from $a$ to $b$ has $ab$ weights and $b$ biases.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Seven layers with `every=3` use three blocks: the last block is used once.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `-(-a // b)` divides and rounds up. Norms: two in a block, one at the end, $2 \cdot$ `dim` parameters each.
#
# </details>

# %% [markdown]
# Now use it. The course's base model has $V = 2048$, a context of 128, 8 layers, $C = 128$ and a feed-forward of 512. What would untying its head cost, and what would one block for all
# eight layers save?
#
# <details><summary>Answer</summary>
#
# Untying adds $2048 \cdot 128 = 262{,}144$ parameters to 1,864,960. One block for all layers saves seven blocks: 1,387,904.
#
# </details>

# %%
# stub
# Call your function here.
# solution
base = dict(vocab=2048, context=128, layers=8, dim=128, ffn=512, tied=True, every=1)
for change in ({}, {"tied": False}, {"every": 8}):
    print(f"{str(change):18}{parameters(**base | change):>10,} parameters")
# end

# %% [markdown]
# ## Task 4. Where does the work go as the text grows?
#
# *Predict, difficulty 3.* One layer of width $C$ with $H$ heads and a feed-forward of width $F$ reads a whole sequence of $T$ tokens. How many multiply-accumulates (MACs)
# does its attention take, with its four projections? How many does its feed-forward take? Count all $T \times T$ pairs, hidden ones too. Leave out biases, norms and softmax.
#
# On paper first: at which $T$ are the two equal if $F = 4C$?
#
# Write `macs(T, C, F, H)`, which returns the two for all $T$ tokens, attention first. Not every argument has to matter.

# %%
def macs(T, C, F, H):
    # stub
    raise NotImplementedError
    # solution
    projections = 4 * T * C * C
    products = 2 * T * T * C                # q with k, and the weights with v; H heads of C / H each
    return projections + products, 2 * T * C * F
    # end

check.macs(macs)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# A linear from $a$ to $b$ takes $ab$ MACs for each token. How many linears has attention, how many the feed-forward?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Comparing one query with one key takes as many MACs as a head is wide, and there are $T \times T$ pairs in each of the $H$ heads.
#
# </details>
# <details><summary>Hint 3</summary>
#
# $H \cdot T \cdot T \cdot (C / H)$ for the comparisons, and as many again for adding up the values. $H$ cancels out.
#
# </details>

# %% [markdown]
# The picture below the check draws both over $T$; the two marks are yours.
#
# <details><summary>Answer to the question on paper</summary>
#
# $4TC^2 + 2T^2C = 8TC^2$, so $T = 2C$: 256 tokens for $C = 128$. Below that, the feed-forward is the larger part. (The lesson's $6C$ compares the two products alone with *all* linears.)
#
# </details>

# %% [markdown]
# ## Task 5. Twice as fast?
#
# *Spot the bug, difficulty 4.* This function should say how many times as fast a new model is as an old one. It is wrong for more than one reason. It
# measures on a simulated machine with four methods:
#
# | | |
# |---|---|
# | `machine.threads(n)` | from now on, use `n` threads, 1 or 2; the machine starts with 2 |
# | `machine.clock()` | the time in seconds |
# | `machine.old()`, `machine.new()` | run a model once |
#
# It is as unreliable as your own computer: the first runs of each model are slow, some runs are interrupted, a few end early, and the machine becomes slower or faster while you measure.
#
# Return the median time of the old model divided by the median time of the new one. Time both on **one thread**, with **10 runs each to warm up**, which do not count, and then **30 runs each**, which do.

# %%
def speedup(machine):
    # stub
    machine.threads(1)
    begun = machine.clock()
    machine.old()
    old = machine.clock() - begun
    machine.threads(2)
    times = []
    for _ in range(30):
        begun = machine.clock()
        machine.new()
        times.append(machine.clock() - begun)
    return old / mean(times)
    # solution
    machine.threads(1)
    times = {machine.old: [], machine.new: []}
    for turn in range(40):
        for run, seconds in times.items():
            begun = machine.clock()
            run()
            if turn >= 10:
                seconds.append(machine.clock() - begun)
    return median(times[machine.old]) / median(times[machine.new])
    # end

check.speedup(speedup)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Compare what the two models get: how many runs, how many threads, how much warming up, which statistic.
#
# </details>
# <details><summary>Hint 2</summary>
#
# If the machine slows down, what runs later looks slower. Let the two models take turns: old, new, old, new.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Clock, one run, clock: time every run by itself, and decide afterwards which times to keep. `median` is imported.
#
# </details>

# %% [markdown]
# `cost.interleaved` does this for real models, and returns the quartiles with the median.

# %% [markdown]
# ## Task 6. Joules, measured or modelled
#
# *Transfer, difficulty 4: two of the axes together.* One pass over `tokens` tokens takes `macs` multiply-accumulates **per token**, and reads the weights, `stored` bytes, once.
#
# On some machines you can read energy counters (RAPL, on Intel and AMD processors). Then `readings` is a list with one `(before, after, largest)` for each processor chip: what its counter showed before and after the pass, in **microjoules**. After
# `largest`, a counter starts again at 0. The energy of the pass is the sum over the chips. Where no counter can be read, `readings` is `None` or an empty list, and you have to use a model of energy:
#
# $$E_{\text{pass}} = \text{MACs of the pass} \cdot 4.6 \cdot 10^{-12}\,\text{J} + \text{bytes read} \cdot 160 \cdot 10^{-12}\,\text{J}$$
#
# (The first figure is from Horowitz 2014, for a 45 nm process; the second is recalled from the same table and unverified.)
#
# Write `joules_per_token(tokens, macs, stored, readings)`, which returns two things: the joules **per token**, and the method, `"rapl"` if counters were read and `"modelled"` if not.

# %%
def joules_per_token(tokens, macs, stored, readings):
    # stub
    raise NotImplementedError
    # solution
    if not readings:
        joules = tokens * macs * 4.6e-12 + stored * 160e-12
        return joules / tokens, "modelled"
    microjoules = sum((after - before) % (largest + 1) for before, after, largest in readings)
    return 1e-6 * microjoules / tokens, "rapl"
    # end

check.joules_per_token(joules_per_token)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# First decide what you have: at least one reading, or none. Then compute the joules of the whole pass, and divide by the tokens at the end.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A counter that can show 0 to 9 and went from 8 to 3 counted 5 steps: 9, 0, 1, 2, 3.
#
# </details>
# <details><summary>Hint 3</summary>
#
# In Python, `(3 - 8) % 10` is 5. A counter whose largest value is 9 has 10 values.
#
# </details>

# %% [markdown]
# Now use it on the base model: 2,097,152 MACs per token and 7,459,840 bytes in 32 bits. Keep 4.6 pJ per MAC. What would 16-bit weights save when one token is generated at a time? And when a pass covers 1,024 tokens?
#
# <details><summary>Answer</summary>
#
# About 50 % of the modelled energy per token, and about 5 %: 1,024 tokens share one reading of the weights.
#
# </details>

# %%
# stub
# Call your function here.
# solution
for tokens in (1, 1024):
    full, method = joules_per_token(tokens, 2_097_152, 7_459_840, None)
    halved, _ = joules_per_token(tokens, 2_097_152, 7_459_840 // 2, None)
    print(f"{tokens:4} tokens per pass: {full:.1e} J per token ({method})")
    print(f"     with 16-bit weights {halved / full:.2f} of it")
# end

# %% [markdown]
# These numbers come from a model of energy. They say nothing about your laptop.
#
# **Next.** [Lesson 01](../notebooks/01_train_smaller.ipynb): train a smaller model, and [its exercise](01_train_smaller.ipynb).

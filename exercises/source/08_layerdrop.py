# %% [markdown]
# # Exercise 08: skip layers in training, remove them afterwards
#
# Six tasks after [lesson 08](../notebooks/08_layerdrop.ipynb). No model is trained.
#
# Run the cells one by one: *Run All* stops at the first unsolved task. Write your code where it says
# `raise NotImplementedError`, or correct what is there, and run the cell. Its last line says *Passed*, or *Not yet* and
# where to look. Each task has three hints; open one at a time.

# %%
import torch
import torch.nn.functional as F
from copy import deepcopy
from dataclasses import replace
from math import prod
from random import Random
from statistics import mean
from torch import nn

from exercises.checks import layerdrop as check
from minieff import layerdrop
from minieff.core import cost, data, zoo
from minieff.core.attention import causal
from minieff.core.transformer import Transformer

torch.set_num_threads(1)

# %% [markdown] tags=["solution"]
# **This notebook has the solutions.** Click the three dots to unfold one.

# %% tags=["solution"]
from exercises.checks import progress

progress.FILE = None        # running a solution is not your progress

# %% [markdown]
# ## Task 1. LayerDrop, with the lesson closed
#
# *Retrieval, difficulty 2 of 5.* A stack of layers is a list of functions. Layer `i` is called as `layers[i](x, memories[i])` and returns a new `x`; `memories[i]` belongs to that layer alone
# (in a decoder, its cache of keys and values). The residual connection is inside the layer.
#
# Write `skip_some(layers, memories, x, p, training, coin)`, LayerDrop's forward, which returns `x`.
#
# - `p` is the probability of *skipping*, from 0 to 1. `training` says which mode it is. What LayerDrop does in each, and whether it rescales anything, is the part to remember.
# - `coin()` returns a random number between 0 and 1, another one in each call. In training, toss one for each layer, **in running order**; with `training=False` toss none.
# - A layer that is skipped is not called.

# %%
def skip_some(layers, memories, x, p, training, coin):
    # stub
    raise NotImplementedError
    # solution
    for layer, memory in zip(layers, memories):
        if training and coin() < p:
            continue
        x = layer(x, memory)
    return x
    # end

check.skip_some(skip_some)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write the plain loop over layers and memories first. Then put a condition before the call.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A layer is skipped in training, *and* when its coin says so. What is the opposite, "it runs"?
#
# </details>
# <details><summary>Hint 3</summary>
#
# `coin() < p` is true with probability `p`.
#
# </details>

# %% [markdown]
# Now use it on two models of eight layers: `speeches-base`, trained without LayerDrop, and `speeches-layerdrop-20`, with p = 0.2. The layers are `model.blocks.layers`, and the memory of each is the mask `causal`. `loss_with` below evaluates any
# stack on 64 held-out windows. Give your function `[causal] * 8` as memories and `training=True`. What is each model's loss, in nats per token, if its layers are skipped with probability 0, 0.1, 0.2, 0.5? `Random(0).random` is a coin: begin with a new one for each model and p, and go on with it through all windows.
#
# <details><summary>Answer</summary>
#
# Without LayerDrop 3.29, 4.08, 4.66 and 6.47 nats: p = 0.1, which skips fewer than one layer on average, costs 0.79 nats. With LayerDrop 3.48, 3.53, 3.57 and 4.03: worse with all layers, and hardly worse without some.
#
# </details>

# %%
base, trained = zoo.load("speeches-base"), zoo.load("speeches-layerdrop-20")
# 64 pairs of ids and targets, (1, 128) each
windows = list(data.speeches().windows(context=128, rows=1, count=64))

def loss_with(model, stack):
    """Mean nats per token; `stack` takes x (1, 128, 128) through the layers."""
    with torch.no_grad():
        hidden = [stack(model.embed(ids, 0)) for ids, _ in windows]
        logits = [F.linear(model.norm(x), model.tok.weight) for x in hidden]
    losses = [data.loss(x, targets) for x, (_, targets) in zip(logits, windows)]
    return mean(loss.item() for loss in losses)

# stub
# Call your function here.
# solution
def skipping(model, p, coin):
    return lambda x: skip_some(model.blocks.layers, [causal] * 8, x, p, True, coin)

for name, model in (("base", base), ("p = 0.2", trained)):
    for p in (0, 0.1, 0.2, 0.5):
        loss = loss_with(model, skipping(model, p, Random(0).random))
        print(f"{name:8} skipped with probability {p:3}: {loss:.2f}")
# end

# %% [markdown]
# ## Task 2. Skipped whole
#
# *Spot the bug, difficulty 3.* LayerDrop can also skip sub-layers. In a pre-norm Transformer a sub-layer computes `x + inner(norm(x))`, where `inner` is attention or a feed-forward. `sub_layer(x, norm, inner, p, training, coin)`
# is meant to be that sub-layer, skipped whole as LayerDrop does it. What is skipped is not called.
#
# The code runs, and is wrong for more than one reason.

# %%
def sub_layer(x, norm, inner, p, training, coin):
    # stub
    h = norm(x)
    if training and coin() >= p:
        h = inner(h) / (1 - p)
    return x + h
    # solution
    if training and coin() < p:
        return x
    return x + inner(norm(x))
    # end

check.sub_layer(sub_layer)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# There are three cases: eval mode, training where it runs, training where it is skipped. For each, write down what should come back, and follow the code.
#
# </details>
# <details><summary>Hint 2</summary>
#
# In eval mode the condition is false. Which line is left out then, and what does the last line add to `x`?
#
# </details>
# <details><summary>Hint 3</summary>
#
# Decide first whether the sub-layer is skipped, and return early if it is. What remains is the plain sub-layer.
#
# </details>

# %% [markdown]
# <details><summary>Where the first fault comes from (after you passed)</summary>
#
# From the talk's slide: *random > p and training*. The authors' published code asks for *not training, or random > p*.
#
# </details>

# %% [markdown]
# ## Task 3. What to expect of a step
#
# *Predict, difficulty 2.* Layers need not all have the same p. `rates` has each layer's probability of being skipped. `share` is the part of a training step's time that is spent in the layers
# when all of them run (the rest goes into the embedding, the head, the loss and the optimizer). All layers take the same time, and a skipped one none.
#
# Write `what_to_expect(rates, share)`, which returns three numbers:
#
# - how many layers run in an average step;
# - the probability that in a step *no* layer runs;
# - how many times as fast training gets: the time of a step without skipping over its mean time with it.

# %%
def what_to_expect(rates, share):
    # stub
    raise NotImplementedError
    # solution
    running = sum(1 - p for p in rates)
    return running, prod(rates), 1 / (1 - share * mean(rates))
    # end

check.what_to_expect(what_to_expect)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Means add up: each layer adds how often it runs. For the second number, all coins have to agree.
#
# </details>
# <details><summary>Hint 2</summary>
#
# For the third, let the step take 1 without skipping: `share` in the layers, `1 - share` elsewhere. Which part becomes smaller, and by how much?
#
# </details>
# <details><summary>Hint 3</summary>
#
# Of the layers' time, the mean of `rates` is saved. `math.prod` multiplies the numbers of a list.
#
# </details>

# %% [markdown]
# Now use it on the two lists below. Compare your first two numbers with 10,000 steps of the course's `layerdrop.Skip`. With $L = 6$ and $p = 0.5$, in what share of
# the steps does no layer run, so that the head is trained on bare embeddings? And how fast is training at best if layers take 0.9 of the time?
#
# <details><summary>Answer</summary>
#
# The growing rates: 6.20 layers run in an average step (6.20 did), and a step without any layer is too rare to be met. The equal ones: 3 layers, and none in $0.5^6 = 1.6$ % of the steps; of 10,000, 1.4 % had none (standard deviation 0.13 %). At best training is 1.82 times as fast. The paper reports about twice; by this formula that takes a share of 1.
#
# </details>

# %%
class AddOne(nn.Module):
    """A layer that counts: x grows by 1 whenever it runs."""
    def forward(self, x):
        return x + 1

GROWING, EQUAL = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4], [0.5] * 6

def depths(rates, steps=10_000):
    """How many layers ran in each of many training steps."""
    generator = torch.Generator().manual_seed(0)
    stack = nn.Sequential(*[layerdrop.Skip(AddOne(), p, generator) for p in rates])
    return torch.stack([stack(torch.zeros(())) for _ in range(steps)])

# stub
# Call your function here.
# solution
for rates in (GROWING, EQUAL):
    ran = depths(rates)
    layers, none, faster = what_to_expect(rates, 0.9)
    print(f"{len(rates)} layers: {layers:.2f} run on average, {ran.mean():.2f} ran")
    none_ran = (ran == 0).float().mean()
    print(f"  none in {100 * none:.1f} % of the steps, {100 * none_ran:.1f} % measured")
    print(f"  {faster:.2f} times as fast at best")
# end

# %% [markdown]
# ## Task 4. Which layers stay
#
# *Build, difficulty 3.* After training, layers are removed for good. The paper's rule: of layers $d = 1, 2, 3, ...$ those go whose $d$ is divisible by $\lfloor 1/p \rfloor$, where $p$ is the share to remove. For $p = 1/2$ that is every
# second layer. For $p = 0.4$, $\lfloor 2.5 \rfloor = 2$ removes half. For $p > 1/2$, $\lfloor 1/p \rfloor = 1$, and no layer is left.
#
# Write `keep_list(layers, kept)`, which says which layers *stay*: a list of exactly `kept` layer numbers from 0 to `layers - 1`,
#
# - increasing;
# - with the first layer and the last one, if `kept` is at least 2;
# - spread evenly: the largest gap between neighbours is at most one more than the smallest.
#
# There is more than one right list; for `kept=1` any layer will do.

# %%
def keep_list(layers, kept):
    # stub
    raise NotImplementedError
    # solution
    gaps = max(kept - 1, 1)
    return [i * (layers - 1) // gaps for i in range(kept)]
    # end

check.keep_list(keep_list)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Four layers have three gaps. Where on the line from 0 to `layers - 1` is the `i`-th of `kept` equally distant points?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The points are fractions. Rounded all in the same way, their gaps differ by at most one. Multiply before you divide.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `i * (layers - 1) // (kept - 1)` for `i` from 0 to `kept - 1`. For `kept=1` that divides by zero: one number is enough then.
#
# </details>

# %% [markdown]
# The picture has one of your lists beside that of the paper's rule. To keep $r$ of $L$ layers, the paper takes $p = 1 - r/L$. For which $r$ of 12 does the rule then not keep $r$ layers?
#
# <details><summary>Answer</summary>
#
# For 1 to 5, where nothing is left, and for 7, where 6 are. For the others the number is right, and the last layer always goes, unless all stay. (In Python `1 / (1 - 8 / 12)` is a little less than 3, and
# the rule then fails for 8 as well.)
#
# </details>

# %% [markdown]
# ## Task 5. A checkpoint with fewer layers
#
# *Build, difficulty 3.* A state dict maps names to tensors. These are some names of a model with 12 layers and four heads for other tasks:
#
# `tok.weight`, `pos.weight`, `blocks.layers.0.mix.norm.weight`, `blocks.layers.2.feed.inner.2.weight`, `blocks.layers.11.mix.inner.q.bias`, `norm.weight`, `tasks.3.layers.0.weight`
#
# The number after `blocks.layers.` at the beginning of a name says which layer. No other number does.
#
# Write `prune(state, keep)`: the state dict of the pruned model, as a new dictionary. `keep` is an increasing list of layer numbers. Tensors of other layers are gone; the layers that stay are numbered 0, 1, 2, ... in the order of `keep`; everything else stays. The names in `state` stand in no particular order.

# %%
def prune(state, keep):
    # stub
    raise NotImplementedError
    # solution
    small = {}
    for name, tensor in state.items():
        if not name.startswith("blocks.layers."):
            small[name] = tensor
            continue
        number, rest = name.removeprefix("blocks.layers.").split(".", 1)
        if int(number) in keep:
            small[f"blocks.layers.{keep.index(int(number))}.{rest}"] = tensor
    return small
    # end

check.prune(prune)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Take each name apart: is it a layer's, which layer's, and what comes after the number? Build the new name from the parts.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `"11.mix.norm.weight".split(".", 1)` gives `["11", "mix.norm.weight"]`. Compare layer numbers as numbers: as a text, 11 begins with 1.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `keep.index(7)` is the new number of layer 7. Other names go over as they are.
#
# </details>

# %% [markdown]
# Now keep 4 of the 8 layers of `base`, with your `keep_list`. Load the result into `Transformer(replace(base.config, layers=4))`, and compare it with `layerdrop.finalize(base, keep=...)`. By which factor do the
# bytes shrink?
#
# <details><summary>Answer</summary>
#
# Both have the same logits. The 7.46 MB became 4.29 MB, 1.74 times fewer and not 2 times: the token vectors do not shrink.
#
# </details>

# %%
# stub
# Call your functions here.
# solution
keep = keep_list(8, 4)
small = Transformer(replace(base.config, layers=4)).eval()
small.load_state_dict(prune(base.state_dict(), keep))
ids = windows[0][0]
expected = layerdrop.finalize(base, keep=keep)
print("the same logits:", torch.equal(small(ids), expected(ids)))
before, after = cost.stored_bytes(base), cost.stored_bytes(small)
print(f"{before / 1e6:.2f} MB became {after / 1e6:.2f} MB")
print(f"{before / after:.2f} times fewer")
# end

# %% [markdown]
# ## Task 6. What is this feed-forward worth?
#
# *Transfer, difficulty 4: a model that is not ours.* Someone has an `nn.TransformerEncoder` from torch, and asks what the feed-forward of layer `i` contributes.
#
# A layer's `norm_first` says which kind it is:
#
# | | with its feed-forward | without it |
# |---|---|---|
# | post-norm | `x = norm1(x + attention(x))`, then `x = norm2(x + feed_forward(x))` | the same, then `x = norm2(x)` |
# | pre-norm | `x = x + attention(norm1(x))`, then `x = x + feed_forward(norm2(x))` | the first step alone |
#
# The feed-forward is `linear2(activation(linear1(x)))`, with dropout in training.
#
# Write `without_feed_forward(encoder, i)`: a copy of the encoder in which layer `i` (counted from 0) lacks its feed-forward. `encoder` itself and all other models stay as they are. You may change the copy's layer or put one of your own in its place (`nn.TransformerEncoder` reads `layers[0].self_attn`, so a layer needs that attribute).
#
# The check calls the copy in eval mode, as `copy(x)` and `copy(x, src_key_padding_mask=mask)`, with gradients and under `torch.no_grad()`.

# %%
def without_feed_forward(encoder, i):
    # stub
    raise NotImplementedError
    # solution
    encoder = deepcopy(encoder)
    last = encoder.layers[i].linear2
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return encoder
    # end

check.without_feed_forward(without_feed_forward)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Begin with `deepcopy(encoder)`. Compare your copy with the original, with gradients and under `torch.no_grad()`. Is the difference the same?
#
# </details>
# <details><summary>Hint 2</summary>
#
# In eval mode without gradients, the forward of `nn.TransformerEncoderLayer` hands its weights to one fused function (`_transformer_encoder_layer_fwd`), and calls none of its parts. What can you change that both paths use?
#
# </details>
# <details><summary>Hint 3</summary>
#
# Both read the weight and the bias of `linear2`. Which values make its output zero, whatever goes in?
#
# </details>

# %% [markdown]
# Now use it. In the cell below, `quick` is a copy in which the method that computes the feed-forward is replaced. How far, on average, does its output move away from that of `encoder`, and how far does yours, with gradients
# and under `torch.no_grad()`?
#
# <details><summary>Answer</summary>
#
# With gradients, both move by 0.11. Under `no_grad` yours still does, and `quick` moves by 0.00: evaluated like this, the sub-layer seems to be worth nothing.
#
# </details>

# %%
torch.manual_seed(0)
layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
encoder = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False).eval()
quick = deepcopy(encoder)
quick.layers[2]._ff_block = torch.zeros_like
x = torch.randn(8, 20, 64)

# stub
# Call your function here.
# solution
for name, other in (("quick", quick), ("yours", without_feed_forward(encoder, 2))):
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            moved = (other(x) - encoder(x)).abs().mean().item()
        mode = "with gradients" if grad else "under no_grad"
        print(f"{name}, {mode}: moved by {moved:.2f}")
# end

# %% [markdown]
# Where a measurement finds no effect, ask whether the change arrived. Here the sign was two outputs that were equal to the last bit.
#
# **Next:** [10 Scalar quantization](../notebooks/10_scalar_quant.ipynb), fewer bits for each weight.

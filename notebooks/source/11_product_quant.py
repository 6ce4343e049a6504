# %% [markdown]
# # 11 Product quantization: one byte for eight weights
#
# **Promise.** You can cut a weight into blocks, find a codebook for them, count every byte of it, train its codewords, and say what is left of a model in a file 25 times smaller. You will also see where codebooks lose: our best file of that size has none.
#
# | | |
# |---|---|
# | Takes | 31 minutes to read, and 3 more for "Going further"; the cells run in about 40 seconds |
# | Read before | [10 Scalar quantization](10_scalar_quant.ipynb), where each weight has a code of its own |
# | Axes | model size falls: codes alone are 16 or 32 times smaller than fp32, and codebooks come on top; quality falls, and by how much is the question; inference time rises a little; training time rises. Energy is not measured |
# | Who says so | Stock et al. 2019, "And the Bit Goes Down" (arXiv 1907.05686); Fan, Stock et al. 2020, "Training with Quantization Noise" (arXiv 2004.07320): a language model of 942 MB in 38 MB; Angela Fan's talk: "25x compression or more", "can combine scalar and vector quantization" |
# | Measured on | `speeches-base`, 8 layers of width 128, one seed. Every quality is a perplexity compared with this model's, on all 2,751 held-out windows. One cell measures live, on 16 of them, for both models |
#
# Where you see **Predict**, write your answer down. The output that answers it is collapsed: click it to see it.

# %%
from math import exp

import torch
from minieff import product_quant
from minieff.core import cost, data, plot, zoo
from minieff.core.files import load_results, save_results
from minieff.core.surgery import named
from minieff.product_quant.kmeans import kmeans

torch.set_num_threads(1)
corpus = data.speeches()
base = zoo.load("speeches-base")
W = base.blocks.layers[0].feed.inner.up.weight.detach()               # (512, 128)

def seeded():
    return torch.Generator().manual_seed(0)

# %% [markdown]
# ## 1. Pairs
#
# Lesson 10 gave each weight a code of its own, of at least one bit. To have less than a bit per weight, several neighbours must share a code. Cut every row into pairs: each is a point in the plane. Then choose 16 points, the *codewords*, and replace each pair by the nearest of them:

# %% tags=["figure"]
pairs = W.reshape(-1, 2)                                              # (32768, 2)

def codewords_figure(w, block, count, iterations=10):
    """Blocks of a weight and their codewords in the first two coordinates."""
    points = w.reshape(-1, block)
    book, codes = kmeans(points, count, iterations=iterations, generator=seeded())
    lost = float((book[codes] - points).square().sum() / points.square().sum())
    stored = len(points) + 2 * count * block          # a byte per code
    figure, (ax,) = plot.panels(1, width=4.8, height=4.4)
    ax.plot(*points[::4, :2].T, ".", ms=1.5, color=plot.PALETTE["sky"])
    ax.plot(*book[:, :2].T, "o", ms=4, color=plot.PALETTE["red"])
    ax.set(xlabel="first weight of a block", ylabel="second weight",
           xlim=(-0.5, 0.5), ylim=(-0.5, 0.5))
    ax.set_title(f"blocks of {block}, {count} codewords: {stored:,} bytes,\n"
                 f"{4 * w.numel() / stored:.1f} times fewer than fp32; "
                 f"{100 * lost:.0f} % of the squares lost", fontsize=10)
    return figure

plot.show(codewords_figure(W, 2, 16), alt=(
    "A round cloud of 8,192 pairs of weights around zero, densest in the middle, and "
    "sixteen codewords spread over it, closer together where pairs are dense."))

# %% [markdown]
# Four bits say which of 16 codewords it is: two bits per weight. (Our files give a code a whole byte, as the title counts.) A row of 128 weights is then 64 codes, which can name $16^{64}$ different rows with a table of 16 codewords: the choices multiply, and that is the *product* in the name. "Squares lost" is the squared error as a share of the sum of squares.
#
# **Predict.** A grid of two bits per weight also has 16 points in the plane, in four rows of four. Which of the two has the smaller error, and why?
#
# Where should codewords lie? Each in the middle of the pairs that it stands for. But which pairs these are depends on where it lies. So do both in turns: assign, move, assign, move. That is *k-means*.

# %%
def assign(points, book):                             # (N, d), (K, d) -> (N,)
    return torch.cdist(points, book).argmin(1)

def move(points, codes, book):
    book = book.clone()
    for k in codes.unique():                          # a codeword without points stays
        book[k] = points[codes == k].mean(0)
    return book

# %%
draw = seeded()
book = pairs[torch.randperm(len(pairs), generator=draw)[:16]]         # (16, 2)
total, lost = pairs.square().sum(), []

# %% tags=["predict"]
for _ in range(20):
    codes = assign(pairs, book)
    lost.append(((book[codes] - pairs).square().sum() / total).item())
    book = move(pairs, codes, book)
assert all(a >= b - 1e-6 for a, b in zip(lost, lost[1:]))  # no step can raise it
print("squares lost:", ", ".join(f"{100 * share:.1f} %" for share in lost[::4]))

# %% tags=["predict"]
from minieff.scalar_quant.grid import Grid, dequantize, quantize

book, codes = kmeans(pairs, 16, generator=draw)
coded_pairs = {"k-means, minieff's": book[codes]} | {
    name: dequantize(*quantize(W, Grid(2, symmetric=False, **how))).view_as(pairs)
    for name, how in {"grid, range of a row": {},
                      "grid, least squares": {"span": "mse"}}.items()}
shares = {name: ((w_q - pairs).square().sum() / total).item()
          for name, w_q in coded_pairs.items()}
for name, share in {"k-means, ours above": lost[-1], **shares}.items():
    print(f"{name:21} {100 * share:4.1f} % of the squares lost")
assert abs(shares["k-means, minieff's"] / lost[-1] - 1) < 0.05

# %% [markdown]
# 16 codewords lose 11 percent of the squares, grids 26 and 14. Codewords lie where the pairs are; a grid also has values for the corners of a square, where there are few.
#
# Blocks can be longer, and codewords more. 256 is the most that a byte can tell apart, and the usual choice: with blocks of 8 a byte stands for eight weights. Move it yourself (the picture shows the first two weights of each block):

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets

block_control = widgets.ToggleButtons(options=[2, 4, 8, 16], value=4,
                                      description="block")
count_control = widgets.SelectionSlider(options=[2**n for n in range(9)], value=256,
                                        description="codewords")
drawn = widgets.HTML()

def update(_=None):
    figure = codewords_figure(W, block_control.value, count_control.value, iterations=3)
    drawn.value = plot.picture(figure, alt="blocks and codewords").html

# %% tags=["nbval-ignore-output"]
for control in (block_control, count_control):
    control.observe(update, "value")
update()
widgets.VBox([block_control, count_control, drawn])

# %% [markdown]
# ## 2. Count the bytes, all of them
#
# A code of $\log_2 K$ bits replaces $d$ weights of 32 bits: $32 d / \log_2 K$ times fewer, 32 for blocks of 8 and 256 codewords. With the codebook, in 16 bits, a weight of $n$ numbers takes
#
# $$ \text{bytes} = n / d + 2 K d \qquad (K = 256) $$
#
# **Predict.** How many times fewer bytes does this matrix take with blocks of 2, 4, 8 and 16? And what share of the squares is lost?

# %% tags=["predict"]
rows = []
for size in (2, 4, 8, 16):
    points = W.reshape(-1, size)
    book, codes = kmeans(points, 256, generator=draw)
    share = (book[codes] - points).square().sum() / total
    stored = W.numel() // size + 512 * size
    rows.append([size, 8 / size, f"{W.numel() // size:,}", f"{512 * size:,}",
                 f"{4 * W.numel() / stored:.1f}", f"{100 * share:.1f} %"])
plot.table(rows, ["block", "bits per weight", "bytes of codes", "codebook",
                  "times fewer", "squares lost"])

# %% [markdown]
# Blocks of 16 take as many bytes as blocks of 8: the codebook grows as the codes shrink. This matrix is small; in the paper's, a thousand wide, codebooks take less than a hundredth. There are three ways out. Store codewords in 8 bits with a scale. Give blocks of 4 to some weights and of 8 to others: by default `size_of` follows the paper, 4 in attention and 8 elsewhere. Or let several weights share one codebook (`shared=True`).
#
# `finalize` finds the codes and leaves the codewords in 32 bits, so that they can be trained (section 4). `store` comes last: codewords and everything else in 16 bits.

# %%
coded = product_quant.finalize(base, iterations=5, generator=seeded())
small = product_quant.store(coded, bits=16)
code = small.blocks.layers[0].feed.inner.up.code
print("codes   ", tuple(code.codes.shape), code.codes.dtype)
print("codebook", tuple(code.codebook.codewords.shape), code.codebook.codewords.dtype)

# %%
weights = {name: m.weight for name, m in base.named_modules()
           if isinstance(m, torch.nn.Linear)} | {"tok": base.tok.weight}
blocks_of = {name: product_quant.size_of(name, None) for name in weights}
others = cost.parameters(base) - sum(w.numel() for w in weights.values())

# %%
codes_bytes = sum(w.numel() // blocks_of[name] for name, w in weights.items())
books_bytes = sum(512 * size for size in blocks_of.values())
stored = codes_bytes + books_bytes + 2 * others
assert cost.stored_bytes(small) == stored
print(f"{cost.stored_bytes(base):,} bytes became {stored:,}: "
      f"{books_bytes / stored:.0%} are codebooks")

# %% [markdown]
# The token vectors, which serve as the head, too, are coded once. Biases, norms and positions are in 16 bits.
#
# ## 3. What it costs without training
#
# From here on a size is that of a file, with the names of its tensors. Lesson 10's grids, not trained, cost 9 percent of perplexity at 4 bits per weight, and a factor of 10 at 2 bits with a zero point. **Predict**: and codebooks with blocks of 2, 4 and 8, which take 4, 2 and 1 bits?

# %%
codebooks = load_results("product_quant/codebooks")
grids = load_results("scalar_quant/grids")["grids"]
base_nats, base_file = codebooks["plain"]["nats"], codebooks["plain"]["file"]

def change(nats):                                     # of perplexity, from a loss
    factor = exp(nats - base_nats)
    return f"{100 * (factor - 1):+.1f} %" if factor < 2 else f"x {factor:,.1f}"

def measured(found):
    smaller = base_file / found["file"]
    return [f"{found['file']:,}", f"{smaller:.1f}", change(found["nats"])]

# %%
def plan(**knobs):
    measures = {"file", "bytes", "nats", "bits_per_byte"}
    return next(found for found in codebooks["plans"]
                if {key: found[key] for key in found.keys() - measures} == knobs)

# %%
def grid(bits, symmetric, group):
    return next(found for found in grids if found["span"] == "minmax" and (
        found["bits"], found["symmetric"], found["group"]) == (bits, symmetric, group))

# %% tags=["predict"]
SHOWN = {"blocks of 2": plan(block=2), "grid, 4 bits, per 32": grid(4, True, 32),
         "blocks of 4": plan(block=4),
         "blocks of 4, shared": plan(block=4, shared=True),
         "grid, 2 bits, zero point": grid(2, False, "row"),
         "blocks of 8, shared": plan(block=8, shared=True)}
print(f"the base: {base_file:,} bytes, {base_nats:.3f} nats per token")
plot.table([[name, *measured(found)] for name, found in SHOWN.items()],
           ["not trained", "bytes of the file", "times smaller", "perplexity"])

# %% [markdown]
# At about equal bytes codebooks lose less than grids, and the fewer the bytes, the clearer: a factor of 2.4 instead of 10 at half a megabyte. But that is no bargain, either, and with blocks of 8, where more than a quarter of the squares is lost, the model breaks. Sharing one codebook saves a sixth of the file with blocks of 4.
#
# Which kind of weight bears it worst? One kind in codebooks, the others as they are:

# %%
kinds = codebooks["kinds"]
NAMES = {"feed-forwards": "ffn", "token vectors": "embedding", "attention": "attention"}
plot.table([[kind, *(change(kinds[f"{name}, blocks of {size}"]["nats"])
                     for size in (4, 8))] for kind, name in NAMES.items()],
           ["only", "blocks of 4", "blocks of 8"])

# %% [markdown]
# The paper has blocks of 8 for feed-forwards and token vectors and 4 for attention, in models a hundred times as large. Here attention bears blocks best, and the feed-forwards are more than half of the model.
#
# ## 4. Train the codewords
#
# The codes stay; the codewords can move. A codeword stands for many blocks, and each has a gradient, that of its weights. **Predict**: should it move by the sum of their gradients, or by the mean? How many blocks have the least and the most used codeword of 256, with 8,192 blocks in all?

# %% tags=["predict"]
up = coded.blocks.layers[0].feed.inner.up.code
counts = torch.bincount(up.codes.flatten().long(), minlength=256)
print(f"blocks per codeword: {counts.min()} to {counts.max()}, "
      f"median {counts.median()}")

# %%
def codeword_gradients(codes, grad, count, d):        # codes (R, B), grad (R, B d)
    codes = codes.flatten().long()
    total = torch.zeros(count, d).index_add_(0, codes, grad.reshape(-1, d))
    return total / torch.bincount(codes, minlength=count).clamp(min=1)[:, None]

# %%
from minieff.product_quant.codebook import mean_gradient

book = up.codebook.codewords.detach().requires_grad_()
grad = torch.randn(W.shape, generator=draw)
mean_gradient(book, up.codes.long(), counts).flatten(1).backward(grad)
assert torch.allclose(book.grad, codeword_gradients(up.codes, grad, 256, 8), atol=1e-6)

# %% [markdown]
# By the mean: with the sum, no learning rate is right for both a codeword of one block and one of 66. (That matters for plain gradient descent, which exercise 11 has. Adam, used below, divides by the size of the gradient.)
#
# The paper goes kind by kind, and calls it *iPQ*: code the feed-forwards, train their codewords and everything that is not coded yet, so that the rest makes up for the loss; then the token vectors; then attention. Here with blocks of 8, one codebook per kind, and six steps after each kind:

# %%
KINDS = {"feed-forwards": named("up", "down"), "token vectors": named("tok"),
         "attention": named("q", "k", "v", "out")}

def train_on(model, steps=6):
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3, weight_decay=0)
    for _ in range(steps):
        ids, targets = corpus.batch(8, 128, draw)
        data.loss(model(ids), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()

# %% tags=["nbval-ignore-output"]
def times_worse(model):
    return exp(cost.quality(model, corpus, windows=16).nats - base_live)

model, base_live = base, cost.quality(base, corpus, windows=16).nats
for kind, where in KINDS.items():
    model = product_quant.finalize(model, where=where, block=8, shared=True,
                                   iterations=5, generator=seeded())
    first, trained_on = times_worse(model), times_worse(train_on(model))
    print(f"{kind:13} coded: x {first:4.1f}, after six steps x {trained_on:4.1f}")
    assert trained_on < first

# %% [markdown]
# After each kind a little training takes back a part of the loss. Section 6 has about 200 steps per kind.
#
# ## 5. Train with the noise
#
# The other way is to prepare the model during its training. *Quant-Noise* replaces a random share $p$ of the blocks in each pass by what they will be replaced with later, so that the others learn not to rely on them. Later that is a codeword. But there are no codewords yet, and k-means in every step would take long; the paper found that *zero* does as well as a codeword. The gradient of a block goes to the weights behind it, whether they were replaced or not.

# %%
def noise(w, size, p, generator):
    hit = torch.rand(w.numel() // size, 1, generator=generator) < p   # one per block
    w_q = torch.where(hit, 0.0, w.detach().reshape(-1, size)).view_as(w)
    return w_q + (w - w.detach())                     # value w_q, gradient of w

# %%
w = torch.randn(6, 8, requires_grad=True)
noisy = noise(w, 4, 0.5, seeded())
print((noisy != 0).int())
slope = torch.randn(6, 8, generator=seeded())
(slope * noisy).sum().backward()
assert torch.equal(w.grad, slope)  # also where a block is zero

# %%
from minieff.product_quant import BlockNoise

assert torch.equal(BlockNoise(4, 0.5, "zero", seeded()).train()(w), noisy)

# %% [markdown]
# Nothing is divided by $1 - p$, as dropout would, and nothing is written into `w`. (The paper's open implementation does both, in place: after 20 passes with $p = 0.1$ about $1 - 0.9^{20}$, or 88 percent, of the blocks are zero for good.)
#
# Two models were trained this way, on the base's tokens: `pq-noise` with a tenth of its blocks zero in each pass, and `pq-qat` with *all* blocks replaced by their codewords ($p = 1$; the codebooks follow the weights). It takes two lines:
#
# ```python
# model = product_quant.apply(Transformer(config), p=1.0, proxy="exact")
# ...                                        # loss, backward, optimizer.step()
# product_quant.project(model)               # the codebooks follow
# ```
#
# Then all were coded (blocks of 4 in attention, of 8 elsewhere), and not trained any more. The second half of the table is the base, finetuned on 600,000 tokens with the noise. **Predict**: which is best in codebooks, and how good?

# %% tags=["predict"]
files = load_results("product_quant/small")["steps"]
finetuned = load_results("scalar_quant/table")
in_codebooks = {
    "base": finetuned["after"]["pq"]["base"],
    "pq-noise: zeros, p = 0.1": files["blocks of 4 and 8, with noise, not finetuned"],
    "pq-qat: codewords, p = 1": zoo.card("product_quant/pq-qat")["quality"],
    "finetuned without noise": finetuned["after"]["pq"]["plain"],
    "finetuned, zeros, p = 0.1": finetuned["trained"]["pq-zero"],
    "finetuned, codewords, p = 0.1": finetuned["trained"]["pq-noise"],
    "finetuned, codewords, p = 1": finetuned["trained"]["pq-qat"]}
in_codebooks = {name: found["nats"] for name, found in in_codebooks.items()}
before_coding = zoo.card("product_quant/pq-noise")["quality"]["nats"]
print(f"pq-noise before it is coded: {change(before_coding)}")
plot.table([[name, change(nats)] for name, nats in in_codebooks.items()],
           ["in codebooks", "perplexity"])

# %% [markdown]
# Training with zeros costs 26.7 percent of perplexity as it is, and in codebooks it pays: a factor of 7.1 instead of 23.8. But `pq-qat`, whose blocks were all codewords, ends at 2.2. The same holds for the short finetuning: $p = 1$ is best, as in lesson 10. The paper, with models a hundred times as large, finds the opposite. At $p = 0.1$ zeros do better than codewords, which agrees with the paper.
#
# ## 6. 25 times, step by step
#
# The talk has 25 times and more. What does it take here? First codebooks, blocks of 8, one codebook per kind, with the training of section 4 on 600,000 tokens. The teacher is the model before it was coded: half of the loss is then the distance to its predictions.

# %%
def show_files(rows):                                 # label: name in the results
    found = {label: files[name] for label, name in rows.items()}
    return plot.table([[label, f"{row['bytes']:,}", f"{row['smaller']:.1f}",
                        change(row["nats"])] for label, row in found.items()],
                      ["", "bytes of the file", "times smaller", "perplexity"])

# %%
show_files({"not trained": "blocks of 8, one codebook a kind",
            "codewords finetuned": "the same, codewords finetuned",
            "with a teacher": "the same, with a teacher",
            "from pq-noise, with a teacher": "the same, trained with noise"})

# %% [markdown]
# Each step helps, and together they leave 2.9 times the perplexity. (In the last row the teacher is `pq-noise`, too.)
#
# **Predict.** The talk also says to train a smaller network first, and not to discount it. What else would you put into 300,000 bytes, and how good does it get?

# %% tags=["predict"]
show_files({
    "4 layers, codebooks, blocks of 4": "4 layers, blocks of 4, finetuned",
    "2 layers, 3 bits, teacher": "2 layers, 3 bits, finetuned with a teacher",
    "1 layer, 4 bits": "1 layer, int4 in groups of 32, finetuned",
    "1 layer, 4 bits, better teacher": "1 layer, int4, all, with a better teacher",
    "1 wider layer, 4 bits, teacher": "1 wider layer, int4, all, with a teacher",
    "1 layer, 2 bits, teacher": "1 layer, 2 bits, finetuned with a teacher"})

# %% [markdown]
# The best files from 25 times on have no codebook at all. They are *one* layer with 4 bits per weight and one scale per 32 neighbours (34 in the wider one), trained on 28.8 million tokens, and on 12 or 24 million more with the rounding. At best, with the base as teacher and a width of 136 instead of 128, that is 25.2 times for 12.3 percent. (The better teacher saw three times the base's tokens. Where there is a teacher, positions are rounded, too. The codebooks of this section had 600,000 tokens of training.)
#
# Is that more training than the base had? A step on $t$ tokens takes about $3 \cdot \text{MACs per token} \cdot t$, and a teacher's forward pass a third of a step of its own:

# %%
TOKENS, TAUGHT = 28.8e6, 24e6
base_macs = cost.macs(base)
wide_macs = zoo.card("product_quant/one-wide")["macs"]
one_macs = zoo.card("train_smaller/speeches-same-macs-1")["macs"]
base_training = 3 * base_macs * 12e6
wide_training = 3 * wide_macs * (TOKENS + TAUGHT) + base_macs * TAUGHT
print(f"one layer, 4 bits: {3 * one_macs * (TOKENS + 12e6) / base_training:.1f} "
      "of the base's training MACs")
print(f"the wider one with its teacher's passes: {wide_training / base_training:.1f}")

# %% [markdown]
# Why does the paper reach 25 times with little loss, and we do not? Its model has 247 million parameters: 25 times fewer bytes leave it 38 million bytes, and us 300 thousand. Codebooks take less than a hundredth of its bytes, and 28 percent of ours if each weight has its own. A model that is hardly overparameterized has little to give (lesson 00). And its finetuning is far longer.
#
# All of it in one picture, with what failed: every file of this lesson and of lesson 10, and the models of lesson 01 in 16 bits.

# %% tags=["figure"]
def from_scratch(name):                               # as large as the finetuned file
    quality = zoo.card(name)["quality"]["bits_per_byte"]
    return finetuned["trained"][name.split("/")[1]]["file"], quality

def sized(rows, size="file"):
    return [(row[size], row["bits_per_byte"]) for row in rows]

names = [*zoo.names(), *(f"train_smaller/{name}"
                         for name in zoo.names(zoo.FOLDER / "train_smaller"))]
cards = [zoo.card(name) for name in sorted(names) if "few" not in name]
rounded = [row for name, row in finetuned["trained"].items() if "plain" not in name]
runs = "scalar_quant/int4-qat", "scalar_quant/int4-noise", "product_quant/pq-qat"
every_file = {
    "grids, not trained (10)": sized(grids),
    "codebooks, not trained": sized(codebooks["plans"]),
    "trained for it": [*sized(rounded), *sized(files.values(), "bytes"),
                       *(from_scratch(name) for name in runs)],
    "models in 16 bits (01)": [(card["bytes"], card["quality"]["bits_per_byte"])
                               for card in cards]}
front = []
for size, bits in sorted(sum(every_file.values(), [])):
    if not front or bits < front[-1][1]:
        front.append((size, bits))
print(f"the largest file that no other beats: {front[-1][0] / 1e6:.1f} MB")

# %% tags=["figure"]
figure, axes = plot.panels(2, width=6.5, height=3.6, columns=1)
for ax in axes:
    for (label, found), (mark, colour) in zip(every_file.items(), (
            ("s", "blue"), ("^", "orange"), ("o", "red"), ("d", "black"))):
        ax.plot([size / 1e6 for size, _ in found], [bits for _, bits in found], mark,
                ms=4.5, color=plot.PALETTE[colour], label=label)
    ax.plot([size / 1e6 for size, _ in front], [bits for _, bits in front], "-",
            color=plot.PALETTE["grey"], zorder=0, label="nothing is smaller and better")
    ax.axvline(base_file / 25 / 1e6, ls=":", color=plot.PALETTE["black"],
               label="25 times smaller")
    ax.set(xscale="log", xlabel="file in MB", ylabel="bits per byte, held out")
    ticks = (0.15, 0.3, 0.5, 1, 2, 4)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)
axes[0].set(title="every file", ylim=(1.2, 3.9))
axes[1].set(title="close up", xlim=(0.13, 2.3), ylim=(1.31, 1.72))
plot.legend(figure)
figure.draw_without_rendering()
NAMED = {"1 layer, 2 bits": "1 layer, 2 bits, finetuned with a teacher",
         "1 wider layer, 4 bits": "1 wider layer, int4, all, with a teacher",
         "2 layers, 3 bits": "2 layers, 3 bits, finetuned with a teacher",
         "4 layers, blocks of 4": "4 layers, blocks of 4, finetuned",
         "4 layers, 4 bits": "4 layers, int4"}
plot.label(axes[1], [(label, files[name]["bytes"] / 1e6, files[name]["bits_per_byte"],
                      plot.PALETTE["red"]) for label, name in NAMED.items()])
plot.show(figure, alt=(
    "Bits per byte over the size of the file on a logarithmic scale, for some hundred "
    "files. Above, all of them: grids and codebooks that were not trained lie near "
    "1.35 down to 1 megabyte and rise steeply below, to 2 and 3.7 at half a megabyte. "
    "Below, close up: at 0.3 megabytes, on the line of 25 times, lies the wider layer "
    "with 4 bits at 1.39, left of it two layers with 3 bits at 1.42 and, at 0.15 "
    "megabytes, one layer with 2 bits at 1.56; four layers in blocks of 4 lie at 0.35 "
    "and 1.53, far above the front."))

# %% [markdown]
# The right end of the front, at 1.1 MB, is a file of 4 bits with six million tokens of training more than the base. Beside it lie 4 bits with less training, and codebooks with blocks of 2. Far below one megabyte only models of one layer are on it, with 4 bits and with 2: whatever we made of the base, or of half of it, is larger and worse there.
#
# > One seed, and one plan per file. The rows differ in tokens and teachers; `results/product_quant/small.json` has all of them, `evidence/product_quant/small.py` how each was made.
#
# ## 7. What it does not do
#
# **It saves no time**, and no multiplications: the weights are put together again in each pass, and then multiplied in fp32.

# %%
cases = {case["what"]: {peer["name"]: peer["times"]["median"] for peer in case["peers"]}
         for case in load_results("bench/quant")["comparisons"]}
slower = {}
for windows in (1, 8, 32):
    times = cases[f"the model, {windows} windows of 128, int8"]   # over that of int8
    slower[windows] = times["codebooks"] / times["fp32"]
    print(f"windows at a time: {windows:2}, {slower[windows]:.2f} of the time of fp32")
assert cost.macs(small) == cost.macs(base)

# %% [markdown]
# (A Xeon, two threads.) In a larger batch the looking up is spread over more tokens.
#
# ## 8. What was claimed, what came out

# %% tags=["figure"]
def times_base(nats):
    return exp(nats - base_nats)

taught = times_base(files["the same, trained with noise"]["nats"])
best = files["1 wider layer, int4, all, with a teacher"]
zeros, part, all_blocks = (
    times_base(in_codebooks[f"finetuned, {how}"])
    for how in ("zeros, p = 0.1", "codewords, p = 0.1", "codewords, p = 1"))
saved_by_8_bits = 1 - plan(block=8, bits=8)["file"] / plan(block=8)["file"]
lost_by_8_bits = 100 * (exp(plan(block=8, bits=8)["nats"] - plan(block=8)["nats"]) - 1)
of_kind = {kind: times_base(kinds[f"{kind}, blocks of 8"]["nats"])
           for kind in ("ffn", "embedding", "attention")}

KEYS = ("claim", "source", "said", "measured", "spread", "unit", "holds", "where")
claims = [dict(zip(KEYS, values)) for values in (
    ("codebooks make files 25 times smaller with little loss",
     "talk; Fan, Stock et al.",
     "942 MB to 38 MB", taught, None,
     f"times the perplexity, {files['the same, trained with noise']['smaller']:.1f} "
     "times smaller", False,
     f"{cost.parameters(base) / 1e6:.1f} million parameters; one layer on a grid: "
     f"{best['smaller']:.1f} times for {change(best['nats'])}"),
    ("a part of the blocks beats all blocks", "Fan, Stock et al.",
     "p = 0.05 to 0.2", part, None, "times the perplexity", False,
     f"finetuned with codewords, p = 0.1; {all_blocks:.1f} with p = 1"),
    ("zeros do as well as codewords in the noise", "Fan, Stock et al.", "as well",
     zeros, None, "times the perplexity", True,
     f"finetuned, p = 0.1; {part:.1f} with codewords"),
    ("scalar and vector quantization can be combined", "talk", "they can",
     100 * saved_by_8_bits, None, "% of the file saved", True,
     f"codewords of 8 bits, blocks of 8; {lost_by_8_bits:.1f} % of perplexity lost"),
    ("blocks of 8 suit feed-forwards and token vectors, attention needs 4",
     "Fan, Stock et al.", "8 and 4", of_kind["ffn"], sorted(of_kind.values())[::2],
     "times the perplexity, feed-forwards in blocks of 8", False,
     f"{of_kind['embedding']:.1f} for token vectors, {of_kind['attention']:.1f} "
     "for attention"))]

# %%
assert taught > 2 and times_base(best["nats"]) < 1.15                 # false
assert part > 2 * all_blocks                                          # false
assert zeros < part                                                   # true
assert saved_by_8_bits > 0.15 and abs(lost_by_8_bits) < 1             # true
assert of_kind["attention"] < min(of_kind["ffn"], of_kind["embedding"]) / 3   # false

# %%
ANSWERS = {True: "yes", False: "no", "in part": "in part"}
plot.table([[f"{c['claim']} ({c['source']})", c["said"],
             f"{c['measured']:.3g} {c['unit']}", f"{ANSWERS[c['holds']]}: {c['where']}"]
            for c in claims], ["claim", "said", "measured here", "holds"])

# %% [markdown]
# ## 9. Take it home
#
# On a model that is not ours, PyTorch's encoder. (What attention holds stays in 16 bits there: `nn.MultiheadAttention` keeps q, k and v in a tensor that is no layer. The exercise codes it.)

# %%
from torch import nn

encoder_layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
encoder = nn.TransformerEncoder(encoder_layer, 6, enable_nested_tensor=False).eval()
feed_forwards = named("linear1", "linear2")
tiny = product_quant.finalize(encoder, block=4, shared=True, where=feed_forwards)
tiny = product_quant.store(tiny)
print(f"{cost.stored_bytes(encoder):,} bytes became {cost.stored_bytes(tiny):,}")
print(tuple(tiny(torch.randn(2, 5, 64)).shape))

# %% [markdown]
# `python -m minieff snippet product_quant` prints the idea, to paste into your script; with `--full` the technique as one file that needs torch alone.
#
# The scoreboard, with sizes and times of lesson 00 (16 bits per number, eight windows on one thread), and three files of this lesson. One measurement, with blocks of 4 and 8, serves both rows of codebooks; that of one layer was taken on another model of its shape, for its weights do not ship.

# %% tags=["nbval-ignore-output"]
from minieff import scalar_quant
from minieff.core.surgery import is_a

one_layer = scalar_quant.finalize(scalar_quant.apply(
    zoo.load("speeches-depth-1"), bits=4, group=32, activations="none",
    where=is_a(nn.Linear, nn.Embedding)))
eight = torch.cat([ids for ids, _ in corpus.windows(context=128, rows=1, count=8)])
models = {"base": base, "codebooks": small, "one layer": one_layer}
with torch.no_grad():
    passes = cost.interleaved({name: lambda model=model: model(eight)
                               for name, model in models.items()}, runs=10, warmup=3)
for name, t in passes.items():
    print(f"{name:9} {t.median / passes['base'].median:.2f} of the base's time")

# %% tags=["figure"]
board = load_results("00_start_here")["scoreboard"]
base_row = next(row for row in board if row["name"] == "base")
unit = base_row["seconds"][1] / passes["base"].median      # the base as in lesson 00
one = files["1 layer, int4, all, with a better teacher"]
shown = {
    "codebooks, blocks of 2": (plan(block=2), plan(block=2)["file"], "codebooks"),
    "codebooks, blocks of 4": (plan(block=4), plan(block=4)["file"], "codebooks"),
    "1 layer, int4": (one, one["bytes"], "one layer")}
new_rows = []
for name, (found, size, model) in shown.items():
    t = passes[model]
    new_rows.append({
        "name": name, "stored_bytes": size, "bits_per_byte": found["bits_per_byte"],
        "macs": cost.macs(models[model]),
        "seconds": [unit * t.low, unit * t.median, unit * t.high]})
known = [row for row in board
         if "width" not in row["name"] and "kept" not in row["name"]]
plot.show(plot.scoreboard(known + new_rows, highlight=list(shown)), alt=(
    "The scoreboard with three more points. In size the base in codebooks with blocks "
    "of 2 lies at 1 megabyte, nearly as low as the base; with blocks of 4 it is "
    "smaller and far above all others; one layer with 4 bits is smaller than both, at "
    "0.27 megabytes, and lies between. In time and in multiplications codebooks lie at "
    "or behind the base, and one layer is far ahead of all."))

# %%
saved = save_results("11_product_quant", {    # to results/ by `make lessons` alone
    "claims": claims, "scoreboard": new_rows, "front": front})
for row in [{"name": "base in fp32", "stored_bytes": base_file,
             "bits_per_byte": codebooks["plain"]["bits_per_byte"]}, *new_rows]:
    print(f"{row['name']:23} {row['stored_bytes'] / 1e6:.2f} MB, "
          f"{row['bits_per_byte']:.3f} bits per byte")

# %% [markdown]
# **Three things to remember.**
#
# 1. A code of one byte names a block of several weights, and the codebook must be counted, too. Without training, blocks of 2 cost 4.6 percent of perplexity, blocks of 4 double it, blocks of 8 break this model.
# 2. Training takes back a part: of the codewords, by the mean gradient of their blocks, and of the model, with blocks replaced in each pass. Time and multiplications are not saved.
# 3. From 4 bits per weight on take a grid of lesson 10: with one scale per 32 it costs about as little, and with one per row it can be multiplied in integers. Below 4 bits, codebooks lose less than grids, and a smaller model on a grid of 4 bits loses less than both.
#
# **Exercise.** [11 Product quantization](../exercises/11_product_quant.ipynb): a step of k-means from memory, bytes with every codebook, rows that are put together wrongly, codewords that run ahead, noise in blocks, and a model that is not ours.

# %% [markdown]
# ## Going further
#
# Each part stands alone; read those that you need.
#
# ### Smaller codebooks
#
# Other plans, not trained. 8 bits for each number of a codeword save a fifth of the file with blocks of 8, and cost nothing there. Fewer codewords save only their own bytes, because a code stays a byte, and cost much. Weighting an error by the inputs that it meets, measured on some training text, helps a little with blocks of 8.

# %%
PLANS = {"blocks of 4": plan(block=4), "64 codewords": plan(block=4, codewords=64),
         "blocks of 8": plan(block=8), "8 bits per number": plan(block=8, bits=8),
         "errors weighted by inputs": plan(block=8, weighted=True)}
plot.table([[name, *measured(found)] for name, found in PLANS.items()],
           ["not trained", "bytes of the file", "times smaller", "perplexity"])

# %% [markdown]
# ### Fewer layers and finer blocks
#
# Half of a model, with blocks of 4 and 8 bits per number of a codeword, is 21.5 times smaller. These are four layers of a model that was trained to lose the other four (lesson 08, "Aim"), so they lose less than the pruned model of lesson 10. Trained kind by kind, with all blocks replaced, or with three values per weight (a grid of 2 bits) it costs between 58 and 72 percent; the same half in 4 bits is 12.6 times smaller.

# %%
show_files({
    "blocks of 4, not trained": "4 layers, blocks of 4",
    "blocks of 4, trained kind by kind": "4 layers, blocks of 4, finetuned",
    "blocks of 4, all replaced": "4 layers, all blocks replaced in training",
    "three values per weight": "4 layers, three values a weight",
    "4 bits, not trained": "4 layers, int4"})

# %% [markdown]
# ### A published model
#
# all-MiniLM-L6-v2, the BERT of lesson 10, without any training (`evidence/scalar_quant/minilm.py`):

# %%
minilm = load_results("scalar_quant/minilm")["formats"]
FORMATS = ("int8", "int4, 32 share a scale", "codebooks, blocks of 4",
           "codebooks, blocks of 8")
plot.table([[name, f"{minilm[name]['bytes'] / 1e6:.1f}",
             f"{minilm['fp32']['bytes'] / minilm[name]['bytes']:.1f}",
             f"{minilm[name]['cosine']:.3f}", f"{minilm[name]['same_nearest']:.0%}"]
            for name in FORMATS], ["", "MB", "times fewer", "cosine", "same neighbour"])

# %% [markdown]
# That is what codebooks do to a model that was not trained for them: with blocks of 8 nothing is left of it. Its matrices are larger than our base's, so codebooks take a smaller share of the bytes; a weight has as few bits as there.
#
# ### After the talk
#
# > Codebooks came back for large language models, where 2 bits per weight are wanted and a codebook weighs nothing beside the codes. AQLM (Egiazarian et al. 2024, arXiv 2401.06118) represents a block of 8 weights by the *sum* of several codewords, and learns them on the layer's inputs. QuIP# (Tseng et al. 2024, arXiv 2402.04396) first rotates the weights so that they look like a round cloud, as in section 1, and then takes one fixed codebook for all, a lattice in 8 dimensions. Both put the weights together again inside the product, so that reading fewer bytes saves time when text is generated, which our plain version does not.

# %% [markdown]
# # 11 Product quantization: a byte for eight weights
#
# **Promise.** You can cut a weight into blocks, find a codebook for them, count every byte of it, train its codewords, train a model so that it bears the coding, and say what is left of it in a file 25 times smaller. You will also see where codebooks lose: our best file of that size has none.
#
# | | |
# |---|---|
# | Takes | the cells run in about half a minute; the reading takes longer |
# | Read before | [10 Scalar quantization](10_scalar_quant.ipynb), where each weight has a code of its own |
# | Axes | model size falls: codes alone are 16 or 32 times smaller than fp32, and codebooks come on top; quality falls, and by how much is the question; time does not fall, nor do multiplications |
# | Who says so | Stock et al. 2019, "And the Bit Goes Down" (arXiv 1907.05686); Fan, Stock et al. 2020, "Training with Quantization Noise" (arXiv 2004.07320): a language model of 942 MB in 38 MB; Angela Fan's talk: "25x compression or more", "can combine scalar and vector quantization". Energy is not measured here |
#
# Where you see **Predict**, write your answer down before you run the next cell.

# %%
from math import exp

import torch
from minieff import product_quant
from minieff.core import cost, data, plot, zoo
from minieff.core.files import load_results, save_results
from minieff.product_quant.kmeans import kmeans
from minieff.core.surgery import named

torch.set_num_threads(1)
corpus = data.speeches()
base = zoo.load("speeches-base")
W = base.blocks.layers[0].feed.inner.up.weight.detach()                 # (512, 128)

# %% [markdown]
# ## 1. Pairs
#
# Lesson 10 gave each weight a code of its own, on a grid. Fewer than a bit a weight cannot be had that way. So let several neighbours share one code. Cut every row into pairs: this matrix has $512 \cdot 128 / 2$ of them, and each is a point in the plane.

# %%
pairs = W.reshape(-1, 2)                                                  # (32768, 2)
print(tuple(pairs.shape), pairs[:3].tolist())

# %% [markdown]
# Now choose 16 points, the *codewords*, and let each pair be stood for by the nearest of them. Four bits say which one: two bits a weight. A row of 128 weights is then 64 codes, which can name $16^{64}$ different rows with a table of 16 codewords: the choices multiply, and that is the *product* in the name. **Predict.** A grid of two bits a weight has 4 values for each number, so also 16 points in the plane, in four rows of four. Which of the two has the smaller error, and why?
#
# Where should the codewords lie? Each in the middle of the pairs that it stands for. But which pairs it stands for depends on where it lies. So do both in turns: assign, move, assign, move. That is k-means.

# %%
def assign(points, book):                                                 # (N, d), (K, d) -> (N,)
    return torch.cdist(points, book).argmin(1)

def move(points, codes, book):
    book = book.clone()
    for k in codes.unique():                                              # a codeword without points stays
        book[k] = points[codes == k].mean(0)
    return book

# %% tags=["predict"]
draw = torch.Generator().manual_seed(0)
book = pairs[torch.randperm(len(pairs), generator=draw)[:16]]             # (16, 2)
errors = []
for _ in range(20):
    codes = assign(pairs, book)
    errors.append((book[codes] - pairs).square().sum().item() / pairs.square().sum().item())
    book = move(pairs, codes, book)
assert all(a >= b - 1e-6 for a, b in zip(errors, errors[1:]))             # neither half of a step can raise it
print("share of the squares that is lost:", [round(e, 4) for e in errors[::4]])

# %% tags=["predict"]
from minieff.scalar_quant.grid import Grid, dequantize, quantize

theirs, codes_ = kmeans(pairs, 16, generator=draw)
lost = {"k-means, ours above": errors[-1], "minieff.product_quant.kmeans": float((theirs[codes_] - pairs).square().sum() / pairs.square().sum())}
for title, grid in (("2 bits, a scale a row", Grid(2, symmetric=False)), ("2 bits, best range of a row", Grid(2, symmetric=False, span="mse"))):
    lost[title] = float((dequantize(*quantize(W, grid)) - W).square().sum() / W.square().sum())
print({name: round(e, 4) for name, e in lost.items()})
assert abs(lost["minieff.product_quant.kmeans"] / errors[-1] - 1) < 0.05

# %%
def codewords_figure(w, block, count, iterations=10):
    """Blocks of a weight and their codewords in the first two coordinates, and what they cost."""
    points = w.reshape(-1, block)
    book, codes = kmeans(points, count, iterations=iterations, generator=torch.Generator().manual_seed(0))
    lost = float((book[codes] - points).square().sum() / points.square().sum())
    stored = len(points) + 2 * count * block                              # a byte a code, two a number
    figure, (ax,) = plot.panels(1, width=5, height=4.4)
    ax.plot(*points[::4, :2].T, ".", ms=1.5, color=plot.PALETTE["sky"])
    ax.plot(*book[:, :2].T, "o", ms=4, color=plot.PALETTE["red"])
    ax.set(xlabel="first weight of a block", ylabel="second weight", xlim=(-0.6, 0.6), ylim=(-0.6, 0.6),
           title=f"blocks of {block}, {count} codewords: {stored:,} bytes,\n{4 * w.numel() / stored:.1f} times fewer than fp32; {100 * lost:.0f} % of the squares lost")
    return figure

# %% tags=["predict"]
plot.show(codewords_figure(W, 2, 16), alt="A round cloud of 8,192 pairs of weights around zero, densest in the middle, and sixteen codewords spread over it, closer together where pairs are dense.")

# %% [markdown]
# At two bits a weight, 16 codewords lose 11 percent of the squares, a grid of a row's whole range 26, and one of its best range 14. Codewords lie where the pairs are; a grid also has values for the corners of a square, where there are few. (The bytes in the title are those of our files, where a code takes a whole byte, though 16 codewords need only half of one.)
#
# Blocks can be longer, and codewords more. 256 is the most that a byte can tell apart, and the usual choice: with blocks of 8 a byte stands for eight weights. Move it yourself (the picture shows the first two weights of each block):

# %% tags=["nbval-ignore-output"]
import ipywidgets as widgets

block = widgets.SelectionSlider(options=[1, 2, 4, 8, 16], value=4, description="block")
count = widgets.SelectionSlider(options=[2**n for n in range(9)], value=256, description="codewords")
drawn = widgets.HTML()

# %% tags=["nbval-ignore-output"]
def update(_=None):
    figure = codewords_figure(W, block.value, count.value, iterations=3)
    drawn.value = plot.picture(figure, alt="blocks and codewords").html

for control in (block, count):
    control.observe(update, "value")
update()
widgets.VBox([block, count, drawn])

# %% [markdown]
# ## 2. Count the bytes, all of them
#
# A code of $\log_2 K$ bits for $d$ weights of 32 bits: $32 d / \log_2 K$ times fewer, 32 for blocks of 8 and 256 codewords. **Predict.** How many times fewer bytes does this matrix take, codebook included (its codewords in 16 bits)?

# %% tags=["predict"]
def coded_bytes(weight, block, codewords=256, bits=16):
    return weight.numel() // block + codewords * block * bits // 8

for size in (2, 4, 8, 16):
    stored = coded_bytes(W, size)
    print(f"blocks of {size:2}: codes {W.numel() // size:6,} bytes, codebook {stored - W.numel() // size:5,}; {4 * W.numel() / stored:4.1f} times fewer, not {4 * size}")

# %% [markdown]
# Blocks of 16 take as many bytes as blocks of 8: the codebook grows as the codes shrink. (This matrix is small; in the paper's, a thousand wide, codebooks take less than a hundredth.) There are three ways out, all used below. Store codewords in 8 bits with a scale. Give blocks of 4 to some weights and of 8 to others. Or let several weights share one codebook: with `shared=True` it serves all weights of one call that have blocks of one size.
#
# `finalize` finds the codes and leaves the codewords in 32 bits, so that they can be trained (section 4). `store` comes last, and puts codewords and everything else into 16 bits.

# %%
coded = product_quant.finalize(base, iterations=5, generator=torch.Generator().manual_seed(0))
small = product_quant.store(coded, bits=16)
layer = small.blocks.layers[0].feed.inner.up
print("codes", tuple(layer.code.codes.shape), layer.code.codes.dtype, "codebook", tuple(layer.code.codebook.codewords.shape), layer.code.codebook.codewords.dtype)

# %%
weights = {name: m for name, m in base.named_modules() if isinstance(m, torch.nn.Linear)} | {"tok": base.tok}
codes_and_books = sum(coded_bytes(m.weight, product_quant.size_of(name, None)) for name, m in weights.items())
rest = sum(p.numel() for p in base.parameters()) - sum(m.weight.numel() for m in weights.values())
assert cost.stored_bytes(small) == codes_and_books + 2 * rest
before = cost.stored_bytes(base)
print(f"{before:,} bytes became {cost.stored_bytes(small):,}: {before / cost.stored_bytes(small):.1f} times fewer")

# %% [markdown]
# (`size_of` is the paper's rule: blocks of 4 in attention, of 8 elsewhere. Blocks of 8 everywhere take equally many bytes here: in a matrix of 128 by 128, 2,048 codes less and 2,048 bytes of codebook more. The token vectors, which serve as head too, are coded once. Biases, norms and positions are in 16 bits.)
#
# ## 3. What it costs
#
# Nothing is trained here: blocks, k-means, done. **Predict.** With blocks of 2 a weight takes 4 bits, with blocks of 4 two bits, with blocks of 8 one. Lesson 10's grids after training cost 9 percent of perplexity at 4 bits and a factor of 200 at one bit with a scale a row, and a factor of 10 at 2 bits with a zero point. And here?

# %% tags=["predict"]
for size in (2, 4, 8, 16):
    points = W.reshape(-1, size)
    book, codes = kmeans(points, 256, generator=draw)
    lost_ = (book[codes] - points).square().sum() / points.square().sum()
    print(f"this matrix in blocks of {size:2}: {8 / size:3.1f} bits a weight, {100 * lost_:4.1f} % of the squares lost")

# %% tags=["predict"]
books = load_results("product_quant/codebooks")
plain = books["plain"]

def percent(nats, whole=plain["nats"]):
    times = exp(nats - whole)
    return f"{100 * (times - 1):+.1f} %" if times < 2 else f"times {times:,.1f}" if times < 10 else f"times {times:,.0f}"

for plan in books["plans"]:
    knobs = ", ".join(f"{key} {value}" for key, value in plan.items() if key not in ("bytes", "nats", "bits_per_byte"))
    print(f"{knobs:28} {plan['bytes']:>9,} bytes, {before / plan['bytes']:5.1f} times fewer; {plan['nats']:.3f} nats, perplexity {percent(plan['nats'])}")

# %% [markdown]
# With about a million bytes codebooks lose 5 percent, where grids of 4 bits lose 9 with a scale a row, 7 with a zero point, and 5 with a scale for 32 neighbours (and 9 percent more bytes). With about half a million, blocks of 4 and one codebook for all lose a factor of 2.4 (520,704 bytes), and 2 bits with a zero point a factor of 10 (552,448). So at equal bytes codebooks lose less than grids, the more so the fewer the bytes. But 12 times fewer bytes with twice the perplexity is no bargain, and with blocks of 8 the model breaks: more than a quarter of
# the squares is lost there. One codebook for all saves two fifths of the bytes at blocks of 8 and costs
# nothing there, where all is lost already; at blocks of 4 it costs 11 percent. 8 bits for each number of a codeword save a fifth of the bytes at blocks of 8 and cost next to nothing. (`energy`: an error in a weight counts as much as the inputs that it meets, measured on some training text. It helps a little.) Fewer codewords save only their own bytes, because a code stays a byte.
#
# Which kind of weight bears it worst? One kind in codebooks, the others as they are:

# %%
for name, found in books["kinds"].items():
    print(f"{name:26} {percent(found['nats'])}")

# %% [markdown]
# Attention bears blocks of 4 at 6 percent. The token vectors and the feed-forwards lose much more, and the feed-forwards are more than half of the model. The paper has it the other way round (blocks of 8 for feed-forwards and token vectors, 4 for attention), for models a hundred times as large.
#
# ## 4. Train the codewords
#
# The codes stay; the codewords can move. The gradient of a block is the gradient of the weights in it; a codeword stands for many blocks. **Predict**: should it move by the sum of their gradients, or by their mean? The numbers of blocks differ:

# %% tags=["predict"]
up = coded.blocks.layers[0].feed.inner.up.code
counts = torch.bincount(up.codes.flatten().long(), minlength=256)
print(f"blocks of a codeword: from {counts.min()} to {counts.max()}, median {counts.median()}")

# %%
def codeword_gradients(codes, grad, count, d):                            # codes (R, B), grad (R, B d)
    blocks = grad.reshape(-1, d)
    total = torch.zeros(count, d).index_add_(0, codes.flatten().long(), blocks)
    return total / torch.bincount(codes.flatten().long(), minlength=count).clamp(min=1)[:, None]

# %%
from minieff.product_quant.codebook import mean_gradient

book = up.codebook.codewords.detach().requires_grad_()
grad = torch.randn(W.shape, generator=draw)
weight = mean_gradient(book, up.codes.long(), counts).flatten(1)
weight.backward(grad)
assert torch.allclose(book.grad, codeword_gradients(up.codes, grad, 256, 8), atol=1e-6)

# %% [markdown]
# By the mean: with the sum, one rate cannot be right for a codeword of one block and for one of 66. (The well-known open implementation divides by the counts in its convolutions and not in its linears, which then learn at other rates than meant. That matters for plain gradient descent, which exercise 11 has. Adam, which we use below, divides by the size of the gradient itself, so that sums and means take nearly the same steps.)
#
# The paper goes kind by kind, which it calls iPQ: code the feed-forwards, train their codewords and everything that is not coded yet, so that the rest makes up for the loss; then the token vectors; then attention. Here it is live, with blocks of 8, one codebook a kind, and six steps after each kind:

# %%
KINDS = {"feed-forwards": named("up", "down"), "token vectors": named("tok"), "attention": named("q", "k", "v", "out")}

def train_on(model, count=6):
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3, weight_decay=0)
    for _ in range(count):
        ids, targets = corpus.batch(8, 128, draw)
        data.loss(model(ids), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()

# %% tags=["nbval-ignore-output"]
def nats(model):
    return cost.quality(model, corpus, windows=16).nats

model = base
print(f"the base {nats(base):.1f} nats")
for kind, where in KINDS.items():
    model = product_quant.finalize(model, where=where, block=8, shared=True, iterations=5, generator=torch.Generator().manual_seed(0))
    found = [nats(model), nats(train_on(model))]
    print(f"{kind} coded: {found[0]:.1f} nats, after six steps {found[1]:.1f}")
    assert found[1] < found[0]

# %% [markdown]
# After each kind a little training takes back a part of the loss. Six steps are a taste; the rows of section 6 have about 200 a kind.

# %% [markdown]
# ## 5. Train with the noise
#
# The other way is to prepare the model while it is trained. Quant-Noise replaces in each pass a random share $p$ of the blocks by what they will be replaced with later, so that the others learn not to rely on them. Later that is a codeword; but there are no codewords yet, and k-means in every step would take long. The paper found that a stand-in does
# as well: *zero*. The gradient goes to the weight behind, replaced or not; it is taken at what the pass has seen.

# %%
def noise(w, size, p, generator):
    hit = torch.rand(w.numel() // size, 1, generator=generator) < p       # one coin a block
    w_q = torch.where(hit, 0.0, w.detach().reshape(-1, size)).view_as(w)
    return w_q + (w - w.detach())                                         # w_q in value, w in gradient

w = torch.randn(6, 8, requires_grad=True)
seen = noise(w, 4, 0.5, torch.Generator().manual_seed(3))
seen.square().sum().backward()
print((seen != 0).int().tolist())
assert torch.equal(w.grad, 2 * seen.detach())                             # of squares: twice what was seen, 0 where zeros were seen

# %%
from minieff.product_quant import BlockNoise

theirs = BlockNoise(4, 0.5, "zero", torch.Generator().manual_seed(3)).train()
assert torch.equal(theirs(w), seen)

# %% [markdown]
# Nothing is divided by $1 - p$, as dropout would, and nothing is written into `w`. (The open implementation of the paper does both, in place: after 20 passes with $p = 0.1$ and no step of training $1 - 0.9^{20}$, 88 percent of the blocks, are zero for good, and the rest is $0.9^{-20}$, 8 times as large.)
#
# `pq-noise` is the base's twin: trained from nothing on the same tokens, with a tenth of its blocks zero in each pass. `pq-qat` is another: there *all* blocks are their codewords in each pass ($p = 1$), of codebooks that take a step of k-means after the weights every tenth step. Setting that up takes two lines, and a third in the loop:
#
# ```python
# model = product_quant.apply(Transformer(config), p=1.0, proxy="exact")     # first codebooks, from the weights it begins with
# ...                                                                        # logits, loss, backward, optimizer.step()
# product_quant.project(model)                                               # codebooks follow
# ```
#
# All are then coded as in section 2 (blocks of 4 in attention, of 8 elsewhere), and nothing is trained after that. **Predict**: how much worse than the base is `pq-noise` as it is? And which of the three is best in codebooks, and how good?

# %% tags=["predict"]
quality = {name: zoo.card(f"product_quant/{name}")["quality"] for name in ("pq-noise", "pq-qat")}
table = load_results("scalar_quant/table")
print(f"as trained: the base {plain['nats']:.3f} nats, pq-noise {quality['pq-noise']['nats']:.3f}")

# %% tags=["predict"]
steps = load_results("product_quant/small")["steps"]
rows = {"the base": table["after"]["pq"]["base"], "pq-noise (zeros, p = 0.1)": steps["blocks of 4 and 8, with noise, not finetuned"], "pq-qat (codewords, p = 1)": quality["pq-qat"],
        "the base, finetuned without noise": table["after"]["pq"]["plain"],
        "finetuned with zeros (p = 0.1)": table["trained"]["pq-zero"], "finetuned with codewords (p = 0.1)": table["trained"]["pq-noise"],
        "finetuned with codewords (p = 1)": table["trained"]["pq-qat"]}
for name, found in rows.items():
    print(f"in codebooks, {name:36} {found['nats']:.3f} nats, {percent(found['nats'])}")

# %% [markdown]
# The model that saw zeros in a tenth of its blocks ends worse as it is, by 0.24 nats. In codebooks it is ahead of the base, by 1.2 nats; but 5.3 nats are no usable model. The one whose blocks were all codewords ends at 4.1, as good as `pq-noise` after the finetuning below, and with 2.2 times the base's perplexity. The last four rows are the base after a short finetuning on 600,000 tokens, and the one without noise is what the others are to be compared with (in codebooks it is even a little worse than the base): a tenth of the blocks zero takes 0.7 nats off, a tenth as codewords 0.3;
# all blocks as codewords takes off 2.1. As in lesson 10, p = 1 is the best here, in the long training and in the short one; the paper, with models a hundred times as large, finds the opposite. Its remedy for what is left is the finetuning of section 4: `pq-noise` coded kind by kind, with 600,000 tokens and a teacher, comes to 4.13 nats.
#
# ## 6. 25 times, step by step
#
# The talk has 25 times and more. What does it take here? From here on bytes are those of files *with their headers*, which name every tensor and take 15 to 26 kB. (The first row is `block 8, shared True` of section 3, 25.4 times smaller there, with a header and with three codebooks, one a kind.) Ratios are against the base's file in 32 bits, perplexity against the base's.
#
# "Finetuned" means for codebooks 600,000 tokens on the codewords and all that is not coded yet (1 million where all blocks are replaced or there are three values a weight, 1.2 million for "1 layer, blocks of 4"). Models of one or two layers with few bits were trained on 12 million tokens with the rounding on, "long" on 48 million, "better teacher" and the wider layer on 24 million; the base had 12 million in all. "All": positions are rounded, too. A teacher is the base, or what the row started from.

# %%
for name, found in steps.items():
    print(f"{name:53} {found['bytes']:>8,} bytes {found['smaller']:5.1f} times {found['nats']:.3f} nats {percent(found['nats'])}")

# %% [markdown]
# Row by row. Codebooks with blocks of 8 break the base, and training the codewords brings it from 6.80 nats to 4.75; the base itself as a teacher (the loss is half that and half the text) to 4.66; a model trained with Quant-Noise, as start and as teacher, to 4.40. Each of the three steps helps, by 2.05, 0.09 and 0.26 nats, and together they leave nearly three times the perplexity. Blocks of 4 cost 50 percent of perplexity at 14 times.
# A model with fewer layers and finer blocks (the four layers that LayerDrop left of eight, lesson 08) gives 21 times for 60 percent, and three values a weight do about as well.
#
# The best files beyond 25 times have no codebook at all. They are *one* layer with 4 bits a weight and a scale for 32 neighbours. Trained on 28.8 million tokens, and on 12 million more with the rounding: 25 times for 19 percent, in four fifths of the MACs of the base's training. With positions in 4 bits, too, it is 27 times smaller; on 48 million tokens with the rounding that costs 17 percent. With a teacher,
# the base's twin that saw three times the tokens (3.14 nats), 24 million tokens suffice for 13.4 percent. The teacher was not free: its training took three times the base's.
# With the base itself as the teacher, and the layer a little wider (136 numbers a token instead of 128), it is 25.2 times for 12.3 percent. That is our best at 25 times, and the answer to this section's question: one layer, all of it in 4 bits, trained on 28.8 million tokens as it is and on 24 million with the rounding and a teacher (1.8 times the MACs of the base's training, with the teacher's passes, and the base's own training besides). Two layers with 3 bits a weight are no better, and one layer with 2 bits is 50 times smaller and costs 71 percent. The talk puts "train a smaller network from scratch" first and says not to discount it.
#
# Why does the paper reach 25 times with little loss, and we do not? Its model has 247 million parameters. Codebooks take less than a hundredth of its bytes, and 28 percent of ours if each weight has its own; and 25 times fewer leave it 38 million bytes, and us 300 thousand. A model that is hardly overparameterized has little to give (lesson 00 has how to tell). Its finetuning is also far longer: 600,000 tokens took minutes here.
#
# All of it in one picture, with what failed: every file of this lesson and of lesson 10, and the models of lesson 01 in 16 bits.

# %%
def sized(rows):
    return [(row["file"], row["bits_per_byte"]) for row in rows]

trained = {name: row for name, row in table["trained"].items() if "plain" not in name}
names = [*zoo.names(), *(f"train_smaller/{name}" for name in zoo.names(zoo.FOLDER / "train_smaller"))]
cards = [zoo.card(name) for name in sorted(names, key=lambda name: name.split("/")[-1]) if "few" not in name]
points = {"grids after training (10)": sized(load_results("scalar_quant/grids")["grids"]), "codebooks after training": sized(books["plans"]),
          "trained for it": sized(trained.values()) + [(s["bytes"], s["bits_per_byte"]) for s in steps.values()],
          "models in 16 bits (01)": [(card["bytes"], card["quality"]["bits_per_byte"]) for card in cards]}
for folder, name in (("scalar_quant", "int4-qat"), ("scalar_quant", "int4-noise"), ("product_quant", "pq-qat")):                         # from nothing: files as large as those that were finetuned
    points["trained for it"].append((trained[name]["file"], zoo.card(f"{folder}/{name}")["quality"]["bits_per_byte"]))

# %%
front = []
for size, bits in sorted(sum(points.values(), [])):
    if not front or bits < front[-1][1]:
        front.append((size, bits))

# %% tags=["figure"]
figure, axes = plot.panels(2, width=6, height=4.4)
for ax in axes:
    for (label, found), (mark, colour) in zip(points.items(), (("s", "blue"), ("^", "orange"), ("o", "red"), ("d", "black"))):
        ax.plot([size / 1e6 for size, _ in found], [bits for _, bits in found], mark, ms=4.5, color=plot.PALETTE[colour], label=label)
    ax.plot([size / 1e6 for size, _ in front], [bits for _, bits in front], "-", color=plot.PALETTE["grey"], zorder=0, label="nothing is smaller and better")
    ax.axvline(books["plain"]["file"] / 25 / 1e6, ls=":", color=plot.PALETTE["black"])
    ax.set(xscale="log", xlabel="file in MB")
    ax.set_xticks([0.15, 0.3, 0.5, 1, 2, 4], ["0.15", "0.3", "0.5", "1", "2", "4"])
    ax.set_xticks([], minor=True)
axes[0].set(ylabel="bits a byte, held out", title="every file", ylim=(1.2, 3.9))
plot.legend(figure)
axes[1].set(title="close up", xlim=(0.13, 2.3), ylim=(1.31, 1.72))
figure.draw_without_rendering()
NAMED = {"1 layer, 2 bits": steps["1 layer, 2 bits, finetuned with a teacher"], "1 wider layer, int4": steps["1 wider layer, int4, all, with a teacher"],
         "2 layers, 3 bits": steps["2 layers, 3 bits, finetuned with a teacher"], "4 layers, blocks of 4": steps["4 layers, blocks of 4, finetuned"], "4 layers, int4": steps["4 layers, int4"]}
plot.label(axes[1], [(name, row["bytes"] / 1e6, row["bits_per_byte"], plot.PALETTE["red"]) for name, row in NAMED.items()])
plot.show(figure, alt="Bits a byte over the size of the file on a logarithmic scale, for some hundred files. Left, all of them: grids and codebooks after training lie near 1.35 down to 1 megabyte and rise steeply below, to 2 and 3.7 at half a megabyte. "
          "Right, close up: at 0.3 megabytes, on the line of 25 times, lies the wider layer with 4 bits at 1.39, left of it two layers with 3 bits at 1.42 and, at 0.15 megabytes, one layer with 2 bits at 1.56; four layers in blocks of 4 lie at 0.35 and 1.53, far above the front.")

# %% [markdown]
# From the right: the base in 16 bits, then with 8 bits at the same quality. Neither is on the front, which begins at 1.1 MB: 4 bits and six million tokens of training more make a file that is also better than the base (without rounding these tokens help even more, lesson 10). Beside it lie 4 bits with less training and codebooks with blocks of 2. The dotted line is 25 times. Far below one megabyte only the models of one layer are on the front, with 4 bits and with 2: whatever we made of the base or of half of it there is larger and worse. (The smallest file is no usable model.) (Trained were one seed and one plan each.)
#
# ## 7. What it does not do
#
# **It saves no time.** The weights are put together again in each pass.

# %%
bench = {part["what"]: {peer["name"]: peer["times"] for peer in part["peers"]} for part in load_results("bench/quant")["comparisons"]}
for windows in (1, 8, 32):
    found = bench[f"the model, {windows} windows of 128, int8"]             # each peer's time over that of int8
    print(f"{windows:2} windows: the model in codebooks takes {found['codebooks']['median'] / found['fp32']['median']:.2f} of the time of fp32")
assert cost.macs(small) == cost.macs(base)

# %% [markdown]
# The multiplication is that of fp32, and before it each weight is looked up, block by block. In a larger batch that is spread over more tokens.
#
# ## 8. Take it home
#
# On a model that is not ours:

# %%
from torch import nn

encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 256, batch_first=True), 6, enable_nested_tensor=False).eval()
where = named("linear1", "linear2")
tiny = product_quant.store(product_quant.finalize(encoder, block=4, shared=True, where=where))
print(f"{cost.stored_bytes(encoder):,} bytes became {cost.stored_bytes(tiny):,}; {tuple(tiny(torch.randn(2, 5, 64)).shape)}")

# %% [markdown]
# (What attention holds stays in 16 bits there: `nn.MultiheadAttention` keeps q, k and v in a tensor that is no layer. The exercise codes it.) And the published BERT of lesson 10, without any training:

# %%
minilm = load_results("scalar_quant/minilm")["formats"]
for name in ("int8", "int4, 32 share a scale", "codebooks, blocks of 4", "codebooks, blocks of 8"):
    found = minilm[name]
    print(f"{name:26}{found['bytes'] / 1e6:6.1f} MB, {minilm['fp32']['bytes'] / found['bytes']:5.1f} times fewer; cosine {found['cosine']:.3f}, same nearest neighbour {found['same_nearest']:.0%}")

# %% [markdown]
# That is what codebooks do to a model that was not trained for them, and is not repaired: with blocks of 8 nothing is left of it. Its matrices are larger than our base's, so codebooks take a smaller share of the bytes; a weight has as few bits as there.
#
# `python -m minieff snippet product_quant` prints the idea, to paste into your script; with `--full` the technique as one file that needs torch alone.
#
# **Recap.** Without training, a byte for 2 weights makes 7 times fewer bytes and costs 5 percent of perplexity; a byte for 4 makes 12 times fewer and doubles it; a byte for 8 breaks this model. Training takes back a part: of the codewords, by the mean gradient of their blocks, and of the model, with blocks replaced in each pass. Multiplications stay, and time rises a little. With 4 bits a weight and more take
# the grid of lesson 10: it costs as little, and can be multiplied in integers. Below 4 bits codebooks lose less than grids, and a smaller model on a grid of 4 bits loses less than both.
#
# The scoreboard has files of 16 bits beside the new ones. Times are those of passes of eight windows, relative to the base's: one measurement, with blocks of 4 and 8, serves both rows of codebooks. That of one layer with 4 bits was taken on another model of its shape, for its weights do not ship.

# %%
from minieff import scalar_quant
from minieff.core.surgery import is_a

everything = is_a(torch.nn.Linear, torch.nn.Embedding)
one = scalar_quant.finalize(scalar_quant.apply(zoo.load("speeches-depth-1"), bits=4, group=32, activations="none", where=everything))

# %% tags=["nbval-ignore-output"]
eight = torch.cat([ids for ids, _ in corpus.windows(context=128, rows=1, count=8)])         # (8, 128)
with torch.no_grad():
    passes = cost.interleaved({"base": lambda: base(eight), "codebooks": lambda: small(eight), "one layer": lambda: one(eight)}, runs=10, warmup=3)
print({name: f"{t.median / passes['base'].median:.2f} of the base's time" for name, t in passes.items()})

# %%
board = load_results("00_start_here")["scoreboard"]
like = next(row for row in board if row["name"] == "base")
unit = like["seconds"][1] / passes["base"].median                         # so that the base lies where lesson 00 has it
best = steps["1 layer, int4, all, with a better teacher"]
shown = {"codebooks, blocks of 2": (books["plans"][0], small, passes["codebooks"]), "codebooks, blocks of 4": (books["plans"][1], small, passes["codebooks"]),
         "1 layer, int4": (best, one, passes["one layer"])}
rows = [{"name": name, "stored_bytes": found["bytes"], "bits_per_byte": found["bits_per_byte"], "macs": cost.macs(model), "seconds": [unit * t.low, unit * t.median, unit * t.high]}
        for name, (found, model, t) in shown.items()]
for name, (found, _, _) in shown.items():
    print(f"{name:23} size {before / 1e6:.2f} -> {found['bytes'] / 1e6:.2f} MB, in 16 bits {before / 2e6:.2f}; bits a byte {plain['bits_per_byte']:.3f} -> {found['bits_per_byte']:.3f}")

# %%
plot.show(plot.scoreboard([row for row in board if "width" not in row["name"] and "kept" not in row["name"]] + rows, highlight=[row["name"] for row in rows]),
          alt="The scoreboard with three more points. In size the base in codebooks with blocks of 2 lies at 1 megabyte, nearly as low as the base; with blocks of 4 it is smaller and far above all others; one layer with 4 bits is smaller than both, at 0.27 megabytes, and lies between. "
          "In time and in multiplications codebooks lie at or behind the base, and one layer is far ahead of all.")

# %%
saved = save_results("11_product_quant", {"scoreboard": rows, "front": front})           # to a temporary folder, unless `make lessons` runs

# %% [markdown]
# **Exercise.** [11 Product quantization](../exercises/11_product_quant.ipynb): a step of k-means from memory, bytes with every codebook, rows that are put together wrongly, codewords that run ahead, noise in blocks, and a model that is not ours.

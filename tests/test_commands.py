"""The command line, and the snippets it prints."""

import ast
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from itertools import permutations
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from minieff import compose, doctor, layerdrop, product_quant, scalar_quant
from minieff.__main__ import main
from minieff.core.files import ROOT
from minieff.core.surgery import is_a, named
from minieff.snippet import cuts, full, idea

README = (ROOT / "README.md").read_text()

# uses of each technique on models that are not ours: of its idea, with the lines that it prints ({0}, {1}),
# and of the whole file
IDEAS = {
    "layerdrop": """
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(6))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

model, x = Mine(), torch.randn(2, 5, 16)
few = Mine().eval()
few.load_state_dict(model.state_dict())
few.layers = nn.ModuleList(few.layers[i] for i in (0, 2, 5))
{0}
model.layers[0].p = 1.0
seen = []
model.layers[0].inner.register_forward_hook(lambda *call: seen.append(call))
model.train()(x).sum().backward()
assert not seen and model.layers[3].self_attn is model.layers[3].inner.self_attn
{1}
assert torch.equal(model.eval()(x), few(x))
encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 3).eval()
want = encoder(x)
encoder.layers = nn.ModuleList(Skip(layer, 0.5) for layer in encoder.layers)  # asks its layers for attributes
torch.testing.assert_close(encoder.eval()(x), want)
""",
    "headdrop": """
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        {0}

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        attn = (q @ k.mT / 2).softmax(-1)
        {1}
        return attn

model, x = Mine(), torch.randn(2, 5, 16)
model.skip.p = 0.5
heads = torch.stack([model(x).sum((0, 2, 3)) for _ in range(50)])  # 10 where a head runs
assert set(heads.round().unique().tolist()) == {{0.0, 10.0}} and 0.3 < (heads == 0).float().mean() < 0.7
assert (model.eval()(x).sum(-1) > 0.99).all()
""",
    "distill": """
model, teacher, ids = nn.Embedding(9, 9), nn.Embedding(9, 9), torch.arange(9)
targets = torch.full_like(ids, -100)
optimizer = torch.optim.Adam(model.parameters(), 0.1)
{0}
for _ in range(100):
    {1}
    optimizer.zero_grad()
    error.backward()
    optimizer.step()
assert error < 1e-2 and torch.allclose(model(ids).softmax(-1), teacher(ids).softmax(-1), atol=0.1)
assert teacher.weight.grad is None
""",
    "distill_inside": """
own, theirs = [torch.randn(2, 5, 312) for _ in range(4)], [torch.randn(2, 5, 768) for _ in range(12)]
{0}
{1}
error.backward()
assert project.weight.grad.any()
own = [torch.randn(2, 5, 8) for _ in range(12)]
theirs = [3 * h for h in own]
own[:5] = [theirs[i] / 3 for i in (1, 3, 5, 7, 9)]
{2}
assert patient < 1e-6 and mobile > 1
""",
    "adaptive_span": """
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        {0}

    def forward(self, scores):
        attn, q_idx, kv_idx = scores.softmax(-1), torch.arange(5), torch.arange(5)
        distance = q_idx[:, None] - kv_idx
        {1}
        return attn

attention, scores = Mine(), torch.randn(2, 4, 5, 5)
attention.span.ramp = 3
attn = attention(scores)
assert torch.allclose(attn.sum(-1), torch.ones(2, 4, 5))
assert not attn[:, :, 4, :2].any() and attn[0, 0, 4, 2] > 0
loss = attn[..., 0].sum()
{2}
loss.backward()
assert (attention.span.z.grad != 0).all() and attention.span.reach == 3
""",
    "entmax": """
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        {0}

    def forward(self, scores):
        {1}
        return attn

model, scores = Mine(), torch.randn(2, 4, 5, 6)
scores[..., 4:] = float("-inf")
attn = model(scores)
assert torch.allclose(attn.sum(-1), torch.ones(2, 4, 5)) and not attn[..., 4:].any()
attn[..., 0].sum().backward()
assert (model.a.grad != 0).all()
two = torch.tensor([-2.0, 0.0, 0.5])
assert torch.allclose(entmax(two, 2.0), torch.tensor([0.0, 0.25, 0.75]))
assert torch.allclose(entmax(two, 1.0), two.softmax(-1))
""",
    "sparse_attention": """
import torch.nn.functional as F
T = 300
{0}
q, k, v = torch.randn(3, 2, 4, T, 8)
{1}
assert torch.allclose(y, F.scaled_dot_product_attention(q, k, v, attn_mask=visible), atol=1e-5)
assert visible.sum() < sum(len(queries) * len(keys) for queries, keys in groups) < 70 * T
strided = grouped((i[:, None] - i) % 20 == 0, 64, sort=True)
assert [queries.tolist() for queries, keys in strided] == [[*range(r, T, 20)] for r in range(20)]
""",
    "scalar_quant": """
model, x = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5)), torch.randn(9, 16)
w = model[0].weight.detach().clone()
want = model(x)
{0}
noisy = model.train()[0].weight.detach()
assert 0.3 < (noisy == w).float().mean() < 0.7 and (noisy - w).abs().max() <= w.abs().max() / 127
model(x).square().sum().backward()
assert model[0].parametrizations.weight.original.grad.ne(0).any()
assert model.eval()[0].weight.unique().numel() < w.numel() and torch.allclose(model(x), want, atol=0.02)
layer = model[0]
{1}
assert torch.allclose(scale * codes, layer.weight, atol=1e-6) and codes.abs().amax(1).eq(127).all()
""",
    "weight_sharing": """
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(6))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

model, x = Mine().eval(), torch.randn(2, 5, 16)
{0}
assert len(model.layers) == 6 and len(set(model.layers)) == 3
block = model.layers[0]
{1}
want = x
for _ in range(6):
    want = block(want)
assert torch.equal(model(x), want)
model(x).square().sum().backward()
assert model.layers[0].time.grad.shape == (6, 16) and model.layers[0].self_attn is block.self_attn
""",
    "dynamic_conv": """
self, dim = nn.Module(), 16
x = start = torch.randn(2, 40, 16)
{0}
{1}
before, x = y, torch.cat([start[:, :20], start[:, 20:] + 1], 1)
{1}
assert torch.allclose(y[:, :20], before[:, :20], atol=1e-6) and not torch.allclose(y, before)
y.sum().backward()
assert self.taps.query.weight.grad.any()
nn.init.zeros_(self.taps.query.weight)
x = start
{1}
inside = F.pad(F.glu(self.into(start), dim=-1), (0, 0, 6, 0))
assert torch.allclose(y, self.out(inside.unfold(1, 7, 1).mean(-1)), atol=1e-6)
""",
    "product_quant": """
layer = nn.Linear(64, 96)
{0}
assert codebook.shape == (256, 8) and codes.shape == (768,) and counts.sum() == 768
assert torch.equal(w_q, codebook[codes].view(96, 64)) and (w_q - layer.weight).var() < layer.weight.var() / 4
w_q.sum().backward()
assert torch.allclose(codebook.grad, torch.ones(256, 8))  # a mean of ones
""",
    "sparse_weights": """
layer, x = nn.Linear(16, 8), torch.randn(5, 16)
w = layer.weight.detach().clone()
{0}
assert layer.weight.count_nonzero() == 13 and torch.equal(layer.weight[layer.weight != 0], w[keep])
layer(x).square().sum().backward()
assert torch.equal(layer.parametrizations.weight.original.grad != 0, keep)
import warnings
warnings.simplefilter("ignore")  # torch says that its sparse tensors are in beta
{1}
assert torch.allclose(y, layer(x), atol=1e-6)
""",
    "fast_decoding": """
model, small = (nn.Embedding.from_pretrained(torch.randn(9, 9)) for _ in range(2))  # the last token decides
ids = [0]
while len(ids) < 40:
    drafted, q, last = [], [], torch.tensor([ids[-1]])
    for _ in range(3):
        q.append(small(last).softmax(-1))
        last = draw(q[-1])[0]
        drafted.append(last)
    drafted, q = torch.cat(drafted), torch.cat(q)
    p = model(torch.cat([torch.tensor(ids[-1:]), drafted])).softmax(-1)
    {0}
    assert 1 <= len(new) <= 4 and torch.equal(new[:-1], drafted[:len(new) - 1])
    ids += new.tolist()
""",
    "architecture_search": """
layer, costs = nn.Module(), torch.tensor([1.0, 0.25])
layer.feed, small = (nn.Sequential(nn.Linear(16, n), nn.ReLU(), nn.Linear(n, 16)) for n in (64, 16))
x, loss = torch.randn(2, 5, 16), 0.0
want = [layer.feed(x), small(x)]
{0}
drawn = [layer.feed(x) for _ in range(30)]
assert {{next(i for i in (0, 1) if torch.allclose(y, want[i], atol=1e-5)) for y in drawn}} == {{0, 1}}
layer.feed(x).square().sum().backward()
{1}
loss.backward()
assert layer.feed.alpha.grad.ne(0).all() and round(loss.item(), 4) == 2.5
layer.feed.alpha = nn.Parameter(torch.tensor([0.0, 0.1]))
y = layer.eval().feed(x)
{2}
assert layer.feed is small and torch.equal(y, small(x))
""",
    "feedback": """
self, dim, x = nn.Module(), 16, torch.randn(2, 5, 16)
self.layers = nn.ModuleList(nn.TransformerDecoderLayer(dim, 2, 32, 0.0, batch_first=True) for _ in range(3))
{0}
{1}
assert y.shape == x.shape and len(memory) == 6
torch.testing.assert_close(memory[5], torch.stack(states).mean(0))
y[:, 4].pow(3).sum().backward(inputs=[*self.parameters()])
assert self.mix.weight.grad.any() and self.layers[2].linear2.weight.grad.any() and self.start.grad.any()
""",
}
WHOLE = {
    "layerdrop": re.search(r"```python\n(.*?)```", README.partition("## Take a technique home")[2], re.S)[1]
    + """
assert len(small.layers) == 3 and not any(isinstance(module, Skip) for module in small.modules())
encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 4)
x = torch.randn(2, 5, 16)
assert torch.equal(apply(encoder, p=1.0, where=layer)(x), x)
for wrong, said in ((is_a(nn.Conv1d), "matched no module"), (is_a(nn.LayerNorm), "a bare LayerNorm")):
    try:
        apply(encoder, p=0.5, where=wrong)
    except ValueError as error:
        assert said in str(error)
    else:
        raise AssertionError(said)
assert keep_evenly(6, 3) == [0, 3, 5]
""",
    "headdrop": """
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.reweight = unchanged

    def forward(self, x):  # each vector is a head's
        q_idx = torch.arange(x.shape[2])
        attn = self.reweight((x @ x.mT).softmax(-1), q_idx[:, None] - q_idx)
        return attn @ x

model, x = nn.Sequential(Mine(), Mine()), torch.randn(2, 4, 5, 3)
dropped = apply(model, p=1.0, where=is_a(Mine))
assert not dropped.train()(x).any() and torch.equal(dropped.eval()(x), model(x))
final = finalize(dropped.train())
assert not final.training and torch.equal(final(x), model(x)) and final[0].reweight is unchanged
""",
    "distill": """
class Teacher(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.tok = nn.Embedding(9, 16)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(layers))

    def forward(self, ids, past):  # each token from the one before it
        x = self.tok(ids)
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x @ self.tok.weight.T

teacher, ids = Teacher(4), torch.randint(9, (3, 2))
written = write(teacher, ids, 5, beams=2)
assert written.shape == (3, 7) and torch.equal(written[:, :2], ids)
student = from_layers(Teacher(2), teacher, layers=[0, 3], where=is_a(nn.Linear))
assert torch.equal(student.layers[1].bias, teacher.layers[3].bias)
assert torch.equal(student.tok.weight, teacher.tok.weight)
inputs, targets = augment(written[:, :-1], written[:, 1:], rows=0.5)
found = loss(student(inputs, None), teacher(inputs, None), targets, temperature=4.0)
found.backward()
assert found > 0 and teacher.tok.weight.grad is None and student.tok.weight.grad.any()
""",
    "distill_inside": """
class Layer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, x):
        return x + (self.query(x) @ self.key(x).mT).softmax(-1) @ self.value(x)

student = nn.Sequential(nn.Embedding(9, 8), *(Layer(8) for _ in range(2)))
teacher = nn.Sequential(nn.Embedding(9, 16), *(Layer(16) for _ in range(4)))
hidden, ids = HiddenLoss(layers=uniform(4, 2), dim=8, teacher_dim=16), torch.arange(9)[None]
where = {"layers": is_a(Layer), "attention": named("query", "key")}
with inside(student, **where) as (own, own_qk), inside(teacher, **where) as (theirs, theirs_qk):
    student(ids), teacher(ids)
error = hidden(own, theirs) + score_loss(own_qk, theirs_qk, layers=uniform(4, 2), heads=2)
error.backward()
assert student[1].query.weight.grad.any() and student[0].weight.grad.any() and teacher[0].weight.grad is None
assert attention_loss(own_qk, own_qk, layers=[0], heads=2).abs() < 1e-6
try:
    patient_loss(own, theirs, layers=[9])
except ValueError as wrong:
    assert "layers=[9]" in str(wrong)
else:
    raise AssertionError
""",
    "adaptive_span": """
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.heads = nn.Linear(16, 48), 4
        self.normalize, self.reweight, self.kernel = softmax, unchanged, plain

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        return self.kernel(self, q, k, v, causal, 0)

def plain(attention, q, k, v, mask, start):
    idx = torch.arange(q.shape[2])
    scores = (q @ k.mT / 2).masked_fill(idx[:, None] < idx, float("-inf"))
    return attention.reweight(attention.normalize(scores), idx[:, None] - idx) @ v

model, x = nn.Sequential(Mine()), torch.randn(2, 50, 16)
assert torch.allclose(apply(model, max_span=50, start=1.0, where=is_a(Mine))(x), model(x), atol=1e-6)
near = apply(model, max_span=50, ramp=4, price=0.1, start=0.1, where=is_a(Mine))
(near(x).sum() + penalty(near)).backward()
assert (near[0].reweight.z.grad != 0).all()
small = finalize(near)
assert small[0].kernel.reach == 9 and torch.allclose(small(x), near(x), atol=1e-6)
nn.init.constant_(near[0].reweight.z, -1.0)
project(near)
assert finalize(near)[0].kernel.reach == 4
""",
    "entmax": """
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.normalize = 4, softmax
        self.qk = nn.Linear(16, 32)

    def forward(self, x):
        q, k = self.qk(x).unflatten(-1, (2, 4, 4)).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        return self.normalize(q @ k.mT)

model, x = nn.Sequential(Mine()), torch.randn(2, 5, 16)
assert torch.allclose(apply(model, alpha=1.0, where=is_a(Mine))(x), model(x), atol=1e-6)
sparse = apply(model, alpha=2.0, where=is_a(Mine))
assert (sparse(x) == 0).any() and torch.allclose(sparse(x).sum(-1), torch.ones(2, 4, 5))
learned = apply(model, alpha="learned", where=is_a(Mine))
learned(x)[..., 0].sum().backward()
assert (learned[0].normalize.a.grad != 0).all()
logits, targets = torch.randn(9, 5), torch.randint(5, (9,))
assert torch.allclose(loss(logits, targets, alpha=1.0), nn.functional.cross_entropy(logits, targets))
""",
    "sparse_attention": """
class Mine(nn.Module):
    heads, dropout = 2, 0.0

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.mask, self.normalize, self.reweight, self.kernel = everything, softmax, unchanged, fused

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
        return self.kernel(self, q, k, v, causal & self.mask, 0).transpose(1, 2).flatten(2)

model, x = nn.Sequential(Mine(), Mine()), torch.randn(2, 90, 16)
masks = [local(8) | strides(8), "head(0) & block(9) | ~head(0) & itself"]
masked = apply(model, mask=masks, where=is_a(Mine))
small = finalize(masked, context=100, where=is_a(Mine))
with torch.no_grad():
    assert torch.allclose(small(x), masked(x), atol=1e-5)
    assert not torch.allclose(small(x), model(x), atol=0.01)
assert sum(each.seen.numel() for each in small[0].kernel.passes) < 50 * 100
assert isinstance(small[1].kernel, Gather) and masked[1].kernel is fused
""",
    "scalar_quant": """
model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))
trained = apply(model, bits=4, p=0.5, generator=torch.Generator().manual_seed(0)).train()
x = torch.randn(9, 16)
trained(x).square().sum().backward()
small = finalize(trained)
assert small[0].weight.unique().numel() <= 15 * 32 and small[0].code.codes.shape == (32, 8)
assert torch.allclose(small(x), trained.eval()(x), atol=0.02)
static = calibrate(apply(model, activations="static"), [x])
assert torch.allclose(finalize(static)(x), model(x), atol=0.1)
""",
    "weight_sharing": """
layer = is_a(nn.TransformerEncoderLayer)
encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True), 4)
model, ids = nn.Sequential(nn.Embedding(50, 16), encoder, nn.Linear(16, 50)), torch.randint(50, (2, 5))
shared = apply(model, every=2, where=layer)
assert len(set(shared[1].layers)) == 2
looped = universal(model, steps=3, halt=0.01, price=0.5, where=layer)
(looped(ids).square().mean() + penalty(looped)).backward()
assert 1 <= penalty(looped) <= 2 and looped[1].layers[0].share.weight.grad.any()
ends = is_a(nn.Embedding), lambda name, module: name in ("0", "2")
tied = finalize(tie(shared, where=ends[1]))
small = factorize(tied, rank=16, where=ends[1])
assert torch.allclose(small(ids), tied(ids), atol=1e-4) and not small.training
try:
    factorize(tied, rank=4, where=ends[0])
except ValueError as error:
    assert "pick both" in str(error)
else:
    raise AssertionError("half a tie")
""",
    "dynamic_conv": """
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads, self.out = 4, nn.Linear(16, 16)

model, x = nn.Sequential(Mine(), Mine()), torch.randn(2, 40, 16)
mixed = apply(model, width=7, where=is_a(Mine))
later = x.clone()
later[:, 20:] += 1
assert torch.allclose(mixed(x)[:, :20], mixed(later)[:, :20])
light = finalize(apply(model, width=5, ahead=2, dynamic=False, p=0.1, where=is_a(Mine)))[0]
kernel = light.taps.weight.softmax(-1).repeat_interleave(4, 0)[:, None]
inside = F.glu(light.into(x), dim=-1).mT
want = light.out(F.conv1d(inside, kernel, padding=2, groups=16).mT)
assert torch.allclose(light(x, Mask(lambda b, h, q, k: k == k)), want, atol=1e-5)
""",
    "product_quant": """
model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))
trained = apply(model, p=0.5, block=4, proxy="exact", codewords=8).train()
x = torch.randn(9, 16)
trained(x).square().sum().backward()
project(trained)
coded = finalize(trained, block=4, codewords=128)
assert torch.allclose(coded(x), trained.eval()(x), atol=1e-5)
small = store(coded, bits=8)
assert small[0].code.codes.shape == (32, 4) and torch.allclose(small(x), coded(x), atol=0.1)
""",
    "sparse_weights": """
def named(number):
    return lambda name, module: name == number

model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
x = torch.randn(9, 16)
trained = apply(model, sparsity=0.75, pattern=4, steps=2).train()
for _ in range(2):
    trained(x).square().sum().backward()
    project(trained)
small = finalize(trained, layout="bsr")
assert stored(small) == {"0": 8, "2": 4} and torch.allclose(small(x), trained.eval()(x), atol=1e-5)
shrunk = shrink(gate(model, price=0.1, where=named("0")), price=0.1, where=named("2"))
(shrunk(x).square().sum() + penalty(shrunk)).backward()
project(shrunk)
for layout in ("csr", "bitmask"):
    assert torch.allclose(finalize(shrunk, layout=layout)(x), shrunk.eval()(x), atol=1e-5)
halves = finalize(apply(model, sparsity=0.5, pattern="2:4"), layout="2:4")
assert halves[0].code.entries.shape == (32, 8)
""",
    "fast_decoding": """
model = Transformer(Config(vocab=50, context=24, layers=3, heads=4, dim=32)).eval()
for p in model.parameters():
    nn.init.normal_(p, std=0.3)
fast, ids = fuse(model), torch.randint(50, (1, 4))
wanted = generate(model, ids, 20)
assert torch.equal(generate(fast, ids, 20), wanted)
assert torch.equal(generate(exits(model, threshold=2.0), ids, 20), wanted)
assert torch.equal(speculate(fast, fast.keep([0, 1]), ids, 20, ahead=3).ids, wanted)
past = Int8Past(24)
generate(group(model, heads=2, where=is_a(Attention)), ids, 20, temperature=0.8, top_k=9, past=past)
assert past.nbytes() == 3 * 2 * 24 * (16 + 2 * 4)
""",
    "architecture_search": """
def size(model):
    return sum(p.numel() for p in model.parameters())

encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True), 3)
x = torch.randn(2, 5, 16)
layers = is_a(nn.TransformerEncoderLayer)
model = apply(encoder, choices=[original, skip], where=layers, price=4.0, costs=[size])
assert torch.allclose(model.eval()(x), encoder.eval()(x), atol=1e-6) and penalty(model).item() == 2.0
(model.train()(x).pow(3).mean() + penalty(model)).backward()
model.layers[1].alpha = nn.Parameter(torch.tensor([0.0, 1.0]))
found = finalize(model)
assert decisions(model) == [0, 1, 0] and size(found) * 3 == size(encoder) * 2
assert torch.allclose(found(x), model.eval()(x), atol=1e-6)
probes, hidden = Probes(layers=4, dim=16, classes=3), [x] * 4
probes.loss(hidden, torch.zeros(2, 5, dtype=torch.long)).mean().backward()
assert KnowledgeLoss(probes, layers=2, dim=16)(hidden, hidden[:2], torch.zeros(2, 5, dtype=torch.long)) > 0
""",
    "feedback": """
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))

    def forward(self, x, mask=causal, past=fresh):
        q, k, v = (p(x).unflatten(-1, (4, 4)).transpose(1, 2) for p in (self.q, self.k, self.v))
        k, v = past.slot().extend(k, v)
        return x + nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Mine() for _ in range(3))

model = nn.Sequential(nn.Linear(5, 16), Layers())
looped = apply(model, where=is_a(Layers), attention=is_a(Mine)).eval()
x = torch.randn(2, 7, 5)
y = looped(x)
assert torch.equal(y[:, :4], looped(x[:, :4])) and len(looped[1].mix.weight) == 4
y.sum().backward()
assert all(p.grad is not None for p in looped.parameters()) and isinstance(model[1], Layers)
class Remembers(Fresh):
    kept = Slot()
    def slot(self):
        return self.kept
first, past = looped[0](x), Remembers()
parts = [looped[1](first[:, :3], past=past), looped[1](first[:, 3:], past=past)]
assert torch.allclose(torch.cat(parts, 1), y, atol=1e-5) and past.kept.kept[0].shape == (2, 7, 16)
""",
}

ALONE = """
import sys
for name in ("minieff", "jaxtyping", "safetensors"):
    sys.modules[name] = None
sys.path.insert(0, ".")
import torch
from torch import nn
torch.manual_seed(0)
"""

LINES = {
    "layerdrop": (40, 600),  # with what else knows of layers
    "headdrop": (40, 250),
    "scalar_quant": (60, 810),
    "product_quant": (60, 640),
    "weight_sharing": (60, 400),  # layers, loops, embeddings and ties in one
    "dynamic_conv": (60, 305),  # with a mask and a past
    "sparse_weights": (60, 710),
    "fast_decoding": (40, 1060),  # with the architecture
    "distill": (60, 350),
    "distill_inside": (60, 320),  # with its losses of four papers
    "adaptive_span": (45, 305),  # its kernel is asked about masks
    "entmax": (110, 270),  # its gradients are the idea, too
    "sparse_attention": (40, 660),  # masks, tables and the kernel
    "architecture_search": (60, 390),  # with the teacher's probes
    "feedback": (40, 320),  # with masks and what a decoder remembers
}


def techniques() -> list[str]:
    """Every module of the package that states a stage."""
    files = [*(ROOT / "minieff").glob("*.py"), *(ROOT / "minieff").glob("*/__init__.py")]
    files = [path for path in files if "\nSTAGE = " in path.read_text()]
    return sorted(path.parent.name if path.stem == "__init__" else path.stem for path in files)


each = pytest.mark.parametrize("name", techniques())


def use(text: str) -> list[str]:
    """The lines that an idea ends with, those between comments together."""
    lines = text[text.rindex("\n\n") :].strip().splitlines()
    blocks = [[]]
    for line in lines:
        if line.startswith("#     "):
            blocks[-1].append(line.removeprefix("#     "))
        else:
            blocks.append([])
    return ["\n".join(block) for block in blocks if block]


@each
def test_both_snippets_run_alone_in_an_empty_folder(name, tmp_path):
    short = idea(name)
    (tmp_path / "idea.py").write_text(short)
    (tmp_path / f"{name}.py").write_text(full(name))
    uses = f"from idea import *\n{IDEAS[name].format(*use(short))}\nfrom {name} import *\n{WHOLE[name]}"
    (tmp_path / "mine.py").write_text(ALONE + uses)
    run = subprocess.run([sys.executable, "-I", "mine.py"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@each
def test_snippets_are_short_and_name_paper_and_licence(name):
    for text, budget in zip((idea(name), full(name)), LINES[name], strict=True):
        assert len(text.splitlines()) <= budget
        assert max(map(len, text.splitlines())) <= 110
        top = text.partition("\nimport ")[0]
        assert re.search(r"arXiv \d{4}\.\d{4,5}", top) and "SPDX-License-Identifier: MIT" in top
        defined = re.findall(r"^(?:def |class )?(\w+)(?:\(|:| = )", text, re.M)
        assert len(set(defined)) == len(defined), "two files that it takes from use one name"
        for absent in (
            "from minieff",
            "import minieff",
            "jaxtyping",
            '[Tensor, "',
            "STAGE",
            "IDEA",
            "pass\n",
        ):
            assert absent not in text, absent


def test_there_is_a_snippet_of_every_technique_and_of_nothing_else(capsys):
    assert sorted(IDEAS) == sorted(WHOLE) == techniques()
    assert all(compose.find(name).STAGE in compose.STAGES for name in techniques())
    for name in ("surgery", "core", "snippet", "nothing", "../layerdrop", ""):
        for command in (["snippet", name], ["snippet", name, "--full"]):
            assert main(command) == 2
            assert re.fullmatch(r"error: technique .*\n", capsys.readouterr().err)


def test_the_command_prints_the_idea_and_the_whole(capsys):
    assert main(["snippet", "layerdrop"]) == 0
    assert capsys.readouterr().out == idea("layerdrop")
    assert main(["snippet", "layerdrop", "--full"]) == 0
    assert capsys.readouterr().out == full("layerdrop")


def test_what_only_our_model_has_is_cut_out():
    text = '''
def f(x, *, where: Where = is_a(Block), other: Where = is_a(Block, nn.Linear)) -> int:
    """One.

    Two.
    """
    if isinstance(x, Block) and x:
        return 1
    elif x:
        return 2  # stays
    elif isinstance(x, Block):
        return 3
    elif not x:
        if isinstance(x, Block):
            return 4
        return 5
    return is_a(
        nn.Linear,
        Block,
    )
'''
    assert cuts.only_asked_about(ast.parse(text), "Block") and not cuts.only_asked_about(ast.parse(text), "x")
    assert (
        cuts.cut(text, {"Block"}, (), cuts.PARAGRAPH)
        == '''
def f(x, *, where: Where, other: Where = is_a(nn.Linear)) -> int:
    """One."""
    if x:
        return 2  # stays
    elif not x:
        return 5
    return is_a(
        nn.Linear,
    )
'''
    )
    with pytest.raises(ValueError, match="has an else"):
        cuts.cut("if isinstance(x, Block):\n    pass\nelse:\n    pass", {"Block"}, (), cuts.PARAGRAPH)


# --- two whole files in one process


def taken(name: str, folder: Path) -> ModuleType:
    """A technique as one who took it home has it."""
    path = folder / f"{name}.py"
    path.write_text(full(name))
    spec = spec_from_file_location(f"taken_{name}", path)
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
LAYERS = is_a(nn.TransformerEncoderLayer)
STEPS = {
    "layerdrop": (
        lambda t, model: t.apply(model, p=0.5, where=LAYERS, generator=torch.Generator().manual_seed(1)),
        lambda t, model: t.finalize(model, keep=[0, 2], where=LAYERS),
    ),
    "scalar_quant": (
        lambda t, model: t.calibrate(t.apply(model, activations="static", where=named("linear1")), [X]),
        lambda t, model: t.finalize(model),
    ),
    "product_quant": (
        lambda t, model: t.apply(
            model, p=0.5, where=named("linear2"), generator=torch.Generator().manual_seed(2)
        ),
        lambda t, model: t.finalize(
            model, codewords=16, where=named("linear2"), generator=torch.Generator().manual_seed(3)
        ),
    ),
}


def through(techniques: dict[str, ModuleType], order: tuple[str, ...]) -> tuple[list, list[str]]:
    """What a model computes on its way through the verbs, and of what it is made in the end."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    for name in order:
        model = STEPS[name][0](techniques[name], model)
    outputs = [model.train()(X).detach(), model.eval()(X).detach()]
    for name in order:
        model = STEPS[name][1](techniques[name], model)
        outputs.append(model(X).detach())
    return outputs, [type(module).__name__ for module in model.modules()]


PACKAGE = {"layerdrop": layerdrop, "scalar_quant": scalar_quant, "product_quant": product_quant}


def test_two_snippets_or_one_beside_the_package_equal_the_package(tmp_path):
    own = {name: taken(name, tmp_path) for name in PACKAGE}
    for one, other in permutations(PACKAGE, 2):
        outputs, kinds = through(PACKAGE, (one, other))
        for techniques in (own, PACKAGE | {one: own[one]}, PACKAGE | {other: own[other]}):
            again, same = through(techniques, (one, other))
            assert same == kinds
            assert all(map(torch.equal, again, outputs)), f"{one}, {other}"


# --- the other commands


def test_a_mendable_error_is_one_line(capsys):
    assert main(["snippet", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("error: technique 'nothing'")


def test_doctor_finds_what_is_missing_and_says_how_to_mend_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "lost.toml").touch()
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert any(line.startswith("FAIL  trained model lost: git checkout") for line in printed)
    assert any(line.startswith("FAIL  a checkout of the course") for line in printed)
    assert any(line.startswith("OK    package torch") for line in printed)
    assert any(line.startswith("OK    package jupyterlab") for line in printed)
    assert not any("ruff" in line for line in printed)


def test_doctor_fails_a_package_that_is_absent_or_too_old():
    assert not doctor.installed(doctor.Requirement("minieff-does-not-exist"))
    assert not doctor.installed(doctor.Requirement("torch>=99"))
    assert doctor.installed(doctor.Requirement("torch>=2.6"))

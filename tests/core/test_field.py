"""Models that are not ours: what public bug reports of others met, tried on the package.

The numbers in the names of reports are issues or pull requests of the repositories named.
"""

import copy
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from minieff import layerdrop, product_quant, scalar_quant
from minieff.core import cost
from minieff.core.checkpoint import pack, unpack
from minieff.core.files import ROOT
from minieff.core.probe import as_linear
from minieff.core.storage import matrices
from minieff.core.surgery import is_a, named
from minieff.scalar_quant import int8_kernel

hf = pytest.importorskip("transformers")
SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
IDS = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(0))


def bert(layers: int = 4) -> nn.Module:
    return louder(hf.BertModel(hf.BertConfig(**SIZES, num_hidden_layers=layers)))


def llama(layers: int = 4) -> nn.Module:
    return louder(hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, num_hidden_layers=layers)))


def gpt2(**more) -> nn.Module:
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = hf.GPT2Config(vocab_size=50, n_embd=16, n_layer=4, n_head=2, n_positions=32, **ends, **more)
    return louder(hf.GPT2LMHeadModel(config))


def t5() -> nn.Module:
    config = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 4, "num_heads": 2}
    return louder(hf.T5ForConditionalGeneration(hf.T5Config(**config, decoder_start_token_id=0)))


def bart() -> nn.Module:
    parts = {"attention_heads": 2, "ffn_dim": 32, "layers": 4}
    sizes = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in parts.items()}
    config = hf.BartConfig(vocab_size=50, d_model=16, max_position_embeddings=40, **sizes)
    return louder(hf.BartForConditionalGeneration(config))


def sliding(kind: str = "Gemma2", **more) -> nn.Module:
    """A decoder whose layers take turns between windows and full attention."""
    types = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
    sizes = SIZES | {"num_key_value_heads": 2, "head_dim": 8, "num_hidden_layers": 4}
    return louder(getattr(hf, f"{kind}ForCausalLM")(getattr(hf, f"{kind}Config")(**sizes, **types, **more)))


def louder(model: nn.Module) -> nn.Module:
    """Every part matters to the output."""
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


def stack(model: nn.Module, path: str) -> tuple[nn.ModuleList, type]:
    layers = model.get_submodule(path)
    return layers, type(layers[0])


def skipping(model: nn.Module, path: str, keep: list[int]) -> nn.Module:
    """The whole model, with the layers of one list that are not kept skipped."""
    layers, kind = stack(model, path)
    forced = layerdrop.apply(model, p=1.0, where=lambda name, m: name.startswith(path) and type(m) is kind)
    for i in set(range(len(layers))) - set(keep):
        forced.get_submodule(path)[i].train()
        forced.get_submodule(path)[i].inner.eval()
    return forced


def pruned(model: nn.Module, path: str, keep: list[int]) -> nn.Module:
    kind = stack(model, path)[1]
    return layerdrop.finalize(
        model, keep=keep, where=lambda name, m: name.startswith(path) and type(m) is kind
    )


def loaded(model: nn.Module, folder) -> nn.Module:
    """The model, saved and loaded again, with nothing missing and nothing left over."""
    model.save_pretrained(folder)
    again, found = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return again.eval()


def same(a, b) -> None:
    a, b = (y if isinstance(y, torch.Tensor) else y[0] for y in (a, b))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


# --- removing layers


def test_1_a_decoder_is_pruned_and_its_encoder_is_not():
    whole = nn.Transformer(16, 2, 6, 6, 32, batch_first=True)
    both = is_a(nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
    for dropped in (whole, layerdrop.apply(whole, p=0.2, where=both)):
        small = layerdrop.finalize(dropped, keep=[0, 2, 5], where=is_a(nn.TransformerDecoderLayer))
        assert (len(small.encoder.layers), len(small.decoder.layers)) == (6, 3)


@torch.no_grad()
@pytest.mark.parametrize(
    "kind, more",
    [("Qwen2", {"use_sliding_window": True}), ("Qwen3", {"use_sliding_window": True}), ("Mistral", {})],
)
@pytest.mark.parametrize("keep", [[1, 3], [0, 3]])
def test_2_layers_keep_their_own_mask(kind, more, keep, tmp_path):
    model = sliding(kind, **more) if kind != "Mistral" else llama()
    small = pruned(model, "model.layers", keep)
    want = skipping(model, "model.layers", keep)(IDS, use_cache=False)
    same(small(IDS, use_cache=False).logits, want.logits)
    same(loaded(small, tmp_path)(IDS).logits, want.logits)
    assert model.config.num_hidden_layers == 4 and small.config.num_hidden_layers == 2


@torch.no_grad()
@pytest.mark.parametrize("make, paths", [(bart, "model.{}.layers"), (t5, "{}.block")], ids=["bart", "t5"])
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_3_each_side_of_an_encoder_decoder_has_its_own_number(make, paths, side, tmp_path):
    model, path = make(), paths.format(side)
    small = pruned(model, path, [0, 3])
    again = loaded(small, tmp_path)
    for other in ("encoder", "decoder"):
        assert len(again.get_submodule(paths.format(other))) == (2 if other == side else 4)
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :5], "use_cache": False}
    want = skipping(model, path, [0, 3])(**inputs).logits
    same(small(**inputs).logits, want)
    same(again(**inputs).logits, want)
    if side == "decoder":  # T5 itself generates with no fewer layers in its encoder
        assert small.generate(IDS, max_new_tokens=4).shape[0] == 2


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bert, self.head = bert(), nn.Linear(16, 2)

    def forward(self, ids):
        return self.head(self.bert(ids).pooler_output)


def test_4_a_config_inside_of_ones_own_model_is_found():
    small = pruned(Classifier(), "bert.encoder.layer", [0, 2])
    assert small.bert.config.num_hidden_layers == 2 and small(IDS).shape == (2, 2)


class Other(nn.Module):
    """A model of one's own that is not built from its config alone."""

    def __init__(self, config, layers: nn.ModuleList) -> None:
        super().__init__()
        self.config, self.layers = config, layers


def test_4_a_config_that_cannot_be_tried_is_left_with_a_warning():
    other = Other({"layers": 3}, nn.ModuleList(nn.TransformerEncoderLayer(8, 2) for _ in range(3)))
    other.config = hf.BertConfig(num_hidden_layers=3)
    with pytest.warns(UserWarning, match="the config of Other is left as it was.*3 layers, correct it"):
        layerdrop.finalize(other, keep=[0], where=is_a(nn.TransformerEncoderLayer))


class Pair(nn.Module):
    """An encoder and a decoder of one's own, whose config has one number for both."""

    def __init__(self, config) -> None:
        super().__init__()
        self.config = config
        self.encoder = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16) for _ in range(config.layers))
        self.decoder = nn.ModuleList(nn.TransformerDecoderLayer(8, 2, 16) for _ in range(config.layers))


def test_4_a_number_for_two_lists_changes_only_with_both():
    pair = Pair(SimpleNamespace(layers=4))
    both = layerdrop.finalize(
        pair, keep=[0, 3], where=is_a(nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
    )
    assert both.config.layers == 2 == len(both.encoder) == len(both.decoder) and pair.config.layers == 4
    with pytest.raises(ValueError, match="no change of its config makes Pair build the layers"):
        layerdrop.finalize(pair, keep=[0, 3], where=is_a(nn.TransformerDecoderLayer))


def test_3_both_sides_are_pruned_in_one_call(tmp_path):
    model = t5()
    small = layerdrop.finalize(model, keep=[0, 2], where=is_a(type(model.encoder.block[0])))
    again = loaded(small, tmp_path)
    assert len(again.encoder.block) == len(again.decoder.block) == 2
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :5], "use_cache": False}
    same(again(**inputs).logits, small(**inputs).logits)


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_5_layers_that_return_tuples_train(p):
    model = layerdrop.apply(t5(), p=p, where=is_a(type(t5().encoder.block[0]))).train()
    for _ in range(3):
        model(input_ids=IDS, labels=IDS[:, :5].clone()).loss.backward()
    assert model.shared.weight.grad.isfinite().all()


@torch.no_grad()
def test_5_a_skipped_block_of_t5_still_hands_on_the_positions():
    model = t5()
    model.encoder.block[0].layer[0].SelfAttention.o.weight.zero_()
    model.encoder.block[0].layer[1].DenseReluDense.wo.weight.zero_()  # so that block 0 is the identity
    skipped = skipping(model, "encoder.block", [1, 2, 3])
    same(skipped.encoder(IDS).last_hidden_state, model.encoder(IDS).last_hidden_state)


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(src=x)
        return x


def test_5_inputs_by_keyword_are_taken():
    x = torch.randn(2, 5, 8)
    dropped = layerdrop.apply(ByKeyword(), p=1.0, where=is_a(nn.TransformerEncoderLayer)).train()
    assert torch.equal(dropped(x), x)


class Reports(nn.Module):
    def forward(self, x):
        return {"x": x}


def test_5_a_layer_without_a_tensor_is_refused_by_name():
    dropped = layerdrop.apply(nn.Sequential(Reports()), p=0.5, where=is_a(Reports)).train()
    with pytest.raises(ValueError, match="0, a Reports, returns a dict"):
        dropped(torch.ones(2, 3))


@pytest.mark.parametrize("keep", [[1, 3], [2]])
def test_6_a_block_that_all_others_need_cannot_go(keep):
    model = t5()
    for side in ("encoder", "decoder"):
        with pytest.raises(
            ValueError, match=rf"{side}.block.0 alone has .*relative_attention_bias.*layer 0, too"
        ):
            pruned(model, f"{side}.block", keep)


class Chain(nn.Module):
    """Blocks in an nn.Sequential, between other parts, as in vision models."""

    def __init__(self, names: bool) -> None:
        super().__init__()
        blocks = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(4)]
        named = {f"layer_{i}": block for i, block in enumerate(blocks)}
        self.chain = nn.Sequential(nn.Linear(8, 8), *blocks, nn.Linear(8, 8))
        if names:
            self.chain = nn.Sequential()
            for name, part in {"stem": nn.Linear(8, 8), **named, "head": nn.Linear(8, 8)}.items():
                self.chain.add_module(name, part)

    def forward(self, x):
        return self.chain(x)


@pytest.mark.parametrize("names", [False, True])
def test_12_a_sequential_is_pruned_and_its_names_close_up(names):
    model, where = louder(Chain(names)), is_a(nn.TransformerEncoderLayer)
    dropped = layerdrop.apply(model, p=torch.linspace(0, 0.3, 4), where=where)
    assert [round(layer.p, 1) for layer in dropped.modules() if isinstance(layer, layerdrop.Skip)] == [
        0,
        0.1,
        0.2,
        0.3,
    ]
    small = layerdrop.finalize(dropped, keep=[0, 2], where=where)
    x, parts = torch.randn(2, 5, 8), list(model.chain)
    with torch.no_grad():
        same(small(x), nn.Sequential(parts[0], parts[1], parts[3], parts[5])(x))
    want = ["stem", "layer_0", "layer_1", "head"] if names else list("0123")
    assert list(small.chain._modules) == want


@pytest.mark.parametrize("make", [llama, gpt2, sliding])
def test_13_a_cache_in_train_mode_is_refused_and_training_is_not(make):
    model = make()
    layers = model.model.layers if hasattr(model, "model") else model.transformer.h
    dropped = layerdrop.apply(model, p=0.5, where=is_a(type(layers[0]))).train()
    dropped(IDS, labels=IDS).loss.backward()  # makes an empty cache, by default
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="a Past or a cache needs the same layers in every call.*eval"):
        dropped.generate(IDS[:1, :5], max_new_tokens=11, do_sample=False, pad_token_id=0)
    assert dropped.eval().generate(IDS[:1, :5], max_new_tokens=3, pad_token_id=0).shape[1] > 5


def test_17_bare_parts_of_others_are_found_by_running_them():
    model = llama().train()
    for part in (
        model.model.layers[0].mlp,
        model.model.layers[0].self_attn,
        model.model.layers[0].input_layernorm,
    ):
        dropped = layerdrop.apply(model, p=0.5, where=is_a(type(part)))
        for _ in range(2):
            with pytest.raises(ValueError, match=rf"model.layers.0.\w+, a bare {type(part).__name__}"):
                dropped(IDS)


@pytest.mark.parametrize("norm_first", [True, False])
def test_17_layers_with_a_residual_connection_are_not(norm_first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=norm_first, batch_first=True)
    dropped = layerdrop.apply(nn.Sequential(layer), p=0.0, where=is_a(type(layer))).train()
    dropped(torch.randn(2, 5, 8))
    for model in (bert(), gpt2(), llama(), t5().encoder):
        kind = next(type(m[0]) for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == 4)
        layerdrop.apply(model, p=0.5, where=is_a(kind)).train()(IDS)


# --- random numbers

FEED = named("linear1", "linear2")


@pytest.mark.parametrize(
    "noisy",
    [
        lambda m, g: scalar_quant.apply(m, bits=4, p=0.5, activations="none", where=FEED, generator=g),
        lambda m, g: product_quant.apply(m, p=0.5, block=4, where=FEED, generator=g),
        lambda m, g: layerdrop.apply(m, p=0.5, where=is_a(nn.TransformerEncoderLayer), generator=g),
    ],
    ids=["scalar", "product", "layers"],
)
@pytest.mark.parametrize("reentrant", [True, False])
def test_8_noise_under_checkpointing_is_exact_or_refused(noisy, reentrant):
    model = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0) for _ in range(3)))
    x = torch.randn(4, 5, 8, requires_grad=True)
    plain = noisy(model, None).train()
    plain(x)  # what is looked at once, has been
    found = []
    for run in (plain, lambda x: checkpoint(plain, x, use_reentrant=reentrant)):
        torch.manual_seed(3)
        x.grad = None
        run(x).square().sum().backward()
        found.append(x.grad)
    assert torch.equal(*found)
    own = noisy(model, torch.Generator()).train()
    with pytest.raises(ValueError, match="a backward pass repeats.*generator=None"):
        checkpoint(own, x, use_reentrant=reentrant).sum().backward()


# --- quantization


def test_9_a_soft_prompt_below_a_finalized_model_gets_its_gradient():
    model = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 8))
    applied = scalar_quant.apply(model).eval()
    grads, outputs = [], []
    for m in (applied, scalar_quant.finalize(applied)):
        x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = m(x)
        y.square().sum().backward()
        grads.append(x.grad)
        outputs.append(y.detach())
    torch.testing.assert_close(*grads, rtol=0.02, atol=0.02)
    with torch.no_grad():
        torch.testing.assert_close(m(x), outputs[1], rtol=0, atol=0.02)


@torch.no_grad()
def test_10_conv1d_is_coded_as_the_linear_that_it_is():
    model = gpt2()
    small = scalar_quant.finalize(scalar_quant.apply(model, bits=8, activations="none"))
    coded = [m for m in small.modules() if isinstance(m, scalar_quant.IntWeight)]
    assert len(coded) == 2 + 4 * 4 and not any(type(m).__name__ == "Conv1D" for m in small.modules())
    assert coded[1].weight.shape == (48, 16)  # one scale per output
    torch.testing.assert_close(small(IDS).logits, model(IDS).logits, rtol=0.1, atol=0.1)
    assert product_quant.finalize(model, codewords=8, block=4)(IDS).logits.isfinite().all()
    assert small.generate(IDS, max_new_tokens=3, pad_token_id=0).shape[0] == 2


def test_10_what_is_no_linear_is_left_out_with_a_warning():
    sizes = SIZES | {"num_key_value_heads": 2, "num_hidden_layers": 2, "num_local_experts": 4}
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    for model, text in (
        (hf.MixtralForCausalLM(hf.MixtralConfig(**sizes)), "experts"),
        (encoder, "in_proj_weight"),
    ):
        with pytest.warns(UserWarning, match=rf"% of the parameters stay in 16 bits.*{text}"):
            scalar_quant.apply(model)
    with warnings.catch_warnings(action="error"):
        scalar_quant.apply(gpt2()), scalar_quant.apply(bert()), scalar_quant.apply(llama())


def test_10_the_probe_knows_what_is_a_linear():
    conv = gpt2().transformer.h[0].mlp.c_fc
    x = torch.randn(3, 16)
    with torch.no_grad():
        same(as_linear(conv)(x), conv(x))
    for other in (nn.Embedding(4, 4), nn.LayerNorm(4), nn.Bilinear(4, 4, 4), nn.MultiheadAttention(4, 2)):
        assert as_linear(other) is None


@pytest.mark.parametrize("make", [bert, gpt2, llama])
def test_11_macs_of_others_are_those_of_torchs_counter(make):
    model, T, width, layers = make(), 24, 16, 4
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        model.set_attn_implementation("eager")
        model(torch.zeros(1, T, dtype=torch.long))
    model.set_attn_implementation("sdpa")
    pooler = width**2 * (T - 1) / T if make is bert else 0  # runs on one token, and is counted once
    assert cost.macs(model, T) == pytest.approx(counter.get_total_flops() / 2 / T, abs=pooler + 1e-6)
    assert cost.macs(model, T) > 2 * T * width * layers
    with pytest.raises(ValueError, match="no config.context; give a number"):
        cost.macs(model)


def test_11_a_matrix_that_nothing_counts_is_refused():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.Sequential(nn.Embedding(50, 16), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False))
    with pytest.raises(ValueError, match="no formula counts 1.layers.0.self_attn, a MultiheadAttention"):
        cost.macs(model, 8)


# without the hook that checks shapes in tests, which cannot be traced
COMPILED = """
import torch
from torch import nn
from minieff import layerdrop, scalar_quant
from minieff.core.surgery import is_a
from minieff.scalar_quant import int8_kernel

model, x = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 8)), torch.randn(4, 64)
for bits in (8, 4):
    small = scalar_quant.finalize(scalar_quant.apply(model, bits=bits))
    compiled = torch.compile(small, backend="aot_eager")(x)  # for 8 bits the first call of the process
    torch.testing.assert_close(compiled, small(x), rtol=1e-4, atol=1e-4)
    exported = torch.export.export(small, (x,)).module()(x)
    torch.testing.assert_close(exported, small(x), rtol=1e-4, atol=1e-4)
assert int8_kernel.bytes_multiply() == int8_kernel.bytes_multiply.__wrapped__()

layers = nn.Sequential(*(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0) for _ in range(3)))
dropped = layerdrop.apply(layers, p=0.5, where=is_a(nn.TransformerEncoderLayer)).train()
x = torch.randn(4, 5, 8)
compiled = torch.compile(dropped, backend="aot_eager")
for seed in range(4):
    torch.manual_seed(seed)
    want = dropped(x)
    torch.manual_seed(seed)
    torch.testing.assert_close(compiled(x), want)
"""


def test_14_compiled_and_exported_equal_eager():
    run = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr


def test_14_the_check_of_the_processor_depends_on_nothing_else():
    check = int8_kernel.bytes_multiply.__wrapped__
    want = check()
    with torch.device("meta"):
        assert check() is want
    torch.set_default_dtype(torch.float64)
    try:
        assert check() is want
    finally:
        torch.set_default_dtype(torch.float32)


def test_15_batches_of_a_tokenizer_calibrate():
    static = scalar_quant.apply(bert(), activations="static")
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    found = [
        scalar_quant.calibrate(static, [b])
        for b in (batch, hf.BatchEncoding(batch), tuple(batch.values()), IDS)
    ]
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0].buffers(), other.buffers(), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("activations", ["dynamic", "none"])
def test_16_features_in_the_dtype_of_the_model_are_taken(activations):
    sizes = {"vocab_size": 50, "d_model": 16, "num_mel_bins": 8, "max_source_positions": 16}
    heads = {"encoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    whisper = hf.WhisperModel(
        hf.WhisperConfig(**sizes, **heads, decoder_layers=1, pad_token_id=0)
    ).encoder.eval()
    small = scalar_quant.finalize(scalar_quant.apply(whisper, activations=activations))
    x = torch.randn(1, 8, 32)
    y = small(x.to(small.dtype)).last_hidden_state
    assert small.dtype == torch.float16 and y.dtype == torch.float32
    torch.testing.assert_close(y, small(x.half().float()).last_hidden_state)


def test_18_errors_name_the_layer():
    config = hf.T5Config(vocab_size=48, d_model=48, d_kv=4, d_ff=96, num_layers=2, num_heads=12)
    model = hf.T5EncoderModel(config)
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.encoder.block[1].layer[1].DenseReluDense.wo.weight[0, 0] = float("nan")
    bias, damage = (
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias: ",
        "encoder.block.1.*wo: NaN",
    )
    group = {"group": 5, "activations": "none"}
    for message, call in (
        (bias, lambda: product_quant.apply(model)),
        (bias, lambda: product_quant.finalize(model)),
        ("shared: .*group=5", lambda: scalar_quant.apply(model, **group)),
        (damage, lambda: scalar_quant.apply(damaged)),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_19_one_message_names_all_that_must_be_left_out():
    sizes = SIZES | {"num_key_value_heads": 2, "head_dim": 8, "num_hidden_layers": 2}
    gemma = hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**sizes))
    for model in (gemma, bart()):
        with pytest.raises(ValueError, match="leave out .*which share a weight") as error:
            scalar_quant.apply(model)
        out = str(error.value).partition("leave out ")[2].partition(", which")[0].split(", ")
        scalar_quant.apply(model, where=lambda name, m, out=out: matrices(name, m) and name not in out)


# --- further reports


def modernbert() -> nn.Module:
    own = {"num_hidden_layers": 6, "local_attention": 4, "global_attn_every_n_layers": 3, "pad_token_id": 0}
    return louder(hf.ModernBertModel(hf.ModernBertConfig(**SIZES, **own)))


def gpt_neo() -> nn.Module:
    types = {"attention_types": [[["global", "local"], 2]], "window_size": 4, "max_position_embeddings": 32}
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_layers": 4, "num_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return louder(hf.GPTNeoForCausalLM(hf.GPTNeoConfig(**sizes, **types, **ends)))


def smollm3() -> nn.Module:
    own = {"num_hidden_layers": 4, "num_key_value_heads": 2, "no_rope_layers": [1, 1, 1, 0]}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return louder(hf.SmolLM3ForCausalLM(hf.SmolLM3Config(**SIZES, **own, **ends)))


def llava() -> nn.Module:
    picture = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 4}
    vision = hf.CLIPVisionConfig(**picture, image_size=16, patch_size=8, projection_dim=16)
    text = hf.LlamaConfig(**SIZES, num_hidden_layers=4)
    config = hf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=49)
    return louder(hf.LlavaForConditionalGeneration(config))


ELSEWHERE = {
    "transformers 35158, ModernBERT": (modernbert, "layers", [0, 1, 4]),
    "transformers 30508, GPT-Neo": (gpt_neo, "transformer.h", [1, 3]),
    "transformers 30508, SmolLM3": (smollm3, "model.layers", [0, 3]),
    "vjepa2 150, Llava": (llava, "model.language_model.layers", [0, 3]),
}


@torch.no_grad()
@pytest.mark.parametrize("case", ELSEWHERE)
def test_pruned_models_equal_skipping_and_load_again(case, tmp_path):
    make, path, keep = ELSEWHERE[case]
    model, ids = make(), IDS.clamp(max=48)
    small = pruned(model, path, keep)
    want = skipping(model, path, keep)(ids)[0]
    same(small(ids)[0], want)
    same(loaded(small, tmp_path)(ids)[0], want)


def test_modernbert_without_its_first_layer_is_refused():
    """transformers 35158: the class gives the first layer no norm."""
    with pytest.raises(ValueError, match=r"layers \[1, 2\] of layers.*attn_norm.*would differ; keep other"):
        pruned(modernbert(), "layers", [1, 2])


def test_windows_of_swin_take_turns_or_are_refused(tmp_path):
    """Torch-Pruning 101: the number of layers is an entry of a list, and every second window is shifted."""
    sizes = {"image_size": 32, "embed_dim": 8, "depths": [2, 4], "num_heads": [1, 2], "window_size": 2}
    swin, path = louder(hf.SwinModel(hf.SwinConfig(**sizes, drop_path_rate=0.0))), "encoder.layers.1.blocks"
    small = pruned(swin, path, [0, 3])
    assert small.config.depths == [2, 2]
    loaded(small, tmp_path)
    with pytest.raises(ValueError, match="shift_size.* would differ; keep other layers"):
        pruned(swin, path, [1, 3])


@torch.no_grad()
@pytest.mark.parametrize("side, keep", [("decoder", [1]), ("encoder", [0, 3])])
def test_whisper_loses_layers_and_no_other_list(side, keep, tmp_path):
    """distil-whisper 122: two of its lists are as long as its decoder."""
    sizes = {"vocab_size": 60, "d_model": 16, "num_mel_bins": 8, "max_source_positions": 16}
    sides = {"encoder_layers": 4, "decoder_layers": 2}
    sides |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    lists = {"begin_suppress_tokens": [5, 6], "suppress_tokens": [3, 4, 5, 6]}
    config = hf.WhisperConfig(**sizes, **sides, **ends, **lists)
    whisper, path = louder(hf.WhisperForConditionalGeneration(config)), f"model.{side}.layers"
    small = pruned(whisper, path, keep)
    assert {key: getattr(small.config, key) for key in lists} == lists
    inputs = {"input_features": torch.randn(1, 8, 32), "decoder_input_ids": IDS[:1, :4], "use_cache": False}
    same(loaded(small, tmp_path)(**inputs).logits, skipping(whisper, path, keep)(**inputs).logits)


def test_what_a_class_computes_from_the_number_of_a_layer_is_warned_of():
    own = {"num_hidden_layers": 4, "num_key_value_heads": 2}
    model = louder(hf.DiffLlamaForCausalLM(hf.DiffLlamaConfig(**SIZES, **own)))
    with pytest.warns(UserWarning, match="loaded again.*another self_attn.lambda_init"):
        pruned(model, "model.layers", [1, 3])


class LoRA(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.a, self.b = base, nn.Linear(base.in_features, 2), nn.Linear(2, base.out_features)

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


@torch.no_grad()
def test_a_model_that_was_changed_by_hand_is_pruned():
    """transformers 30508: adapters in one layer are not what the config decides."""
    model = llama()
    model.model.layers[1].self_attn.q_proj = LoRA(model.model.layers[1].self_attn.q_proj)
    small, forced = pruned(model, "model.layers", [1, 3]), skipping(model, "model.layers", [1, 3])
    same(small(IDS, use_cache=False).logits, forced(IDS, use_cache=False).logits)


def test_checkpointed_layers_that_are_skipped_have_the_same_gradients():
    """transformers 30113: LayerDrop and gradient checkpointing."""
    model = layerdrop.apply(bert(), p=0.5, where=is_a(type(bert().encoder.layer[0]))).train()
    model(IDS)
    found = []
    for enable in (lambda: None, model.activation_checkpointing_enable):
        enable()
        model.zero_grad()
        torch.manual_seed(1)
        model(IDS).last_hidden_state.square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    assert all(a is b or torch.equal(a, b) for a, b in zip(*found, strict=True))


@torch.no_grad()
def test_tied_weights_have_one_code_and_are_saved_once(tmp_path):
    """optimum-quanto 388, transformers 37905: a tie that breaks, or is saved twice, when it is quantized."""
    model = t5()
    small, other = (scalar_quant.finalize(scalar_quant.apply(m)) for m in (model, t5()))
    assert small.shared.code is small.encoder.embed_tokens.code
    save_model(small, tmp_path / "small.safetensors")
    load_model(other, tmp_path / "small.safetensors")
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :4], "use_cache": False}
    assert torch.equal(other(**inputs).logits, small(**inputs).logits)
    assert torch.equal(unpack(other, pack(small))(**inputs).logits, small(**inputs).logits)


def test_half_of_a_tie_is_refused():
    """vllm 45543: only one of the two users of a tied weight is quantized."""
    sizes = SIZES | {"num_key_value_heads": 2, "num_hidden_layers": 1, "tie_word_embeddings": True}
    with pytest.raises(ValueError, match="lm_head and model.embed_tokens share one weight"):
        scalar_quant.apply(hf.Qwen2ForCausalLM(hf.Qwen2Config(**sizes)), where=is_a(nn.Linear))


@pytest.mark.parametrize("knobs", [{"bits": 4, "symmetric": False}, {"bits": 8}])
def test_a_padding_vector_stays_zero(knobs):
    model = nn.Sequential(nn.Embedding(10, 8, padding_idx=0), nn.Linear(8, 8))
    small = scalar_quant.finalize(scalar_quant.apply(model, activations="none", **knobs))
    assert not small[0](torch.tensor([0])).any()


def test_an_attention_alone_is_quantized_where_it_can_be():
    """pytorch 118165: nn.MultiheadAttention under quantization-aware training."""
    attention, x = nn.MultiheadAttention(16, 2, batch_first=True), torch.randn(2, 5, 16)
    with pytest.warns(UserWarning, match="in_proj_weight"):
        applied = scalar_quant.apply(attention, bits=4)
    applied.train()(x, x, x)[0].sum().backward()
    small = scalar_quant.finalize(applied)
    torch.testing.assert_close(small(x, x, x)[0], applied.eval()(x, x, x)[0], atol=1e-3, rtol=0)


def test_generation_after_training_with_rounded_weights():
    """torchtune 1775: a model from quantization-aware training that cannot generate."""
    applied = scalar_quant.apply(llama(2), p=0.5)
    applied.train()(IDS, labels=IDS).loss.backward()
    small = scalar_quant.finalize(applied)
    how = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(*(small.generate(IDS[:1, :4], **how, use_cache=cache) for cache in (True, False)))


def test_outputs_that_a_model_collects_are_those_of_its_layers_alone():
    """transformers 40532: LayerDrop, and the attentions that hooks collect."""
    config = hf.BertConfig(**SIZES, num_hidden_layers=4, attn_implementation="eager")
    kind = type(bert().encoder.layer[0])
    model = layerdrop.apply(hf.BertModel(config), p=0.0, where=is_a(kind)).train()
    for _ in range(2):
        assert len(model(IDS, output_attentions=True).attentions) == 4

"""What evidence/field/models.py tries: small models of transformers and torch, built from their configs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers as hf
from torch import Tensor, nn

LAYERS, KEEP, WIDTH = 4, [0, 3], 32
IDS = torch.randint(3, 64, (2, 10), generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SOUND = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(0))
VECTORS = torch.randn(2, 10, WIDTH, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Subject:
    """A model: made with a number of layers, given inputs, and the list of layers that is pruned."""

    make: Callable[[int], nn.Module]
    inputs: dict[str, Tensor]
    path: str
    start: dict[str, Tensor] | None = None  # what `generate` takes, for models that have it


def of(
    model: type, inputs: dict, path: str, start: dict | None = None, layers: tuple = (), **sizes
) -> Subject:
    """A model of transformers; `layers` are the names of its numbers of layers."""

    def make(count: int) -> nn.Module:
        counts = dict.fromkeys(layers or ("num_hidden_layers",), count)
        return model(model.config_class(**sizes, **counts))

    return Subject(make, inputs, path, start)


def clip(layers: int) -> nn.Module:
    """CLIP, of two encoders with a config each."""
    parts = {"num_hidden_layers": layers, "projection_dim": WIDTH}
    text = BASIC | parts | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=PICTURE | parts, projection_dim=WIDTH))


class Memory(nn.Module):
    """nn.Transformer, called with one argument."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.inner = nn.Transformer(WIDTH, 2, layers, layers, 64, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x)


def block() -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, 2, 64, batch_first=True)


TEXT = {"input_ids": IDS}
PAIR = {"input_ids": IDS, "decoder_input_ids": IDS[:, :5]}
HEARD = {"input_features": SOUND, "decoder_input_ids": IDS[:, :5]}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ATTENTION = {"num_attention_heads": 2, "hidden_size": WIDTH, "intermediate_size": 64}
BASIC = ATTENTION | {"vocab_size": 64}
GROUPED = BASIC | ENDS | {"num_key_value_heads": 1, "head_dim": 16}
SLIDING = GROUPED | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
PICTURE = ATTENTION | {"image_size": 16, "patch_size": 4}
SIDES = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
SIDES |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
SIDES |= ENDS | {"vocab_size": 64, "d_model": WIDTH, "decoder_start_token_id": 1}
BOTH = ("encoder_layers", "decoder_layers")
GPT2 = ENDS | {"vocab_size": 64, "n_embd": WIDTH, "n_head": 2, "n_positions": 32}
T5 = {"vocab_size": 64, "d_model": WIDTH, "d_kv": 16, "d_ff": 64, "num_heads": 2, "decoder_start_token_id": 0}
WHISPER = SIDES | {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 40}

SUBJECTS = {
    "GPT-2": of(hf.GPT2LMHeadModel, TEXT, "transformer.h", TEXT, ("n_layer",), **GPT2),
    "BERT": of(hf.BertModel, TEXT, "encoder.layer", max_position_embeddings=32, **BASIC),
    "T5": of(
        hf.T5ForConditionalGeneration, PAIR, "decoder.block", TEXT, ("num_layers", "num_decoder_layers"), **T5
    ),
    "BART": of(hf.BartForConditionalGeneration, PAIR, "model.decoder.layers", TEXT, BOTH, **SIDES),
    "Whisper": of(
        hf.WhisperForConditionalGeneration,
        HEARD,
        "model.decoder.layers",
        {"input_features": SOUND},
        BOTH,
        **WHISPER,
    ),
    "Llama": of(hf.LlamaForCausalLM, TEXT, "model.layers", TEXT, **GROUPED),
    "Qwen3": of(hf.Qwen3ForCausalLM, TEXT, "model.layers", TEXT, use_sliding_window=True, **SLIDING),
    "Gemma 3": of(hf.Gemma3ForCausalLM, TEXT, "model.layers", TEXT, **SLIDING),
    "ViT": of(hf.ViTModel, {"pixel_values": IMAGE}, "layers", **PICTURE),
    "CLIP": Subject(clip, {"pixel_values": IMAGE, **TEXT}, "vision_model.encoder.layers"),
    "`nn.Transformer`": Subject(Memory, {"x": VECTORS}, "inner.decoder.layers"),
    "`nn.TransformerEncoder`": Subject(
        lambda n: nn.TransformerEncoder(block(), n, enable_nested_tensor=False), {"src": VECTORS}, "layers"
    ),
    "`nn.Sequential`": Subject(lambda n: nn.Sequential(*(block() for _ in range(n))), {"input": VECTORS}, ""),
}
USUAL = {
    "GPT-2 small": lambda: hf.GPT2LMHeadModel(hf.GPT2Config()),
    "BERT base": lambda: hf.BertModel(hf.BertConfig()),
    "Llama, 135M": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
            num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
        )
    ),
}  # fmt: skip

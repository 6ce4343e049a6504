"""The implementations that ours is compared with, and the way of their weights into ours."""

from typing import Any

from minieff.core.transformer import Config, Transformer


def gpt2(config: Config, **settings: Any):
    """A random `transformers.GPT2LMHeadModel` of this shape, with SDPA; `settings` go to its GPT2Config."""
    import transformers  # here, so that a test can skip where it is not installed

    p = config.dropout
    theirs = transformers.GPT2Config(
        vocab_size=config.vocab,
        n_positions=config.context,
        n_layer=config.layers,
        n_head=config.heads,
        n_embd=config.dim,
        n_inner=config.ffn,
        **{
            "resid_pdrop": p,
            "embd_pdrop": p,
            "attn_pdrop": p,
            "bos_token_id": 0,
            "eos_token_id": 0,
            **settings,
        },
    )
    return transformers.GPT2LMHeadModel._from_config(theirs, attn_implementation="sdpa").eval()


def from_gpt2(theirs) -> Transformer:
    """Our model with their weights, loaded weight by weight."""
    c = theirs.config
    ours = Transformer(Config(c.vocab_size, c.n_positions, c.n_layer, c.n_head, c.n_embd, c.n_inner)).eval()
    t, state = theirs.transformer, {}
    state |= {"tok.weight": t.wte.weight, "pos.weight": t.wpe.weight}
    state |= {"norm.weight": t.ln_f.weight, "norm.bias": t.ln_f.bias}
    for i, block in enumerate(t.h):
        at = f"blocks.layers.{i}"
        q, k, v = block.attn.c_attn.weight.T.chunk(3)  # their linears are stored (in, out)
        qb, kb, vb = block.attn.c_attn.bias.chunk(3)
        linears = {"q": (q, qb), "k": (k, kb), "v": (v, vb)}
        linears = {f"mix.inner.{name}": pair for name, pair in linears.items()}
        linears["mix.inner.out"] = (block.attn.c_proj.weight.T, block.attn.c_proj.bias)
        linears["feed.inner.up"] = (block.mlp.c_fc.weight.T, block.mlp.c_fc.bias)
        linears["feed.inner.down"] = (block.mlp.c_proj.weight.T, block.mlp.c_proj.bias)
        linears["mix.norm"] = (block.ln_1.weight, block.ln_1.bias)
        linears["feed.norm"] = (block.ln_2.weight, block.ln_2.bias)
        for name, (weight, bias) in linears.items():
            state |= {f"{at}.{name}.weight": weight, f"{at}.{name}.bias": bias}
    ours.load_state_dict(state)
    return ours

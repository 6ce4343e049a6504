"""LayerDrop and scalar quantization on models that are not ours: results/field/models.json, for the README.

    python evidence/field/models.py           minutes; needs the extra `dev` (transformers)
    python evidence/field/models.py --quick   three of them, without compilation: whether it runs

Small models of four layers with random weights, built from their configs. `layerdrop`: a training step, two
of four layers removed, the result compared with the two others skipped, saved and loaded again, and run again
(decoders generate). `quantization`: 8 bits by the one line, the same. `compile`, `autocast`, `checkpointing`:
a training step with half of the layers skipped and half of the weights rounded, traced by torch.compile (with
the backend aot_eager), in bfloat16, and with activation checkpointing; the first and the last are compared
with the plain step. A cell has its numbers, or the text of a refusal. `usual`: the bytes of models of usual
shapes in 4 bits by the one line.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from evidence.field.subjects import KEEP, LAYERS, SUBJECTS, USUAL, Subject
from minieff import layerdrop, scalar_quant
from minieff.core import cost
from minieff.core.checkpoint import pack, unpack
from minieff.core.files import save_results
from minieff.core.storage import matrices
from minieff.core.surgery import Where, clone
from minieff.scalar_quant import IntWeight

QUICK = ("GPT-2", "Gemma 3", "`nn.Transformer`")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three models")
    quick = parser.parse_args(argv).quick
    found: dict[str, dict] = {}
    for name in QUICK if quick else SUBJECTS:
        trials = {what: trial for what, trial in TRIALS.items() if not (quick and what == "compile")}
        found[name] = {what: cell(trial, SUBJECTS[name]) for what, trial in trials.items()}
        print(name, found[name], flush=True)
    usual = {} if quick else {name: in_4_bits(make()) for name, make in USUAL.items()}
    print(
        usual, save_results("field/models", {"layers": LAYERS, "keep": KEEP, "models": found, "usual": usual})
    )


def cell(trial: Callable[[Subject], dict], subject: Subject) -> dict[str, Any]:
    """What a trial finds; a refusal, which is a ValueError of one line; or a raw error, which is a fault."""
    torch.manual_seed(0)
    try:
        return trial(subject)
    except ValueError as error:
        return {"refused": str(error)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def model_of(subject: Subject) -> nn.Module:
    """Every part of it matters to the output."""
    torch.manual_seed(0)
    model = subject.make(LAYERS)
    for p in model.parameters():
        nn.init.normal_(p, std=0.2)
    return model.eval()


def picks(subject: Subject, model: nn.Module, one_list: bool = False) -> Where:
    """The type of the layers; with `one_list`, only those of the list that is pruned."""
    kind = type(model.get_submodule(subject.path)[0])
    path = f"{subject.path}.".lstrip(".")
    return lambda name, module: type(module) is kind and (name.startswith(path) or not one_list)


def run(model: nn.Module, subject: Subject) -> Tensor:
    """The main output, a tensor."""
    wanted = {"use_cache": False} if subject.start else {}
    y = model(*subject.inputs.values()) if not hasattr(model, "config") else model(**subject.inputs, **wanted)
    return y if isinstance(y, Tensor) else y[0]


def generated(model: nn.Module, subject: Subject) -> bool | None:
    """Whether a cache gives the same tokens as none; None for a model that generates nothing."""
    if subject.start is None:
        return None
    how = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    one, other = (model.generate(**subject.start, **how, use_cache=cache) for cache in (True, False))
    return torch.equal(one, other)


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def reloaded(model: nn.Module, subject: Subject) -> nn.Module:
    """Saved and loaded: as transformers do, or into a model made with fewer layers."""
    if not isinstance(model, hf.PreTrainedModel):
        return unpack(smaller(subject), pack(model)).eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again, found = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), f"loaded with {found}"
    return again.eval()


def smaller(subject: Subject) -> nn.Module:
    model = subject.make(LAYERS)
    layers = subject.make(len(KEEP)).get_submodule(subject.path)
    if not subject.path:
        return layers
    parent, _, key = subject.path.rpartition(".")
    setattr(model.get_submodule(parent), key, layers)
    return model


def layers_dropped(subject: Subject) -> dict[str, Any]:
    """Trains a step, prunes, saves, loads and generates."""
    model = model_of(subject)
    where, one_list = picks(subject, model), picks(subject, model, one_list=True)
    trained = clone(layerdrop.apply(model, p=0.5, where=where)).train()
    run(trained, subject).square().mean().backward()
    small = layerdrop.finalize(layerdrop.apply(model, p=0.5, where=where), keep=KEEP, where=one_list)
    forced = layerdrop.apply(model, p=1.0, where=one_list)
    for i, skip in enumerate(forced.get_submodule(subject.path)):
        skip.train(i not in KEEP)
        skip.inner.eval()
    with torch.no_grad():
        want = run(forced, subject)
        found = {
            "trained": any(p.grad is not None for p in trained.parameters()),
            "from_skipping": apart(run(small, subject), want),
            "after_loading": apart(run(reloaded(small, subject), subject), want),
            "generates": generated(small, subject),
        }
    return found


def quantized(subject: Subject) -> dict[str, Any]:
    """8 bits by the one line; where it refuses layers, once more without those that it names."""
    model, found, where = model_of(subject), {}, matrices
    try:
        with warnings.catch_warnings(action="ignore"):
            scalar_quant.apply(model)
    except ValueError as error:
        found["refused_first"] = str(error)
        out = str(error).partition("leave out ")[2].partition(", which")[0].split(", ")
        where = lambda name, module: matrices(name, module) and name not in out  # noqa: E731
    with warnings.catch_warnings(record=True, action="always") as warned:
        small = scalar_quant.finalize(scalar_quant.apply(model, where=where))
        again = unpack(scalar_quant.finalize(scalar_quant.apply(model_of(subject), where=where)), pack(small))
    with torch.no_grad():
        y = run(small, subject)
        return found | {
            "warned": list(dict.fromkeys(str(w.message) for w in warned if "in 16 bits" in str(w.message))),
            "coded": coded(small) / cost.parameters(model),
            "ratio": cost.stored_bytes(model) / cost.stored_bytes(small),
            "from_fp32": apart(y, run(model, subject)),
            "after_loading": apart(run(again, subject), y),
            "generates": generated(small, subject),
        }


def coded(model: nn.Module) -> int:
    """Numbers in codes; those of a shared weight count once."""
    codes = {module.code for module in model.modules() if isinstance(module, IntWeight)}
    return sum(code.shape[0] * code.shape[1] for code in codes)


def in_training(subject: Subject) -> nn.Module:
    model = model_of(subject)
    model = layerdrop.apply(model, p=0.5, where=picks(subject, model))
    with warnings.catch_warnings(action="ignore"):
        return scalar_quant.apply(model, bits=8, p=0.5, activations="none", where=known).train()


def known(name: str, module: nn.Module) -> bool:
    """All but embeddings, some of which are refused, and heads, which may share their weight."""
    head = name in ("lm_head", "proj_out")
    return not isinstance(module, nn.Embedding) and not head and matrices(name, module)


def gradients(model: nn.Module, step: Callable[[], Tensor]) -> Tensor:
    """Of one training step, with the same coins each time."""
    model.zero_grad()
    torch.manual_seed(1)
    step().float().square().mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def compiled(subject: Subject) -> dict[str, float]:
    torch._dynamo.reset()
    model = in_training(subject)
    run(model, subject)  # the first call looks at each layer once
    plain = gradients(model, partial(run, model, subject))
    fast = torch.compile(model, backend="aot_eager")
    return {"from_plain": apart(gradients(model, partial(run, fast, subject)), plain)}


def autocast(subject: Subject) -> dict[str, bool]:
    model = in_training(subject)

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return run(model, subject)

    return {"finite": bool(gradients(model, step).isfinite().all())}


def checkpointed(subject: Subject) -> dict[str, float]:
    """As transformers do it, or with the whole model as one part."""
    model = in_training(subject)
    run(model, subject)
    plain = gradients(model, partial(run, model, subject))
    if isinstance(model, hf.PreTrainedModel):
        model.activation_checkpointing_enable()
        step = partial(run, model, subject)
    else:
        step = partial(checkpoint, run, model, subject, use_reentrant=False)
    return {"from_plain": apart(gradients(model, step), plain)}


def in_4_bits(model: nn.Module) -> dict[str, int]:
    small = scalar_quant.finalize(scalar_quant.apply(model, bits=4))
    return {"fp32": cost.stored_bytes(model), "4 bits": cost.stored_bytes(small)}


HEAD = """| model | LayerDrop | share in 8 bits | times smaller | `torch.compile` | bf16 | checkpointing |
|---|---|---|---|---|---|---|"""


def table(found: dict[str, Any]) -> str:
    """The README's table. What was refused, or left out, has a note below."""
    rows, notes = [HEAD], []
    for name, cells in found["models"].items():
        size, marks = cells["quantization"], {what: "✓" if right(cells[what]) else "✗" for what in TRIALS}
        share = f"{size['coded']:.0%}"
        for text in [size["refused_first"]] if "refused_first" in size else size["warned"]:
            note = f"{text.partition(': ')[0]}." if "16 bits" in text else f"Refused at first: {text}."
            notes += [] if note in notes else [note]
            share += f" ({notes.index(note) + 1})"
        marks["quantization"] = f"{share} | {size['ratio']:.1f}"
        rows.append(f"| {' | '.join([name, *marks.values()])} |")
    rows += ["", *(f"{i}. {text}" for i, text in enumerate(notes, 1))]
    usual = [f"{part['fp32'] / part['4 bits']:.1f} ({name})" for name, part in found["usual"].items()]
    return "\n".join([*rows, "", f"Times smaller in 4 bits by the one line: {', '.join(usual)}."])


def right(cell: dict[str, Any]) -> bool:
    """Whether what was found is what it should be: no error, no refusal, and the same outputs."""
    limits = {"from_skipping": 1e-5, "after_loading": 1e-5, "from_plain": 1e-5, "from_fp32": 0.05}
    near = all(cell[key] <= limit for key, limit in limits.items() if key in cell)
    ran = all(cell.get(key) is not False for key in ("trained", "generates", "finite"))
    return near and ran and not cell.keys() & {"error", "refused"}


TRIALS = {
    "layerdrop": layers_dropped,
    "quantization": quantized,
    "compile": compiled,
    "autocast": autocast,
    "checkpointing": checkpointed,
}


if __name__ == "__main__":
    main()

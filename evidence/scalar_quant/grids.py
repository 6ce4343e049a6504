"""What rounding after training costs, by grid: results/scalar_quant/grids.json, for lesson 10.

    python evidence/scalar_quant/grids.py           the base model on all held-out windows: half an hour
    python evidence/scalar_quant/grids.py --quick   two grids on a few windows

`grids`: for 8 to 1 bits, one scale for the tensor, a row or 32 neighbours, codes with and without a zero
point, three ways to choose the range; inputs as they are. `inputs`: weights of 8 bits (and of 4), and inputs
as they are, rounded with a scale a token, or with one scale that was calibrated. `bytes` are those of the
tensors, `file` those of the file with its header.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from minieff import scalar_quant
from minieff.core import cost, zoo
from minieff.core.checkpoint import pack, write_tensors
from minieff.core.data import Corpus, speeches
from minieff.core.files import save_results
from minieff.scalar_quant.grid import Grid

MODEL = "speeches-base"
CALIBRATION = 16  # windows of training text
INPUTS = {
    "none": {"activations": "none"},
    "dynamic": {"activations": "dynamic"},
    "static": {"activations": "static"},
    "dynamic, 4 bits": {"activations": "dynamic", "bits": 4},
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two grids and few windows")
    quick = parser.parse_args(argv).quick
    base, corpus, windows = zoo.load(MODEL), speeches(), 4 if quick else None
    found = {"model": MODEL, "plain": look(base, corpus, windows), "grids": [], "inputs": {}}
    for grid in list(grids())[:: 20 if quick else 1]:
        rounded = scalar_quant.apply(base, **asdict(grid), activations="none")
        found["grids"].append(asdict(grid) | look(scalar_quant.finalize(rounded), corpus, windows))
        print(found["grids"][-1], flush=True)
    for name, knobs in INPUTS.items():
        rounded = scalar_quant.apply(base, **knobs)
        if name == "static":
            rounded = scalar_quant.calibrate(rounded, training_text(corpus))
        found["inputs"][name] = look(scalar_quant.finalize(rounded), corpus, windows)
        print(name, found["inputs"][name], flush=True)
    print(save_results("scalar_quant/grids", found))


def grids():
    """Every grid that the lesson compares."""
    for bits in range(8, 0, -1):
        for group in ("tensor", "row", 32):
            yield Grid(bits, group=group)
        if bits > 1:
            yield Grid(bits, symmetric=False)
            yield Grid(bits, span="percentile")
            yield Grid(bits, span="mse")


def training_text(corpus: Corpus):
    draw = torch.Generator().manual_seed(0)
    for _ in range(CALIBRATION):
        yield corpus.batch(1, 128, draw)[0]


def look(model: nn.Module, corpus: Corpus, windows: int | None) -> dict:
    quality = cost.quality(model, corpus, windows=windows)
    sizes = {"bytes": cost.stored_bytes(model), "file": file_bytes(model)}
    return sizes | {"nats": quality.nats, "bits_per_byte": quality.bits_per_byte}


def file_bytes(model: nn.Module) -> int:
    """Size of the model's file, header included."""
    with TemporaryDirectory() as folder:
        return write_tensors(Path(folder) / "model.safetensors", pack(model)).stat().st_size


if __name__ == "__main__":
    main()

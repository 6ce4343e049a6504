"""A model as named tensors, each stored once, and safetensors files of them, written atomically.

A state dict names a shared tensor once for each of its users. `pack` keeps only the first name, so that a
file holds each tensor once, and `unpack` loads it into a model with the same sharing. Nothing is pickled.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from minieff.core.files import write


def pack(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the state dict, a shared one under its first name only.

    >>> linear = nn.Linear(4, 4)
    >>> list(pack(nn.Sequential(linear, nn.ReLU(), linear)))
    ['0.weight', '0.bias']
    """
    packed: dict[str, Tensor] = {}
    seen: set[tuple] = set()
    for name, tensor in model.state_dict().items():
        place = (
            (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        )
        if place not in seen:
            packed[name] = tensor
            seen.add(place)
    return packed


def unpack(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """Loads packed tensors into `model`, in place. ValueError for missing, unknown or misshapen ones.

    >>> trained, model = nn.Linear(4, 4), nn.Linear(4, 4)
    >>> torch.equal(unpack(model, pack(trained)).weight, trained.weight)
    True
    """
    own = pack(model)
    wrong = [f"{name} is {'missing' if name in own else 'unknown'}" for name in own.keys() ^ tensors.keys()]
    wrong += [
        f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}"
        for name in own.keys() & tensors.keys()
        if own[name].shape != tensors[name].shape
    ]
    if wrong:
        raise ValueError(
            f"these are not the weights of this {type(model).__name__}: {'; '.join(sorted(wrong)[:3])}"
            f"{f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''}"
        )
    model.load_state_dict(tensors, strict=False)  # not strict: a shared tensor has one name only
    return model


def write_tensors(path: Path, tensors: dict[str, Tensor], state: dict[str, Any] | None = None) -> Path:
    """Tensors and a JSON value as one safetensors file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(Path(folder) / "run.safetensors", {"w": torch.ones(2)}, {"step": 7}).name
    'run.safetensors'
    """
    metadata = {"state": json.dumps(state)} if state is not None else None
    return write(path, save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """What `write_tensors` stored. ValueError for a damaged file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_tensors(write_tensors(Path(folder) / "run.safetensors", {"w": torch.ones(2)}, {"step": 7}))
    ({'w': tensor([1., 1.])}, {'step': 7})
    """
    content = Path(path).read_bytes()
    try:
        tensors = load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
        state = json.loads(metadata.get("state", "null"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it") from None
    return tensors, state


def generators(model: nn.Module) -> list[torch.Generator]:
    """The generators that modules hold, each once: a checkpoint stores their states.

    >>> dropout = nn.Dropout()
    >>> dropout.generator = torch.Generator()
    >>> len(generators(nn.Sequential(dropout, dropout)))
    1
    """
    held = [
        value
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Generator)
    ]
    return list(dict.fromkeys(held))


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`{"3.exp_avg": tensor}`: parameter number and name of each state tensor.

    A parameter that was never updated has none.

    >>> model = nn.Linear(4, 1, bias=False)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> model(torch.ones(1, 4)).sum().backward()
    >>> optimizer.step()
    >>> list(pack_optimizer(optimizer))
    ['0.step', '0.exp_avg', '0.exp_avg_sq']
    """
    return {
        f"{number}.{key}": value
        for number, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Loads what `pack_optimizer` returned, in place.

    >>> optimizer = torch.optim.AdamW(nn.Linear(4, 1, bias=False).parameters())
    >>> unpack_optimizer(optimizer, {"0.step": torch.tensor(7.0)})
    >>> pack_optimizer(optimizer)
    {'0.step': tensor(7.)}
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".")
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for weight, values in optimizer.state.items():
        for key, value in values.items():
            if value.shape == weight.shape:  # torch's fused AdamW pairs numbers by their place in memory
                values[key] = torch.empty_like(weight).copy_(value)

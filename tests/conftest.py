"""Shapes in signatures are checked in every test: jaxtyping and beartype run over the whole package."""

from jaxtyping import install_import_hook

install_import_hook("minieff", "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402

from minieff.core.transformer import Config, Transformer  # noqa: E402


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def model() -> Transformer:
    """A small model with weights large enough that every part of it matters."""
    model = Transformer(Config(vocab=50, context=24, layers=3, heads=4, dim=32))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.eval()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(50, (2, 16))

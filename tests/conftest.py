"""A small model for all tests."""

import jaxtyping
import pytest
import torch

from minieff.core.transformer import Config, Transformer


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


@pytest.fixture
def unchecked():
    """Types and shapes in signatures are not checked, as in a user's process, and all is faster."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

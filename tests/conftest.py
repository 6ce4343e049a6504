"""A small model for all tests."""

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

"""Shapes in signatures are checked in every test and example: jaxtyping and beartype run over the package."""

from jaxtyping import install_import_hook

install_import_hook("minieff", "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)

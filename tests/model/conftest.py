"""Runs before a test imports torch: spinning threads make a busy machine ten times slower."""

import pytest

from model.process import prepare_process

prepare_process(None)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Draw the same numbers whichever tests came before."""
    import torch

    torch.manual_seed(0)

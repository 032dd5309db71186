"""What all tests share: the checkout's root, and repeatable random numbers."""

from pathlib import Path

import pytest
import torch


@pytest.fixture
def repo() -> Path:
    """Root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)

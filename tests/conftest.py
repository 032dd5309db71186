"""What all tests share: where the optional reference data lies, and repeatable random numbers."""

from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parents[1]
SHARED = REPO.parent / "shared"


@pytest.fixture
def repo() -> Path:
    """Root of the checkout."""
    return REPO


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)

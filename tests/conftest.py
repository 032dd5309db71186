"""What all tests share: the checkout's root, repeatable random numbers, and tests that run over the registries."""

from pathlib import Path

import pytest
import torch
from mixer_case import mixer_cases

from models.zoo import FAMILIES


@pytest.fixture
def repo() -> Path:
    """Root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``mixer_case``: every variant of every mixer; ``mixer_family``: every mixer that has named models."""
    if "mixer_case" in metafunc.fixturenames:
        cases = list(mixer_cases())
        metafunc.parametrize("mixer_case", cases, ids=[case.key for case in cases])
    if "mixer_family" in metafunc.fixturenames:
        metafunc.parametrize("mixer_family", FAMILIES)

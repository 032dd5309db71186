"""What all tests share: the checkout's root, repeatable random numbers, and tests that run over the registries.

torch and the zoo are imported where they are used: the process that only hands out the tests has no need of them.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def repo() -> Path:
    """Root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture
def engine_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the engine says, each line once: a run of an earlier test may have set its log up, and pytest listens there,
    too, where a logger keeps its lines to itself.
    """
    log = logging.getLogger("engine")
    before = [handler for handler in log.handlers if handler is not caplog.handler], log.propagate, log.level
    log.handlers[:], log.propagate, log.level = [], True, logging.INFO
    caplog.handler.setLevel(logging.INFO)
    yield caplog
    log.handlers[:], log.propagate, log.level = before


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``mixer_case``: every variant of every mixer; ``mixer_family``: every mixer that has named models."""
    if "mixer_case" in metafunc.fixturenames:
        from mixer_case import mixer_cases

        cases = list(mixer_cases())
        metafunc.parametrize("mixer_case", cases, ids=[case.key for case in cases])
    if "mixer_family" in metafunc.fixturenames:
        from models.zoo import FAMILIES

        metafunc.parametrize("mixer_family", FAMILIES)

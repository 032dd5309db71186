"""Small runs that all tests of the engine share."""

from pathlib import Path

import pytest

from tests.faults.small_run import SmallRuns


@pytest.fixture(scope="session")
def small_runs(tmp_path_factory: pytest.TempPathFactory) -> SmallRuns:
    """Small runs on one small data set."""
    return SmallRuns(tmp_path_factory.mktemp("small_runs"))


@pytest.fixture(scope="session")
def finished(small_runs: SmallRuns) -> Path:
    """A run that ended well, with TensorBoard. Not to be changed."""
    output = small_runs.folder()
    small_runs.finish(output, ["train.tensorboard=true"])
    return output

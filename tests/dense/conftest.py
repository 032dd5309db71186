"""The dense tests need requirements-dense.txt; without it they fail, unless they are left out by ``-m "not dense"``."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from data.prepare.scenes import make_scenes


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where the libraries are missing and dense tests are not wanted, do not import the files."""
    unwanted = "not dense" in (config.getoption("markexpr") or "")
    return True if unwanted and find_spec("mmdet") is None else None


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen training and six validation scenes; not to be changed by a test."""
    root = tmp_path_factory.mktemp("scenes")
    make_scenes(root, train=16, val=6, seed=3)
    return root


@pytest.fixture(autouse=True)
def plain_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library lays out a config's text, a second each, for each log, dump and checkpoint; here it stays plain."""
    monkeypatch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, True))


@pytest.fixture(autouse=True)
def own_visualizer() -> Iterator[None]:
    """The library keeps one visualizer for a process; each test is a process of its own to it."""
    yield
    from mmdet.visualization import DetLocalVisualizer
    from mmengine.visualization import Visualizer
    from mmseg.visualization import SegLocalVisualizer

    for kind in (Visualizer, DetLocalVisualizer, SegLocalVisualizer):
        kind._instance_dict.clear()

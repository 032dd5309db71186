"""Batches reach another device as bytes and become the same numbers there."""

import contextlib

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from data.batch import Normalizer, RawBatch
from data.config import IMAGENET_MEAN, IMAGENET_STD
from data.sampler import BatchKey
from data.upload import Upload


def raw_batch() -> RawBatch:
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (4, 3, 9, 7), dtype=torch.uint8, generator=draw)
    boxes = [(1, 2, 3, 4, 2), (3, 0, 0, 5, 6)]
    noise = torch.randn(3 * (4 * 2 + 5 * 6), generator=draw).numpy()
    indices = np.arange(4)
    return RawBatch(BatchKey(0, 0, 8, indices, indices), [3, 1, 0, 2], boxes, noise, pixels=pixels)


def test_normalising_on_the_device_gives_the_same_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of the device's branch, done where their values can be seen; the erased boxes included."""
    upload = Upload(torch.device("cpu"), pin_memory=True)
    here = Normalizer(IMAGENET_MEAN, IMAGENET_STD, upload)(raw_batch())
    monkeypatch.setattr(Upload, "needed", True)
    there = Normalizer(IMAGENET_MEAN, IMAGENET_STD, upload)(raw_batch())
    assert there.images.equal(here.images) and there.targets.equal(here.targets)
    assert here.images.dtype == torch.float32 and here.targets.tolist() == [3, 1, 0, 2] and here.position == 8


def test_copies_to_a_gpu_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that does not exist: bytes cross from pinned memory beside the work, which waits for them and no more."""
    told: list[str] = []
    copies: list[tuple[torch.dtype, bool, bool]] = []
    pinned: list[torch.dtype] = []
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream(told))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda values, stream: told.append(f"{values.dtype} is used"))

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):  # type: ignore[no-untyped-def]
            options = options or {}
            if function is torch.ops.aten._to_copy.default and "device" in options:
                copies.append((arguments[0].dtype, options["non_blocking"], FakeStream.inside))
            if function is torch.ops.aten.empty_like.default and options.get("pin_memory"):
                pinned.append(arguments[0].dtype)
            return function(*arguments, **options)

    raw, upload = raw_batch(), Upload(torch.device("cuda", 0), pin_memory=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        normalize = Normalizer(IMAGENET_MEAN, IMAGENET_STD, upload)
        with Copies():
            batch = normalize(raw)
    assert (
        batch.images.is_cuda and batch.targets.is_cuda and batch.indices.is_cuda and batch.images.dtype == torch.float32
    )
    assert pinned == [torch.uint8, torch.float32, torch.int64, torch.int64]
    assert copies == [(dtype, True, True) for dtype in pinned]
    assert told == ["waits", "torch.float32 is used", "torch.int64 is used", "torch.int64 is used"]


class FakeStream(contextlib.AbstractContextManager[None]):
    """Knows whether it is the one that work is given to."""

    inside = False

    def __init__(self, told: object = None) -> None:
        self.told = told

    def wait_stream(self, other: object) -> None:
        assert isinstance(self.told, list) and isinstance(other, FakeStream)
        self.told.append("waits")

    def __enter__(self) -> None:
        FakeStream.inside = True

    def __exit__(self, *error: object) -> None:
        FakeStream.inside = False

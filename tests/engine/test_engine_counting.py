"""The loop of an evaluation on one rank: what model and metric are given, what is said, and what ends it."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data import Batch
from engine import evaluate as evaluation
from engine.distributed import World
from engine.errors import TrainingFailed
from engine.evaluate import Accuracy, evaluate
from engine.schema import TrainConfig

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)


class Tens:
    """Two batches of two images, whose value is their number, and the label that, too."""

    def __init__(self, act: Any = lambda: None) -> None:
        self.act = act

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Batch]:
        for first in (0, 2):
            self.act()
            numbers = torch.arange(first, first + 2)
            yield Batch(numbers.float()[:, None, None, None].expand(2, 3, 4, 4), numbers, numbers)


class Score(nn.Module):
    """Logits whose highest is the image's value; keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return -(images[:, 0, 0, :1] - torch.arange(8.0, device=images.device)).abs()


class Counter:
    """A metric that counts every image, half of them and none, and keeps what it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, logits: Tensor, targets: Tensor, indices: Tensor) -> Tensor:
        self.seen.append((logits, targets, indices))
        return torch.tensor([len(logits), len(logits) // 2, 0], device=logits.device)


def run(world: World = ALONE, loader: Any = None, train: TrainConfig | None = None, **options: Any) -> Any:
    """Model, metric and accuracy of an evaluation of :class:`Tens`."""
    model, metric = Score(), Counter()
    return model, metric, evaluate(model, loader or Tens(), metric, world, train or TrainConfig(), **options)


def test_percentages_are_of_the_images_that_have_a_label() -> None:
    assert (Accuracy(8, 2, 6).top1, Accuracy(8, 2, 6).top5, Accuracy(0, 0, 0).top1, Accuracy(0, 0, 0).top5) == (
        *(25.0, 75.0, 0.0, 0.0),
    )
    assert (Accuracy(1, 1, 1).top1, Accuracy(1, 1, 1).top5, Accuracy(1, 1, 1).seconds) == (100.0, 100.0, 0.0)


@pytest.mark.parametrize("last", [False, True])
def test_images_have_the_layout_of_the_model(last: bool) -> None:
    model, metric, found = run(train=TrainConfig(channels_last=last))
    assert [x.is_contiguous(memory_format=torch.channels_last) for x in model.seen] == [last, last]
    assert (found.images, found.correct1, found.correct5) == (4, 2, 0)
    assert [indices.tolist() for _, _, indices in metric.seen] == [[0, 1], [2, 3]]
    assert [targets.tolist() for _, targets, _ in metric.seen] == [[0, 1], [2, 3]]


def test_logits_are_counted_in_full_precision() -> None:
    class Half(Score):
        def forward(self, images: Tensor) -> Tensor:
            assert torch.is_autocast_enabled("cpu")
            return super().forward(images).bfloat16()

    metric = Counter()
    evaluate(Half(), Tens(), metric, ALONE, TrainConfig(), precision="bf16")  # type: ignore[arg-type]
    assert {logits.dtype for logits, _, _ in metric.seen} == {torch.float32}


def test_images_are_sent_while_the_device_works() -> None:
    """From pinned memory, without waiting."""
    asked = []

    class Pinned(Tens):
        def __iter__(self) -> Iterator[Batch]:
            for batch in super().__iter__():

                def send(device: torch.device, *, non_blocking: bool = False, images: Tensor = batch.images) -> Tensor:
                    asked.append((device, non_blocking))
                    return images

                yield replace(batch, images=SimpleNamespace(to=send))

    run(loader=Pinned())
    assert asked == [(CPU, True)] * 2


def test_everything_is_on_the_device_of_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device that has no values stands for a GPU; it has no autocast."""
    monkeypatch.setattr(evaluation, "autocast", lambda *_: contextlib.nullcontext())

    class Elsewhere(World):
        def total(self, values: Tensor) -> Tensor:
            assert values.device.type == "meta"
            return torch.tensor([4, 3, 2])

    meta = torch.device("meta")
    model, metric, found = run(Elsewhere(0, 1, meta))
    assert {images.device for images in model.seen} == {meta}
    assert {tensor.device for seen in metric.seen for tensor in seen[:2]} == {meta}
    assert (found.images, found.correct1, found.correct5) == (4, 3, 2)


def test_a_rank_with_fewer_batches_takes_part_in_every_decision() -> None:
    class Wider(World):
        """Another rank has four batches."""

        def largest(self, *values: int) -> list[int]:
            return [4] if len(values) == 1 else list(values)

    where: list[str] = []
    _, _, found = run(Wider(0, 1, CPU), at=where.append)
    assert found.images == 4 and len(where) == 8


def test_the_faults_of_all_ranks_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two(World):
        def largest(self, *values: int) -> list[int]:
            return list(values) if len(values) == 1 else [0, 1]

        def gather(self, value: Any) -> list[Any]:
            return [value, "OSError: no such disk", "ValueError: cut off"]

    with pytest.raises(TrainingFailed) as caught:
        run(Two(0, 1, CPU))
    told = "evaluation cannot read its images: rank 1: OSError: no such disk; rank 2: ValueError: cut off"
    assert str(caught.value) == told

    def fail() -> None:
        raise KeyError("x")

    model = Score().train()
    with pytest.raises(TrainingFailed, match=r"^evaluation cannot read its images: rank 0: KeyError: 'x'$"):
        evaluate(model, Tens(fail), Counter(), ALONE, TrainConfig())  # type: ignore[arg-type]
    assert model.training
    with pytest.raises(TrainingFailed):  # a fault comes before a stop, which would be answered by "go on"
        run(loader=Tens(fail), stop=True)


def test_the_time_that_is_left_is_that_of_the_batches_so_far(monkeypatch: pytest.MonkeyPatch, engine_log) -> None:
    """Two batches of 30 seconds; a line where more than 20 have passed since the last."""
    now = 1000.0

    class Clock:
        monotonic = staticmethod(lambda: now)

    def wait(seconds: float) -> Any:
        def act() -> None:
            nonlocal now
            now += seconds

        return act

    monkeypatch.setattr(evaluation, "time", Clock)
    assert run(loader=Tens(wait(30)))[2].seconds == 60.0
    assert engine_log.messages == ["evaluation [1/2], 00:00:30 left", "evaluation [2/2], 00:00:00 left"]
    engine_log.clear()
    run(loader=Tens(wait(20)))
    assert engine_log.messages == ["evaluation [2/2], 00:00:00 left"]

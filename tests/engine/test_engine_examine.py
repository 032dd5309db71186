"""What an evaluation says of weights, against their logits on pictures that are opened one by one; in this process."""

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from data import Batch
from data.classes import imagenet_classes
from engine import evaluate as evaluation
from engine.build import plain_model
from engine.config import Config, load_config
from engine.distributed import World
from engine.errors import RunStopped, TrainingFailed
from engine.evaluate import Accuracy, evaluate, evaluate_checkpoint, examine
from engine.schema import TrainConfig
from engine.weights import save_weights
from models.errors import UserError
from tests.faults.small_run import SmallRuns

NAMES = ["class0", "class1", "class2", "class3"]
CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)


def config_of(small_runs: SmallRuns, *options: str) -> Config:
    return load_config(small_runs.config, list(options), world_size=1)


def save(small_runs: SmallRuns, path: Path, classes: list[str] | None, *options: str) -> nn.Module:
    """Fresh weights of the small runs' model in a file, and the model that has them."""
    model = plain_model(config_of(small_runs, *options)).eval()
    save_weights(path, model.state_dict(), {} if classes is None else {"classes": classes})
    return model


@pytest.fixture
def weights(small_runs: SmallRuns, tmp_path: Path) -> Path:
    save(small_runs, tmp_path / "w.safetensors", NAMES)
    return tmp_path / "w.safetensors"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Signals keep their meaning, and the engine's log its handlers."""
    log = logging.getLogger("engine")
    before = list(log.handlers), log.propagate, log.level
    yield
    evaluation.signals.forget()
    log.handlers[:], log.propagate, log.level = before


@torch.no_grad()
def guessed(model: nn.Module, root: Path) -> list[tuple[int, int]]:
    """Class and guess of each picture, which is as large as the model wants it."""
    found = []
    for path in sorted((root / "val").rglob("*.png")):
        pixels = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).astype(np.float32) / 255).permute(2, 0, 1)
        mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        found.append((int(path.parent.name[-1]), int(model(((pixels - mean) / std)[None])[0].argmax())))
    return found


def test_every_figure_of_an_evaluation(small_runs: SmallRuns, weights: Path, monkeypatch) -> None:
    monkeypatch.setattr(evaluation, "git_commit", lambda: "f00d")
    monkeypatch.setattr(evaluation, "device_name", lambda device: f"a {device.type}")
    config = config_of(small_runs)
    pairs = guessed(save(small_runs, weights, NAMES), small_runs.root / "images")
    right = sum(label == guess for label, guess in pairs)
    found = examine(config, weights)
    assert found is not None
    result, answers = found
    seconds = result.seconds
    per_class = {}
    for number, name in enumerate(NAMES):
        own = [guess == number for label, guess in pairs if label == number]
        per_class[name] = {"top1": round(100 * sum(own) / len(own), 4), "images": len(own)}
    assert 0 < seconds < 100 and result.to_json() == {
        **{"top1": 100 * right / 13, "top5": 100.0, "correct1": right, "correct5": 13, "images": 13},
        **{"labels": "original", "model": "dw_conv_nano", "dataset": "images", "checkpoint": str(weights)},
        "checkpoint_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        **{"seconds": seconds, "ranks": 1, "precision": "fp32", "device": "a cpu", "batch_size": 4, "commit": "f00d"},
        "per_class": per_class,
    }
    table = np.zeros((4, 4), int)
    for label, guess in pairs:
        table[label, guess] += 1
    assert np.array_equal(answers.confusion(), table)
    alone = evaluate_checkpoint(config, weights)
    assert alone is not None and alone.to_json() | {"seconds": seconds} == result.to_json()


def test_classes_without_images_and_resized_weights_are_in_the_result(small_runs, weights: Path, tmp_path, capsys):
    for name in NAMES[1:]:
        (tmp_path / "part" / "val").mkdir(parents=True, exist_ok=True)
        (tmp_path / "part" / "val" / name).symlink_to(small_runs.root / "images" / "val" / name)
    found = evaluate_checkpoint(config_of(small_runs, f"data.root={tmp_path / 'part'}", "model.window_size=5"), weights)
    assert found is not None and (found.empty_classes, found.images) == (["class0"], 13 - 4)
    assert found.resized is not None and len(found.resized) == 4 and all("(8, 7, 7)" in x for x in found.resized[:1])
    lines = [line for line in capsys.readouterr().err.splitlines() if "resized" in line]
    told = "WARNING: resized for this model, so the figure is not that of the weights: "
    assert lines == [told + line for line in found.resized]


def test_the_number_of_outputs_comes_from_the_names_of_the_weights(small_runs, weights: Path, tmp_path: Path) -> None:
    """`null` in the config: no training data are there to count them."""
    (tmp_path / "alone" / "val").mkdir(parents=True)
    (tmp_path / "alone" / "val" / "class2").symlink_to(small_runs.root / "images" / "val" / "class2")
    options = ("model.num_classes=null", f"data.root={tmp_path / 'alone'}")
    found = evaluate_checkpoint(config_of(small_runs, *options), weights)
    assert found is not None and (found.images, found.empty_classes) == (3, ["class0", "class1", "class3"])


def refused(config: Config, weights: Path) -> str:
    with pytest.raises(UserError) as caught:
        examine(config, weights)
    return str(caught.value)


def test_weights_of_another_model_are_named(small_runs: SmallRuns, weights: Path, tmp_path: Path) -> None:
    assert refused(config_of(small_runs, "model.num_classes=3"), weights) == (
        f"model.num_classes: 3, but {weights} has 4 classes: 'class0', 'class1', 'class2' and 1 more"
    )
    other = tmp_path / "other.safetensors"
    save(small_runs, other, None, "model.num_classes=5")
    said = refused(config_of(small_runs), other)
    assert said.startswith(f"--checkpoint: {other}: its classifier does not fit: ") and "5 classes" in said
    assert refused(config_of(small_runs), tmp_path / "no.safetensors").startswith("--checkpoint: ")
    assert refused(config_of(small_runs), Path("i_dynamic_tiny")).startswith("--checkpoint: i_dynamic_tiny: no weights")


def test_an_image_may_have_several_classes_under_real_labels(small_runs: SmallRuns, tmp_path: Path) -> None:
    """So nothing is said of single classes."""
    folder = tmp_path / "real" / "val" / "n01440764"
    folder.mkdir(parents=True)
    for number in (2, 3):  # the first has no class there
        Image.new("RGB", (32, 32)).save(folder / f"ILSVRC2012_val_{number:08d}.JPEG")
    options = ("model.num_classes=1000", f"data.root={tmp_path / 'real'}")
    save(small_runs, tmp_path / "w.safetensors", imagenet_classes(), *options)
    found = evaluate_checkpoint(config_of(small_runs, *options, "eval.labels=real"), tmp_path / "w.safetensors")
    assert found is not None and (found.labels, found.images, found.per_class) == ("real", 2, None)


class Stop:
    """A request to stop that notes what is asked of it."""

    def __init__(self, wanted: bool) -> None:
        self.wanted, self.asked = wanted, []

    def __bool__(self) -> bool:
        return self.wanted

    def __getattr__(self, name: str) -> Any:
        return lambda: self.asked.append(name)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_signal_is_heeded_between_batches_and_the_world_is_left(small_runs, weights, monkeypatch, stopped) -> None:
    stop, world, seen = Stop(stopped), [], []

    class Noted(World):
        def close(self) -> None:
            world.append("left")

    def join(*how: Any) -> World:
        world.append(how)
        return Noted(0, 1, CPU)

    class Watched(evaluation.Watchdog):
        def __init__(self, world: World, timeout: float) -> None:
            assert isinstance(world, Noted)
            seen.append(timeout)
            super().__init__(world, timeout)

        def at(self, where: str) -> None:
            seen.append(where)
            assert stop.asked == ["defer"]

    monkeypatch.setattr(evaluation.signals, "watch", lambda: stop)
    monkeypatch.setattr(evaluation, "join_world", join)
    monkeypatch.setattr(evaluation, "Watchdog", Watched)
    config = config_of(small_runs, "train.timeout=77")
    if stopped:
        with pytest.raises(RunStopped, match=r"^stopped by a signal in evaluation; nothing to save$"):
            examine(config, weights)
    else:
        assert examine(config, weights) is not None
    assert stop.asked == ["defer", "act_at_once"] and world == [("cpu", 77.0), "left"]
    places = [text for n in range(4) for text in (f"batch {n}", f"batch {n}, waiting for the other ranks")]
    assert seen == [77.0, *(f"evaluation, {text}" for text in (places[:2] if stopped else places))]


def test_only_the_main_rank_has_a_result(small_runs, weights, monkeypatch) -> None:
    class Other(World):
        is_main = False

    said: list[tuple[Any, ...]] = []
    monkeypatch.setattr(evaluation, "join_world", lambda *_: Other(0, 1, CPU))
    monkeypatch.setattr(evaluation, "set_up_text_log", lambda *how: said.append(how))
    assert (
        examine(config_of(small_runs), weights) is None and evaluate_checkpoint(config_of(small_runs), weights) is None
    )
    assert said == [(None, 0)] * 2  # no file, and the rank


def test_config_decides_on_precision_threads_and_layout(small_runs, weights, monkeypatch) -> None:
    asked, autocast, place = [], evaluation.autocast, evaluation.place
    monkeypatch.setattr(evaluation, "autocast", lambda how, world: (asked.append(how), autocast(how, world))[1])
    monkeypatch.setattr(evaluation, "place", lambda *what: (asked.append(what[1].train.channels_last), place(*what))[1])
    monkeypatch.setattr(evaluation, "prepare_torch", lambda config: asked.append(config.train.threads))
    found = evaluate_checkpoint(config_of(small_runs, "eval.precision=bf16", "train.channels_last=true"), weights)
    assert found is not None and found.precision == "bf16"
    assert asked == [1, True, "bf16", "bf16", "bf16", "bf16"]


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
        run(loader=Tens(fail), stop=Stop(True))


def test_the_time_that_is_left_is_that_of_the_batches_so_far(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
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
    monkeypatch.setattr(logging.getLogger("engine"), "propagate", True)
    caplog.set_level("INFO", "engine")
    assert run(loader=Tens(wait(30)))[2].seconds == 60.0
    assert caplog.messages == ["evaluation [1/2], 00:00:30 left", "evaluation [2/2], 00:00:00 left"]
    caplog.clear()
    run(loader=Tens(wait(20)))
    assert caplog.messages == ["evaluation [2/2], 00:00:00 left"]

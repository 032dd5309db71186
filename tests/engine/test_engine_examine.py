"""What an evaluation says of weights, against their logits on pictures that are opened one by one; in this process."""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_evaluation import evaluate_checkpoint
from PIL import Image
from torch import nn

from data.classes import imagenet_classes
from engine import evaluate as evaluation
from engine.build import plain_model
from engine.config import Config, load_config
from engine.distributed import World
from engine.errors import RunStopped
from engine.evaluate import examine
from engine.weights import save_weights
from models.errors import UserError
from tests.faults.small_run import SmallRuns

NAMES = ["class0", "class1", "class2", "class3"]
CPU = torch.device("cpu")


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
        "settings": {
            **{"model.name": "dw_conv_nano", "model.num_classes": 4, "model.img_size": 32},
            **{"model.embed_dim": 8, "model.depths": [1, 1, 1, 1]},
        },
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
    assert examine(config_of(small_runs), weights) is None
    assert said == [(None, 0)]  # no file, and the rank


def test_config_decides_on_precision_threads_and_layout(small_runs, weights, monkeypatch) -> None:
    asked, devices, autocast, place = [], [], evaluation.autocast, evaluation.place
    monkeypatch.setattr(evaluation, "autocast", lambda how, world: (asked.append(how), autocast(how, world))[1])
    monkeypatch.setattr(evaluation, "place", lambda *what: (asked.append(what[1].train.channels_last), place(*what))[1])
    monkeypatch.setattr(evaluation, "prepare_torch", lambda config: asked.append(config.train.threads))
    for name in ("build_metric", "Answers"):
        original = getattr(evaluation, name)

        def on(*what: Any, original: Any = original) -> Any:
            devices.append(what[-1])
            return original(*what)

        monkeypatch.setattr(evaluation, name, on)
    found = evaluate_checkpoint(config_of(small_runs, "eval.precision=bf16", "train.channels_last=true"), weights)
    assert found is not None and found.precision == "bf16"
    assert asked == [1, True, "bf16", "bf16", "bf16", "bf16"] and devices == [CPU, CPU]

"""What own pictures need: frozen parts, a faster head, class weights, an early end, the number of classes."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from engine_evaluation import evaluate_checkpoint
from safetensors.torch import load_file
from timm.loss import SoftTargetCrossEntropy
from torch.nn import functional

from data import build_mixup
from data.config import DataConfig, MixupConfig
from engine.build import plain_model
from engine.class_weights import weigh, weights_of
from engine.config import load_config
from engine.freeze import freeze, train_mode
from engine.optim import build_optimizer, build_schedule, effective_rates, learning_rate
from engine.patience import reason_to_end
from engine.schema import TrainConfig
from engine.state import Progress
from models import build_model, create_model
from models.errors import UserError
from tools.pictures.classifier import Classifier

STILL = ["train.lr=0", "train.warmup_lr=0", "train.min_lr=0", "model.name=swin_nano", "model.num_heads=[1, 1, 2, 4]"]
ALL = [
    *("train.freeze=[stem, stages.0]", "train.head_lr_scale=5", "train.class_weights=balanced", "train.patience=2"),
    "train.epochs=4",
]


def small_model(name: str = "dw_conv_nano"):
    with torch.device("meta"):
        return create_model(name, num_classes=4, **({} if name.startswith("timm:") else {"img_size": 32}))


@pytest.mark.parametrize(
    ("name", "patterns", "prefixes", "suffix"),
    [
        ("dw_conv_nano", ["stem"], ["patch_embed."], ""),
        ("dw_conv_nano", ["stages.0", "stages.1.blocks.0"], ["stages.0.", "stages.1.blocks.0."], ""),
        ("swin_nano", ["*.bias"], [""], ".bias"),
        ("dw_conv_nano", ["stages.[01].*"], ["stages.0.", "stages.1."], ""),
        ("timm:resnet10t", ["stem"], ["conv1.", "bn1."], ""),
        ("timm:convnext_atto", ["stem"], ["stem."], ""),
    ],
)
def test_a_pattern_freezes_what_it_names_and_nothing_else(name, patterns, prefixes, suffix) -> None:
    model = small_model(name)
    (line,) = freeze(model, patterns)
    frozen = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    names = [key for key, _ in model.named_parameters()]
    assert frozen == {key for key in names if key.startswith(tuple(prefixes)) and key.endswith(suffix)} != set()
    count = sum(model.get_parameter(key).numel() for key in frozen)
    assert line.startswith(f"train.freeze: {count:,} of ")
    trained = {id(p) for group in build_optimizer(model, TrainConfig()).param_groups for p in group["params"]}
    assert trained == {id(p) for key, p in model.named_parameters() if key not in frozen}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("stage.0", "train.freeze: 'stage.0' matches no parameter; the nearest valid one is stages.0"),
        ("stages.7", "the nearest valid one is stages."),
        ("stages.0.block.0.*", "the nearest valid one is stages.0.blocks.0"),
        ("*", "train.freeze: * leave no parameter to train"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(UserError, match=r"^train\.freeze") as caught:
        freeze(small_model(), [pattern])
    assert message in str(caught.value)


@pytest.mark.parametrize("options", [["train.sync_bn=true"], []])
def test_frozen_weights_and_statistics_end_as_they_began(small_runs, options) -> None:
    """Three ranks, whose mean of three equal statistics need not be the statistic."""
    overrides, output = ["train.freeze=[stem, stages.0]", "train.epochs=2", *options], small_runs.folder()
    small_runs.finish(output, overrides, ranks=3)
    began = plain_model(load_config(small_runs.config, overrides, world_size=1)).state_dict()
    ended = load_file(output / "last.safetensors")
    same = {key for key in began if torch.equal(began[key], ended[key])}
    frozen = {key for key in began if key.startswith(("patch_embed.", "stages.0."))}
    assert any("running_mean" in key for key in frozen) and same == frozen


def test_training_mode_leaves_frozen_norms_alone_wherever_it_is_set() -> None:
    model = small_model()
    freeze(model, ["stages.0"])
    train_mode(model.eval())
    modes = {name: m.training for name, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert modes and all(training != name.startswith("stages.0.") for name, training in modes.items())


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_the_head_has_a_rate_of_its_own(layer_decay: float | None) -> None:
    model = small_model()
    plain, faster = TrainConfig(layer_decay=layer_decay), TrainConfig(layer_decay=layer_decay, head_lr_scale=7)
    rates: dict[int, list[dict]] = {0: [], 1: []}
    for number, train in enumerate((plain, faster)):
        optimizer = build_optimizer(model, train)
        schedule = build_schedule(optimizer, train, 10)
        for step in (0, 100, 1500):
            schedule.step_update(step)
            groups = [(id(p), g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]]
            rates[number].append({key: rest for key, *rest in groups})
            assert len(groups) == len(list(model.parameters()))
        assert learning_rate(optimizer) == max(lr for lr, _ in rates[0][-1].values())
    for slow, fast in zip(*rates.values(), strict=True):
        for name, parameter in model.named_parameters():
            (before, decay), (after, same) = slow[id(parameter)], fast[id(parameter)]
            assert after == pytest.approx(before * (7 if name.startswith("head.") else 1), rel=1e-12) and decay == same
    assert "7 times that for the classifier" in effective_rates(faster)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted_loss_is_torchs(smoothing: float) -> None:
    data = SimpleNamespace(classes=["a", "b", "c"], records=SimpleNamespace(labels=np.array([0, 1, 2])))
    settings = DataConfig(mixup=MixupConfig(mixup=0, cutmix=0, label_smoothing=smoothing))
    mix = weigh(build_mixup(settings, 3), {"b": 3.0, "c": 0.25}, data)  # type: ignore[arg-type]
    logits, targets = torch.randn(8, 3), torch.tensor([0, 1, 2, 2, 1, 0, 0, 0])
    _, soft = mix(torch.zeros(8, 3, 4, 4), targets, (0, 0, 0))
    each = functional.cross_entropy(
        logits, targets, weight=torch.tensor([1, 3, 0.25]), label_smoothing=smoothing, reduction="none"
    )
    assert float(SoftTargetCrossEntropy()(logits, soft)) == pytest.approx(float(each.mean()), rel=1e-6)


def test_balanced_weights_make_all_classes_count_alike() -> None:
    labels = np.repeat([0, 1, 3], [6, 2, 1])  # class 2 has no images
    weights = weights_of("balanced", list("abcd"), labels)
    assert weights.tolist() == pytest.approx([9 / (3 * 6), 9 / (3 * 2), 1, 9 / 3])
    assert float(weights[torch.from_numpy(labels)].mean()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((1.0, 2.0), "train.class_weights: 2 numbers for 4 classes"),
        ({"class9": 2.0}, "train.class_weights: 'class9' is no class of the data; the nearest valid one is class"),
    ],
)
def test_weights_of_other_classes_are_refused(given, message: str) -> None:
    with pytest.raises(UserError, match=message):
        weights_of(given, [f"class{i}" for i in range(4)], np.zeros(1, int))


def test_the_loss_of_a_run_is_weighted(small_runs, finished: Path) -> None:
    output = small_runs.folder()
    small_runs.finish(output, ["train.class_weights=[2, 2, 2, 2]", "train.epochs=2"])
    first = [json.loads((folder / "log.jsonl").read_text().splitlines()[0])["loss"] for folder in (output, finished)]
    assert first[0] == pytest.approx(2 * first[1], rel=1e-5)


@pytest.mark.parametrize(
    ("patience", "epoch", "best", "evaluated", "ends"),
    [(None, 9, 1, 9, False), (3, 4, 1, 4, True), (3, 3, 1, 3, False), (3, 4, 1, 3, False), (3, 10, 1, 10, False)],
)
def test_patience_counts_epochs_since_the_best(patience, epoch, best, evaluated, ends) -> None:
    progress = Progress(epoch=epoch, best_epoch=best, best_top1=50.0, last={"epoch": evaluated})
    assert bool(reason_to_end(progress, TrainConfig(epochs=10, patience=patience))) == ends


def test_a_run_without_progress_ends_as_complete_and_says_why(small_runs) -> None:
    """Nothing changes at a rate of 0, so the first epoch is the best; killed in the second, it ends at the third."""
    output, overrides = small_runs.folder(), [*STILL, "train.patience=2", "train.epochs=30"]
    run = small_runs.start(output, overrides)
    assert run.wait_for("epoch 1/30  top-1")
    run.signal(signal.SIGKILL)
    run.wait()
    small_runs.finish(output, overrides)
    result = json.loads((output / "result.json").read_text())
    assert (result["epochs"], result["best_epoch"], result["steps"]) == (3, 1, 9)
    reason = f"train.patience: no better top-1 than the {result['best_top1']:.3f} of epoch 1 in 2 epochs"
    assert result["ended_early"] == reason
    (again,) = small_runs.start(output, overrides).wait()
    assert again.status == 0 and "is finished: nothing to train" in again.text


def test_a_killed_run_with_all_of_it_ends_with_the_same_weights(small_runs) -> None:
    output = small_runs.folder()
    run = small_runs.start(output, ALL)
    assert run.wait_for("step 5 ")
    run.signal(signal.SIGKILL)
    run.wait()
    assert small_runs.finish(output, ALL) == small_runs.reference(ALL) != small_runs.reference(["train.epochs=4"])


def test_the_number_of_classes_is_that_of_the_data(small_runs, tmp_path: Path) -> None:
    output = small_runs.folder()
    assert small_runs.finish(output, ["model.num_classes=null"]) == small_runs.reference()
    assert yaml.safe_load((output / "config.yaml").read_text())["model"]["num_classes"] == 4
    config = tmp_path / "run.yaml"
    text = yaml.safe_load(small_runs.config.read_text())
    text["model"]["num_classes"] = None
    config.write_text(yaml.safe_dump(text))
    settings = load_config(config, [], world_size=1)
    weights = output / "last.safetensors"
    found = evaluate_checkpoint(settings, weights)
    assert found is not None and (found.images, len(found.per_class or {})) == (13, 4)
    assert Classifier(str(config), str(weights)).names == [f"class{i}" for i in range(4)]
    with pytest.raises(UserError, match=r"model\.num_classes: null needs training data"):
        build_model(settings.model)

"""No key of a config is ignored: another value of it changes what it is about, here or in the test that is named."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import save_file

from data import build_mixup, build_train_loader
from data.upload import Upload
from engine import trainer
from engine.batchnorm import batch_warning
from engine.build import build_loaders, build_state, distribute, load_initial, plain_model, prepare_torch
from engine.config import Config, check_batch, load_config
from engine.distributed import World
from engine.errors import TrainingFailed
from engine.optim import learning_rate
from engine.run import train
from engine.step import train_step
from models.layers import DepthwiseConv
from tests.faults.small_run import SmallRuns

ALONE = World(0, 1, torch.device("cpu"))

# Keys whose effect another test measures: the test says the key, or is handed it as an argument.
ELSEWHERE = {
    "data.format": "tests/data/test_data_readers.py::test_forms_give_the_same_batches",
    "data.root": "tests/data/test_data_readers.py::test_wrong_paths_are_named",
    "data.train_images": "tests/data/test_data_readers.py::test_a_part_larger_than_a_class_is_refused",
    "data.index": "tests/data/test_data_readers.py::test_an_index_of_other_data_is_refused",
    "data.classes": "tests/data/test_data_readers.py::test_imagenet_a_and_v2_classes",
    "data.workers": "tests/data/test_data_faults.py::test_a_killed_worker_is_named_at_once",
    "data.prefetch": "tests/engine/test_engine_keys.py::test_workers_and_memory_are_as_asked",
    "data.pin_memory": "tests/engine/test_engine_keys.py::test_workers_and_memory_are_as_asked",
    "data.timeout": "tests/data/test_data_faults.py::test_a_stalled_worker_is_named_after_the_timeout",
    "data.max_corrupt": "tests/data/test_data_faults.py::test_too_many_corrupt_images_end_the_run",
    "data.cache": "tests/data/test_data_cache.py::test_nothing_is_read_after_the_start",
    "data.exif": "tests/data/test_data_whole.py::test_pictures_are_turned_by_their_exif_where_that_is_wanted",
    "data.max_pixels": "tests/data/test_data_readers.py::test_an_image_bomb_is_refused",
    "train.device": "tests/engine/test_engine_runs.py::test_bad_input_is_one_line_and_status_2",
    "train.wandb": "tests/engine/test_engine_runs.py::test_bad_input_is_one_line_and_status_2",
    "train.init_checkpoint": "tests/engine/test_engine_runs.py::test_fine_tuning_starts_from_weights_of_another_size",
    "train.freeze": "tests/engine/test_engine_finetune.py::test_frozen_weights_and_statistics_end_as_they_began",
    "train.class_weights": "tests/engine/test_engine_finetune.py::test_the_loss_of_a_run_is_weighted",
    "train.patience": "tests/engine/test_engine_finetune.py::test_a_run_without_progress_ends_as_complete_and_says_why",
    "model.pretrained": "tests/engine/test_engine_pretrained.py::test_what_cannot_be_started_from",
    "train.max_bad_steps": "tests/engine/test_engine_keys.py::test_so_many_bad_steps_in_a_row_end_the_run",
    "train.save_ema": "tests/engine/test_engine_reports.py::test_the_average_is_saved_and_measured_where_that_is_asked",
    "train.profile": "tests/engine/test_engine_runs.py::test_profile_writes_a_trace",
    "train.timeout": "tests/faults/ranks.py::stall",
    "eval.labels": "tests/engine/test_engine_runs.py::test_bad_input_is_one_line_and_status_2",
    "eval.precision": "tests/engine/test_engine_keys.py::test_an_epoch_is_evaluated_in_the_precision_that_is_asked",
    "eval.ema": "tests/engine/test_engine_reports.py::test_the_average_is_saved_and_measured_where_that_is_asked",
    "output": "tests/engine/test_engine_config.py::test_output_defaults_to_the_name_of_the_file",
}


def shapes(config: Config) -> Any:
    """The weights' names and shapes."""
    return {name: tuple(value.shape) for name, value in plain_model(config).state_dict().items()}


def model(config: Config) -> Any:
    """The weights' shapes, and what comes out in training and after it."""
    built = plain_model(config)
    torch.manual_seed(1)
    images = torch.randn(2, config.model.in_chans, 64, 64)
    torch.manual_seed(2)
    outputs = built.train()(images), built.eval()(images)
    return shapes(config), [output.tolist() for output in outputs]


def passes(config: Config) -> int:
    """How often blocks are computed in a forward and a backward pass."""
    built = plain_model(config).train()
    count = []
    for block in built.stages[0].blocks:
        block.norm1.register_forward_hook(lambda *_: count.append(1))
    built(torch.randn(2, 3, 32, 32)).sum().backward()
    return len(count)


def batch(config: Config) -> Any:
    """The first training batch as the model gets it."""
    loader, _ = build_loaders(config, ALONE)
    first = next(iter(loader.epoch(0)))
    place = (config.train.seed, first.epoch, first.position)
    images, targets = build_mixup(config.data, config.model.num_classes)(first.images, first.targets, place)
    return first.indices.tolist(), images.tolist(), targets.tolist()


def measured(config: Config) -> Any:
    """The first batch of an evaluation, and what the data set is called."""
    _, loader = build_loaders(config, ALONE)
    first = next(iter(loader))
    return loader.dataset_name, first.indices.tolist(), first.images.tolist()


def groups(config: Config) -> Any:
    """The optimiser and the options of its parameter groups."""
    optimizer = build_state(plain_model(config), config, ALONE, 3).optimizer
    found = [{**group, "params": len(group["params"])} for group in optimizer.param_groups]
    return type(optimizer), found


def rates(config: Config) -> list[float]:
    """The rate of each step of the run."""
    state = build_state(plain_model(config), config, ALONE, 4)
    found = []
    for step in range(12):
        state.schedule.step_update(step)
        found.append(learning_rate(state.optimizer))
    return found


def step(config: Config) -> Any:
    """Loss, weights and their average after the fifth step (the average follows the weights at once in the first)."""
    loader, _ = build_loaders(config, ALONE)
    state = build_state(plain_model(config), config, ALONE, 3)
    state.progress.step = 4
    batches = loader.epoch(0)
    part = [next(batches) for _ in range(config.train.accumulation)]
    mix = build_mixup(config.data, config.model.num_classes)
    result = train_step(state, part, mix, config.train, ALONE).read()
    average = None if state.ema is None else state.ema.module.head.weight.tolist()
    return result.loss, state.model.head.weight.tolist(), average


def layout(config: Config) -> Any:
    """The kinds of the norms on two ranks, the memory of the convolutions, whether it is to be compiled."""
    two = World(0, 2, torch.device("cpu"))
    kinds = [type(module) for module in build_state(plain_model(config), config, two, 3).model.modules()]
    state = build_state(plain_model(config), config, ALONE, 3)
    compiled: list[bool] = []
    state.network.compile = lambda: compiled.append(True)
    distribute(state, config, ALONE)
    memory = state.model.patch_embed.proj.weight.is_contiguous(memory_format=torch.channels_last)
    return kinds, memory, compiled


def process(config: Config) -> Any:
    """What is set for the whole process, and put back here; what is said of the batch behind a statistic."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        prepare_torch(config)
        said = batch_warning(plain_model(config), check_batch(config, 1), ALONE, config.train.bn_batch)
        return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), said
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def resized(config: Config) -> Any:
    """The sums of the kernels of the first block after a start from kernels of 7 x 7."""
    path = config.output.with_suffix(".safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    small = config.model.model_copy(update={"window_size": 7})
    save_file(plain_model(config.model_copy(update={"model": small})).state_dict(), path)
    start = config.train.model_copy(update={"init_checkpoint": path})
    built = plain_model(config)
    load_initial(built, config.model_copy(update={"train": start}), [])
    kernels = next(module for module in built.modules() if isinstance(module, DepthwiseConv)).weight
    return kernels.sum((1, 2)).tolist()


def run(config: Config) -> Any:
    """The files that a run leaves and the events in its log."""
    train(config)
    lines = (config.output / "log.jsonl").read_text().splitlines()
    checkpoints = sorted(path.name for path in (config.output / "checkpoints").iterdir())
    return checkpoints, ["top1" in line for line in lines], (config.output / "tensorboard").exists()


PLAIN = ("data.mixup.prob=0", "data.mixup.label_smoothing=0")
RESIZED = ("data.augment.crop=resized", *PLAIN)
ERASED = ("data.augment.erase_prob=1", *PLAIN)
GREY = ("model.in_chans=1", "data.mean=[0.5]", "data.std=[0.5]", *PLAIN)
SHORT = ("train.epochs=1", "train.warmup_epochs=0")
Case = tuple[Callable[[Config], Any], str, tuple[str, ...]]

# What is looked at, another value than the default of the small runs, and what must be set with both.
CHANGES: dict[str, Case] = {
    "model.name": (model, "d_dw_conv_nano", ()),
    "model.num_classes": (model, "5", ()),
    "model.in_chans": (model, "1", ()),
    "model.img_size": (shapes, "64", ("model.mixer=static_window", "model.mixer_args={share_windows: false}")),
    "model.grad_checkpointing": (passes, "true", ()),
    "model.mixer": (model, "d_dw_conv", ()),
    "model.mixer_args": (model, "{relative_position: false}", ("model.mixer=window_attention",)),
    "model.patch_size": (model, "2", ()),
    "model.global_pool": (model, "''", ()),
    "model.embed_dim": (model, "16", ()),
    "model.depths": (model, "[1, 1, 2, 1]", ()),
    "model.num_heads": (model, "[2, 2, 4, 8]", ("model.mixer=window_attention",)),
    "model.window_size": (model, "5", ()),
    "model.mlp_ratio": (model, "2.0", ()),
    "model.norm": (model, "ln", ()),
    "model.se": (model, "true", ()),
    "model.extra_dw": (model, "true", ()),
    "model.drop_rate": (model, "0.5", ()),
    "model.drop_path_rate": (model, "0.9", ()),
    "data.train": (batch, "val", PLAIN),
    "data.val": (measured, "train", ()),
    "data.name": (measured, "stripes", ()),
    "data.held_out": (measured, "8", ()),
    "data.channels": (measured, "1", GREY),
    "data.mean": (measured, "[0.1, 0.1, 0.1]", ()),
    "data.std": (measured, "[0.1, 0.1, 0.1]", ()),
    "data.interpolation": (measured, "bilinear", ("data.eval_crop=center",)),
    "data.crop_pct": (measured, "0.5", ("data.eval_crop=center",)),
    "data.eval_crop": (measured, "center", ()),
    "data.fast_decode": (batch, "false", ("train.batch_size=40", *RESIZED)),
    "data.augment.crop": (batch, "resized", PLAIN),
    "data.augment.scale": (batch, "[0.1, 0.2]", RESIZED),
    "data.augment.ratio": (batch, "[0.2, 0.3]", RESIZED),
    "data.augment.padding": (batch, "9", PLAIN),
    "data.augment.hflip": (batch, "1", PLAIN),
    "data.augment.vflip": (batch, "1", PLAIN),
    "data.augment.color_jitter": (batch, "0.8", ("data.augment.auto_augment=null", *PLAIN)),
    "data.augment.auto_augment": (batch, "rand-m2-mstd0.5-inc1", PLAIN),
    "data.augment.erase_prob": (batch, "1", PLAIN),
    "data.augment.erase_mode": (batch, "const", ERASED),
    "data.augment.erase_count": (batch, "3", ERASED),
    "data.augment.repeats": (batch, "2", ("train.batch_size=40", *PLAIN)),
    "data.mixup.mixup": (batch, "0.1", ("data.mixup.cutmix=0",)),
    "data.mixup.cutmix": (batch, "0.1", ("data.mixup.mixup=0",)),
    "data.mixup.prob": (batch, "0", ()),
    "data.mixup.switch_prob": (batch, "1", ("data.mixup.switch_prob=0",)),
    "data.mixup.group": (batch, "12", ()),
    "data.mixup.label_smoothing": (batch, "0.3", ()),
    "train.epochs": (rates, "9", ()),
    "train.batch_size": (batch, "8", PLAIN),
    "train.accumulation": (batch, "3", PLAIN),
    "train.seed": (model, "7", ()),
    "train.optimizer": (groups, "lamb", ()),
    "train.lr": (groups, "0.1", ()),
    "train.lr_batch": (groups, "64", ()),
    "train.weight_decay": (groups, "0.3", ()),
    "train.betas": (groups, "[0.5, 0.6]", ()),
    "train.eps": (groups, "0.01", ()),
    "train.momentum": (groups, "0.5", ("train.optimizer=sgd",)),
    "train.optimizer_args": (groups, "{amsgrad: true}", ()),
    "train.head_lr_scale": (groups, "0.1", ()),
    "train.layer_decay": (groups, "0.5", ()),
    "train.clip_grad": (step, "0.001", ("train.optimizer=sgd", "train.warmup_lr=0.1")),
    "train.schedule": (rates, "constant", ()),
    "train.warmup_epochs": (rates, "2", ()),
    "train.cooldown_epochs": (rates, "1", ()),
    "train.warmup_lr": (rates, "0.003", ()),
    "train.min_lr": (rates, "0.003", ()),
    "train.warmup_prefix": (rates, "true", ()),
    "train.schedule_args": (rates, "{k_decay: 0.5}", ()),
    "train.ema_decay": (step, "0.5", ("train.warmup_lr=0.1",)),
    "train.ema_warmup": (step, "true", ("train.warmup_lr=0.1",)),
    "train.precision": (step, "bf16", ()),
    "train.sync_bn": (layout, "true", ()),
    "train.channels_last": (layout, "true", ()),
    "train.compile": (layout, "true", ()),
    "train.bn_batch": (process, "64", ()),
    "train.deterministic": (process, "true", ()),
    "train.threads": (process, "2", ()),
    "train.keep_kernel_response": (resized, "true", ("model.window_size=9",)),
    "train.save_every": (run, "100", SHORT),
    "train.keep": (run, "1", SHORT),
    "train.log_every": (run, "2", SHORT),
    "train.tensorboard": (run, "true", SHORT),
    "eval.batch_size": (measured, "3", ()),
    "eval.images": (measured, "3", ()),
    "eval.every": (run, "2", ("train.epochs=2",)),
}


def keys_of(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.fixture(scope="module")
def before() -> dict[Any, Any]:
    """What was seen without a change, so that it is looked at once for all keys that share it."""
    return {}


@pytest.mark.parametrize("key", CHANGES)
def test_another_value_changes_what_the_key_is_about(small_runs: SmallRuns, before: dict[Any, Any], key: str) -> None:
    look, value, common = CHANGES[key]

    def seen(*changes: str) -> Any:
        options = [*common, *changes, f"output={small_runs.folder()}"]
        return look(load_config(small_runs.config, options, world_size=1))

    if (look, common) not in before:
        before[look, common] = seen()
    assert before[look, common] != seen(f"{key}={value}")


def test_every_key_is_looked_at(repo: Path) -> None:
    """A new key needs a line in CHANGES, or the name of the test that looks at it."""
    assert sorted([*CHANGES, *ELSEWHERE]) == sorted(keys_of(Config))
    for key, name in ELSEWHERE.items():
        path, _, test = name.partition("::")
        text = (repo / path).read_text(encoding="utf-8")
        names = [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
        assert test in names and key.rpartition(".")[2] in text, f"{key}: {name}"


def test_workers_and_memory_are_as_asked(small_runs: SmallRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the loader hands on."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr("data.loader.WorkerPool", lambda _, **options: seen.update(options))

    def upload(device: torch.device, **options: Any) -> Upload:
        seen.update(options)
        return Upload(device, pin_memory=False)

    monkeypatch.setattr("data.loader.Upload", upload)
    for prefetch, pinned in ((5, True), (1, False)):
        options = ["data.workers=3", f"data.prefetch={prefetch}", f"data.pin_memory={pinned}", "data.timeout=7"]
        cfg = load_config(small_runs.config, options, world_size=1).data
        build_train_loader(cfg, img_size=32, batch_size=4)
        assert (seen["workers"], seen["prefetch"], seen["timeout"]) == (3, prefetch, 7)
        assert seen["pin_memory"] is pinned


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_epoch_is_evaluated_in_the_precision_that_is_asked(
    small_runs: SmallRuns, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Numbers of bfloat16 have eight bits: rounding them to it changes nothing."""
    options = [*SHORT, f"eval.precision={precision}", f"output={small_runs.folder()}"]
    seen: list[bool] = []

    def metric(logits: torch.Tensor, targets: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        seen.append(torch.equal(logits.bfloat16().float(), logits))
        return torch.tensor([len(logits), 0, 0])

    monkeypatch.setattr(trainer, "build_metric", lambda *_: metric)
    train(load_config(small_runs.config, options, world_size=1))
    assert len(seen) == 4 and set(seen) == {precision == "bf16"}  # 13 images, 4 at a time


@pytest.mark.parametrize("most", [2, 4])
def test_so_many_bad_steps_in_a_row_end_the_run(small_runs: SmallRuns, most: int) -> None:
    """A rate that no weight survives."""
    options = ["train.warmup_epochs=0", "train.lr=1e30", "train.lr_batch=null", f"train.max_bad_steps={most}"]
    config = load_config(small_runs.config, [*options, f"output={small_runs.folder()}"], world_size=1)
    with pytest.raises(TrainingFailed, match=f"not finite in {most} steps in a row, last in step {most}"):
        train(config)

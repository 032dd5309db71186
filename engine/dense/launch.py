"""Training and testing of a detector or segmentor: arguments, checks, then the library's own runner."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The library retries a checkpoint that cannot be read safely in the unsafe way; torch then refuses that.
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"

import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from engine.dense.arguments import (
    common_parser,
    datasets,
    load_mm_config,
    set_amp,
    set_annotation_files,
    set_batch,
    set_data_root,
    set_device,
    set_multi_scale,
    set_neck_levels,
    set_show_dir,
    set_work_dir,
)
from engine.dense.checks import check_checkpoint, check_class_names, check_config, check_datasets
from engine.dense.hooks import number
from engine.dense.keeping import keep_whole_checkpoints
from engine.dense.recipe import LEFT_OUT, config_name, keep_recipe, recipe
from engine.dense.replay import make_exact
from engine.dense.weights import load_model, read_checkpoint
from engine.records import DenseEvaluation, RunFolder
from engine.runfolder import device_name, git_commit
from engine.terminal import outlive_terminal
from engine.weights import file_hash
from models.errors import UserError
from models.mm import start_file
from models.zoo import weights_file

FREE_OPTIONS = LEFT_OUT - {"init_cfg", "norm_from"}  # of an evaluation


@contextmanager
def one_line() -> Iterator[None]:
    """An unfit checkpoint is bad input as a wrong config is: one line for :func:`engine.cli.run`."""
    try:
        yield
    except UserError as error:
        raise UserError(" ".join(str(error).split())) from error


@one_line()
def train(task: str, argv: list[str] | None = None) -> None:
    """Train a ``task`` ("detection" or "segmentation") from the command line."""
    parser = common_parser(f"Train a model for {task}.")
    parser.add_argument(
        "--pretrained",
        help="weights of the backbone, in place of the config's: a file, a model's name for its released ones, or none",
    )
    parser.add_argument("--resume", nargs="?", const="auto", help="go on from FILE, or from the last checkpoint")
    parser.add_argument("--amp", choices=["bf16", "fp16"], help="automatic mixed precision")
    parser.add_argument("--seed", type=int, help="default: 0, or that of the resumed run")
    parser.add_argument("--scale-lr", action="store_true", help="scale the rate to the images of a step")
    args = parser.parse_args(argv)
    config = prepare(task, args)
    set_amp(config, args.amp)
    set_batch(config, args.scale_lr)
    learned = recipe(config, task, args.pretrained)
    resumed = _set_resume(config, args.resume)
    seed = _seed(config, args.seed, resumed)
    _set_pretrained(config, args.pretrained)
    if not args.skip_data_check:
        check_datasets(config, ("train", "val"))
    _check_resumed_classes(config, resumed)
    keep_whole_checkpoints(config)
    config.custom_hooks = [
        *config.get("custom_hooks", []),
        {"type": "SharedStatisticsHook"},
        {"type": "PlainCheckpointHook"},
        {"type": "CurveHook"},
        {"type": "ResultHook", "precision": learned["precision"]},
        *_start_hooks(config),
    ]
    make_exact(config, seed)
    runner = build_runner(config)
    if is_main_process():
        keep_recipe(Path(config.work_dir), learned, bool(config.resume))
    with outlive_terminal():
        runner.train()
    leave_group(runner)


@one_line()
def test(task: str, argv: list[str] | None = None) -> None:
    """Evaluate a checkpoint from the command line; the last line printed is the metrics as JSON."""
    parser = common_parser(f"Evaluate a model for {task}.")
    parser.add_argument("checkpoint", help="checkpoint of the whole model")
    parser.add_argument("--show-dir", help="folder for pictures with the predictions drawn in")
    parser.add_argument("--json", help="also write the metrics to this file")
    if task == "segmentation":
        parser.add_argument("--multi-scale", action="store_true", help="six scales and flips, as the config's TTA says")
    else:
        parser.add_argument("--coco-eval", choices=["pycocotools", "faster"], default="pycocotools")
    args = parser.parse_args(argv)
    if getattr(args, "coco_eval", None) == "faster":
        use_faster_coco_eval()
    config = prepare(task, args)
    check_checkpoint(args.checkpoint)
    config.load_from, config.resume = None, False
    for part in (config.model, config.model.get("backbone") or {}):
        part.pop("init_cfg", None)
    if args.show_dir:
        set_show_dir(config, str(Path(args.show_dir).resolve()))
    if getattr(args, "multi_scale", False):
        set_multi_scale(config)
    if not args.skip_data_check:
        check_datasets(config, ("test",))
    runner = build_runner(config)
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    meta = load_model(model.module if isinstance(model, BaseTTAModel) else model, args.checkpoint)
    for dataset in datasets(config, "test"):
        check_class_names(meta, dataset, config.default_scope, args.checkpoint)
    metrics = runner.test()
    leave_group(runner)
    if int(os.environ.get("RANK", 0)) == 0:
        values = {name: number(round(float(value), 6)) for name, value in metrics.items()}
        line = json.dumps({**values, **_evaluation(task, args, runner).to_json()}, allow_nan=False)
        print(line)  # noqa: T201
        if args.json:
            Path(args.json).write_text(line + "\n")


def _evaluation(task: str, args: Any, runner: Runner) -> DenseEvaluation:
    """What was evaluated."""
    dataset = runner.test_dataloader.dataset
    options = [f"{key}={value}" for key, value in args.cfg_options.items() if key.split(".")[-1] not in FREE_OPTIONS]
    return DenseEvaluation(
        task=task,
        config=config_name(args.config),
        options=options + (["--multi-scale"] if getattr(args, "multi_scale", False) else []),
        eval_images=len(dataset),
        dataset=Path(getattr(dataset, "data_root", None) or "").name,
        checkpoint=args.checkpoint,
        checkpoint_sha256=file_hash(Path(args.checkpoint)),
        commit=git_commit(),
        device=device_name(next(runner.model.parameters()).device),
        precision="fp32",
    )


def prepare(task: str, args: Any) -> Config:
    """The config with the common options applied."""
    config = load_mm_config(args.config, args.cfg_options)
    check_config(config, task)
    if args.data_root:
        if not Path(args.data_root).is_dir():
            raise UserError(f"--data-root {args.data_root}: no such folder")
        set_data_root(config, args.data_root)
    else:
        set_annotation_files(config)
    set_work_dir(config, args.config, args.work_dir)
    set_device(config, args.launcher)
    set_neck_levels(config)
    if config.launcher != "none" and not torch.cuda.is_available():
        start_cpu_group(config.launcher)
    return config


def build_runner(config: Config) -> Runner:
    """The library's runner; what the config gets wrong in naming or arguments is a :class:`UserError`."""
    try:
        return RUNNERS.build(config) if "runner_type" in config else Runner.from_cfg(config)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"config {config.filename}: {error.args[0] if error.args else error}") from error


def use_faster_coco_eval() -> None:
    """Let faster-coco-eval take the place of pycocotools; must come before mmdet is imported."""
    import faster_coco_eval

    if any(name == "mmdet" or name.startswith("mmdet.") for name in sys.modules):
        raise RuntimeError("mmdet has been imported with pycocotools already")
    faster_coco_eval.init_as_pycocotools()


def _set_resume(config: Config, resume: str | None) -> dict[str, Any]:
    """The meta data of the checkpoint that the run goes on from; empty for a new run, which wants an unused folder."""
    if resume is None and config.get("resume"):  # the library's own way to say it
        resume = config.get("load_from") or "auto"
    if resume is None:
        if any(Path(config.work_dir, name).exists() for name in ("last_checkpoint", RunFolder.RESULT)):
            raise UserError(
                f"--work-dir {config.work_dir}: holds a run already; go on with --resume, or give another folder"
            )
        return {}
    last = find_latest_checkpoint(config.work_dir) if resume == "auto" else resume
    config.resume = last is not None
    if last is None:  # nothing to go on from yet: the run begins as its config says
        return {}
    check_checkpoint(last)
    config.load_from = last
    return read_checkpoint(last).get("meta") or {}  # refuses what the library would open unsafely


def _seed(config: Config, wanted: int | None, resumed: dict[str, Any]) -> int:
    """The option, else the config's, else 0; a resumed run keeps its own."""
    if wanted is None:
        wanted = (config.get("randomness") or {}).get("seed")
    kept = resumed.get("seed")
    if kept is not None and wanted not in (None, kept):
        raise UserError(f"--seed {wanted}: the run that goes on was begun with seed {kept}")
    return int(wanted or 0 if kept is None else kept)


def _check_resumed_classes(config: Config, resumed: dict[str, Any]) -> None:
    for dataset in datasets(config, "train"):
        check_class_names(resumed, dataset, config.default_scope, f"--resume {config.load_from}")


def _start_hooks(config: Config) -> list[dict[str, Any]]:
    """Weights of a whole model to start from, by our reader instead of the library's, which leaves out what differs."""
    path = config.get("load_from")
    if not path or config.get("resume"):
        return []
    if not isinstance(path, str):
        raise UserError(f"config {config.filename}: load_from: {path!r} is not the path of one file")
    check_checkpoint(path)
    config.load_from = None
    return [{"type": "StartHook", "path": path}]


def _set_pretrained(config: Config, pretrained: str | None) -> None:
    """Weights of the backbone: fetched or checked to exist now, not after minutes. A resumed run has its own."""
    backbone = config.model.backbone
    if pretrained == "none" or (config.get("resume") and config.get("load_from")):
        backbone.init_cfg = None
    elif pretrained:
        backbone.init_cfg = {"type": "Pretrained", "checkpoint": pretrained}
    checkpoint = start_file(backbone.get("init_cfg"))
    if checkpoint and not weights_file(checkpoint).is_file():
        raise UserError(
            f"model.backbone.init_cfg.checkpoint {checkpoint}: no such file; give the weights of the classifier with "
            "--pretrained FILE, released ones by the model's name, or train from scratch with --pretrained none"
        )


def start_cpu_group(launcher: str) -> None:
    """Join the processes over gloo; the library would ask for a GPU first."""
    if launcher == "slurm":
        if "MASTER_ADDR" not in os.environ:
            nodes = subprocess.run(
                ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            os.environ["MASTER_ADDR"] = nodes.stdout.split()[0]
        os.environ.setdefault("MASTER_PORT", "29500")
        names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
        os.environ.update({name: os.environ[source] for name, source in names.items()})
    torch.distributed.init_process_group("gloo")


def leave_group(runner: Runner) -> None:
    """Leave the process group, if there is one, before Python ends; the library does not.

    A thread of gloo that still gives back what Python lent it would abort the process ("terminate called without an
    active exception"). The distributed wrapper goes first: as the last owner of the group it could wait for that thread
    for ever, as it holds the lock that the thread needs.
    """
    if torch.distributed.is_initialized():
        if is_model_wrapper(runner.model):
            runner.model = runner.model.module
        gc.collect()
        torch.distributed.destroy_process_group()

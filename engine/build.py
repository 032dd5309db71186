"""Build everything that a run needs from its config, in the order that checks the user's input first."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from data import EvalLoader, TrainLoader, build_eval_loader, build_train_loader
from data.classes import imagenet_classes, shown_names, without_images
from data.readers import class_names
from engine.batchnorm import BatchNormStats, synchronise
from engine.config import Config, check_batch
from engine.distributed import World
from engine.freeze import train_mode
from engine.optim import build_optimizer, build_schedule
from engine.state import Progress, TrainState
from engine.step import autocast, laid_out
from engine.weights import head_by_name, read_classes
from models.checkpoint import load_pretrained, read_for
from models.config import build_model, pretrained_file
from models.errors import UserError
from models.layers import keep_kernel_response

LOG = logging.getLogger(__name__)


@contextmanager
def user_input(what: str) -> Iterator[None]:
    """Turn the errors of what the user chose into a UserError that begins with ``what``."""
    try:
        yield
    except (ValueError, KeyError, FileNotFoundError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise UserError(f"{what}: {' '.join(str(text).split())}") from error


def prepare_torch(config: Config) -> None:
    """Threads, deterministic kernels, and float32 that is float32, for the whole process."""
    torch.backends.cudnn.allow_tf32 = False  # torch's default keeps 10 bits of a convolution's factors, of no product's
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    elif torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True


def with_num_classes(config: Config, named: list[str] | None = None) -> Config:
    """The config with a number in ``model.num_classes``; null takes that of ``named``, or else of the training data.

    Raises:
        UserError: the training data cannot be read.
    """
    if config.model.num_classes is not None:
        return config
    if named is None:
        with user_input("data"):
            named = class_names(config.data, "train")
    model = config.model.model_copy(update={"num_classes": len(named)})
    return config.model_copy(update={"model": model})


def plain_model(config: Config) -> nn.Module:
    """The model with fresh weights, the same on every rank.

    Raises:
        UserError: the model section asks for what the model cannot be.
    """
    torch.manual_seed(config.train.seed)
    with user_input("model"):
        return build_model(config.model)


def initial_file(config: Config) -> tuple[str, Path] | None:
    """The key of the config that says which weights to start from, and their file, fetched if they are released ones.

    Raises:
        UserError: there is no such file, or two keys say so.
    """
    path = config.train.init_checkpoint
    if not config.model.pretrained:
        return None if path is None else ("train.init_checkpoint", path)
    if path is not None:
        raise UserError(f"model.pretrained: true, but train.init_checkpoint has {path} to start from; give one of them")
    with user_input("model.pretrained"):
        found = pretrained_file(config.model)
    assert found is not None
    return "model.pretrained", found


def load_initial(model: nn.Module, config: Config, classes: list[str]) -> list[str]:
    """Load the weights to start from into the model, if there are some (Table 5: 384 from 224).

    The classifier's rows are taken by the names of ``classes``, the training data's, where the weights name theirs;
    those of released weights are ImageNet's, where any class of the data has such a name.

    Returns:
        Lines that say what was resized and what starts anew.

    Raises:
        UserError: the file cannot be read or does not fit, or as :func:`initial_file`.
    """
    found = initial_file(config)
    if found is None:
        return []
    key, path = found
    kept = keep_kernel_response() if config.train.keep_kernel_response else nullcontext()
    with user_input(key), kept:
        names = read_classes(path)
        if config.model.pretrained and not set(classes).isdisjoint(imagenet_classes()):
            names = imagenet_classes()
        state, lines = head_by_name(model, read_for(model, path), names, classes)
        report = load_pretrained(model, state)
    return [f"weights start from {path}", *lines, *report.lines()]


def build_loaders(config: Config, world: World) -> tuple[TrainLoader, EvalLoader]:
    """The loaders of this rank.

    Raises:
        UserError: the data cannot be read, or its classes are not those of the model.
    """
    batch_size = check_batch(config, world.size)
    with user_input("data"):
        train = build_train_loader(
            config.data,
            img_size=config.model.img_size,
            batch_size=batch_size,
            rank=world.rank,
            world_size=world.size,
            seed=config.train.seed,
            device=world.device,
        )
    given, there = config.model.num_classes, train.num_classes
    if given != there and not (train.records.numbered and given > there):  # numbers may end before the classes do
        raise UserError(
            f"model.num_classes: {given} is {'below' if given < there else 'above'} the {there} classes of "
            f"{train.dataset_name}; the nearest valid is {there}"
        )
    _say_empty(without_images(train.records), train)
    _say_turned(train, config, world)
    train.classes = train.classes + [str(number) for number in range(there, given)]
    if len(train) < config.train.accumulation:
        raise UserError(
            f"train.batch_size: {config.train.batch_size} is above the {train.num_images} training images of "
            f"{train.dataset_name}; an epoch has no step"
        )
    return train, build_evaluation_loader(config, world, train.classes)


def build_evaluation_loader(config: Config, world: World, classes: list[str] | None) -> EvalLoader:
    """The evaluation loader of this rank; says which classes have no images.

    Args:
        classes: the names of the model's outputs, where its weights or training data have some.

    Raises:
        UserError: the data cannot be read, or have classes that are none of the model's.
    """
    with user_input("data"):
        loader = build_eval_loader(
            config.data,
            img_size=config.model.img_size,
            batch_size=config.eval.batch_size,
            rank=world.rank,
            world_size=world.size,
            outputs=classes,
            num_outputs=config.model.num_classes,
            images=config.eval.images,
            device=world.device,
        )
    _say_turned(loader, config, world)
    _say_empty(loader.empty_classes, loader)
    return loader


def _say_empty(classes: list[str], loader: TrainLoader | EvalLoader) -> None:
    if classes:
        LOG.warning(
            "WARNING: %d of %d classes have no %simages in %s: %s",
            *(len(classes), loader.num_classes, "training " if isinstance(loader, TrainLoader) else ""),
            *(loader.dataset_name, shown_names(classes)),
        )


def _say_turned(loader: TrainLoader | EvalLoader, config: Config, world: World) -> None:
    """Pictures of cameras lie on their side in a protocol that does not look at their EXIF."""
    if config.data.exif or not world.is_main:
        return
    turned, looked_at = loader.turned()
    if turned > looked_at / 100:
        LOG.warning(
            "WARNING: %d of %d pictures looked at in %s carry a turn in their EXIF, which ImageNet's protocol does "
            "not look at; data.exif=true turns them",
            *(turned, looked_at, loader.dataset_name),
        )


def place(model: nn.Module, config: Config, world: World) -> nn.Module:
    """The model on this rank's device, in the memory layout of the config."""
    model = model.to(world.device)
    return model.to(memory_format=torch.channels_last) if config.train.channels_last else model  # type: ignore[call-overload]


def build_state(model: nn.Module, config: Config, world: World, steps_per_epoch: int) -> TrainState:
    """Everything that trains ``model``, at step 0. The network is not yet distributed: see :func:`distribute`."""
    train = config.train
    if train.sync_bn and world.size > 1:
        model = synchronise(model, world.device)
    model = place(model, config, world)
    train_mode(model)
    optimizer = build_optimizer(model, train)
    decay = train.ema_decay
    return TrainState(
        model=model,
        network=model,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, train, steps_per_epoch),
        scaler=torch.amp.GradScaler(world.device.type, enabled=train.precision == "fp16"),
        ema=None if decay is None else ModelEmaV3(model, decay=decay, use_warmup=train.ema_warmup),
        statistics=BatchNormStats(model),
        progress=Progress(),
    )


def distribute(state: TrainState, config: Config, world: World) -> None:
    """Let gradients be averaged over the ranks, and compile, as the config says."""
    if world.size > 1:
        state.network = DistributedDataParallel(
            state.model,
            device_ids=[world.device] if world.device.type == "cuda" else None,
            broadcast_buffers=False,  # running statistics are averaged after each step instead
            gradient_as_bucket_view=True,
        )
    if config.train.compile:
        state.network.compile()
    if world.size > 1:
        _settle_buckets(state, config, world)


def _settle_buckets(state: TrainState, config: Config, world: World) -> None:
    """One forward and backward pass that leaves no trace.

    DistributedDataParallel arranges its gradients anew after the first backward pass, and with more than two ranks the
    arrangement decides in which order the ranks' gradients are added. Without this pass the first step after a restart
    would round differently from the same step of a run that was not interrupted.
    """
    size = config.model.img_size
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.zeros(check_batch(config, world.size), config.model.in_chans, height, width, device=world.device)
    images = laid_out(images, config.train)
    state.statistics.snapshot()
    torch.manual_seed(config.train.seed)
    with autocast(config.train.precision, world):
        state.network(images).float().sum().backward()
    state.optimizer.zero_grad(set_to_none=True)
    state.statistics.restore()

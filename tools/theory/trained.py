"""Trained models for the page: run folders that exist, else nano models trained here for a few epochs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from data import build_eval_loader
from data.decode import open_image
from data.errors import DataError
from data.transforms import EvalTransform, channel_values
from engine.config import Config, ConfigError, load_config
from engine.trainer import train
from models import build_model
from models.checkpoint import CheckpointError, convert_state, load_pretrained, read_weights
from models.mixers.base import Mixer

FAMILIES = ("swin", "dw_conv", "d_dw_conv", "i_dynamic")
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Trained:
    """A model with its weights, and where they come from."""

    name: str
    config: Config
    model: nn.Module
    folder: Path

    def mixers(self) -> list[Mixer]:
        """The mixer of the first block of each stage."""
        return [stage.blocks[0].mixer for stage in self.model.stages]  # type: ignore[union-attr]


def default_folders(output: Path, epochs: int) -> list[Path]:
    """Run folders of the four nano models: the quickstart's where it has run, else trained under ``output``."""
    folders = []
    for family in FAMILIES:
        name = f"{family}_nano"
        quickstart = ROOT / "runs" / "quickstart" / name
        folder = quickstart if (quickstart / "best.safetensors").exists() else output / name
        if folder != quickstart:
            overrides = [f"train.epochs={epochs}", "train.tensorboard=false", f"output={folder}"]
            train(load_config(ROOT / "configs" / "quickstart" / f"{name}.yaml", overrides))
        folders.append(folder)
    return folders


def load_trained(folder: Path) -> Trained:
    """The model of a run folder with its best weights.

    Raises:
        ConfigError, CheckpointError: the folder is not a run's, or its model has no stages of mixers.
    """
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder}: not a run folder, it holds no config.yaml")
    config = load_config(folder / "config.yaml", world_size=1)
    model = build_model(config.model).eval()
    load_pretrained(model, convert_state(read_weights(folder / "best.safetensors")))
    first = getattr(model, "stages", None)
    if first is None or not isinstance(getattr(first[0].blocks[0], "mixer", None), Mixer):  # type: ignore[index]
        raise CheckpointError(f"{folder}: {config.model.name} has no stages of token mixers")
    return Trained(config.model.name.removesuffix("_nano"), config, model, folder)


def mixer_inputs(trained: Trained, image: Tensor) -> list[Tensor]:
    """What the mixer of the first block of each stage sees for an image (1, C, H, W): (1, H, W, C) each."""
    seen: dict[int, Tensor] = {}

    def remember(index: int):
        return lambda module, inputs: seen.__setitem__(index, inputs[0].detach())

    handles = [mixer.register_forward_pre_hook(remember(i)) for i, mixer in enumerate(trained.mixers())]
    try:
        with torch.no_grad():
            trained.model(image)
    finally:
        for handle in handles:
            handle.remove()
    return [seen[index] for index in range(len(seen))]


def two_images(config: Config, files: Sequence[Path]) -> list[Tensor]:
    """Normalised images (1, C, H, W): the given files, else the first of two classes of the validation set."""
    if files:
        return [_read_image(config, path) for path in files]
    first: Tensor | None = None
    for batch in build_eval_loader(config.data, img_size=config.model.img_size, batch_size=50):
        for image, target in zip(batch.images, batch.targets.tolist(), strict=True):
            if first is None:
                first, label = image[None].clone(), target
            elif target != label:
                return [first, image[None].clone()]
    raise DataError("the validation set has images of one class only; give two with --image")


def _read_image(config: Config, path: Path) -> Tensor:
    try:
        encoded = open_image(path.read_bytes(), str(path), config.data.max_pixels)
    except OSError as error:
        raise DataError(f"{path}: not a readable image ({error.strerror})") from None
    sample = EvalTransform(config.data, config.model.img_size)(encoded)
    pixels = torch.from_numpy(sample.pixels.copy()).float() / 255
    mean, std = (
        torch.tensor(channel_values(values, len(pixels)))[:, None, None]
        for values in (config.data.mean, config.data.std)
    )
    return ((pixels - mean) / std)[None]

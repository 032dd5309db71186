"""Learned weights of trained models, side by side."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data import build_eval_loader
from data.decode import open_image, upright
from data.transforms import EvalTransform, channel_values, pair
from engine.config import Config, load_config
from engine.records import read_run
from engine.run import train
from models import build_model
from models.checkpoint import load_pretrained, read_for
from models.errors import UserError
from models.mixers.base import Mixer
from models.theory.windows import Window, window_of
from models.zoo import FAMILIES
from tools.plot import run_labels
from tools.theory.draw import colored, enlarged, png

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Trained:
    """A model with its weights, and where they come from."""

    config: Config
    model: nn.Module
    folder: Path
    label: str = ""
    """What tells it from the others that it is shown with (:func:`load_all`)."""

    @property
    def name(self) -> str:
        """The label as a part of a file's name; of one of the four operators its family."""
        family = self.family
        return family if family and self.label == LABELS[family] else re.sub(r"[^a-z0-9]+", "_", self.label.lower())

    @property
    def family(self) -> str | None:
        """Which of the four operators its own mixer is, None where the config has another or other options."""
        found = self.config.model.name.rpartition("_")[0]
        changed = self.config.model.mixer is not None or bool(self.config.model.mixer_args)
        return found if found in LABELS and not changed else None

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
        UserError: the folder is not a run's, or its model has no two stages of mixers.
    """
    run = read_run(folder)
    config = load_config(folder / "config.yaml", world_size=1)
    model = build_model(config.model).eval()
    load_pretrained(model, read_for(model, run.best))
    first = getattr(model, "stages", None)
    if first is None or not isinstance(getattr(first[0].blocks[0], "mixer", None), Mixer):
        raise UserError(f"{folder}: {config.model.name} has no stages of token mixers")
    if len(first) < 2:
        raise UserError(f"{folder}: {config.model.name} has one stage; the page also shows the second")
    return Trained(config, model, folder)


def load_all(folders: Sequence[Path]) -> list[Trained]:
    """The models of some run folders, each with a label of its own: the operator's, else what its path has for itself.

    Raises:
        UserError: as :func:`load_trained`, or the models do not look at the same images.
    """
    models, paths = [load_trained(folder) for folder in folders], run_labels(list(folders))
    for trained in models[1:]:
        for key, first, other in zip(SIGHT, _sight(models[0].config), _sight(trained.config), strict=True):
            if first != other:
                raise UserError(
                    f"{trained.folder}: its {key} is {other}, that of {models[0].folder} is {first}; "
                    "runs are shown side by side on images of one kind"
                )
    families = [trained.family for trained in models]
    for trained, path in zip(models, paths, strict=True):
        alone = trained.family is not None and families.count(trained.family) == 1
        trained.label = LABELS[trained.family] if alone and trained.family else path
    return models


SIGHT = ("model.img_size", "data.channels", "data.mean", "data.std")


def _sight(config: Config) -> tuple[object, ...]:
    """What an image is made into before a model sees it, in the order of :data:`SIGHT`."""
    data = config.data
    means, deviations = (channel_values(values, data.channels) for values in (data.mean, data.std))
    return pair(config.model.img_size), data.channels, means, deviations


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
    raise UserError("the validation set has images of one class only; give two with --image")


def _read_image(config: Config, path: Path) -> Tensor:
    try:
        encoded = open_image(path.read_bytes(), str(path), config.data.max_pixels)
    except OSError as error:
        raise UserError(f"{path}: not a readable image ({error.strerror})") from None
    encoded = upright(encoded) if config.data.exif else encoded
    sample = EvalTransform(config.data, config.model.img_size)(encoded)
    pixels = torch.from_numpy(sample.pixels.copy()).float() / 255
    mean, std = (
        torch.tensor(channel_values(values, len(pixels)))[:, None, None]
        for values in (config.data.mean, config.data.std)
    )
    return ((pixels - mean) / std)[None]


MARK = np.array([0, 190, 60], dtype=np.uint8)
PLACES = ("brightest", "edge", "darkest")
LABELS = {
    "swin": "Local attention (Swin)",
    "dw_conv": "DW-Conv.",
    "d_dw_conv": "D-DW-Conv.",
    "i_dynamic": "I-Dynamic",
}


@dataclass(frozen=True)
class PictureRow:
    """One operator: its label and a picture for each column."""

    label: str
    pictures: list[bytes]


@dataclass(frozen=True)
class Sheet:
    """A table of pictures."""

    columns: list[str]
    rows: list[PictureRow]


def picture_of(window: Window, limit: float, *, pixels: int = 84) -> bytes:
    """A window of weights, ``limit`` the strongest colour, the place of the output marked by a dot."""
    factor = max(1, pixels // len(window.weights))
    shades = enlarged(colored(window.weights, limit=limit), factor)
    row, column = (int((index + 0.5) * factor) for index in window.centre)
    dot = max(1, factor // 6)
    shades[row - dot : row + dot + 1, column - dot : column + dot + 1] = MARK
    return png(shades)


def _row(trained: Trained, windows: list[Window]) -> PictureRow:
    """One scale of colours for all windows of an operator, so that they can be compared."""
    limit = max(float(window.weights.abs().max()) for window in windows)
    return PictureRow(trained.label, [picture_of(window, limit) for window in windows])


def places_of_interest(image: Tensor, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Places of a map over an image (1, C, H, W): the brightest, the strongest edge, the darkest, not at the border."""
    light = F.adaptive_avg_pool2d(image.mean(1, keepdim=True), size)[0, 0]
    down, across = torch.gradient(light)
    border = torch.ones(size, dtype=torch.bool)
    border[size[0] // 6 : size[0] - size[0] // 6, size[1] // 6 : size[1] - size[1] // 6] = False
    return [
        divmod(int(score.masked_fill(border, float("-inf")).argmax()), size[1])
        for score in (light, down.square() + across.square(), -light)
    ]


def over_positions(models: list[Trained], image: Tensor) -> Sheet:
    """The first block: one channel at the places of interest of one image."""
    rows = []
    for trained in models:
        x = mixer_inputs(trained, image)[0]
        places = places_of_interest(image, (x.shape[1], x.shape[2]))
        rows.append(_row(trained, [window_of(trained.mixers()[0], x, place, 0) for place in places]))
    return Sheet(list(PLACES), rows)


def over_channels(models: list[Trained], image: Tensor) -> Sheet:
    """The second stage: one position of one image, for neighbouring channels and one of the second half."""
    rows = []
    for trained in models:
        x = mixer_inputs(trained, image)[1]
        place = (x.shape[1] // 2, x.shape[2] // 2)
        channels = (0, 1, 2, x.shape[-1] // 2)
        rows.append(_row(trained, [window_of(trained.mixers()[1], x, place, channel) for channel in channels]))
    return Sheet([f"channel {c}" for c in ("0", "1", "2", "C/2")], rows)


def shown_image(image: Tensor, size: tuple[int, int]) -> bytes:
    """The image with the places of interest of the first stage's map marked."""
    grey = image[0].mean(0)
    grey = (grey - grey.min()) / (grey.max() - grey.min() + 1e-9)
    factor = max(1, 168 // len(grey))
    pixels = enlarged((grey.numpy()[..., None] * 255).astype(np.uint8).repeat(3, -1), factor)
    for row, column in places_of_interest(image, size):
        top, left = int((row + 0.5) * pixels.shape[0] / size[0]), int((column + 0.5) * pixels.shape[1] / size[1])
        pixels[top - 4 : top + 5, left - 4 : left + 5] = MARK
    return png(pixels)

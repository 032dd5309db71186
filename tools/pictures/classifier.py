"""A classifier as a function from an image to its likeliest classes."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from timm.data import ImageNetInfo

from data.classes import imagenet_classes, load_classes
from data.decode import Encoded
from data.transforms import EvalTransform, channel_values
from engine.build import with_num_classes
from engine.config import load_config
from engine.weights import read_classes
from models import build_model
from models.checkpoint import load_pretrained, read_for
from models.errors import UserError
from models.zoo import weights_file
from tools.pictures.draw import Classes


class Classifier:
    """The model of a YAML config with the weights of a checkpoint.

    Args:
        checkpoint: a file, or the name of a model, for its released weights, whose classes are ImageNet's.
        classes: what names the outputs where the weights do not: "imagenet" or a file with a name a line.

    Raises:
        UserError: the file is named.
    """

    def __init__(self, config: str, checkpoint: str, classes: str | None = None, *, best: int = 5) -> None:
        file = str(weights_file(checkpoint))
        if file != checkpoint:
            checkpoint, classes = file, classes or "imagenet"
        settings = with_num_classes(load_config(Path(config), []), read_classes(Path(checkpoint)))
        self.data, self.best = settings.data, best
        self.model = build_model(settings.model).eval()
        report = load_pretrained(self.model, read_for(self.model, checkpoint))
        if report.replaced_head:
            raise UserError(f"{checkpoint}: {report.replaced_head}")
        self.transform = EvalTransform(self.data, settings.model.img_size)
        self.names = class_names(checkpoint, classes, settings.model.num_classes)

    def __call__(self, image: Image.Image) -> Classes:
        """The likeliest classes of an image of any size."""
        sample = self.transform(Encoded("image", image.size, opened=image))
        pixels = torch.from_numpy(sample.pixels.copy()).float() / 255
        mean, std = (
            torch.tensor(channel_values(values, len(pixels)))[:, None, None]
            for values in (self.data.mean, self.data.std)
        )
        with torch.no_grad():
            probabilities = self.model(((pixels - mean) / std)[None]).softmax(-1)[0]
        values, indices = probabilities.topk(min(self.best, len(self.names)))
        return Classes([(self.names[i], float(v)) for v, i in zip(values, indices.tolist(), strict=True)])


def class_names(checkpoint: str, classes: str | None, count: int) -> list[str]:
    """Names of ``count`` classes: those in the weights, else those of a list, else numbers. Synsets are put in words.

    Raises:
        UserError: the list has another number of names.
    """
    names = read_classes(Path(checkpoint)) or (load_classes(classes).names if classes else None)
    if names is None:
        return [f"class {index}" for index in range(count)]
    if len(names) != count:
        raise UserError(f"--classes {classes}: {len(names)} names, {checkpoint} has {count} classes")
    return in_words(names)


def in_words(names: Sequence[str]) -> list[str]:
    """The names of classes, ImageNet's synsets in words."""
    if list(names) != imagenet_classes():
        return list(names)
    about = ImageNetInfo()  # reads its files: once, not a thousand times
    return [about.index_to_description(index) for index in range(len(names))]

"""A trained classifier as a function from an image to its most likely classes."""

from pathlib import Path

import torch
from PIL import Image
from timm.data import ImageNetInfo

from data.config import DataConfig
from data.decode import Encoded
from data.errors import DataError
from data.readers import open_reader
from data.transforms import EvalTransform, channel_values
from engine.config import load_config
from models import build_model
from models.checkpoint import CheckpointError, convert_state, load_pretrained, read_weights
from tools.pictures.predictions import Classes


class Classifier:
    """The model of a YAML config with the weights of a checkpoint.

    Raises:
        ConfigError, CheckpointError: the file is named.
    """

    def __init__(self, config: str, checkpoint: str, *, best: int = 5) -> None:
        settings = load_config(Path(config), [])
        self.data, self.best = settings.data, best
        self.model = build_model(settings.model).eval()
        report = load_pretrained(self.model, convert_state(read_weights(checkpoint)))
        if report.replaced_head:
            raise CheckpointError(f"{checkpoint}: {report.replaced_head}")
        self.transform = EvalTransform(self.data, settings.model.img_size)
        self.names = class_names(self.data, settings.model.num_classes)

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


def class_names(data: DataConfig, count: int) -> list[str]:
    """Names of ``count`` classes: ImageNet's descriptions, the data set's folders, else numbers."""
    if count == 1000:
        return [ImageNetInfo().index_to_description(index) for index in range(count)]
    try:
        names = [str(name) for name in open_reader(data, "val").records.classes]
    except DataError:
        names = []
    return names if len(names) == count else [f"class {index}" for index in range(count)]

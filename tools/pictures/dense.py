"""Detector and segmentor as functions from an image to what was found."""

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from PIL import Image
from torch import nn

from engine.dense import checks
from engine.dense.arguments import datasets, load_mm_config
from engine.dense.weights import load_model
from models.errors import UserError
from tools.pictures.draw import Found, Labels, Objects


def load_dense(config: str, checkpoint: str, *, threshold: float = 0.3) -> "Detector | Segmentor":
    """The model of a detection or segmentation config with the weights of a checkpoint.

    Raises:
        UserError: the file is named.
    """
    settings = load_mm_config(config, {})
    settings.model.backbone.pop("init_cfg", None)
    if settings.get("default_scope") == "mmdet":
        return Detector(settings, checkpoint, threshold)
    if settings.get("default_scope") == "mmseg":
        return Segmentor(settings, checkpoint)
    raise UserError(f"config {config}: is neither for detection nor for segmentation")


class Detector:
    """Objects above ``threshold`` in an image."""

    def __init__(self, config: Config, checkpoint: str, threshold: float) -> None:
        from mmdet.apis import inference_detector

        self.threshold, self._infer = threshold, inference_detector
        self.model = _build(config)
        self.names = _class_names(load_model(self.model, checkpoint), config)

    def __call__(self, image: Image.Image) -> Objects:
        """The objects in an image of any size, the surest first."""
        with DefaultScope.overwrite_default_scope("mmdet"):
            result = self._infer(self.model, _bgr(image)).pred_instances.cpu().numpy()
        masks = result.get("masks")
        found = [
            Found(
                name=self.names[int(result.labels[i])],
                index=int(result.labels[i]),
                score=float(result.scores[i]),
                box=tuple(float(value) for value in result.bboxes[i]),  # type: ignore[arg-type]
                mask=None if masks is None else np.asarray(masks[i], bool),
            )
            for i in np.argsort(-result.scores)
            if result.scores[i] >= self.threshold
        ]
        return Objects(found)


class Segmentor:
    """The class of each pixel of an image."""

    def __init__(self, config: Config, checkpoint: str) -> None:
        from mmseg.apis import inference_model

        self._infer = inference_model
        # The library reads this key, which the base configs fill for ADE20K: images would be scaled to its size.
        config.test_pipeline = next(datasets(config, "test")).pipeline
        self.model = _build(config)
        self.names = _class_names(load_model(self.model, checkpoint), config)

    def __call__(self, image: Image.Image) -> Labels:
        """The labels of an image of any size, at its own size."""
        with DefaultScope.overwrite_default_scope("mmseg"):
            result = self._infer(self.model, _bgr(image)).pred_sem_seg.data.cpu().numpy()
        return Labels(result[0].astype(np.int64), self.names)


def _class_names(meta: dict, config: Config) -> list[str]:
    """The names that the checkpoint was trained with, else those of the config's test set."""
    return checks.trained_classes(meta) or checks.class_names(next(datasets(config, "test")), config.default_scope)


def _build(config: Config) -> nn.Module:
    """The model on the GPU where there is one, ready for the library's inference function."""
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build({**config.model, "_scope_": config.default_scope})
    model = revert_sync_batchnorm(model).to("cuda:0" if torch.cuda.is_available() else "cpu").eval()
    model.cfg = config
    return model


def _bgr(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])

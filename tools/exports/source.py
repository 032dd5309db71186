"""What leaves the project: a classifier with its weights, and how its pictures are prepared."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from data.classes import load_classes
from data.config import IMAGENET_MEAN, IMAGENET_STD, DataConfig
from data.transforms import EvalTransform, channel_values
from engine.config import load_config
from engine.weights import read_about
from models import ModelConfig, build_model, create_model, list_models
from models.checkpoint import State, convert_state, load_pretrained, read_weights
from models.errors import UserError, hint
from models.mixers.base import Mixer

WEIGHTS = ("best.safetensors", "last.safetensors")  # of a run, the first that is there


@dataclass(frozen=True)
class Source:
    """A classifier in evaluation mode, not fused, with what its pictures need."""

    name: str
    """Of the model, as `models.create_model` or `timm.create_model` knows it."""
    title: str
    """Of the export: the model's name or the run folder's."""
    model: nn.Module
    size: tuple[int, int]
    """Height and width in pixels."""
    channels: int
    preparation: dict[str, Any]
    """mean, std, crop_pct, crop_mode (timm's words) and interpolation."""
    classes: list[str] | None
    """Names in the order of the outputs; None where nothing names them."""
    notes: list[str]
    """What loading the weights changed in them."""

    @property
    def any_size(self) -> bool:
        """Whether a graph recorded at one input size is right at others, as the operators declare."""
        mixers = [module for module in self.model.modules() if isinstance(module, Mixer)]
        return bool(mixers) and all(mixer.exports_any_size for mixer in mixers)


def read_source(name_or_run: str, weights: Path | None, size: int | None, classes: str | None) -> Source:
    """The model that the command line names.

    Args:
        name_or_run: a model of the zoo, or the folder of a training run.
        weights: file in place of the run's own; a name without it asks for released weights.
        size: side of the pictures in pixels, where it is not the run's or the model's own.
        classes: "imagenet" or a file with a name a line, where the weights have no names.

    Raises:
        UserError: no such model or run, or its weights are not those of the model.
    """
    folder = Path(name_or_run)
    if folder.is_dir():
        return _from_run(folder, weights, size, classes)
    if name_or_run not in list_models():
        raise UserError(f"{name_or_run}: neither the folder of a run nor a model; {hint(name_or_run, list_models())}")
    if weights is None:
        model = create_model(name_or_run, pretrained=True, **({"img_size": size} if size else {}))
        names = _names(None, classes or "imagenet", model)  # which all released classifiers know
        return _source(name_or_run, name_or_run, model, [], size, DataConfig(), names)
    state, about = convert_state(read_weights(weights)), read_about(weights)
    config = _config_of(name_or_run, state, about, weights, size)
    return _loaded(config, name_or_run, weights, state, _usual_preparation(config.in_chans), classes)


def _usual_preparation(channels: Literal[1, 3]) -> DataConfig:
    """ImageNet's, for weights that do not say theirs; for grey pictures with the mean of its three statistics."""
    if channels != 1:
        return DataConfig(channels=channels)
    mean, std = (sum(values) / len(values) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return DataConfig(channels=1, mean=(mean,), std=(std,))


def _from_run(folder: Path, weights: Path | None, size: int | None, classes: str | None) -> Source:
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder}: holds no config.yaml, which the run of a classifier has")
    config = load_config(folder / "config.yaml", [f"model.img_size={size}"] if size else [], world_size=1)
    found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if weights is None and not found:
        raise UserError(f"{folder}: holds neither {' nor '.join(WEIGHTS)}; name a file with --weights")
    weights = weights or found[0]
    state = convert_state(read_weights(weights))
    return _loaded(config.model, folder.resolve().name, weights, state, config.data, classes)


def _config_of(name: str, state: State, about: dict[str, Any], weights: Path, size: int | None) -> Any:
    """The model that a weight file was trained as, or, in files of others, the named one with as many classes."""
    kept = about.get("model")
    if kept is not None and kept["name"] != name:
        raise UserError(f"{weights}: this file is of {kept['name']}, not of {name}")
    given = dict(kept) if kept is not None else {"name": name, **_widths(state)}
    return ModelConfig.model_validate(given | ({"img_size": size} if size else {}))


def _widths(state: State) -> dict[str, int]:
    """Classes and channels of the pictures, as the shapes in a file tell them."""
    found = {"num_classes": ("head.weight", 0), "in_chans": ("patch_embed.proj.weight", 1)}
    return {key: state[name].shape[axis] for key, (name, axis) in found.items() if name in state}


def _loaded(config: Any, title: str, weights: Path, state: State, data: DataConfig, classes: str | None) -> Source:
    model = build_model(config)
    try:
        report = load_pretrained(model, state)
    except UserError as error:
        raise UserError(f"{weights}: {error}") from None
    if report.replaced_head:
        raise UserError(f"{weights}: {report.replaced_head}")
    names = _names(read_about(weights).get("classes"), classes, model)
    return _source(config.name.removeprefix("timm:"), title, model, report.lines(), config.img_size, data, names)


def _names(kept: Sequence[str] | None, classes: str | None, model: Any) -> list[str] | None:
    names = list(kept) if kept else load_classes(classes).names if classes else None
    if names is not None and len(names) != model.num_classes:
        raise UserError(f"--classes {classes}: {len(names)} names, the model has {model.num_classes} classes")
    return names


def _source(
    name: str, title: str, model: Any, notes: list[str], size: Any, data: DataConfig, classes: list[str] | None
) -> Source:
    transform = EvalTransform(data, size or model.pretrained_cfg["input_size"][1:])
    channels = getattr(model, "in_chans", data.channels)
    preparation = {
        "mean": list(channel_values(data.mean, channels)),
        "std": list(channel_values(data.std, channels)),
        "interpolation": data.interpolation,
        # timm has no word for "cut or pad": its centre crop does the same to pictures of the right size.
        "crop_mode": "squash" if transform.mode == "squash" else "center",
        "crop_pct": data.crop_pct if transform.mode == "center" else 1.0,
    }
    return Source(name, title, model.eval(), transform.size, channels, preparation, classes, notes)

"""Reading weights, converting other people's names, and loading them into a model of another size or class count."""

import re
import warnings
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from .errors import UserError
from .layers import without_window
from .mixers import list_mixers, mixer_class
from .recognise import describe, foreign_model
from .timm_protocol import TimmProtocol

State = dict[str, Tensor]


# What checkpoints hold beside tensors: numbers of logs under numpy's names of today and of 2021, and the settings in
# which Swin's training script, and so the authors', keeps its config (a dictionary, yacs' CfgNode). Nothing of it runs.
PLAIN: list[Any] = [np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar]
PLAIN += [(multiarray.scalar, "numpy.core.multiarray.scalar"), (OrderedDict, "yacs.config.CfgNode")]
PLAIN += [type(np.dtype(kind)) for kind in (np.uint32, np.float32, np.float64, np.int64)]


def read_weights(path: str | Path) -> State:
    """The weights in a ``.safetensors`` file or a pickled checkpoint, under the names in the file.

    Pickles are opened with ``weights_only=True`` and nothing else. Weights under ``model`` or ``state_dict`` are
    unwrapped; where keys have the prefix ``backbone.`` (a detector, a segmentor) or ``model.``, only those are taken.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except Exception as error:  # an unpickler of bytes that are no pickle ends in any of them
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: cannot be read as weights ({type(error).__name__}: {reason})") from error
    for prefix in ("backbone.", "model."):
        if any(key.startswith(prefix) for key in state):
            return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state


def _unpickle(path: Path) -> State:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol
            with torch.serialization.safe_globals(PLAIN):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        # torch's own message advises to open the file without the protection.
        raise UserError("it holds something else than tensors and plain values, which is never unpickled") from None
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError("no dictionary of tensors at its top level, under 'model' or under 'state_dict'")
    return content


# The authors' and Swin's names of what a block has besides its mixer, and ours.
_BLOCK_RULES = ((r"bn\.", "norm2."), (r"(norm[12]|mlp\.fc[12])\.", r"\1."))
_BLOCK = re.compile(r"^layers\.(\d+)\.blocks\.(\d+)\.(.+)$")
_DOWNSAMPLE = re.compile(r"^layers\.(\d+)\.downsample\.(.+)$")
_OWN = re.compile(r"^stages\.\d+\.blocks\.\d+\.mixer\.")
_TOP = re.compile(
    r"^(patch_embed\.(proj|norm)|norm\d?|head)\.(weight|bias|running_mean|running_var|num_batches_tracked)$"
)


def convert_state(state: State) -> State:
    """Translate a checkpoint of the authors, of Swin or of timm's Swin to this project's names.

    Every key is used exactly once: renamed, or, for tables that follow from the shape (Swin's position index and shift
    mask), checked and left out. A checkpoint with our own names is returned as it is.

    Raises:
        UserError: a key that no rule knows, with what the file is of where that is plain, or a table that is not the
            one that follows from its shape.
    """
    if any(map(_OWN.match, state)):
        return dict(state)
    # timm keeps the merging layer in the stage that it leads to, Swin in the one before.
    merges_first = any(key.startswith("layers.1.downsample") for key in state) and not any(
        key.startswith("layers.0.downsample") for key in state
    )
    converted: State = {}
    for key, value in state.items():
        if _follows_from_the_shape(key, value):
            continue
        new, value = _converted(key, value, merges_first, state)
        if new in converted:
            raise UserError(f"{key}: two keys of the checkpoint become {new}")
        converted[new] = value
    return converted


def _follows_from_the_shape(key: str, value: Tensor) -> bool:
    for ending, check in (item for name in list_mixers() for item in mixer_class(name).foreign_tables.items()):
        if key.endswith(ending):
            if not check(value):
                raise UserError(f"{key}: is not the table that follows from its shape, as this project has it")
            return True
    return False


def _converted(key: str, value: Tensor, merges_first: bool, state: State) -> tuple[str, Tensor]:
    """The new name of one key, and the value in the shape that it has here."""
    if match := _BLOCK.match(key):
        stage, block, rest = match.groups()
        found = _inside_block(rest, value)
        if found is not None:
            return f"stages.{stage}.blocks.{block}.{found[0]}", found[1]
    elif match := _DOWNSAMPLE.match(key):
        stage = int(match[1]) + (0 if merges_first else 1)
        return f"stages.{stage}.downsample.{match[2]}", value
    elif _TOP.match(key):
        return key, value
    elif key in ("head.fc.weight", "head.fc.bias"):
        return key.replace("head.fc", "head"), value
    other = foreign_model(state)
    known = f"; the file is of {other}" if other else ""
    raise UserError(f"{key}: unknown key, neither the authors', Swin's nor this project's{known}")


def _inside_block(rest: str, value: Tensor) -> tuple[str, Tensor] | None:
    """A name inside a block by the rules of the mixers (``foreign_names``) and of the block itself."""
    for cls in map(mixer_class, list_mixers()):
        for pattern, replacement in cls.foreign_names:
            if re.match(pattern, rest):
                name = re.sub(f"^{pattern}", replacement, rest)
                return f"mixer.{name}", cls.from_foreign(name, value)
    for pattern, replacement in _BLOCK_RULES:
        if re.match(pattern, rest):
            return re.sub(f"^{pattern}", replacement, rest), value
    return None


def read_for(model: nn.Module, path: str | Path) -> State:
    """The weights in a file under the names that ``model`` has.

    Only the zoo's backbone is known by other names too; any other model, of timm or of the comparison, has its own.

    Raises:
        UserError: as :func:`read_weights` and :func:`convert_state`.
    """
    state = read_weights(path)
    return convert_state(state) if isinstance(model, TimmProtocol) else state


@dataclass
class LoadReport:
    """What :func:`load_pretrained` changed on the way."""

    resized: list[str] = field(default_factory=list)
    replaced_head: str | None = None

    def lines(self) -> list[str]:
        """One line for each thing to tell the user."""
        lines = [f"resized {item}" for item in self.resized]
        if self.replaced_head:
            lines.append(f"initialised anew: {self.replaced_head}")
        return lines

    def summary(self) -> str:
        """All of it on one line, of many resized tensors the first two; empty where nothing was changed."""
        more = [f"{len(self.resized) - 2} more"] if len(self.resized) > 2 else []
        resized = ["resized " + ", ".join(self.resized[:2] + more)] if self.resized else []
        return "; ".join(resized + LoadReport(replaced_head=self.replaced_head).lines())


def load_pretrained(model: nn.Module, state: State) -> LoadReport:
    """Load weights into a model that may have another window, input size or number of classes (section 3.4, Table 5).

    Parameters bound to a window or position are resized by their own module (``resize_parameter``); the first
    convolution is adapted to other input channels as timm does (summed to one, else repeated and scaled); a classifier
    of another width stays newly initialised. All of it is reported.

    Raises:
        UserError: any other missing or unexpected key or shape, with what the weights are of where that can be told;
            nothing is loaded then.
    """
    report = LoadReport()
    state = dict(state)
    own = model.state_dict()
    state = {key: without_window(value, own[key]) if key in own else value for key, value in state.items()}
    _drop_other_head(model, state, own, report)
    _adapt_input(model, state, own, report)
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    if missing or unexpected:
        found = (("missing", missing), ("unexpected", unexpected))
        parts = [f"{len(keys)} {what}, first {keys[0]}" for what, keys in found if keys]
        raise UserError(f"the checkpoint does not fit the model: {'; '.join(parts)}{whose(state, own)}")
    for key in sorted(state):
        if state[key].shape != own[key].shape:
            old = tuple(state[key].shape)
            state[key] = _resize(model, key, state, own)
            report.resized.append(f"{key} {old} -> {tuple(own[key].shape)}")
    model.load_state_dict(state)
    return report


def whose(state: State, own: State) -> str:
    """The end of a message: what the weights are of and what the model is, where that tells them apart; else empty."""
    theirs, ours = describe(state) or foreign_model(state), describe(own)
    if theirs is None or theirs == ours:
        return ""
    return f"; the weights are of {theirs}" + (f", the model is {ours}" if ours else "")


def _adapt_input(model: nn.Module, state: State, own: State, report: LoadReport) -> None:
    first = (getattr(model, "default_cfg", None) or {}).get("first_conv", "patch_embed.proj")
    key = f"{first}.weight"
    if key not in state or key not in own or state[key].ndim != 4 or own[key].ndim != 4:
        return
    theirs, ours = state[key].shape[1], own[key].shape[1]
    if theirs != ours and state[key].shape[0] == own[key].shape[0]:
        state[key] = adapt_input_conv(ours, state[key], base_chans=theirs)
        report.resized.append(f"{key} from {theirs} to {ours} input channels")


def classifier_names(model: nn.Module) -> list[str]:
    """The modules that are a model's classifier, as timm's ``default_cfg`` names them: more than one in VOLO."""
    named = (getattr(model, "default_cfg", None) or {}).get("classifier", "head")
    return [named] if isinstance(named, str) else list(named)


def _drop_other_head(model: nn.Module, state: State, own: State, report: LoadReport) -> None:
    replaced = [text for name in classifier_names(model) if (text := _drop_if_other(name, state, own))]
    report.replaced_head = ", ".join(replaced) or None


def _drop_if_other(head: str, state: State, own: State) -> str | None:
    """Take the model's own classifier where the checkpoint's has another width; a text on it."""
    keys = [f"{head}.weight", f"{head}.bias"]
    theirs, ours = state.get(keys[0]), own.get(keys[0])
    if theirs is None or (ours is not None and theirs.shape == ours.shape):
        return None
    for key in keys:
        state.pop(key, None)
        if ours is not None:
            state[key] = own[key]
    width = 0 if ours is None else ours.shape[0]
    return f"{head} ({theirs.shape[0]} classes in the checkpoint, {width} in the model)"


def _resize(model: nn.Module, key: str, state: State, own: State) -> Tensor:
    """Ask the module that owns the parameter, then those around it, to resize it."""
    path, value, target = key.split("."), state[key], own[key]
    for cut in range(len(path) - 1, 0, -1):
        module = model.get_submodule(".".join(path[:cut]))
        resize: Any = getattr(module, "resize_parameter", None)
        if resize is not None:
            resized = resize(".".join(path[cut:]), value)
            if resized is not None and resized.shape == target.shape:
                return resized
    shapes = f"shape {tuple(value.shape)} in the checkpoint, {tuple(target.shape)} in the model"
    raise UserError(f"{key}: {shapes}{whose(state, own)}")

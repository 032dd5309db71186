"""What weights are of, told by their names and shapes alone."""

import re
from collections.abc import Iterable, Mapping
from functools import cache

import torch
from torch import Size, Tensor

from .backbone import LocalNet
from .zoo import FAMILIES, SIZES, create_model

# What a classifier does not share with a dense backbone of the same model.
ENDS = ("head.", "norm.", "norm0.", "norm1.", "norm2.", "norm3.")

# The first that finds a name says it. Each is a name that the others' files, in any library, do not have.
_FOREIGN = (
    (
        "a ConvNeXt",
        r"stages\.\d+\.(blocks\.)?\d+\.(conv_dw|dwconv)\.|downsample_layers\.|features\.\d\.\d+\.layer_scale",
    ),
    ("a Swin V2", r"layers\.\d+\.blocks\.\d+\.attn\.(logit_scale|cpb_mlp)"),
    ("a Swin of torchvision", r"features\.\d+\.\d+\.attn\.(qkv|relative_position_bias_table)"),
    ("an SVT of Twins", r"(blocks\.\d+\.\d+\.attn\.sr|pos_block\.\d+\.proj\.0)\."),
    ("a PVT", r"(block\d+|stages\.\d+\.blocks)\.\d+\.attn\.(q|kv|sr)\."),
    ("a VOLO", r"network\.\d+\.\d+\.attn\.(v|attn)\."),
    ("an MLP-Mixer or ResMLP", r"blocks\.\d+\.(mlp_tokens\.|linear_tokens\.|token_mixing\.)"),
    ("a gMLP", r"blocks\.\d+\.mlp_channels\.gate\."),
    ("a MetaFormer", r"(network|stages)\.\d+\.(blocks\.)?\d+\.(layer_scale_1|layer_scale1|token_mixer)\b"),
    ("a ViT or DeiT", r"(blocks\.\d+\.attn\.qkv|encoder\.layers\.encoder_layer_\d+\.self_attention)\."),
    ("an HRNet", r"(stage\d+\.\d+\.branches|transition\d+\.\d+)\."),
    ("a ResNet", r"layer1\.0\.conv1\."),
    ("a RegNet", r"(s1\.b1\.conv1|trunk_output\.block1)\."),
    ("a DenseNet", r"features\.denseblock1\."),
    (
        "an EfficientNet or MobileNet",
        r"blocks\.\d+\.\d+\.conv_(pw|dw|pwl)\.|features\.\d+\.(conv|\d+\.block)\.\d+\.\d\.",
    ),
    ("a VGG or AlexNet", r"features\.\d+\.(weight|bias)"),
)


def foreign_model(keys: Iterable[str]) -> str | None:
    """The family of a well-known model outside this project, by a name that only its checkpoints have."""
    text = "\n".join(keys)
    return next(
        (family for family, pattern in _FOREIGN if re.search(f"^(?:module\\.)?(?:{pattern})", text, re.M)), None
    )


def zoo_model(state: Mapping[str, Tensor]) -> str | None:
    """The paper's model, of any number of classes, that has exactly these parameters under this project's names."""
    name, shapes = _nearest(state), _body(state)
    return name if name is not None and _body(_plan(name)) == shapes else None


def describe(state: Mapping[str, Tensor]) -> str | None:
    """What weights under this project's names are of: a model of the paper, or a variant of one; None: unknown."""
    exact, nearest = zoo_model(state), _nearest(state)
    return exact or (nearest and f"a variant of {nearest}")


def _nearest(state: Mapping[str, Tensor]) -> str | None:
    """The paper's model of this width whose first block shares most names, which are at least half of all."""
    first = "stages.0.blocks.0."
    block = {key for key in state if key.startswith(first)}
    shared = {family: len(block & keys) / len(block | keys) for family, keys in _first_blocks(first).items()}
    family = max(shared, key=lambda name: shared[name])
    proj = state.get("patch_embed.proj.weight")
    size = next((size for size, given in SIZES.items() if proj is not None and given["embed_dim"] == len(proj)), None)
    return f"{family}_{size}" if size and shared[family] >= 0.5 else None


def _body(state: Mapping[str, Tensor]) -> dict[str, Size]:
    return {key: value.shape for key, value in state.items() if not key.startswith(ENDS)}


@cache
def _first_blocks(prefix: str) -> dict[str, set[str]]:
    """The names in the first block of each family."""
    with torch.device("meta"):
        nets = {family: LocalNet(mixer=mixer, depths=(1,), num_heads=(1,)) for family, mixer in FAMILIES.items()}
    return {family: {key for key in net.state_dict() if key.startswith(prefix)} for family, net in nets.items()}


@cache
def _plan(name: str) -> dict[str, Tensor]:
    """The parameters of a model, without their values."""
    with torch.device("meta"):
        return create_model(name).state_dict()

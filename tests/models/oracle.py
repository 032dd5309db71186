"""The authors' models once more, written naively on their own key names: the oracle of the conversion tests.

Random weights under the authors' names go through these functions and, converted, through the zoo; both must agree.
Where the authors' own miniatures are at hand the oracle itself is held against them.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


class Maker:
    """Fills a state dict with random tensors, name by name."""

    def __init__(self, seed: int) -> None:
        self.state: State = {}
        self.generator = torch.Generator().manual_seed(seed)

    def add(self, name: str, *shape: int, scale: float = 0.3, shift: float = 0.0) -> None:
        self.state[name] = torch.randn(shape, generator=self.generator) * scale + shift

    def norm(self, name: str, dim: int, batch: bool = False) -> None:
        self.add(f"{name}.weight", dim, shift=1.0)
        self.add(f"{name}.bias", dim)
        if batch:
            self.add(f"{name}.running_mean", dim)
            self.state[f"{name}.running_var"] = torch.rand(dim, generator=self.generator) + 0.5
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(3)

    def linear(self, name: str, out_dim: int, in_dim: int, *tail: int, bias: bool = True) -> None:
        self.add(f"{name}.weight", out_dim, in_dim, *tail, scale=in_dim**-0.5)
        if bias:
            self.add(f"{name}.bias", out_dim, scale=0.1)


def make_state(kind: str, width: int, depths: tuple[int, ...], *, classes: int = 10, heads: tuple[int, ...] = (),
               window: int = 7, per_group: int = 4, img_size: int = 64, seed: int = 0) -> State:  # fmt: skip
    """Random weights under the authors' names; ``kind`` is swin, dw_conv, d_dw_conv or i_dynamic."""
    make = Maker(seed)
    make.linear("patch_embed.proj", width, 3, 4, 4)
    make.norm("patch_embed.norm", width)
    for stage, depth in enumerate(depths):
        dim, side = width * 2**stage, img_size // 4 // 2**stage
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            if kind == "swin":
                _swin_block(make, name, dim, heads[stage], min(window, side), side, block)
            else:
                _depthwise_block(make, name, dim, kind, window, per_group)
            make.linear(f"{name}.mlp.fc1", 4 * dim, dim)
            make.linear(f"{name}.mlp.fc2", dim, 4 * dim)
        if stage < len(depths) - 1:
            make.norm(f"layers.{stage}.downsample.norm", 4 * dim)
            make.linear(f"layers.{stage}.downsample.reduction", 2 * dim, 4 * dim, bias=False)
    make.norm("norm", dim)
    make.linear("head", classes, dim)
    return make.state


def _swin_block(make: Maker, name: str, dim: int, heads: int, window: int, side: int, block: int) -> None:
    make.norm(f"{name}.norm1", dim)
    make.norm(f"{name}.norm2", dim)
    make.linear(f"{name}.attn.qkv", 3 * dim, dim)
    make.linear(f"{name}.attn.proj", dim, dim)
    make.add(f"{name}.attn.relative_position_bias_table", (2 * window - 1) ** 2, heads)
    pairs = itertools.product(itertools.product(range(window), repeat=2), repeat=2)
    index = [(a[0] - b[0] + window - 1) * (2 * window - 1) + a[1] - b[1] + window - 1 for a, b in pairs]
    make.state[f"{name}.attn.relative_position_index"] = torch.tensor(index).view(window**2, window**2)
    if block % 2 and side > window:
        windows = (side // window) ** 2
        make.state[f"{name}.attn_mask"] = torch.zeros(windows, window**2, window**2)


def _depthwise_block(make: Maker, name: str, dim: int, kind: str, window: int, per_group: int) -> None:
    conv = f"{name}.attn2conv"
    for norm in ("bn0", "bn", "bn2"):
        make.norm(f"{conv}.{norm}", dim, batch=True)
    for linear in ("conv0", "conv2"):
        make.linear(f"{conv}.{linear}", dim, dim, 1, 1, bias=False)
    make.norm(f"{name}.bn", dim, batch=True)
    if kind == "dw_conv":
        make.add(f"{conv}.conv.weight", dim, 1, window, window, scale=0.1)
        make.add(f"{conv}.conv.bias", dim)
    elif kind == "d_dw_conv":
        make.add(f"{conv}.conv.bias", dim)
        make.linear(f"{conv}.conv.conv1", dim // 4, dim, 1, 1, bias=False)
        make.norm(f"{conv}.conv.bn", dim // 4, batch=True)
        make.linear(f"{conv}.conv.conv2", window**2 * dim, dim // 4, 1, 1)
    else:
        make.linear(f"{conv}.conv.conv1.0", dim // 4, dim, 1, 1)
        make.norm(f"{conv}.conv.conv1.1", dim // 4, batch=True)
        make.linear(f"{conv}.conv.conv2.0", window**2 * dim // per_group, dim // 4, 1, 1)


def forward(state: State, x: Tensor, *, kind: str, heads: tuple[int, ...] = (), window: int = 7,
            training: bool = False) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Logits and the map of each stage before merging, (B, C, H, W), of images (B, 3, H, W)."""
    weights = {key: value.clone() for key, value in state.items()}
    x = F.conv2d(x, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=4)
    x = _layer_norm(weights, "patch_embed.norm", x)
    maps = []
    stages = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("layers."))
    for stage in range(stages):
        blocks = 1 + max(int(key.split(".")[3]) for key in weights if key.startswith(f"layers.{stage}.blocks."))
        for block in range(blocks):
            name = f"layers.{stage}.blocks.{block}"
            if kind == "swin":
                x = x + _window_attention(
                    weights, name, _layer_norm(weights, f"{name}.norm1", x), heads[stage], window, block
                )
                y = _layer_norm(weights, f"{name}.norm2", x)
            else:
                x = x + _depthwise(weights, f"{name}.attn2conv", x, kind, training)
                y = _batch_norm(weights, f"{name}.bn", x, training)
            y = F.gelu(_point(weights, f"{name}.mlp.fc1", y))
            x = x + _point(weights, f"{name}.mlp.fc2", y)
        maps.append(x)
        if stage < stages - 1:
            parts = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
            x = _layer_norm(weights, f"layers.{stage}.downsample.norm", torch.cat(parts, 1))
            x = _point(weights, f"layers.{stage}.downsample.reduction", x)
    pooled = _layer_norm(weights, "norm", x).mean((2, 3))
    return F.linear(pooled, weights["head.weight"], weights["head.bias"]), maps


def _point(weights: State, name: str, x: Tensor) -> Tensor:
    weight = weights[f"{name}.weight"]
    return F.conv2d(x, weight.reshape(*weight.shape[:2], 1, 1), weights.get(f"{name}.bias"))


def _layer_norm(weights: State, name: str, x: Tensor) -> Tensor:
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    scale, shift = (weights[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
    return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift


def _batch_norm(weights: State, name: str, x: Tensor, training: bool) -> Tensor:
    mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    mean, var, scale, shift = (
        part.view(1, -1, 1, 1) for part in (mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"])
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift


def _depthwise(weights: State, name: str, x: Tensor, kind: str, training: bool) -> Tensor:
    x = F.relu(_batch_norm(weights, f"{name}.bn0", _point(weights, f"{name}.conv0", x), training))
    x = _operator(weights, f"{name}.conv", x, kind, training)
    x = F.relu(_batch_norm(weights, f"{name}.bn", x, training))
    return _batch_norm(weights, f"{name}.bn2", _point(weights, f"{name}.conv2", x), training)


def _operator(weights: State, name: str, x: Tensor, kind: str, training: bool) -> Tensor:
    batch, dim, height, width = x.shape
    if kind == "dw_conv":
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding="same", groups=dim)
    if kind == "d_dw_conv":
        hidden = _point(weights, f"{name}.conv1", x.mean((2, 3), keepdim=True))
        kernels = _point(weights, f"{name}.conv2", F.relu(_batch_norm(weights, f"{name}.bn", hidden, training)))
        side = int((kernels.shape[1] // dim) ** 0.5)
        kernels = kernels.view(batch, dim, 1, side, side)
        return torch.stack(
            [F.conv2d(image[None], kernel, weights[f"{name}.bias"], padding="same", groups=dim)[0]
             for image, kernel in zip(x, kernels, strict=True)]
        )  # fmt: skip
    hidden = F.relu(_batch_norm(weights, f"{name}.conv1.1", _point(weights, f"{name}.conv1.0", x), training))
    per_position = _point(weights, f"{name}.conv2.0", hidden)
    groups = per_position.shape[1] // 49
    patches = F.unfold(x, 7, padding=3).view(batch, groups, dim // groups, 49, height, width)
    return (patches * per_position.view(batch, groups, 1, 49, height, width)).sum(3).view(batch, dim, height, width)


def _window_attention(weights: State, name: str, x: Tensor, heads: int, window: int, block: int) -> Tensor:
    """One window after another; a position attends to those of its window that were its neighbours before the roll."""
    batch, dim, side, _ = x.shape
    window = min(window, side)
    shift = window // 2 if block % 2 and side > window else 0
    x = torch.roll(x, (-shift, -shift), (2, 3))
    out = torch.zeros_like(x)
    table = weights[f"{name}.attn.relative_position_bias_table"]
    index = weights[f"{name}.attn.relative_position_index"]
    band = [0 if i < side - window else 1 if i < side - shift or not shift else 2 for i in range(side)]
    for top, left in itertools.product(range(0, side, window), repeat=2):
        rows, columns = slice(top, top + window), slice(left, left + window)
        tokens = x[:, :, rows, columns].flatten(2).transpose(1, 2)
        qkv = F.linear(tokens, weights[f"{name}.attn.qkv.weight"], weights[f"{name}.attn.qkv.bias"])
        region = [(band[i], band[j]) for i in range(top, top + window) for j in range(left, left + window)]
        apart = torch.tensor([[a != b for b in region] for a in region])
        parts = []
        for head in range(heads):
            step = dim // heads
            q, k, v = (qkv[..., part * dim + head * step : part * dim + (head + 1) * step] for part in range(3))
            scores = q @ k.transpose(1, 2) / step**0.5 + table[index, head]
            parts.append(scores.masked_fill(apart, float("-inf")).softmax(-1) @ v)
        y = F.linear(torch.cat(parts, -1), weights[f"{name}.attn.proj.weight"], weights[f"{name}.attn.proj.bias"])
        out[:, :, rows, columns] = y.transpose(1, 2).reshape(batch, dim, window, window)
    return torch.roll(out, (shift, shift), (2, 3))

"""What a benchmark runs: a model, how it is prepared, and the work that is timed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import models
from benchmarks.runtimes import RUNTIMES, runtime_step
from engine.config import load_config
from models.errors import UserError, hint

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OPTIONS = ("fuse", "compile", *RUNTIMES)
CONFIG = (".yaml", ".yml")


@dataclass(frozen=True)
class Work:
    """One comparison: the same work for every model of a group."""

    mode: str
    """"inference" or "train" (forward, backward and an AdamW step)."""
    dtype: str
    """Key of DTYPES. Inference runs in it; training keeps float32 weights and uses autocast."""
    batch: int
    img_size: int
    device: str


@dataclass(frozen=True)
class Spec:
    """A model by name, ``timm:NAME``, ``torchvision:NAME`` or config file, and the options after a plus sign."""

    text: str
    name: str
    fuse: bool = False
    runs: str = "eager"
    """"eager" or "compile" in PyTorch, or one of RUNTIMES."""


def parse_spec(text: str) -> Spec:
    """Read ``NAME[+fuse][+compile|+onnxruntime|+openvino]``.

    Raises:
        UserError: names an unknown option or model and the nearest one, or two options of which one excludes the other.
        UserError: the config file cannot be read.
    """
    name, *options = text.split("+")
    for option in options:
        if option not in OPTIONS:
            raise UserError(f"{text}: +{option} is not an option (one of: {', '.join('+' + o for o in OPTIONS)})")
    ways = [option for option in options if option != "fuse"]
    if len(ways) > 1:
        raise UserError(f"{text}: +{ways[0]} and +{ways[1]} exclude each other")
    spec = Spec(text, name, "fuse" in options, *ways)
    if name.endswith(CONFIG):
        load_config(name)
        return spec
    library, _, short = name.rpartition(":")
    known = {"": models.list_models, "timm": timm.list_models, "torchvision": torchvision.models.list_models}
    if library not in known:
        raise UserError(f"{text}: {library!r} is not a library (timm: or torchvision:)")
    names = known[library]()
    if short not in names:
        raise UserError(f"{text}: there is no such model; {hint(short, names)}")
    if library and "fuse" in options:
        raise UserError(f"{text}: +fuse is for models of this project")
    return spec


def size_of(text: str) -> int:
    """Side of the images in pixels that a model is timed with by itself: a config says it, else 224."""
    spec = parse_spec(text)
    size = load_config(spec.name).model.img_size if spec.name.endswith(CONFIG) else 224
    return size if isinstance(size, int) else max(size)


def build_model(spec: Spec, work: Work) -> nn.Module:
    """The model on its device, in evaluation or training mode, not yet compiled."""
    torch.manual_seed(0)
    model: Any
    if spec.name.endswith(CONFIG):
        model = models.build_model(load_config(spec.name, [f"model.img_size={work.img_size}"]).model)
    elif spec.name.startswith("torchvision:"):
        model = torchvision.models.get_model(spec.name.removeprefix("torchvision:"), weights=None)
    elif spec.name.startswith("timm:"):
        model = models.create_model(spec.name)
        if hasattr(model, "set_input_size") and work.img_size != model.default_cfg["input_size"][-1]:
            model.set_input_size(img_size=work.img_size)
    else:
        model = models.create_model(spec.name, img_size=work.img_size)
    model = model.to(work.device)
    if work.mode == "train":
        return model.train()
    model = model.eval()
    # The runtimes of others read float32 and convert by themselves.
    dtype = torch.float32 if spec.runs in RUNTIMES else DTYPES[work.dtype]
    return (models.fuse(model) if spec.fuse else model).to(dtype)


def channels_of(model: nn.Module) -> int:
    """Channels of the images that a model takes; other libraries' models take three."""
    return getattr(model, "in_chans", 3)


def flops_of_image(spec: Spec, work: Work) -> int:
    """Floating-point operations of one forward pass on one image, by torch's counter."""
    with torch.device("meta"):
        model = build_model(Spec(spec.text, spec.name), Work("inference", "fp32", 1, work.img_size, "meta"))
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            model(torch.empty(1, channels_of(model), work.img_size, work.img_size))
    return counter.get_total_flops()


def step_of(model: nn.Module, spec: Spec, work: Work) -> Callable[[], object]:
    """One inference or training step as a function without arguments."""
    images = torch.randn(work.batch, channels_of(model), work.img_size, work.img_size, device=work.device)
    if spec.runs in RUNTIMES:
        if work.mode == "train":
            raise UserError(f"+{spec.runs} does not train")
        return runtime_step(model, images, spec.runs, work.dtype)
    run = torch.compile(model) if spec.runs == "compile" else model
    if work.mode == "inference":
        return _inference_step(run, images.to(DTYPES[work.dtype]))
    return _training_step(model, run, images, work)


def _inference_step(run: Callable[..., torch.Tensor], images: torch.Tensor) -> Callable[[], None]:
    @torch.no_grad()
    def step() -> None:
        run(images)

    return step


def _training_step(
    model: nn.Module, run: Callable[..., torch.Tensor], images: torch.Tensor, work: Work
) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)
    targets = torch.randint(0, getattr(model, "num_classes", 1000), (work.batch,), device=work.device)
    dtype = DTYPES[work.dtype]

    def step() -> None:
        with torch.autocast(work.device.split(":")[0], dtype=dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(run(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step

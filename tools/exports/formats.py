"""The formats: each writes a file or folder and gives back what runs it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

import models
from models.ops.backend import portable
from tools.exports.source import Source

Run = Callable[[Tensor], Tensor]
INPUT, OUTPUT = "images", "logits"
# A symbolic map needs more than one position everywhere: torch.export takes a length of 1 for a constant.
STRIDE, LEAST = 32, 64


@dataclass(frozen=True)
class Format:
    """One value of ``--to``."""

    suffix: str
    packages: tuple[str, ...]
    """What must be installed besides requirements.txt."""
    write: Callable[[Source, Path, bool], None]
    """Writes a model, for any input size or the nominal one only."""
    load: Callable[[Path], Run]
    """What was written, as a function from pictures to logits."""
    takes_any_size: Callable[[Source], bool] = lambda source: source.any_size


def about(source: Source, any_size: bool) -> dict[str, str]:
    """What travels with an export: texts, all but the model's name in JSON."""
    size: list[Any] = ["height", "width"] if any_size else list(source.size)
    values = {
        "input": ["batch", source.channels, *size],
        "input_size": list(source.size),
        **source.preparation,
        "classes": source.classes,
    }
    return {"model": source.name} | {key: json.dumps(value) for key, value in values.items() if value is not None}


def example(source: Source, any_size: bool) -> Tensor:
    """Pictures to record with; for any size the two sides differ, so that none is taken for the other."""
    height, width = source.size
    if any_size:
        height, width = max(height, LEAST), max(width, LEAST) + STRIDE
    return torch.zeros(2, source.channels, height, width)


def _write_onnx(source: Source, path: Path, any_size: bool) -> None:
    axes = {0: "batch", 2: "height", 3: "width"} if any_size else {0: "batch"}
    program = torch.onnx.export(
        models.fuse(source.model),
        (example(source, any_size),),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=(axes,),
        opset_version=18,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(about(source, any_size))
    program.save(path, external_data=False)


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])


def _write_openvino(source: Source, path: Path, any_size: bool) -> None:
    import openvino

    between = path.with_suffix(".onnx")
    _write_onnx(source, between, any_size)
    model = openvino.Core().read_model(between)
    for key, value in about(source, any_size).items():
        model.set_rt_info(value, ["localmixer", key])
    openvino.save_model(model, path, compress_to_fp16=False)
    between.unlink()


def _load_openvino(path: Path) -> Run:
    import openvino

    # Newer processors would compute in bfloat16, which is no fault of the file.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: torch.from_numpy(compiled(images.numpy())[0].copy())


def _write_pt2(source: Source, path: Path, any_size: bool) -> None:
    dynamic = torch.export.Dim.DYNAMIC
    axes = {0: dynamic, 2: dynamic, 3: dynamic} if any_size else {0: dynamic}
    with portable(), torch.no_grad():
        program = torch.export.export(
            models.fuse(source.model), (example(source, any_size),), dynamic_shapes=(axes,), strict=False
        )
    torch.export.save(program, path, extra_files={"about.json": json.dumps(about(source, any_size))})


def _load_pt2(path: Path) -> Run:
    return _without_gradients(torch.export.load(path).module())


def _write_timm(source: Source, path: Path, any_size: bool) -> None:
    model: Any = source.model
    described = {} if source.classes is None else {"label_names": source.classes}
    save_for_hf(
        model,
        str(path),
        model_config=described,
        data_config=source.preparation | {"input_size": (source.channels, *source.size)},
        safe_serialization=True,
    )


def _load_timm(path: Path) -> Run:
    return _without_gradients(timm.create_model(f"local-dir:{path}", pretrained=True).eval())


def _without_gradients(module: nn.Module) -> Run:
    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        return module(images)

    return run


def _has_larger_maps(source: Source) -> bool:
    return source.any_size and min(source.size) >= LEAST


_ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMATS = {
    "onnx": Format(".onnx", _ONNX, _write_onnx, _load_onnx),
    "openvino": Format(".xml", (*_ONNX, "openvino"), _write_openvino, _load_openvino),
    "pt2": Format(".pt2", (), _write_pt2, _load_pt2, _has_larger_maps),
    "timm": Format("", (), _write_timm, _load_timm),
}

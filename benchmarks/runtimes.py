"""Models under the inference runtimes of others, which `benchmarks/speed.py` times beside PyTorch."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from models.errors import UserError
from tools.exports.verified import check_packages

RUNTIMES = ("onnxruntime", "openvino")
INPUT = "image"


def runtime_step(model: nn.Module, images: Tensor, runtime: str, dtype: str) -> Callable[[], object]:
    """One inference on a CPU, with as many threads as PyTorch has.

    Args:
        model: in float32 and evaluation mode; recorded for the batch and size of the images.
        images: (B, C, H, W), float32.
        runtime: one of RUNTIMES.
        dtype: "fp32", or "bf16" where the runtime computes in it on this processor.

    Raises:
        UserError: the runtime is not installed, or does not compute in this dtype here.
    """
    if images.device.type != "cpu":
        raise UserError(f"+{runtime} is timed on a CPU")
    check_packages(f"+{runtime}", ("onnx", "onnxscript", runtime))
    if runtime == "onnxruntime" and dtype != "fp32":
        raise UserError(f"onnxruntime does not compute in {dtype} on a CPU")
    if runtime == "openvino":
        _check_openvino(dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        program = torch.onnx.export(model, (images,), input_names=[INPUT], opset_version=18, dynamo=True, verbose=False)
        assert program is not None
        program.save(path, external_data=False)
        return _onnxruntime(path, images) if runtime == "onnxruntime" else _openvino(path, images, dtype)


def _onnxruntime(path: Path, images: Tensor) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    values = {INPUT: images.numpy()}
    return lambda: session.run(None, values)


def _openvino(path: Path, images: Tensor, dtype: str) -> Callable[[], object]:
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[dtype],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",  # one batch at a time, on all threads
    }
    compiled = openvino.Core().compile_model(path, "CPU", options)
    values = images.numpy()
    return lambda: compiled(values)


def _check_openvino(dtype: str) -> None:
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if {"fp32": "FP32", "bf16": "BF16"}.get(dtype) not in able:
        raise UserError(f"OpenVINO does not compute in {dtype} on this processor")

"""The Triton kernels are compiled for an H100, which needs no GPU, and must keep their sums in registers."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from models.ops import triton_position_kernels as position  # noqa: E402
from models.ops import triton_shared as shared  # noqa: E402

WINDOW = {"KERNEL_H": 7, "KERNEL_W": 7, "TOP": 3, "LEFT": 3, "ACC": triton.language.float32}
TILE = {"BLOCK_P": 32, "BLOCK_G": 32, "WIDTH": 4}
SUMS = {"GENERATED": True, "HAS_BIAS": True, "BLOCK_D": 32, "UPCAST": False}
KERNELS = {
    "shared_forward": (
        shared._forward_kernel.fn,
        {**WINDOW, "HAS_BIAS": True, "TILE_H": 8, "TILE_W": 8, "BLOCK_C": 64},
    ),
    "shared_grad_weight": (shared._grad_weight_kernel, {**WINDOW, "TILE_W": 8, "BLOCK_C": 64}),
    "generated_forward": (position.aggregate_kernel, {**WINDOW, **TILE, **SUMS, "BACKWARD": False}),
    "generated_grad_x": (position.aggregate_kernel, {**WINDOW, **TILE, **SUMS, "BACKWARD": True}),
    "given_forward": (
        position.aggregate_kernel,
        {**WINDOW, **TILE, **SUMS, "GENERATED": False, "HAS_BIAS": False, "BACKWARD": False},
    ),
    "given_grad_weight": (position.grad_weight_kernel, {**WINDOW, **TILE}),
    "grad_hidden": (position.grad_hidden_kernel, {**WINDOW, **TILE, "BLOCK_D": 32, "UPCAST": False}),
    "grad_generator": (position.grad_generator_kernel, {**WINDOW, **TILE, "BLOCK_D": 32, "UPCAST": False}),
}


def _ptx(kernel: Any, constants: dict[str, Any], dtype: str, warps: int) -> str:
    signature, values, aligned = {}, {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[(index,)] = "constexpr", constants[name]
        elif name.endswith("part_ptr"):
            signature[name] = "*fp32"
        else:
            signature[name] = f"*{dtype}" if name.endswith("_ptr") else "i32"
        if name.endswith("_ptr"):
            aligned[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=values, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps}).asm["ptx"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles_for_an_h100_without_spills(name: str, dtype: str, tmp_path: Path) -> None:
    kernel, constants = KERNELS[name]
    file = tmp_path / "kernel.ptx"
    file.write_text(_ptx(kernel, constants, dtype, 4 if name.startswith("shared") else 8))
    ptxas = next(Path(triton.__file__).parent.glob("backends/nvidia/bin/ptxas*"))
    log = subprocess.run(
        [ptxas, "-v", "-arch=sm_90a", file, "-o", tmp_path / "out"], capture_output=True, text=True, check=True
    ).stderr
    spilled = sum(int(count) for count in re.findall(r"(\d+) bytes spill stores", log))
    assert spilled <= 64, log

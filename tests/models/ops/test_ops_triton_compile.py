"""Every launch of a training step is compiled without a GPU; it must fit the card and keep its sums in registers."""

from functools import cache

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.gpu_launches import Launch
from benchmarks.gpu_launches import launches_of as record_launches
from benchmarks.gpu_programs import SHARED_LIMIT, read_program

MODELS = [f"{family}_{size}" for family in ("swin", "dw_conv", "d_dw_conv", "i_dynamic") for size in ("tiny", "base")]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KERNELS = {
    "swin": set(),  # batched products of torch alone
    "dw_conv": {"forward", "grad_weight"},
    "d_dw_conv": {"forward", "grad_weight"},
    "i_dynamic": {"aggregate", "grad_hidden", "grad_generator"},
}

launches_of = cache(record_launches)


def fits(launch: Launch, capability: int) -> None:
    program = read_program(launch.compiled(capability))
    assert program.shared <= SHARED_LIMIT[capability], (launch.name, program.shared)
    spilled = 16 if capability == 100 else 0  # two of 240 launches keep two values on the stack there
    assert program.local <= spilled, f"{launch.name}: {program.local} bytes of a thread are spilled"
    assert program.registers <= 255


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_launches_what_its_operator_needs(name: str) -> None:
    found = launches_of(name, torch.bfloat16)
    assert {launch.name for launch in found} == KERNELS[name.rpartition("_")[0]]
    assert all(0 < size < 2**31 for launch in found for size in launch.grid)


@pytest.mark.parametrize(
    ("name", "kernel"), [(n, k) for n in ("dw_conv_base", "i_dynamic_base") for k in sorted(KERNELS[n[:-5]])]
)
def test_the_largest_launch_of_each_kernel_fits_the_smallest_card(name: str, kernel: str) -> None:
    """In float32, in the last stage, whose maps are the deepest."""
    *_, last = (launch for launch in launches_of(name, torch.float32) if launch.name == kernel)
    fits(last, 86)


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED_LIMIT)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_launch_of_all_models_fits_every_card(dtype: torch.dtype, capability: int) -> None:
    launches = {launch.variant: launch for name in MODELS for launch in launches_of(name, dtype)}
    for launch in launches.values():
        fits(launch, capability)

"""Every implementation against loops in float64, forward and all gradients.

With TRITON_INTERPRET=1 in the environment the Triton kernels are tested on the CPU instead of the CPU code;
`test_ops_triton.py` runs this file so.
"""

import os
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from models.ops import cpu_bands, cpu_position, cpu_shared, generate_and_aggregate, local_aggregate, use_backend

TRITON = os.environ.get("TRITON_INTERPRET") == "1"
BACKENDS = ["triton"] if TRITON else ["reference", "cpu"]
KINDS = ("static", "image", "position")
# The interpreter takes time for each tap, so there windows are small, and maps smaller still where that is the point.
KERNELS = (4, 5) if TRITON else (4, 7)
BEYOND_THE_MAP = (7, 6) if TRITON else (13, 12)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@pytest.fixture(params=BACKENDS, autouse=True)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with use_backend(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Memory that nobody wrote is NaN, so a hole in an output shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def loops(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The definition, position by position and channel by channel."""
    batch, height, width, channels = x.shape
    groups, kernel = weight.shape[-3], weight.shape[-1]
    before = (kernel - 1) // 2
    out = np.zeros_like(x)
    for b, h, w in product(range(batch), range(height), range(width)):
        at = {3: (), 4: (b,), 6: (b, h, w)}[weight.ndim]
        for c, i, j in product(range(channels), range(kernel), range(kernel)):
            row, column = h + i - before, w + j - before
            if 0 <= row < height and 0 <= column < width:
                out[b, h, w, c] += weight[at][c // (channels // groups), i, j] * x[b, row, column, c]
    return out


def inputs(kind: str, size: tuple[int, int, int, int], groups: int, kernel: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(sum(size) + kernel)
    lead = {"static": (), "image": size[:1], "position": size[:3]}[kind]
    return torch.randn(size, dtype=torch.float64), torch.randn(*lead, groups, kernel, kernel, dtype=torch.float64)


def expected(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output and, for a fixed output gradient, the gradients by linearity: <grad, f(x, w)> is bilinear."""
    grad = torch.randn_like(x)
    with use_backend("reference"):
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = local_aggregate(*leaves)
        grad_x, grad_weight = torch.autograd.grad(out, leaves, grad)
    return torch.from_numpy(loops(x.numpy(), weight.numpy())), grad, grad_x, grad_weight


def close(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    assert got.dtype == dtype and torch.isfinite(got).all()
    error = (got.double() - want).norm() / want.norm().clamp_min(1e-12)
    assert error <= TOLERANCE[dtype], f"relative error {error:.2e}"


def check(kind: str, size: tuple[int, int, int, int], groups: int, kernel: int, dtype: torch.dtype) -> None:
    x, weight = (tensor.to(dtype).double() for tensor in inputs(kind, size, groups, kernel))
    out, grad, grad_x, grad_weight = expected(x, weight)
    grad = grad.to(dtype)
    leaves = x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
    got = local_aggregate(*leaves)
    close(got, out, dtype)
    for value, want in zip(torch.autograd.grad(got, leaves, grad), (grad_x, grad_weight), strict=True):
        close(value, want, dtype)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_gradients(kind: str, kernel: int) -> None:
    check(kind, (2, 5, 4, 6), 3, kernel, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind: str, dtype: torch.dtype) -> None:
    check(kind, (2, 4, 5, 4), 2, 3, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_larger_than_the_map(kind: str) -> None:
    check(kind, (1, 3, 2, 4), 4, BEYOND_THE_MAP[kind != "static"], torch.float32)


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (1, 9, 17, 3), (2, 8, 1, 5), (1, 1, 33, 18)])
@pytest.mark.parametrize("kind", KINDS)
def test_sizes_around_tile_borders(kind: str, size: tuple[int, int, int, int]) -> None:
    check(kind, size, size[3] if size[3] % 3 else 3, 3, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["static", "image"])
def test_more_images_than_fit_a_part(kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_shared, "_PART_BYTES", 700)  # float32: two of the five maps, bfloat16: four
    check(kind, (5, 4, 3, 6), 3, KERNELS[1], dtype)


@settings(max_examples=3 if TRITON else 25, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    batch=st.integers(1, 2),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    groups=st.integers(1, 3),
    width_of_group=st.integers(1, 3),
    kernel=st.integers(3, 6),
)
def test_any_size(
    kind: str, batch: int, height: int, width: int, groups: int, width_of_group: int, kernel: int
) -> None:
    check(kind, (batch, height, width, groups * width_of_group), groups, kernel, torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_other_layouts(kind: str, backend: str) -> None:
    x, weight = (tensor.float() for tensor in inputs(kind, (2, 4, 3, 6), 3, 3))
    plain = local_aggregate(x, weight)
    nchw = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    sliced = torch.stack((x, x), dim=-1)[..., 0]
    turned = weight.transpose(-1, -2).contiguous().transpose(-1, -2)
    for moved in (nchw, sliced):
        assert not moved.is_contiguous()
        torch.testing.assert_close(local_aggregate(moved, turned), plain)
        assert local_aggregate(moved, turned).is_contiguous()


@pytest.mark.parametrize("kind", [*KINDS, "generated"])
def test_results_lie_as_the_compiler_is_told(kind: str) -> None:
    """Inductor asserts the strides that the fake of an operator gives; a view of another order ends the step there."""
    x, weight = (tensor.float() for tensor in inputs("static" if kind == "generated" else kind, (2, 5, 4, 6), 3, 3))
    hidden, linear, bias = torch.randn(2, 5, 4, 4), torch.randn(27, 4), torch.randn(27)
    ops = torch.ops.local_ops
    calls = {
        "position": [
            (ops.per_position, x, weight),
            (ops.per_position_backward, x, x, weight),
            (ops.window_products, x, x, 3, 3),
        ],
        "generated": [
            (ops.generate_and_aggregate, x, hidden, linear, bias, 3, 3),
            (ops.generate_and_aggregate_backward, x, x, hidden, linear, bias, 3, 3),
        ],
    }
    shared = [(ops.shared, x, weight, None), (ops.shared_grad_input, x, weight), (ops.shared_grad_weight, x, x, weight)]
    for call, *arguments in calls.get(kind, shared):
        found = tree_leaves(call(*arguments))
        with FakeTensorMode(allow_non_fake_inputs=True):
            told = tree_leaves(call(*arguments))
        layouts = [[(each.shape, each.stride(), each.dtype) for each in results] for results in (found, told)]
        assert layouts[0] == layouts[1], call


@pytest.mark.parametrize("kind", KINDS)
def test_bias_and_its_gradient(kind: str) -> None:
    x, weight = (tensor.float() for tensor in inputs(kind, (2, 3, 4, 6), 6, 3))
    bias = torch.randn(6, requires_grad=True)
    out = local_aggregate(x, weight, bias)
    torch.testing.assert_close(out, local_aggregate(x, weight) + bias)
    out.sum().backward()
    torch.testing.assert_close(bias.grad, torch.full((6,), 24.0))


@pytest.mark.parametrize("way", ["loops"] if TRITON else ["loops", "matrices"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kernel", "groups", "width", "depth", "with_bias"),
    [
        (3, 3, 2, 8, True),  # a hidden map smaller than a tile of the tensor cores
        (4, 2, 3, 8, False),
        (3, 2, 12, 48, True),  # groups of three columns, a hidden map in three pieces
        (2, 40, 1, 20, True),  # more columns than a tile has
        (2, 3, 16, 16, False),  # groups wider than a column may be
        (5, 2, 2, 4, True),  # a kernel that is wider than the map
    ],
)
def test_generated_weights(
    kernel: int,
    groups: int,
    width: int,
    depth: int,
    with_bias: bool,
    dtype: torch.dtype,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_position, "BLOCK_WEIGHTS", 5 * 3 * groups * kernel**2)  # three rows a block
    monkeypatch.setattr(cpu_bands, "pays", lambda *_: way == "matrices")
    monkeypatch.setattr(cpu_bands, "BLOCK_MATRICES", 1)  # one image a block
    torch.manual_seed(0)
    size = (2, 4, 5, groups * width)
    shapes = (size, (2, 4, 5, depth), (groups * kernel**2, depth), (groups * kernel**2,))
    x, hidden, weight, bias = (torch.randn(shape).to(dtype).double().requires_grad_() for shape in shapes)
    leaves = [x, hidden, weight, bias] if with_bias else [x, hidden, weight]
    made = torch.nn.functional.linear(hidden, weight, bias if with_bias else None)
    grad = torch.randn(size).to(dtype)
    with use_backend("reference"):
        out = local_aggregate(x, made.unflatten(-1, (groups, kernel, kernel)))
        wanted = [out.detach(), *torch.autograd.grad(out, leaves, grad.double())]
    small = [leaf.detach().to(dtype).requires_grad_() for leaf in leaves]
    got = generate_and_aggregate(*small[:3], small[3] if with_bias else None, groups, kernel)
    for value, want in zip((got, *torch.autograd.grad(got, small, grad)), wanted, strict=True):
        close(value.detach(), want, dtype)

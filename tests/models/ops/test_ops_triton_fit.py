"""Launches that do not fit a GPU: plain PyTorch takes over with one warning, and tiles follow the shared memory."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.runtime.errors import OutOfResources

from models.ops import (
    backend,
    generate_and_aggregate,
    local_aggregate,
    triton_common,
    triton_generated,
    triton_generated_kernels,
    triton_position,
    triton_position_kernels,
    triton_shared,
    use_backend,
)

KERNELS = (
    (triton_shared, "_forward_kernel"),
    (triton_shared, "_grad_weight_kernel"),
    (triton_position_kernels, "aggregate_kernel"),
    (triton_position_kernels, "grad_weight_kernel"),
    (triton_generated_kernels, "aggregate_kernel"),
    (triton_generated_kernels, "grad_hidden_kernel"),
    (triton_generated_kernels, "grad_generator_kernel"),
)


def test_where_triton_cannot_start_plain_pytorch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its launcher is compiled at first use; an image for running programs has no compiler."""

    class Driver:
        @property
        def active(self) -> None:
            raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    with FakeTensorMode():
        x = torch.zeros(1, 2, 2, 1, device="cuda")
    backend.triton_works.cache_clear()
    monkeypatch.setattr(triton.runtime, "driver", Driver())
    with pytest.warns(UserWarning, match="Triton cannot start here .Failed to find C compiler"):
        assert backend.backend_for(x) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert backend.backend_for(x) == "reference"
    backend.triton_works.cache_clear()
    monkeypatch.setattr(triton.runtime, "driver", SimpleNamespace(active=SimpleNamespace(utils=None)))
    assert backend.backend_for(x) == "triton"
    backend.triton_works.cache_clear()


class TooLarge:
    """A kernel whose launch fails as on a GPU with too little shared memory."""

    tries = 0

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*args: Any, **constants: Any) -> None:
            TooLarge.tries += 1
            raise OutOfResources(296_960, 232_448, "shared memory")

        return launch


@pytest.fixture(autouse=True)
def too_large(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module, name in KERNELS:
        monkeypatch.setattr(module, name, TooLarge())
    for module in (triton_shared, triton_position, triton_generated):
        monkeypatch.setattr(module, "on_device", lambda x: nullcontext())
    monkeypatch.setattr(triton_common, "_refused", set())
    monkeypatch.setattr(TooLarge, "tries", 0)
    yield


def gradients(backend: str, kind: str) -> list[torch.Tensor]:
    torch.manual_seed(0)
    x, hidden = torch.randn(2, 4, 5, 6, requires_grad=True), torch.randn(2, 4, 5, 8, requires_grad=True)
    shapes = {"static": (3, 3, 3), "image": (2, 3, 3, 3), "position": (2, 4, 5, 3, 3, 3), "generated": (27, 8)}
    weight = torch.randn(shapes[kind], requires_grad=True)
    with use_backend(backend):
        if kind == "generated":
            leaves = [x, hidden, weight]
            out = generate_and_aggregate(x, hidden, weight, None, 3, 3)
        else:
            leaves, out = [x, weight], local_aggregate(x, weight)
        return [out, *torch.autograd.grad(out, leaves, torch.ones_like(out))]


@pytest.mark.parametrize("kind", ["static", "image", "position", "generated"])
def test_plain_pytorch_takes_over_with_one_warning(kind: str) -> None:
    wanted = gradients("reference", kind)
    with pytest.warns(UserWarning, match=r"does not fit this GPU .*296960.*plain PyTorch") as caught:
        got = gradients("triton", kind)
    assert len(caught) == 1 and TooLarge.tries > 0
    torch.testing.assert_close(got, wanted)
    tried = TooLarge.tries
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(gradients("triton", kind), wanted)
    assert TooLarge.tries == tried  # what was refused is not tried again


def test_other_errors_of_a_launch_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_shared, "_forward_kernel", {})
    with pytest.raises(KeyError):
        gradients("triton", "static")


def test_fewer_tiles_are_in_flight_where_there_is_less_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.empty(1, 7, 7, 768)
    stages = []
    for budget in (101_376, 65_536, 49_152):  # sm_86, sm_75, what every GPU has
        monkeypatch.setattr(triton_common, "_SHARED_BUDGET", budget)
        stages.append(triton_generated._plan(x, 192, 32, 7).constants["num_stages"])
    assert stages == sorted(stages, reverse=True) and stages[0] > stages[-1] >= 1

"""The public operators: gradients, registration, FLOP formula, messages."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.ops import generate_and_aggregate, local_aggregate, use_backend

WEIGHTS = {"static": (), "image": (2,), "position": (2, 3, 4)}


def _inputs(kind: str, kernel: int, groups: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    return x, torch.randn(*WEIGHTS[kind], groups, kernel, kernel, dtype=torch.float64), torch.randn(4).double()


@pytest.mark.parametrize("kernel", [3, 4])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_gradients(kind: str, kernel: int) -> None:
    leaves = [tensor.requires_grad_() for tensor in _inputs(kind, kernel)]
    torch.autograd.gradcheck(local_aggregate, leaves)


@pytest.mark.parametrize("kernel", [3, 4])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_gradients_of_the_reference(kind: str, kernel: int) -> None:
    """By finite differences, as test_ops_oracle.py compares all others with them."""
    leaves = [tensor.requires_grad_() for tensor in _inputs(kind, kernel)]
    with use_backend("reference"):
        torch.autograd.gradcheck(local_aggregate, leaves, fast_mode=True)


def test_generated_weights_equal_given_weights() -> None:
    x, _, _ = _inputs("static", 3)
    hidden, weight, bias = (torch.randn(*shape).double() for shape in ((2, 3, 4, 3), (18, 3), (18,)))
    leaves = [tensor.requires_grad_() for tensor in (x, hidden, weight, bias)]
    given = (hidden @ weight.T + bias).unflatten(-1, (2, 3, 3))
    torch.testing.assert_close(generate_and_aggregate(*leaves, 2, 3), local_aggregate(x, given))
    torch.autograd.gradcheck(lambda *args: generate_and_aggregate(*args, 2, 3), leaves)


def test_operators_are_well_registered() -> None:
    x, weight, _ = _inputs("position", 3)
    torch.library.opcheck(torch.ops.local_ops.per_position, (x.requires_grad_(), weight.requires_grad_()))
    hidden, generator = torch.randn(2, 3, 4, 3).double(), torch.randn(18, 3).double()
    torch.library.opcheck(
        torch.ops.local_ops.generate_and_aggregate, (x.detach(), hidden.requires_grad_(), generator, None, 2, 3)
    )


def test_flop_counter_counts_every_kind_alike() -> None:
    counts = set()
    for kind in WEIGHTS:
        x, weight, _ = _inputs(kind, 3)
        with FlopCounterMode(display=False) as counter:
            local_aggregate(x, weight)
        counts.add(counter.get_total_flops())
    assert counts == {2 * 2 * 3 * 4 * 4 * 9}


@pytest.mark.parametrize("shape", [(4, 3, 3), (3, 3), (3, 3, 3, 3), (2, 5, 5, 3, 3, 3)])
def test_bad_shapes_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"groups|weight"):
        local_aggregate(torch.zeros(2, 5, 4, 6), torch.zeros(shape))


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_second_derivative_is_refused_and_never_wrong(kind: str) -> None:
    x, weight, bias = (tensor.requires_grad_() for tensor in _inputs(kind, 3))
    first = torch.autograd.grad(local_aggregate(x, weight, bias).square().sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="local_ops"):
        first.square().sum().backward()


def test_a_second_derivative_of_generated_weights_is_refused() -> None:
    x = _inputs("static", 3)[0]
    leaves = [t.double().requires_grad_() for t in (x, torch.randn(2, 3, 4, 3), torch.randn(18, 3), torch.randn(18))]
    first = torch.autograd.grad(generate_and_aggregate(*leaves, 2, 3).square().sum(), leaves[1], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="local_ops"):
        first.square().sum().backward()

"""Appendix B: every form of the weights is its equation, written out as matrices position by position."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from engine.config import load_config
from models import build_model, create_model
from models.cost import model_cost
from models.mixers import BlockInfo, build_mixer
from models.mixers.conv_attention import FORMS, ConvAttention, PreConv, WindowWeights
from models.ops import window_products

DIM, HEADS, SIDE, SIZE = 4, 2, 3, (4, 5)
REACH = SIDE // 2
BLOCKS = {"tiny": 12, "nano": 5}


def build(form: str, *, softmax: bool = False) -> WindowWeights:
    """In float64, with random parameters and without what the equations leave out (biases, BN, ReLU)."""
    weights = WindowWeights(DIM, HEADS, SIDE, form=form, softmax=softmax).double()
    for name, parameter in weights.named_parameters():
        nn.init.normal_(parameter) if not name.endswith("bias") else nn.init.zeros_(parameter)
    if weights.pre is not None:
        weights.pre.norm, weights.pre.act = nn.Identity(), nn.Identity()
    return weights


def feature(x: Tensor, row: int, column: int) -> Tensor:
    """x at a position, zero outside the map."""
    inside = 0 <= row < x.shape[0] and 0 <= column < x.shape[1]
    return x[row, column] if inside else torch.zeros_like(x[0, 0])


def rows(x: Tensor, row: int, column: int, reach: int) -> Tensor:
    """The matrix whose rows are the features of the window around a position: ((2 reach + 1)^2, C)."""
    steps = range(-reach, reach + 1)
    return torch.stack([feature(x, row + i, column + j) for i in steps for j in steps])


def projections(weights: WindowWeights, head: int) -> tuple[Tensor, Tensor]:
    """(P_q, P_k) of a head, each (C / heads, C), the scale of attention inside P_q."""
    part = slice(head * DIM // HEADS, (head + 1) * DIM // HEADS)
    query, key = weights.qk.weight.detach().chunk(2)
    return query[part] * (DIM / HEADS) ** -0.5, key[part]


def theta(weights: WindowWeights, head: int) -> Tensor:
    """Theta of a head: (window, C)."""
    return weights.theta.weight.detach().view(HEADS, SIDE**2, DIM)[head]


def theta_d(weights: WindowWeights, x: Tensor, row: int, column: int, head: int) -> Tensor:
    """Equation 20: the rows of the window times P_k^T P_q."""
    query, key = projections(weights, head)
    return rows(x, row, column, REACH) @ key.T @ query


def offset_matrix(kernel: Tensor) -> Tensor:
    """The left matrix of equation 23 in two dimensions: a 3x3 kernel over the offsets that wraps around."""
    matrix = torch.zeros(SIDE**2, SIDE**2, dtype=kernel.dtype)
    for i in range(SIDE):
        for j in range(SIDE):
            for a in range(3):
                for b in range(3):
                    matrix[i * SIDE + j, (i + a - 1) % SIDE * SIDE + (j + b - 1) % SIDE] += kernel[a, b]
    return matrix


def sliding_matrix(kernel: Tensor) -> Tensor:
    """The left matrix of equation 24: each row is the 3x3 kernel at one offset of the window; (k^2, (k + 2)^2)."""
    wide = SIDE + 2
    matrix = torch.zeros(SIDE**2, wide**2, dtype=kernel.dtype)
    for i in range(SIDE):
        for j in range(SIDE):
            for a in range(3):
                for b in range(3):
                    matrix[i * SIDE + j, (i + a) * wide + j + b] = kernel[a, b]
    return matrix


def equation_18(weights: WindowWeights, x: Tensor, row: int, column: int, head: int) -> Tensor:
    return theta(weights, head) @ x[row, column]


def equation_19(weights: WindowWeights, x: Tensor, row: int, column: int, head: int) -> Tensor:
    query, key = projections(weights, head)
    products = [key @ feature for feature in rows(x, row, column, REACH)]
    return torch.stack([product @ (query @ x[row, column]) for product in products])


def equation_20(weights: WindowWeights, x: Tensor, row: int, column: int, head: int) -> Tensor:
    return theta_d(weights, x, row, column, head) @ x[row, column]


def equation_21(weights: WindowWeights, x: Tensor, row: int, column: int, head: int) -> Tensor:
    return equation_20(weights, x, row, column, head) + weights.beta.detach()[head].flatten()


def equation_22(weights: WindowWeights, x: Tensor, row: int, column: int, head: int) -> Tensor:
    return (theta_d(weights, x, row, column, head) + theta(weights, head)) @ x[row, column]


def equation_23(weights: WindowWeights, x: Tensor, row: int, column: int, head: int) -> Tensor:
    left = offset_matrix(weights.post.weight.detach()[head, 0])
    return left @ theta_d(weights, x, row, column, head) @ x[row, column]


def equation_24(weights: WindowWeights, x: Tensor, row: int, column: int, head: int) -> Tensor:
    query, key = projections(weights, head)
    kernel = weights.pre.conv.weight.detach()[0]
    left = sliding_matrix(kernel) @ rows(x, row, column, REACH + 1)
    return left @ key.T @ query @ (rows(x, row, column, 1).T @ kernel.flatten())


def equation_25(weights: WindowWeights, x: Tensor, row: int, column: int, head: int) -> Tensor:
    """C' is C_3 at each offset: rows of the wide window, all channels in, all channels out."""
    query, key = projections(weights, head)
    kernel = weights.pre.conv.weight.detach().permute(2, 3, 1, 0)  # (3, 3, in, out)
    wide = rows(x, row, column, REACH + 1).view(SIDE + 2, SIDE + 2, DIM)
    convolved = torch.stack(
        [torch.einsum("abi,abio->o", wide[i : i + 3, j : j + 3], kernel) for i in range(SIDE) for j in range(SIDE)]
    )
    centre = torch.einsum("abi,abio->o", rows(x, row, column, 1).view(3, 3, DIM), kernel)
    return convolved @ key.T @ query @ centre


CASES = {
    "equation_18": ("inhomogeneous", equation_18),
    "equation_19": ("dot_product", equation_19),
    "equation_20": ("dot_product", equation_20),
    "equation_21": ("relative_position", equation_21),
    "equation_22": ("static_dynamic", equation_22),
    "equation_23": ("post_conv", equation_23),
    "equation_24": ("pre_conv", equation_24),
    "equation_25": ("pre_conv_full", equation_25),
}


def inside(row: int, column: int) -> Tensor:
    """Which offsets of a position's window lie on the map: (k^2,)."""
    ones = torch.ones(*SIZE, 1, dtype=torch.float64)
    return rows(ones, row, column, REACH)[:, 0].bool()


@pytest.mark.parametrize("softmax", [False, True], ids=["as printed", "softmax"])
@pytest.mark.parametrize("case", CASES)
def test_weights_are_the_equation(case: str, softmax: bool) -> None:
    form, equation = CASES[case]
    weights = build(form, softmax=softmax)
    x = torch.randn(*SIZE, DIM, dtype=torch.float64)
    ours = weights(x[None])[0].detach()
    assert ours.shape == (*SIZE, HEADS, SIDE, SIDE)
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            on_map = inside(row, column)
            for head in range(HEADS):
                expected = equation(weights, x, row, column, head)[on_map]
                got = ours[row, column, head].flatten()
                if softmax:
                    expected = expected.exp() / expected.exp().sum()
                    assert not got[~on_map].any()
                torch.testing.assert_close(got[on_map], expected)


@pytest.mark.parametrize(("kind", "groups"), [("shared", DIM), ("full", 1)])
def test_the_convolution_before_the_products_is_followed_by_bn_and_relu(kind: str, groups: int) -> None:
    """The equations leave both out, and the tests of them take both away."""
    pre, x = PreConv(DIM, kind).eval(), torch.randn(2, *SIZE, DIM)
    norm = pre.norm
    for values in (norm.weight.data, norm.bias.data, norm.running_mean):
        values.normal_()
    norm.running_var.uniform_(0.5, 2)
    kernel = pre.conv.weight.expand(DIM, DIM // groups, 3, 3)
    convolved = F.conv2d(x.permute(0, 3, 1, 2), kernel, padding=1, groups=groups)
    normed = F.batch_norm(convolved, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    torch.testing.assert_close(pre(x), F.relu(normed).permute(0, 2, 3, 1))


@pytest.mark.parametrize("form", FORMS)
def test_mixer_sums_the_values_of_the_window(form: str) -> None:
    mixer = (
        build_mixer("conv_attention", BlockInfo(dim=DIM, num_heads=HEADS), window_size=SIDE, form=form).double().eval()
    )
    x = torch.randn(1, *SIZE, DIM, dtype=torch.float64)
    weights, values = mixer.weights(x)[0], mixer.value(x)[0]
    expected = torch.zeros_like(values)
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            for channel in range(DIM):
                window = rows(values, row, column, REACH)[:, channel]
                expected[row, column, channel] = weights[row, column, channel * HEADS // DIM].flatten() @ window
    torch.testing.assert_close(mixer(x)[0], mixer.proj(expected))


@pytest.mark.parametrize("window", [1, 4, 7])
@pytest.mark.parametrize("form", FORMS)
def test_any_map_and_window_trains_every_parameter(form: str, window: int) -> None:
    mixer = build_mixer(
        "conv_attention", BlockInfo(dim=8, num_heads=2), window_size=window, form=form, softmax=window > 1
    )
    for size in ((1, 1), (2, 9)):
        mixer.zero_grad()
        x = torch.randn(2, *size, 8, requires_grad=True)
        y = mixer(x)
        assert y.shape == x.shape and y.isfinite().all()
        y.square().sum().backward()
    for name, parameter in mixer.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert x.grad.abs().sum() > 0


def test_compiles_to_one_graph() -> None:
    mixer = build_mixer("conv_attention", BlockInfo(dim=8, num_heads=2), window_size=3, form="post_conv")
    x = torch.randn(2, 5, 6, 8)
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), mixer(x))


def test_window_products_gradients_and_registration() -> None:
    query, key = (torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for side in (2, 3):
        torch.autograd.gradcheck(lambda q, k, side=side: window_products(q, k, 2, side), (query, key))
    torch.library.opcheck(torch.ops.local_ops.window_products, (query, key, 2, 3))
    with pytest.raises(ValueError, match="3 groups do not divide 4"):
        window_products(query, key, 3, 3)
    with pytest.raises(ValueError, match="must be the same"):
        window_products(query, key[:1], 2, 3)


def test_flops_are_counted() -> None:
    """Products and sum: two times k^2 C multiply-adds for each position, beside the projections."""
    mixer = build_mixer("conv_attention", BlockInfo(dim=8, num_heads=2), window_size=3, form="dot_product")
    with FlopCounterMode(display=False) as counter:
        mixer(torch.randn(1, 4, 5, 8))
    assert counter.get_total_flops() == 2 * 20 * (4 * 8 * 8 + 2 * 9 * 8)
    with torch.device("meta"):
        swin, ours = create_model("swin_tiny"), create_model("swin_tiny", mixer="conv_attention")
    # The same window and projections: a sliding window costs what Swin's does, in both counters.
    for counted in ("torch", "paper"):
        assert model_cost(ours, counter=counted).macs == model_cost(swin, counter=counted).macs


def test_configs_build_each_form_at_both_sizes(repo: Path) -> None:
    folder = repo / "configs" / "ablations" / "conv_attention"
    assert {path.stem for path in folder.glob("*.yaml")} == {f"{form}_{size}" for form in FORMS for size in BLOCKS}
    for path in folder.glob("*.yaml"):
        config = load_config(path)
        with torch.device("meta"):
            model = build_model(config.model)
        mixers = [module for module in model.modules() if isinstance(module, ConvAttention)]
        form, size = path.stem.rsplit("_", 1)
        assert len(mixers) == BLOCKS[size] and config.model.mixer_args["form"] == form
        expected = FORMS[form]
        assert (mixers[0].weights.theta is not None) == expected.theta
        assert (mixers[0].weights.qk is not None) == expected.dot


def test_unknown_form_is_named() -> None:
    with pytest.raises(ValueError, match=r"mixer_args\.form: 'pre_conf'.*pre_conv"):
        create_model("swin_nano", mixer="conv_attention", mixer_args={"form": "pre_conf"})

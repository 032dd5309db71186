"""The operators inside PyTorch's machinery: torch.compile, autocast, DDP, the environment variable."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import models
from models.ops import generate_and_aggregate, local_aggregate, use_backend

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["dw_conv_nano", "d_dw_conv_nano", "i_dynamic_nano"])
def test_compiles_without_graph_break_and_trains_the_same(name: str) -> None:
    torch.manual_seed(0)
    model = models.create_model(name, img_size=32, num_classes=3, depths=(1, 1), num_heads=(1, 2))
    images = torch.randn(2, 3, 32, 32)
    gradients = []
    for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        run(images).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)
    torch._dynamo.reset()


def test_autocast_uses_the_dtype_of_the_region() -> None:
    x, hidden, generator = torch.randn(1, 3, 3, 4), torch.randn(1, 3, 3, 2), torch.randn(18, 2)
    static, position = torch.randn(4, 3, 3, requires_grad=True), torch.randn(1, 3, 3, 2, 3, 3)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            outputs = [
                local_aggregate(x, static),
                local_aggregate(x, position),
                generate_and_aggregate(x, hidden, generator, None, 2, 3),
            ]
        assert [out.dtype for out in outputs] == [dtype] * 3
        outputs[0].float().sum().backward()
        assert static.grad.dtype == torch.float32


def test_trains_under_ddp(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = models.create_model("i_dynamic_nano", img_size=32, num_classes=3, depths=(1, 1, 1, 1))
        wrapped = nn.parallel.DistributedDataParallel(model)
        wrapped(torch.randn(2, 3, 32, 32)).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        # The wrapper goes before the process group does. As its last owner it would wait, with the GIL, for a thread of
        # gloo that needs the GIL to end: a hang that no timeout of a test reaches, seen once in some twenty suites.
        del wrapped
    finally:
        torch.distributed.destroy_process_group()


def test_backend_can_be_forced() -> None:
    x, weight = torch.randn(1, 4, 4, 2), torch.randn(2, 3, 3)
    with use_backend("reference"):
        expected = local_aggregate(x, weight)
    torch.testing.assert_close(local_aggregate(x, weight), expected)
    with pytest.raises(ValueError, match="fastest"), use_backend("fastest"):
        pass


@pytest.mark.parametrize(("value", "status"), [("reference", 0), ("fastest", 2)])
def test_environment_variable(value: str, status: int) -> None:
    code = "import torch; from models.ops.backend import backend_for; print(backend_for(torch.zeros(1)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "LOCAL_OPS": value}, capture_output=True, text=True
    )
    assert done.returncode == status
    assert done.stdout.strip() == "reference" if status == 0 else done.stderr.count("\n") == 1

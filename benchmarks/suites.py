"""The standard comparisons: which models do which work."""

from dataclasses import dataclass, replace

from benchmarks.specs import Spec, Work, parse_spec
from models.ops.inference import takes_bfloat16
from models.zoo import FAMILIES

BASELINE = "timm:swin_tiny_patch4_window7_224"
OURS = [f"{family}_tiny" for family in FAMILIES]


@dataclass(frozen=True)
class TimingGroup:
    """Models that are timed in turn; ratios are to the first that runs."""

    work: Work
    specs: tuple[Spec, ...]


def group(work: Work, names: tuple[str, ...] | list[str]) -> TimingGroup:
    """A group from the texts of its models."""
    return TimingGroup(work, tuple(parse_spec(name) for name in names))


def standard(device: str) -> list[TimingGroup]:
    """CPU: inference in float32 and bfloat16 and a training step, batch 8, nothing compiled."""
    work = Work("inference", "fp32", 8, 224, device)
    fused = (BASELINE, *(f"{name}+fuse" for name in OURS))
    plain = (BASELINE, *OURS)
    return [group(work, fused), group(replace(work, dtype="bf16"), fused), group(replace(work, mode="train"), plain)]


def rivals(device: str) -> list[TimingGroup]:
    """CPU: inference of DW-Conv-T beside what its user would take instead, at batch 1, 8 and 32.

    In bfloat16 as well where the processor computes in it: elsewhere every library makes float32 of it first.
    """
    peers = [f"{name}{way}" for name in (BASELINE, "timm:convnext_tiny") for way in ("", "+compile")]
    ways = [f"dw_conv_tiny+fuse{way}" for way in ("", "+compile", "+onnxruntime", "+openvino")]
    dtypes = ("fp32", "bf16") if takes_bfloat16() else ("fp32",)
    works = [Work("inference", dtype, batch, 224, device) for dtype in dtypes for batch in (1, 8, 32)]
    return [group(work, [*peers, *ways, "i_dynamic_tiny+fuse"]) for work in works]


def gpu(device: str) -> list[TimingGroup]:
    """GPU: inference and a training step in bfloat16, batch 128, everything compiled."""
    work = Work("inference", "bf16", 128, 224, device)
    fused = (f"{BASELINE}+compile", *(f"{name}+fuse+compile" for name in OURS))
    plain = (f"{BASELINE}+compile", *(f"{name}+compile" for name in OURS))
    return [group(work, fused), group(replace(work, mode="train"), plain)]

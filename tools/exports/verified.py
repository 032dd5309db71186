"""Write an export, compare it with PyTorch, and only then put it where it was asked for."""

import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.files import flush_folder
from models.errors import UserError
from tools.exports.formats import STRIDE, Format, Run
from tools.exports.source import Source

BATCHES = (1, 2, 5)
# Largest difference, as a share of the largest logit. Float32 in another order gives about a thousandth of that.
TOLERANCE = 1e-3


def check_packages(name: str, packages: tuple[str, ...]) -> None:
    """Raises UserError with the line that installs what is missing."""
    absent = [package for package in packages if find_spec(package) is None]
    if absent:
        raise UserError(f"{name}: {', '.join(absent)} not installed; pip install {' '.join(absent)}")


def pictures(source: Source, any_size: bool) -> list[Tensor]:
    """Random pictures, prepared as the model wants them: several batches, and several sizes where it takes them."""
    height, width = source.size
    shapes = [(batch, height, width) for batch in BATCHES]
    if any_size:
        shapes += [(2, height + 2 * STRIDE, width), (3, height + 7, width + 3 * STRIDE)]
    mean, std = (torch.tensor(source.preparation[key])[:, None, None] for key in ("mean", "std"))
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(batch, source.channels, *size, generator=generator) - mean) / std for batch, *size in shapes]


@torch.no_grad()
def largest_difference(model: nn.Module, run: Run, batches: list[Tensor]) -> tuple[float, float]:
    """Between the logits of PyTorch and of an export, and the largest logit.

    Raises:
        UserError: the model's own logits are not finite, or those of the export have another shape or differ by more
            than :data:`TOLERANCE`.
    """
    worst, scale = 0.0, 0.0
    for images in batches:
        expected = model(images)
        if not expected.isfinite().all():
            raise UserError("the weights give logits that are not finite")
        shape = "x".join(map(str, images.shape))
        got = run(images)
        if got.shape != expected.shape:
            raise UserError(
                f"the export gives logits {tuple(got.shape)} for pictures {shape}, not {tuple(expected.shape)}"
            )
        difference, largest = (got - expected).abs().max().item(), expected.abs().max().item()
        if not difference <= TOLERANCE * largest:
            raise UserError(
                f"the export differs by {difference:.3g} from PyTorch for pictures {shape}; nothing is kept"
            )
        worst, scale = max(worst, difference), max(scale, largest)
    return worst, scale


def export(source: Source, form: Format, output: Path, fixed_size: bool = False) -> str:
    """Write, verify, move into place; what was compared, as a line.

    Args:
        fixed_size: take pictures of the nominal size only, though the model and the format would take any.

    Raises:
        UserError: the output exists, or the export is not the model. Nothing is left then.
    """
    any_size = form.takes_any_size(source) and not fixed_size
    batches = pictures(source, any_size)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=output.parent) as folder:
        written = Path(folder) / output.name
        form.write(source, written, any_size)
        worst, scale = largest_difference(source.model, form.load(written), batches)
        files = sorted(Path(folder).iterdir())  # OpenVINO writes two; the one that names the other is last
        for path in files:
            if (output.parent / path.name).exists():
                raise UserError(f"{output.parent / path.name}: exists; remove it or name another --output")
        for path in files:
            path.rename(output.parent / path.name)
    flush_folder(output.parent)
    shapes = ", ".join("x".join(map(str, images.shape)) for images in batches)
    return f"largest difference from PyTorch {worst:.2g} (largest logit {scale:.3g}) on pictures {shapes}"

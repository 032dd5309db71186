"""The weights that the authors and Swin have released: what each file holds, where it is, what its README says."""

from dataclasses import dataclass
from typing import Literal

from .errors import UserError

Task = Literal["classification", "detection", "segmentation"]

AUTHORS = "https://github.com/Atten4Vis/DemystifyLocalViT/releases/download/prerelease/"
SWIN = "https://github.com/SwinTransformer/storage/releases/download/"
CLASSES: dict[Task, int] = {"classification": 1000, "detection": 80, "segmentation": 150}
"""Of ImageNet-1K, COCO and ADE20K."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """One released file: a classifier, or a whole detector or segmentor around the backbone of that name."""

    file: str
    prefix: str
    """Of the URL; the file's own name follows it, as it follows the prefix of a mirror."""
    model: str
    """Name in the zoo."""
    task: Task
    readme: dict[str, float]
    """What the README of the release says, in percent, by the names that the tables' columns have."""
    sha256: str | None = None
    """Hash of the file, or its first digits; None where none was ever published."""

    @property
    def url(self) -> str:
        return self.prefix + self.file

    @property
    def num_classes(self) -> int:
        return CLASSES[self.task]

    @property
    def config(self) -> str:
        """Config of the rows of the tables that hold the paper's number, relative to a checkout."""
        return config_of(self.model, self.task)


def config_of(model: str, task: Task) -> str:
    """The config that trains one of the paper's eight models for a task, relative to a checkout."""
    name = model.replace("_", "-")
    return {
        "classification": f"configs/imagenet/{model}.yaml",
        "detection": f"detection/configs/cascade-mask-rcnn_{name}_fpn_3x_coco.py",
        "segmentation": f"segmentation/configs/upernet_{name}_160k_ade20k-512x512.py",
    }[task]


def _classifier(model: str, prefix: str, file: str, **readme: float) -> Release:
    return Release(file=file, prefix=prefix, model=model, task="classification", readme=readme)


def _detector(model: str, prefix: str, file: str, box_ap: float, mask_ap: float) -> Release:
    readme = {"box_ap": box_ap, "mask_ap": mask_ap}
    return Release(file=file, prefix=prefix, model=model, task="detection", readme=readme)


def _segmentor(model: str, prefix: str, file: str, miou: float) -> Release:
    return Release(file=file, prefix=prefix, model=model, task="segmentation", readme={"miou": miou})


_ALL = (
    _classifier("swin_tiny", SWIN + "v1.0.0/", "swin_tiny_patch4_window7_224.pth", top1=81.2, top5=95.5),
    _classifier("swin_base", SWIN + "v1.0.0/", "swin_base_patch4_window7_224.pth", top1=83.5, top5=96.5),
    _classifier("dw_conv_tiny", AUTHORS, "dwnet_tiny_224.pth", top1=81.2),
    _classifier("dw_conv_base", AUTHORS, "dwnet_base_224.pth", top1=83.2),
    _classifier("d_dw_conv_tiny", AUTHORS, "dynamic_dwnet_tiny_224.pth", top1=81.8),
    _classifier("d_dw_conv_base", AUTHORS, "dynamic_dwnet_base_224.pth", top1=83.2),
    _detector("swin_tiny", SWIN + "v1.0.2/", "cascade_mask_rcnn_swin_tiny_patch4_window7.pth", 50.4, 43.7),
    _detector("swin_base", SWIN + "v1.0.2/", "cascade_mask_rcnn_swin_base_patch4_window7.pth", 51.9, 45.0),
    _detector("dw_conv_tiny", AUTHORS, "cascade_mask_rcnn_dwnet_tiny.pth", 49.9, 43.4),
    _detector("dw_conv_base", AUTHORS, "cascade_mask_rcnn_dwnet_base.pth", 51.0, 44.1),
    _detector("d_dw_conv_tiny", AUTHORS, "cascade_mask_rcnn_dynamic_dwnet_tiny.pth", 50.5, 43.7),
    _detector("d_dw_conv_base", AUTHORS, "cascade_mask_rcnn_dynamic_dwnet_base.pth", 51.2, 44.4),
    _segmentor("swin_tiny", SWIN + "v1.0.1/", "upernet_swin_tiny_patch4_window7_512x512.pth", 44.51),
    _segmentor("swin_base", SWIN + "v1.0.1/", "upernet_swin_base_patch4_window7_512x512.pth", 48.13),
    _segmentor("dw_conv_tiny", AUTHORS, "upernet_dwnet_tiny.pth", 45.5),
    _segmentor("dw_conv_base", AUTHORS, "upernet_dwnet_base.pth", 48.3),
    _segmentor("d_dw_conv_tiny", AUTHORS, "upernet_dynamic_dwnet_tiny.pth", 45.7),
    _segmentor("d_dw_conv_base", AUTHORS, "upernet_dynamic_dwnet_base.pth", 48.0),
)
RELEASES: dict[tuple[str, Task], Release] = {(release.model, release.task): release for release in _ALL}
"""All releases, by name in the zoo and task."""


def released(name: str, task: Task = "classification") -> Release:
    """The release of a model of the zoo.

    Raises:
        UserError: no weights of it were ever released; says what to do instead.
    """
    if (name, task) in RELEASES:
        return RELEASES[name, task]
    known = ", ".join(model for model, of in RELEASES if of == task)
    if name not in ("i_dynamic_tiny", "i_dynamic_base"):
        raise UserError(f"{name}: no released weights of it for {task} are known; train it, or take one of {known}")
    command = "train_cls.py --config" if task == "classification" else f"{task}/train.py"
    raise UserError(
        f"{name}: no weights of I-Dynamic were ever released; train it (python {command} {config_of(name, task)}), or "
        f"take one of {known}"
    )

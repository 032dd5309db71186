"""Cost of a whole detector or segmentor, as Tables 3 and 11 count it; nothing is computed, all tensors are `meta`.

Detection: one image of 1280x800, the region proposals' heads on all levels, 1000 RoIs through each box head, 100 RoIs
through each mask head. Segmentation: one image of 2048x512; the auxiliary head counts in the parameters only.
"""

import sys
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from models.cost import DENSE, Cost, Rules, paper_macs, paper_rule, torch_macs

DETECTION_SIZE = (800, 1280)
SEGMENTATION_SIZE = (512, 2048)
BOX_ROIS, MASK_ROIS = 1000, 100


@paper_rule(nn.ConvTranspose2d)
def _transposed(module: nn.ConvTranspose2d, inputs: tuple[Tensor, ...], output: Tensor, rules: Rules) -> int:
    taps = module.out_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
    return inputs[0].numel() * taps + (output.numel() if module.bias is not None else 0)


class DetectorPath(nn.Module):
    """The layers of a detector that an image and its regions pass, without the search for regions."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> None:
        detector: Any = self.detector
        maps = detector.neck(detector.backbone(image))
        detector.rpn_head(maps)
        heads = detector.roi_head
        for kind, rois in (("bbox", BOX_ROIS), ("mask", MASK_ROIS)):
            stages = getattr(heads, f"{kind}_head")
            extractors = getattr(heads, f"{kind}_roi_extractor")
            several = isinstance(stages, nn.ModuleList)
            for index in range(len(stages) if several else 1):
                head, extractor = (stages[index], extractors[index]) if several else (stages, extractors)
                side = extractor.roi_layers[0].output_size
                head(image.new_empty(rois, extractor.out_channels, *side))


class SegmentorPath(nn.Module):
    """Backbone and decode head of a segmentor."""

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, image: Tensor) -> None:
        segmentor: Any = self.segmentor
        segmentor.decode_head(segmentor.backbone(image))


def build_meta(config: Config) -> nn.Module:
    """Build ``config.model`` without memory for its weights. What the libraries print goes to stderr."""
    scope = config.default_scope
    with redirect_stdout(sys.stderr), DefaultScope.overwrite_default_scope(scope):
        import_module(f"{scope}.models")
        with torch.device("meta"):
            return MODELS.build({**config.model, "_scope_": scope})


def dense_cost(config: Config, *, counter: str = "paper", size: tuple[int, int] | None = None) -> Cost:
    """Parameters and MACs of the model of a detection or segmentation config (Tables 3 and 11).

    Args:
        config: a config of this project, or any of the libraries' whose model has these parts.
        counter: "paper" or "torch".
        size: height and width of the image; None is the paper's.
    """
    model = build_meta(config)
    detection = config.default_scope == "mmdet"
    path = DetectorPath(model) if detection else SegmentorPath(model)
    image = torch.empty(1, 3, *(size or (DETECTION_SIZE if detection else SEGMENTATION_SIZE)), device="meta")
    params = sum(parameter.numel() for parameter in model.parameters())
    if counter == "paper":
        return Cost(params, paper_macs(path, image, rules=DENSE))
    return Cost(params, *torch_macs(path, image))

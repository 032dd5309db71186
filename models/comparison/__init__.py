"""The models that the paper compares with and that timm does not have (Tables 8 and 13), registered like the zoo's."""

from ..zoo import register
from .pvt import PVT
from .resnet import basic_block_resnet
from .swapped import svt_with_mixer, volo_with_mixer

__all__ = ["PVT", "basic_block_resnet", "svt_with_mixer", "volo_with_mixer"]

PVT_CFG = {"first_conv": "stages.0.proj", "classifier": "head", "fixed_input_size": False}
RESNET_CFG = {"first_conv": "conv1.0", "classifier": "fc"}
VOLO_CFG = {"first_conv": "patch_embed.conv.0", "classifier": ("head", "aux_head")}
SVT_CFG = {"first_conv": "patch_embeds.0.proj", "classifier": "head"}

register("pvt_small", PVT, PVT_CFG, depths=(3, 4, 6, 3))
register("pvt_medium", PVT, PVT_CFG, depths=(3, 4, 18, 3))
register("pvt_large", PVT, PVT_CFG, depths=(3, 8, 27, 3))
register("resnet38_basic", basic_block_resnet, RESNET_CFG, layers=(4, 2, 8, 4))
register("resnet72_basic", basic_block_resnet, RESNET_CFG, layers=(4, 2, 25, 4))
register("resnet106_basic", basic_block_resnet, RESNET_CFG, layers=(4, 6, 38, 4))
register("volo_d1_local_attention", volo_with_mixer, VOLO_CFG, mixer="window_attention")
register("volo_d1_dw_conv", volo_with_mixer, VOLO_CFG, mixer="dw_conv")
register("svt_small_dw_conv", svt_with_mixer, SVT_CFG, mixer="dw_conv")

# Nano sizes of Table 13's architectures, for the ablation grid on small images.
VOLO_NANO = {"layers": (2, 1, 2, 1), "embed_dim": (32, 64, 64, 64), "num_heads": (1, 2, 2, 2), "patch_size": 4}
SVT_NANO = {
    "depths": (2, 2, 2, 2),
    "embed_dim": (32, 64, 128, 256),
    "num_heads": (1, 2, 4, 8),
    "sr_ratios": (4, 2, 1, 1),
    "patch_size": 2,
}
register("volo_nano", volo_with_mixer, VOLO_CFG, **VOLO_NANO)
register("volo_nano_local_attention", volo_with_mixer, VOLO_CFG, mixer="window_attention", **VOLO_NANO)
register("volo_nano_dw_conv", volo_with_mixer, VOLO_CFG, mixer="dw_conv", **VOLO_NANO)
register("svt_nano", svt_with_mixer, SVT_CFG, **SVT_NANO)
register("svt_nano_dw_conv", svt_with_mixer, SVT_CFG, mixer="dw_conv", **SVT_NANO)

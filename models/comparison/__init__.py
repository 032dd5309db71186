"""The models that the paper compares with and that timm does not have (Tables 8 and 13), registered like the zoo's."""

from models.comparison import cost_rules
from models.comparison.pvt import PVT
from models.comparison.resnet import basic_block_resnet
from models.comparison.swapped import svt_small_with_mixer, volo_d1_with_mixer
from models.zoo import register

__all__ = ["PVT", "basic_block_resnet", "cost_rules", "svt_small_with_mixer", "volo_d1_with_mixer"]

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
register("volo_d1_local_attention", volo_d1_with_mixer, VOLO_CFG, mixer="window_attention")
register("volo_d1_dw_conv", volo_d1_with_mixer, VOLO_CFG, mixer="dw_conv")
register("svt_small_dw_conv", svt_small_with_mixer, SVT_CFG, mixer="dw_conv")

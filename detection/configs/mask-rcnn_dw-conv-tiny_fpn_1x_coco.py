# Mask R-CNN 1x, an example of another head than the paper's: optimiser, schedule and pipeline are the library's own for
# Swin. Other models differ in the backbone's name (and, for base, in the neck's widths, as the Cascade configs show).
_base_ = [
    __import__("mmdet").__path__[0] + "/.mim/configs/swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py",
    "../../engine/dense/configs/zoo.py",
]
custom_imports = dict(imports=["localmixer.mm"], allow_failed_imports=False)

model = dict(
    backbone=dict(
        _delete_=True,
        type="ZooBackbone",
        name="dw_conv_tiny",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dw_conv_tiny.safetensors"),
    )
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.weight_decay))

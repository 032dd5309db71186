_base_ = "./_base_/mask-rcnn_3x.py"

model = dict(
    backbone=dict(
        name="swin_tiny",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/swin_tiny.safetensors"),
    ),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.swin_weight_decay))

_base_ = "./_base_/cascade-mask-rcnn_3x.py"

model = dict(
    backbone=dict(
        name="swin_base",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/swin_base.safetensors"),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.swin_weight_decay))

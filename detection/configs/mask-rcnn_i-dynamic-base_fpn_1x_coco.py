_base_ = "./_base_/mask-rcnn_1x.py"

model = dict(
    backbone=dict(
        name="i_dynamic_base",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/i_dynamic_base.safetensors"),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)

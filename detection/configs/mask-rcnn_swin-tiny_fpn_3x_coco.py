_base_ = "./_base_/mask-rcnn_3x.py"

model = dict(
    backbone=dict(
        name="swin_tiny",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/swin_tiny.safetensors"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

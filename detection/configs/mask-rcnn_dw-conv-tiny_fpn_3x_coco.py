_base_ = "./_base_/mask-rcnn_3x.py"

model = dict(
    backbone=dict(
        name="dw_conv_tiny",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dw_conv_tiny.safetensors"),
    ),
)

_base_ = "./_base_/mask-rcnn_1x.py"

model = dict(
    backbone=dict(
        name="d_dw_conv_tiny",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/d_dw_conv_tiny.safetensors"),
    ),
)

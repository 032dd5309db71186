_base_ = "./_base_/upernet_160k.py"

model = dict(
    backbone=dict(
        name="d_dw_conv_tiny",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/d_dw_conv_tiny.safetensors"),
    ),
)

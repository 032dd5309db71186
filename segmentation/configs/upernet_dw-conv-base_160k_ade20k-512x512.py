_base_ = "./_base_/upernet_160k.py"

model = dict(
    backbone=dict(
        name="dw_conv_base",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dw_conv_base.safetensors"),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)

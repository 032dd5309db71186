_base_ = "./_base_/upernet_160k.py"

model = dict(
    backbone=dict(
        name="i_dynamic_base",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/i_dynamic_base.safetensors"),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)

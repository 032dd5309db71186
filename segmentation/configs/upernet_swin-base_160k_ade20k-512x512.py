_base_ = "./_base_/upernet_160k.py"

model = dict(
    backbone=dict(
        name="swin_base",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/swin_base.safetensors"),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.swin_weight_decay))

_base_ = "./_base_/upernet_160k.py"

model = dict(
    backbone=dict(
        name="dw_conv_base",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dw_conv_base.safetensors"),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
# The authors' dense code frees names with "norm" of weight decay; the BNs of their blocks were called "bn".
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            "mixer.": dict(decay_mult=1.0),
            "norm2": dict(decay_mult=1.0),  # of blocks
            "backbone.norm2": dict(decay_mult=0.0),  # of the third output
        }
    )
)

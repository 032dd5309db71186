_base_ = "./_base_/mask-rcnn_1x.py"

model = dict(
    backbone=dict(
        name="dw_conv_base",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dw_conv_base.safetensors"),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
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

_base_ = "./_base_/mask-rcnn_1x.py"

model = dict(
    backbone=dict(
        name="dw_conv_tiny",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dw_conv_tiny.safetensors"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
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

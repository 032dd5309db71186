_base_ = "./_base_/upernet_160k.py"

model = dict(
    backbone=dict(
        name="d_dw_conv_tiny",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/d_dw_conv_tiny.safetensors"),
    ),
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

_base_ = "./_base_/upernet_160k.py"

model = dict(
    backbone=dict(
        name="d_dw_conv_tiny",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/d_dw_conv_tiny.safetensors"),
    ),
)
# As in the authors' dense code only names with "norm" are free of weight decay, and theirs for these BNs were "bn".
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"norm2": dict(decay_mult=1.0), "mixer.": dict(decay_mult=1.0)}))

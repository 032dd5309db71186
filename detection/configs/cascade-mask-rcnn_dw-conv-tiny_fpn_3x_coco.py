_base_ = "./_base_/cascade-mask-rcnn_3x.py"

model = dict(
    backbone=dict(
        name="dw_conv_tiny",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dw_conv_tiny.safetensors"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
# As in the authors' dense code only names with "norm" are free of weight decay, and theirs for these BNs were "bn".
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"norm2": dict(decay_mult=1.0), "mixer.": dict(decay_mult=1.0)}))

_base_ = "./_base_/cascade-mask-rcnn_3x.py"

model = dict(
    backbone=dict(
        name="i_dynamic_tiny",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/i_dynamic_tiny.safetensors"),
    ),
)

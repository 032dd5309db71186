_base_ = "./_base_/upernet_160k.py"

model = dict(
    backbone=dict(
        name="i_dynamic_tiny",
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/i_dynamic_tiny.safetensors"),
    ),
)

# CamVid at half its size with a model of configs/proxy as the backbone, for docs/evidence.md; the files of the other
# operators change its name, I-Dynamic's also the number of groups. From CIFAR-10:
# `--pretrained runs/proxy/dw_conv/seed0/last.safetensors`.
_base_ = "./upernet_dw-conv-nano_camvid.py"

_zoo = dict(patch_size=2, embed_dim=16, num_heads=[1, 2, 4, 8], window_size=4, drop_path_rate=0.2)
_size = (96, 128)
_train = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="RandomResize", scale=(240, 180), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
_test = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(240, 180), keep_ratio=True),
    dict(type="LoadAnnotations", reduce_zero_label=True),  # after resizing: labels keep their full size
    dict(type="PackSegInputs"),
]
model = dict(
    data_preprocessor=dict(size=_size, test_cfg=dict(size_divisor=16)),
    backbone=dict(_delete_=True, type="ZooBackbone", name="dw_conv_tiny", **_zoo),
    decode_head=dict(in_channels=[16, 32, 64, 128], channels=32),
    auxiliary_head=dict(in_channels=64, channels=32),
)
train_dataloader = dict(dataset=dict(pipeline=_train))
val_dataloader = dict(dataset=dict(pipeline=_test))
test_dataloader = val_dataloader

# CamVid in ADE20K's layout (480x360, 11 classes, 0 = ignore) with the small UPerNet of the scenes, from random weights.
_base_ = "./upernet_dw-conv-nano_scenes.py"

_classes = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
_dataset = dict(data_root="datasets/camvid", metainfo=dict(classes=_classes))
_train = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="RandomResize", scale=(480, 360), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(192, 256), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
model = dict(
    data_preprocessor=dict(size=(192, 256), size_divisor=None, test_cfg=dict(size_divisor=32)),
    decode_head=dict(loss_decode=dict(class_weight=None)),
    auxiliary_head=dict(loss_decode=dict(class_weight=None)),
)
train_dataloader = dict(dataset=dict(pipeline=_train, **_dataset))
val_dataloader = dict(batch_size=1, dataset=_dataset)
test_dataloader = val_dataloader

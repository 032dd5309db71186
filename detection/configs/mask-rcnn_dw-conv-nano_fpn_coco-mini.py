# Does it learn? A small Mask R-CNN overfits the training images of COCO-mini (80 classes) and is evaluated on them.
_base_ = "./mask-rcnn_dw-conv-nano_fpn_scenes.py"

_resize = dict(type="Resize", scale=(320, 240), keep_ratio=True)
_load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]
_keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
_files = dict(
    data_root="datasets/coco_mini/",
    ann_file="annotations/instances_train2017.json",
    data_prefix=dict(img="train2017/"),
    metainfo=None,
)
model = dict(
    roi_head=dict(bbox_head=dict(num_classes=80), mask_head=dict(num_classes=80)),
    train_cfg=dict(rcnn=dict(sampler=dict(num=64))),
)
train_dataloader = dict(dataset=dict(pipeline=[*_load, _resize, dict(type="PackDetInputs")], **_files))
val_dataloader = dict(
    dataset=dict(pipeline=[_load[0], _resize, _load[1], dict(type="PackDetInputs", meta_keys=_keys)], **_files)
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=_files["data_root"] + _files["ann_file"])
test_evaluator = val_evaluator

train_cfg = dict(max_epochs=100, val_interval=50)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=True, T_max=100, eta_min=1e-5, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=50))

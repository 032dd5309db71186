# The embedded scenes of tools/make_scenes.py: 192x160, ten classes; no flips, for a mirrored digit is no digit.
_base_ = [
    __import__("mmdet").__path__[0] + "/.mim/configs/_base_/" + part
    for part in ("models/mask-rcnn_r50_fpn.py", "datasets/coco_instance.py", "default_runtime.py")
]
_classes = tuple("0123456789")
_load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]
_pack = dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"))


def _dataset(split, folder, pipeline):
    return dict(
        data_root="datasets/scenes/",
        metainfo=dict(classes=_classes),
        ann_file=f"annotations/instances_{split}2017.json",
        data_prefix=dict(img=f"images/{folder}/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=1),
        pipeline=pipeline,
    )


_train = [*_load, dict(type="PhotoMetricDistortion"), dict(type="PackDetInputs")]
_test = [_load[0], dict(type="Resize", scale=(192, 160), keep_ratio=True), _load[1], _pack]
train_dataloader = dict(batch_size=8, num_workers=1, batch_sampler=None, dataset=_dataset("train", "training", _train))
val_dataloader = dict(batch_size=8, num_workers=1, dataset=_dataset("val", "validation", _test))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="datasets/scenes/annotations/instances_val2017.json")
test_evaluator = val_evaluator
auto_scale_lr = dict(enable=False, base_batch_size=8)

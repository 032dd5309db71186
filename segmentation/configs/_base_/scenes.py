# The embedded scenes of tools/make_scenes.py: 192x160, background and ten digits; no flips.
_base_ = [
    __import__("mmseg").__path__[0] + "/.mim/configs/_base_/" + part
    for part in ("models/upernet_swin.py", "datasets/ade20k.py", "default_runtime.py", "schedules/schedule_20k.py")
]
_load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", reduce_zero_label=True)]


def _dataset(folder, pipeline):
    return dict(
        type="BaseSegDataset",
        data_root="datasets/scenes",
        metainfo=dict(classes=("background", *"0123456789")),
        reduce_zero_label=True,
        data_prefix=dict(img_path=f"images/{folder}", seg_map_path=f"annotations/{folder}"),
        pipeline=pipeline,
    )


_train = [*_load, dict(type="PhotoMetricDistortion"), dict(type="PackSegInputs")]
_test = [*_load, dict(type="PackSegInputs")]
train_dataloader = dict(batch_size=8, num_workers=1, dataset=_dataset("training", _train))
val_dataloader = dict(batch_size=8, num_workers=1, dataset=_dataset("validation", _test))
test_dataloader = val_dataloader
auto_scale_lr = dict(enable=False, base_batch_size=8)

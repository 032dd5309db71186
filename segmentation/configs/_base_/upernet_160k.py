# UPerNet on ADE20K as in Swin's set-up: 512x512, AdamW 6e-5, 1,500 warm-up iterations, linear decay, 8 x 2 images.
# Head, data and schedule are the library's own for Swin; ADE20K lies in data/ade/ADEChallengeData2016 or --data-root.
# The library's file is named by its place: the short form "mmseg::" does not know the forks' package names.
_base_ = [
    __import__("mmseg").__path__[0]
    + "/.mim/configs/swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py",
    "../../../engine/dense/configs/zoo.py",
]
custom_imports = dict(imports=["localmixer.mm"], allow_failed_imports=False)

model = dict(backbone=dict(_delete_=True, type="ZooBackbone", name="swin_tiny", drop_path_rate=0.3))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.weight_decay))
auto_scale_lr = dict(enable=False, base_batch_size=16)  # the images of a step that 6e-5 is for

# Swin's decay runs from the first iteration, under the warm-up; the library's config starts it after the warm-up.
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, begin=0, end=160000, by_epoch=False),
]

# Multi-scale testing (--multi-scale): six scales of the 512 side, each also flipped.
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="Resize", scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
                for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type="RandomFlip", prob=prob, direction="horizontal") for prob in (0.0, 1.0)],
            [dict(type="LoadAnnotations", reduce_zero_label=True)],
            [dict(type="PackSegInputs")],
        ],
    ),
]

# `make quickstart-detection`: a nano model with a Mask R-CNN of a quarter of the usual width.
_base_ = "./_base_/scenes.py"
custom_imports = dict(imports=["localmixer.mm"], allow_failed_imports=False)

_bn, _align = dict(type="BN"), dict(sampling_ratio=1)
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(_delete_=True, type="ZooBackbone", name="dw_conv_nano"),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, norm_cfg=_bn),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, roi_layer=_align),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=10),
        mask_roi_extractor=dict(out_channels=64, roi_layer=_align),
        mask_head=dict(in_channels=64, conv_out_channels=64, num_convs=2, num_classes=10, norm_cfg=_bn),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=400, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=400, max_per_img=100)),
)

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=6, val_interval=6)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=6, T_max=6, eta_min=1e-5, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=1, max_keep_ckpts=1))

# `make quickstart-segmentation`: a nano model with an eighth of UPerNet's usual width.
_base_ = "./_base_/scenes.py"
custom_imports = dict(imports=["localmixer.mm"], allow_failed_imports=False)

_bn = dict(type="BN")
_rare = dict(class_weight=[0.2] + [1.0] * 10)  # nine of ten pixels are background
model = dict(
    data_preprocessor=dict(size_divisor=32),
    backbone=dict(_delete_=True, type="ZooBackbone", name="dw_conv_nano"),
    decode_head=dict(in_channels=[32, 64, 128, 256], channels=64, num_classes=11, norm_cfg=_bn, loss_decode=_rare),
    auxiliary_head=dict(in_channels=128, channels=64, num_classes=11, norm_cfg=_bn, loss_decode=_rare),
)

train_cfg = dict(max_iters=900, val_interval=900)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="PolyLR", eta_min=1e-5, power=1.0, by_epoch=False, begin=50, end=900),
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=100, max_keep_ckpts=1))

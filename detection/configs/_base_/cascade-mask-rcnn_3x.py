# Cascade Mask R-CNN as in Swin's set-up: three 4conv1fc box heads with GIoU, multi-scale with crop, 36 epochs, AdamW.
# The heads, the crops and the data come from the library's own config; COCO lies in data/coco or --data-root.
# The library's file is named by its place: the short form "mmdet::" does not know the forks' package names.
_base_ = [
    __import__("mmdet").__path__[0]
    + "/.mim/configs/convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py",
    "../../../engine/dense/configs/zoo.py",
]
custom_imports = dict(imports=["localmixer.mm"], allow_failed_imports=False)

model = dict(backbone=dict(_delete_=True, type="ZooBackbone", name="swin_tiny", drop_path_rate=0.2))

optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys=_base_.weight_decay),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]

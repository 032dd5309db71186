# UPerNet on ADE20K as in Swin's set-up: 512x512, AdamW 6e-5, linear decay after 1,500 warm-up iterations, 8 x 2 images.
# Head, data and schedule are the library's own for Swin; ADE20K lies in data/ade/ADEChallengeData2016 or --data-root.
# The library's file is named by its place: the short form "mmseg::" does not know the forks' package names.
_base_ = (
    __import__("mmseg").__path__[0]
    + "/.mim/configs/swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py"
)
custom_imports = dict(imports=["dense.backbone"], allow_failed_imports=False)
sync_bn = "torch"  # plain BN where there is one device

model = dict(backbone=dict(_delete_=True, type="ZooBackbone", name="swin_tiny", drop_path_rate=0.3))

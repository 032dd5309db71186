# Footnote 6 of the paper: ending the schedule at 1e-6 in place of 0 gives DW-Conv-B 48.9 mIoU. The decay starts after
# the warm-up: chained under it, as in the base, the library's PolyLR would not end its warm-up at Swin's rate.
_base_ = "./upernet_dw-conv-base_160k_ade20k-512x512.py"

param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=1e-6, power=1.0, begin=1500, end=160000, by_epoch=False),
]

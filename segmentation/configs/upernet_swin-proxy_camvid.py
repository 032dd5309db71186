_base_ = "./upernet_dw-conv-proxy_camvid.py"
model = dict(backbone=dict(name="swin_tiny"))

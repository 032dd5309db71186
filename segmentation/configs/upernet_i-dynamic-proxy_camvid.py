_base_ = "./upernet_dw-conv-proxy_camvid.py"
model = dict(backbone=dict(name="i_dynamic_tiny", mixer_args=dict(groups=8)))

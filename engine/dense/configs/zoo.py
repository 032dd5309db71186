# What all configs of the zoo's backbones share, for mmdet and mmseg: synchronised BN and the rules of weight decay.
sync_bn = "torch"  # plain BN where there is one device

# The authors' dense code spares what has "norm" in its name, and position tables. The BNs inside their blocks were
# called "bn", so those decay; here they are "mixer.*" and "norm2". A longer key wins over a shorter one.
weight_decay = {
    "norm": dict(decay_mult=0.0),
    "relative_position_bias_table": dict(decay_mult=0.0),
    "absolute_pos_embed": dict(decay_mult=0.0),
    "mixer.": dict(decay_mult=1.0),
    "norm2": dict(decay_mult=1.0),  # of blocks
    "backbone.norm2": dict(decay_mult=0.0),  # of the third output
}
# Swin's blocks are normalised by LNs, whose names its own code spares.
swin_weight_decay = {**weight_decay, "norm2": dict(decay_mult=0.0)}

"""What detection and segmentation share: the zoo's backbone for mmdet and mmseg, checks, costs, entry points.

The core imports nothing of this. ``custom_imports = dict(imports=["localmixer.mm"])`` in a config of either
library makes the backbone known.
"""

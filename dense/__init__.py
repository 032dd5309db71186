"""What detection and segmentation share: the zoo's backbone for mmdet and mmseg, checks before a run, costs, entry points.

Nothing here is imported by the core. ``custom_imports = dict(imports=["dense.backbone"])`` in a config of either library
makes the backbone known.
"""

"""Predictions of the three tasks on images, and drawings of them. Only :mod:`tools.pictures.dense` needs OpenMMLab."""

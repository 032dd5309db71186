"""Preparation of ImageNet: from the official archives or a folder to each form that the readers know."""

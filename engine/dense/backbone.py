"""The former place of the backbone, which configs written by earlier runs name; it is ``localmixer.mm`` now."""

from models.mm import ZooBackbone  # noqa: F401

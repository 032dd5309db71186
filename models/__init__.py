"""The model zoo: one backbone, many token mixers.

``create_model("dw_conv_tiny", num_classes=1000, img_size=224, drop_path_rate=0.2, **overrides)``; after this import
``timm.create_model`` knows the same names.
"""

from ._alias import one_zoo

one_zoo(__name__)

from . import comparison  # noqa: E402
from .config import ModelConfig, build_model  # noqa: E402
from .fuse import fuse  # noqa: E402
from .zoo import create_model, list_models  # noqa: E402

__all__ = ["ModelConfig", "build_model", "comparison", "create_model", "fuse", "list_models"]

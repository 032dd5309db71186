"""What this project adds to a run of the library."""

from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

_PLAIN_TYPES = (bool, int, float, str, type(None))


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Leave out of checkpoints what only unsafe unpickling could read: the buffers that smooth the log's numbers.

    Weights, optimiser, schedule, iteration and the best score stay; a resumed run smooths its log anew.
    """

    priority = "LOWEST"

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the plain values of the message hub."""
        hub = checkpoint["message_hub"]
        info = {
            key: value.item() if isinstance(value, np.generic) else value for key, value in hub["runtime_info"].items()
        }
        info = {key: value for key, value in info.items() if isinstance(value, _PLAIN_TYPES)}
        keys = {key: value for key, value in hub["resumed_keys"].items() if key in info}
        checkpoint["message_hub"] = {"log_scalars": {}, "runtime_info": info, "resumed_keys": keys}

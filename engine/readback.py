"""Numbers from the device that the host reads later, without waiting for work that came after them."""

import torch
from torch import Tensor


class Readback:
    """A copy of a small tensor on its way to the host.

    On a GPU the copy is queued behind the work that makes the values; only :meth:`values` waits, and for no more than
    that work.
    """

    def __init__(self, values: Tensor) -> None:
        self._values, self._arrived = values, None
        if values.device.type == "cuda":
            self._values = torch.empty_like(values, device="cpu", pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(values.device))

    def values(self) -> list[float]:
        """The numbers, as soon as they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()

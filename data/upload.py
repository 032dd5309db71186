"""The way of a batch to the device: as bytes, through page-locked memory, beside what the device computes.

A copy from page-locked memory on a stream of its own waits for nobody: the device still works on a step while the next
step's images arrive and are normalised. On a CPU there is nothing to send, and every method hands back what it got.
"""

import contextlib

import torch
from torch import Tensor


class Upload:
    """Sends tensors to a device.

    Args:
        device: where batches are wanted.
        pin_memory: go through page-locked memory; without it the host waits for each copy.
    """

    def __init__(self, device: torch.device, *, pin_memory: bool) -> None:
        self.device = device
        self.pin_memory = pin_memory and device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def needed(self) -> bool:
        """Whether the device has a memory of its own."""
        return self.device.type != "cpu"

    def aside(self) -> contextlib.AbstractContextManager[object]:
        """What is started inside runs beside the device's other work."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def send(self, values: Tensor) -> Tensor:
        """The values on the device. Those of the CPU may change at once afterwards."""
        if self.pin_memory:
            values = torch.empty_like(values, pin_memory=True).copy_(values)
        return values.to(self.device, non_blocking=self.pin_memory)

    def hand_over(self, *values: Tensor) -> None:
        """Let the device's work from now on wait for what was started aside, and may use these values."""
        if self._stream is None:
            return
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        for value in values:
            value.record_stream(current)  # its memory is not given away before the last use

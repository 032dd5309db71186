"""The training images that cannot be read, over all ranks and all parts of a run: ``replaced.json``."""

import json
from contextlib import suppress
from pathlib import Path

from data import TrainLoader
from engine.checkpoint import try_writing
from engine.distributed import World
from engine.errors import TrainingFailed
from engine.files import write_atomic


class ReplacedImages:
    """Counts and lists the images that a loader has replaced by others; rank 0 keeps the list.

    Args:
        allowed: largest share of the training images, ``data.max_corrupt``.
    """

    def __init__(self, folder: Path, loader: TrainLoader, world: World, allowed: float) -> None:
        self._path, self._loader, self._world, self._allowed = folder / "replaced.json", loader, world, allowed

    def take_up(self) -> None:
        """Count those of an earlier part of the run, too, but for what can be read by now."""
        if self._world.is_main and self._path.is_file():
            with suppress(ValueError):  # an old list that a kill has cut
                self._loader.take_up(json.loads(self._path.read_text(encoding="utf-8")))

    def list(self) -> dict[str, str]:
        """Names and reasons, over all ranks; written down by rank 0."""
        found: dict[str, str] = {}
        for part in self._world.gather({self._loader.name(i): e.reason for i, e in self._loader.replaced.items()}):
            found |= part
        if found and self._world.is_main:
            text = json.dumps(dict(sorted(found.items())), indent=1).encode()
            try_writing(str(self._path), lambda: write_atomic(self._path, text))
        return found

    def count(self) -> int:
        """How many there are.

        Raises:
            TrainingFailed: too many.
        """
        found = self.list()
        if len(found) > self._allowed * self._loader.num_images:
            raise TrainingFailed(
                f"{len(found)} of {self._loader.num_images} training images cannot be read, above "
                f"data.max_corrupt={self._allowed:g}; see replaced.json"
            )
        return len(found)

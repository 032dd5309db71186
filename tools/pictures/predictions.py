"""What a model says about one image, in a form that can be drawn and written as JSON."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Classes:
    """The most likely classes: (name, probability), the likeliest first."""

    best: list[tuple[str, float]]

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"classes": [{"name": name, "probability": round(value, 4)} for name, value in self.best]}


@dataclass(frozen=True)
class Found:
    """One object: class name and number, score, box (left, top, right, bottom) in pixels, and a mask (H, W) or None."""

    name: str
    index: int
    score: float
    box: tuple[float, float, float, float]
    mask: np.ndarray | None


@dataclass(frozen=True)
class Objects:
    """All objects above the score threshold, the surest first."""

    found: list[Found]

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON; a mask is given by its area in pixels."""
        rows = []
        for item in self.found:
            row: dict[str, Any] = {"name": item.name, "score": round(item.score, 4)}
            row["box"] = [round(value, 1) for value in item.box]
            if item.mask is not None:
                row["mask_pixels"] = int(item.mask.sum())
            rows.append(row)
        return {"objects": rows}


@dataclass(frozen=True)
class Labels:
    """A class for each pixel: (H, W) int, and the names of all classes."""

    label: np.ndarray
    names: list[str]

    def shares(self) -> list[tuple[int, float]]:
        """(class, share of the image) of the classes that occur, the largest first."""
        classes, counts = np.unique(self.label, return_counts=True)
        order = np.argsort(-counts)
        return [(int(classes[i]), float(counts[i] / self.label.size)) for i in order]

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON: the share of each class."""
        return {"labels": {self.names[index]: round(share, 4) for index, share in self.shares()}}


Prediction = Classes | Objects | Labels

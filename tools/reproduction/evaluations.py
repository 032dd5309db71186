"""What is evaluated: each released file on the validation set of its task, classifiers by ReaL's labels as well."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.image_list import random_indices
from engine.files import write_atomic
from engine.records import read_json
from engine.settings import evaluation_settings
from engine.weights import file_hash
from models.download import cached
from models.released import RELEASES, Release, Task
from tools.reproduction.places import ANNOTATIONS, Place
from tools.tables.costs import count, dense_costs, row_config
from tools.tables.loading import ROOT

TASKS: tuple[Task, ...] = ("classification", "segmentation", "detection")  # the shortest first


@dataclass(frozen=True)
class Evaluation:
    """One released file on one data set.

    Args:
        labels: "original", or "real" for ReaL's.
        part: how many images are drawn from the set for a first look; None: all of them.
        folder: of the results.
    """

    release: Release
    place: Place
    folder: Path
    labels: str = "original"
    part: int | None = None

    @property
    def name(self) -> str:
        """Of the files of this evaluation, without their endings."""
        return Path(self.release.file).stem + ("_real" if self.labels == "real" else "")

    @property
    def title(self) -> str:
        """For the screen."""
        return f"{self.release.file}, {'ReaL' if self.labels == 'real' else self.release.task}"

    @property
    def images(self) -> int:
        """How many are looked at; ReaL has no label for some of them."""
        return self.part or self.place.images

    @property
    def result(self) -> Path:
        """The JSON line of the evaluation, and what it was of."""
        return self.folder / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """All that the command printed."""
        return self.folder / f"{self.name}.log"

    @property
    def work(self) -> float:
        """Multiply-adds of the whole evaluation; with those of the paper's image, so that it compares within a task."""
        config = self.release.config
        if self.release.task == "classification":
            return float(self.images * count(config, "paper").macs)
        return float(self.images * dense_costs().get(config, {"macs": 1})["macs"])

    def kept(self) -> dict[str, Any] | None:
        """The result, where this evaluation was finished before, of these images, by these settings and, if they are
        here, of these weights.

        Raises:
            UserError: the file is no result.
        """
        if not self.result.is_file():
            return None
        values = read_json(self.result)
        if any(values.get(key) != value for key, value in self._about().items()):
            return None
        classifier = self.release.task == "classification"
        if classifier and values.get("settings") != evaluation_settings(row_config(self.release.config)):
            return None
        weights = cached(self.release)
        same = not weights.is_file() or file_hash(weights) == values.get("checkpoint_sha256")
        return values if same else None

    def keep(self, line: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Write the result, whole or not at all, and return it."""
        values = {**line, **self._about(), "wall_seconds": round(seconds, 1)}
        write_atomic(self.result, json.dumps(values, indent=1).encode())
        return values

    def _about(self) -> dict[str, object]:
        return {"release": self.release.file, "data": str(self.place.root.resolve()), "images_asked": self.images}

    def command(self, weights: Path, processes: int) -> list[str]:
        """What evaluates: the command that a user would type, under torchrun where there are several GPUs."""
        many = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        start = [sys.executable, *(many if processes > 1 else [])]
        own = self._classifier(weights, processes) if self.release.task == "classification" else self._dense(weights)
        return [*start, *own]

    def _classifier(self, weights: Path, processes: int) -> list[str]:
        workers = min(8, max(1, (os.cpu_count() or 1) // processes), self.images // 64)  # starting one costs seconds
        options = [f"data.root={self.place.root}", *self.place.overrides, f"data.workers={workers}"]
        options += [f"eval.labels={self.labels}"] + ([f"eval.images={self.part}"] if self.part else [])
        command = [str(ROOT / "eval_cls.py"), "--config", str(ROOT / self.release.config)]
        return [*command, "--checkpoint", str(weights), *options]

    def _dense(self, weights: Path) -> list[str]:
        command = [str(ROOT / self.release.task / "test.py"), str(ROOT / self.release.config), str(weights)]
        command += ["--data-root", str(self.place.root), "--work-dir", str(self.folder / "logs" / self.name)]
        return [*command, *(self._part_of_dense(self.part) if self.part else [])]

    def _part_of_dense(self, part: int) -> list[str]:
        """Lists of the drawn images, and the options that have the library read them."""
        if self.release.task == "detection":
            content, path = _part_of_coco(self.place.root, part), self.folder / "instances_val2017.json"
        else:
            content, path = _part_of_ade20k(self.place.root, part), self.folder / "validation.txt"
        write_atomic(path, content.encode())
        added = "" if self.release.task == "detection" else "+"  # the config of a segmentor has no list
        return ["--cfg-options", f"{added}test_dataloader.dataset.ann_file={path.resolve()}"]


def _part_of_coco(root: Path, part: int) -> str:
    content = json.loads((root / ANNOTATIONS).read_text(encoding="utf-8"))
    images = sorted(content["images"], key=lambda image: image["id"])
    content["images"] = [images[index] for index in random_indices(len(images), part, "--images")]
    known = {image["id"] for image in content["images"]}
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in known]
    return json.dumps(content)


def _part_of_ade20k(root: Path, part: int) -> str:
    names = sorted(path.stem for path in (root / "images" / "validation").glob("*.jpg"))
    return "".join(f"{names[index]}\n" for index in random_indices(len(names), part, "--images"))


def plan(places: Mapping[Task, Place], folder: Path, part: int | None, only: list[str]) -> list[Evaluation]:
    """All evaluations whose data are there, task by task, the cheaper first; ReaL's after all of the original labels.

    Args:
        part: images of a first look; a smaller set is taken whole.
        only: names of the zoo; empty: all.
    """
    found = []
    for task in TASKS:
        if task not in places:
            continue
        place = places[task]
        drawn = part if part is not None and part < place.images else None
        for labels in ("original", "real") if task == "classification" else ("original",):
            releases = [each for each in RELEASES.values() if each.task == task and (not only or each.model in only)]
            own = [Evaluation(each, place, folder, labels, drawn) for each in releases]
            found += sorted(own, key=lambda evaluation: evaluation.work)
    return found

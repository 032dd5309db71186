"""The zoo as a list: what each model is, what it costs, what the paper says of it, whether weights are released."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from models import list_models
from models.cost import Cost
from models.errors import UserError, hint
from models.mixers import mixer_class
from models.released import RELEASES, config_of
from models.zoo import defaults
from tools.tables.costs import config_exists, count, row_config
from tools.tables.entries import paper_prints
from tools.tables.loading import load_tables
from tools.tables.printed import NOT_PRINTED
from tools.tables.schema import Table

HEADER = ["model", "operator", "parameters", "MACs", "input", "top-1 in the paper", "weights"]
# Of the comparison models that keep their own operator, by the beginning of the name.
_OTHERS = {
    "pvt": "attention to reduced keys",
    "resnet": "3x3 convolution",
    "volo": "outlook attention",
    "svt": "local and global attention",
}


@dataclass(frozen=True)
class ModelLine:
    """What the list says of a model; MACs by torch's counter, at its nominal input."""

    name: str
    operator: str
    cost: Cost
    size: int
    paper: str
    """Top-1 of the first table that has the model, "-" where none has."""
    weights: bool

    def cells(self) -> list[str]:
        """The columns of :data:`HEADER`; the window sum of I-Dynamic, which torch's counter does not see, apart."""
        apart = f" + {self.cost.aggregation / 1e9:.2f} G" if self.cost.aggregation else ""
        macs = f"{self.cost.macs / 1e9:.2f} G{apart}"
        size = f"{self.size}x{self.size}"
        return [
            self.name,
            self.operator,
            f"{self.cost.params:,}",
            macs,
            size,
            self.paper,
            "yes" if self.weights else "no",
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values, ``macs`` as a number."""
        costs = {"params": self.cost.params, "macs": self.cost.macs, "aggregation_macs": self.cost.aggregation}
        about = {"name": self.name, "operator": self.operator, "img_size": self.size, "paper_top1": self.paper}
        return about | costs | {"weights": self.weights}


def chosen(patterns: list[str], pretrained: bool = False) -> list[str]:
    """The names that match any of the patterns, of all models where there is none.

    Raises:
        UserError: a pattern matches no name.
    """
    names = list_models(pretrained)
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise UserError(
                f"{pattern}: no model{' with weights' if pretrained else ''} of this name; {hint(pattern, names)}"
            )
    return [name for name in names if not patterns or any(fnmatch(name, pattern) for pattern in patterns)]


def lines(names: list[str]) -> Iterator[ModelLine]:
    """The line of each model, as soon as it is counted."""
    tables = load_tables()
    for name in names:
        config = _config(name)
        size = row_config(config).model.img_size
        paper = paper_prints(tables, config, "classification", "top1")
        yield ModelLine(
            name, _operator(name), count(config, "torch"), size, paper, (name, "classification") in RELEASES
        )


def _config(name: str) -> str:
    """A config whose model is exactly the named one; that of its row, where it has one."""
    own = (config_of(name, "classification"), f"configs/ablations/table13/{name}.yaml")
    return next(filter(config_exists, own), f"configs/comparison.yaml model.name={name}")


def _operator(name: str) -> str:
    mixer = defaults(name).get("mixer")
    if mixer is None:
        return next(operator for start, operator in _OTHERS.items() if name.startswith(start))
    return next(iter(mixer_class(mixer).variants.values())).label.rstrip(".")


def table(which: str) -> list[list[str]]:
    """The list for a page, its header first: the models ``with`` or ``without`` released weights."""
    names = [name for name in list_models() if ((name, "classification") in RELEASES) == (which == "with")]
    return [HEADER, *([f"`{line.name}`", *line.cells()[1:]] for line in lines(names))]


def weights_table(family: str, tables: list[Table]) -> list[list[str]]:
    """The released files of a family: task, model, file, what their README and what the paper says, and the recipe."""
    found = [["task", "model", "file", "its README", "the paper", "recipe"]]
    for release in RELEASES.values():
        if release.model.rpartition("_")[0] != family:
            continue
        said = ", ".join(f"{_NAMES[key]} {value}" for key, value in release.readme.items())
        printed = ", ".join(
            f"{_NAMES[key]} {number}"
            for key in release.readme
            if (number := paper_prints(tables, release.config, release.task, key)) != NOT_PRINTED
        )
        file = f"[{release.file}]({release.url})"
        found.append([release.task, f"`{release.model}`", file, said, printed, f"`{release.config}`"])
    return found


_NAMES = {"top1": "top-1", "top5": "top-5", "box_ap": "box AP", "mask_ap": "mask AP", "miou": "mIoU"}

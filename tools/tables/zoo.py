"""The README's table of the zoo: each ImageNet config, its cost by both counters, the paper's top-1 and ours."""

import torch

from models import build_model
from models.cost import model_cost
from models.zoo import FAMILIES
from tools.tables.costs import row_config
from tools.tables.render import markdown_row
from tools.tables.results import Record, measured_value, of_row
from tools.tables.schema import ROOT, Table

HEADER = ["model", "parameters", "MACs, torch counter", "paper's counter", "top-1 in the paper", "here"]


def as_markdown(tables: list[Table], records: list[Record], folder: str) -> str:
    """One row for each config of ``folder`` (such as ``configs/imagenet``), family by family, the smaller first."""
    paths = [path for family in FAMILIES for path in sorted((ROOT / folder).glob(f"{family}_*.yaml"), reverse=True)]
    rows = [row_of(tables, records, f"{folder}/{path.name}") for path in paths]
    return "\n".join(markdown_row(line) for line in [HEADER, ["---"] * len(HEADER), *rows])


def row_of(tables: list[Table], records: list[Record], config: str) -> list[str]:
    """The cells of one config; I-Dynamic's window sum, which the paper leaves out, stands apart."""
    model_config = row_config(config).model
    with torch.device("meta"):
        model = build_model(model_config)
    size = model_config.img_size
    image = (size, size) if isinstance(size, int) else size
    ours, paper = model_cost(model, image), model_cost(model, image, counter="paper")
    apart = f" + {ours.aggregation / 1e9:.4f} G window sum" if ours.aggregation else ""
    accuracy = measured_value(of_row(records, config, "classification"), "top1")
    here = "not run" if accuracy is None else f"{accuracy:.2f}"
    cells = [f"`{model_config.name}`", f"{ours.params:,}", f"{ours.macs / 1e9:.4f} G{apart}"]
    return [*cells, f"{paper.macs / 1e9:.4f} G", printed_accuracy(tables, config), here]


def printed_accuracy(tables: list[Table], config: str) -> str:
    """What the paper prints as top-1 of a config, in the first table that has it."""
    for table in tables:
        column = next((column for column in table.columns if column.quantity == "top1"), None)
        for row in table.rows:
            if column is not None and row.config_of("classification") == config:
                return row.paper[column.key]
    return "-"

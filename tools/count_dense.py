"""Count the detectors and segmentors of Tables 3 and 11: ``python tools/count_dense.py``.

Writes benchmarks/dense_costs.json, from which make_tables shows them: counting needs mmdet and mmsegmentation
(`make setup-dense`), and the tables are to be printed without them, too.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.errors import EXIT_BAD_INPUT
from engine.files import write_atomic
from models.errors import UserError
from tools.model_cost import measure_dense
from tools.tables.costs import DENSE_COSTS
from tools.tables.schema import ROOT, load_tables, shown


def dense_configs() -> list[str]:
    """The detection and segmentation configs of all rows."""
    rows = ((table, row) for table in load_tables() for row in table.rows)
    found = (row.config_of(task) for table, row in rows for task in table.tasks() if task != "classification")
    return list(dict.fromkeys(config for config in found if config))


def main() -> int:
    costs = {}
    try:
        for config in dense_configs():
            cost = measure_dense(str(ROOT / config), "paper")
            costs[config] = {"params": cost.params, "macs": cost.macs}
            print(f"{config}: {cost.params:,} parameters, {cost.macs / 1e9:.3f} G", flush=True)
    except (UserError, ValueError) as error:
        print(f"count_dense: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    write_atomic(DENSE_COSTS, (json.dumps({"counter": "paper", "costs": costs}, indent=1) + "\n").encode())
    print(f"wrote {shown(DENSE_COSTS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Copy what was measured into the table data: ``record_result.py RUN``, ``--evaluation FILE`` or ``--speed REPORT``.

RUN is the folder of a finished training, of a classifier, detector or segmentor, whose config is that of a row; its
weights must be the ones that its record names. `--evaluation FILE` takes the JSON line that eval_cls.py (with
`--config CONFIG`, the row's), detection/test.py or segmentation/test.py printed, for weights from elsewhere or other
labels. `--speed REPORT.json` takes the inference speeds of a report of benchmarks/speed.py. Only this and
tools/reproduce.py write configs/tables/results.yaml; `--dry-run` shows what would be added to it.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("run", nargs="?", type=Path, help="folder of a finished training")
    what.add_argument("--evaluation", type=Path, metavar="FILE", help="the JSON line of an evaluation")
    what.add_argument("--speed", type=Path, metavar="REPORT.json", help="report of benchmarks/speed.py")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the records and where they would go; write nothing"
    )
    parser.add_argument("--config", help="the row's config, with an evaluation by eval_cls.py")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

import yaml

from models.errors import UserError
from tools.tables.loading import RESULTS, TABLES, shown
from tools.tables.recording import of_evaluation, of_run, of_speed
from tools.tables.results import add_record


@cli.command("record_result")
def main() -> None:
    args = parser().parse_args()
    if args.config and not args.evaluation:
        raise UserError("--config: only with --evaluation; a run and a report name their own")
    if args.speed:
        records = of_speed(args.speed)
    else:
        records = [of_run(args.run) if args.run else of_evaluation(args.evaluation, args.config)]
    if args.dry_run:
        shown_records = yaml.safe_dump([record.model_dump(exclude_none=True) for record in records], sort_keys=False)
        print(f"{shown_records}would be added to {shown(TABLES / RESULTS)}; nothing is written")
        return
    for record in records:
        added = add_record(record)
        print(
            f"{'recorded' if added else 'known already'}: {record.config} {record.metrics} in {shown(TABLES / RESULTS)}"
        )


if __name__ == "__main__":
    sys.exit(main())

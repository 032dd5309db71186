"""Build, index and verify ImageNet in a form that training reads, from the official archives or from a folder.

    python tools/prepare_imagenet.py SOURCE OUT --form folder|zip|tar|csv

SOURCE holds ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz, or the folders
train and val with one folder for each class. With SOURCE equal to OUT, what is there is indexed and verified.
Stop it at any time; the same command goes on. Exit status 1: built, but some images cannot be read.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--form", choices=["csv", "folder", "tar", "zip"], default="folder")
    parser.add_argument("--split", choices=["train", "val"], action="append", help="both by default")
    parser.add_argument("--check", choices=["none", "headers", "decode"], default="decode", help="test each image")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that check images")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

from tqdm import tqdm

from data import DataConfig
from data.index import save_index
from data.prepare.sources import Entry, Source, open_source
from data.prepare.verify import Report, verify
from data.prepare.writers import WRITERS, write_text
from data.readers import Split, describe_source, index_path, scan
from models.errors import UserError


def progress_bar(total: int, text: str) -> tqdm:
    """Return a bar on stderr: a line on a terminal, now and then a line in a log file."""
    return tqdm(total=total, desc=text, unit=" images", mininterval=0.5 if sys.stderr.isatty() else 30)


def build(source: Source, split: Split, form: str, out: Path) -> int:
    """Write one split in one form; return how many images it has."""
    entries: list[Entry] = source.entries(split)
    if not entries:
        raise UserError(f"the {split} split has no images")
    out.mkdir(parents=True, exist_ok=True)
    with progress_bar(len(entries), f"{split}: write {form}") as bar:
        WRITERS[form](source, split, entries, out, bar.update)
    return len(entries)


def finish(cfg: DataConfig, split: Split, check: str, jobs: int, wanted: int | None) -> Report:
    """Write the index file, verify the split and list what cannot be read; `wanted` images were to be written."""
    records = scan(cfg, split)
    if wanted not in (None, len(records)):
        raise UserError(
            f"{cfg.root}: the {split} split there has {len(records)} images, the source has {wanted}: it was built "
            f"from other data; remove it, or give another folder"
        )
    save_index(records, index_path(cfg, split), describe_source(cfg, split))
    with progress_bar(len(records) if check != "none" else 0, f"{split}: {check}") as bar:
        report = verify(cfg, split, check, jobs, bar.update)
    if report.unreadable and cfg.root is not None:
        write_text(cfg.root / f"{split}.unreadable.txt", "".join(line + "\n" for line in report.unreadable))
    return report


def show(report: Report) -> None:
    """Print a report for people."""
    print(f"{report.split}: {report.images:,} images in {report.classes:,} classes", end=" ")
    print(f"({report.smallest:,} to {report.largest:,} a class); synset order: {report.synsets}")
    print(f"  complete ImageNet-1K: {'yes' if report.is_imagenet else 'no'}")
    if report.unreadable is None:
        print("  unreadable files: not checked")
        return
    print(f"  unreadable files: {len(report.unreadable)}")
    for line in report.unreadable[:20]:
        print(f"    {line}")


@cli.command("prepare_imagenet", (OSError,))
def main(arguments: list[str] | None = None) -> int:
    """Build, index, verify; return the exit status."""
    options = parser().parse_args(arguments)
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs} must be 1 or more")
    cfg = DataConfig(root=options.out, format=options.form)
    reports = []
    for split in options.split or ["train", "val"]:
        wanted = None
        if options.source.resolve() != options.out.resolve():
            wanted = build(open_source(options.source), split, options.form, options.out)
        reports.append(finish(cfg, split, options.check, options.jobs, wanted))
    if options.json:
        print(json.dumps([{**asdict(report), "is_imagenet": report.is_imagenet} for report in reports]))
    else:
        for report in reports:
            show(report)
    return 1 if any(report.unreadable for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.stand_in FOLDER``: made-up weights under the names of the released files, and tiny data sets.

`make reproduce` runs on them as on the real ones; docs/reproduce.md shows it. What it measures means nothing: the
classifier whose weights are written first finds 75% of the pictures, since their classes are made so, all else nothing.
"""

import argparse
from pathlib import Path

from mmdet.datasets import CocoDataset

from engine.labels import real_labels
from models.released import RELEASES
from tests.stand_in.sets import make_ade20k, make_coco, make_imagenet, make_tables, seen_labels
from tests.stand_in.weights import content, save

CLASSIFIED, DENSE = 16, 2  # images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=[], help="models, such as dw_conv_tiny (default: all, 8 GB)")
    args = parser.parse_args()
    (args.folder / "weights").mkdir(parents=True)
    releases = [each for each in RELEASES.values() if not args.only or each.model in args.only]
    first = content(releases[0])["model"]
    make_imagenet(args.folder / "data" / "imagenet", seen_labels(first, releases[0].model, range(1, CLASSIFIED + 1)))
    make_coco(args.folder / "data" / "coco", DENSE, list(CocoDataset.METAINFO["classes"]))
    make_ade20k(args.folder / "data" / "ADEChallengeData2016", DENSE)
    images = {"classification": CLASSIFIED, "detection": DENSE, "segmentation": DENSE}
    make_tables(args.folder / "tables", images, sum(map(bool, real_labels()[:CLASSIFIED])))
    for release in releases:
        print(save(release, args.folder / "weights"))


if __name__ == "__main__":
    main()

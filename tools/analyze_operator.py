"""Measure operators: ``python tools/analyze_operator.py NAME ... [--set key=value] [--table1] [--translation]``.

What the operator applies to its values is taken as a matrix by autograd, and sparse connectivity, weight sharing and
dynamic weight are read from the matrix alone. NAME is a mixer of the zoo (with options by ``--set``) or a layer of
``--list``. Exit status 1 where a declared property is not the measured one.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine import cli


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--table1", action="store_true", help="the rows of Table 1, and I-Dynamic")
    parser.add_argument("--all", action="store_true", help="every layer and mixer")
    parser.add_argument("--translation", action="store_true", help="error over shift (Appendix C), nothing else")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the mixer")
    parser.add_argument("--size", type=int, default=6, help="side of the map (default 6)")
    parser.add_argument("--window", type=int, default=3, help="side of the window (default 3)")
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--shifted", action="store_true", help="as in a block whose windows are shifted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    parser().parse_args()  # before torch is imported: help and wrong arguments are answered at once

from engine.config import parse_value
from models.errors import UserError
from models.mixers import list_mixers
from models.theory.catalog import LAYERS, MORE, TABLE_1, Layer, Setting, find_layer
from models.theory.curves import SHIFTS, SUBJECTS, WINDOW, Subject, find_subject, measure_curves
from models.theory.examine import Measurement
from models.theory.table import COLUMNS, declared, measure_layer, row
from models.theory.translation import EXACT, translation_kind
from tools.text import aligned

KIND_WORDS = {"any": "any translation", "blocks": "translation by windows", "none": "no translation, exactly"}
LEAST = 6  # side of the map; on a smaller one nearly every window is cut by a border
NEURONS = 2048  # the matrix has their square, its rank takes their cube


def setting_of(args: argparse.Namespace) -> Setting:
    """The checked sizes. UserError names the argument that cannot be measured."""
    for name, least in (("window", 2), ("channels", 4), ("heads", 1)):  # generators have a quarter of the channels
        if getattr(args, name) < least:
            raise UserError(f"--{name}: must be at least {least}, not {getattr(args, name)}")
    if args.channels % args.heads:
        raise UserError(f"--channels: {args.channels} cannot be split evenly into {args.heads} heads")
    if args.size < max(LEAST, 2 * args.window) or args.size % args.window or args.size % 2:
        pair = 2 * args.window
        nearest = pair * max(-(-LEAST // pair), round(args.size / pair))
        raise UserError(
            f"--size: {args.size} must be an even number of at least two windows of {args.window} and at least "
            f"{LEAST}; try {nearest}"
        )
    if args.size**2 * args.channels > NEURONS:
        most = NEURONS // args.size**2
        few = f"at most {most} channels" if most >= 4 else "fewer than 4 channels, so --size is too large"
        raise UserError(f"--channels: {args.size}x{args.size} positions allow {few}, the matrix is square")
    return Setting(
        size=(args.size, args.size),
        window=args.window,
        channels=args.channels,
        heads=args.heads,
        shifted=args.shifted,
    )


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The options by --set. UserError names one that is no option, or that no NAME is given for."""
    if args.set and (args.table1 or args.all or not args.names):
        raise UserError("--set: options belong to a NAME; they cannot be given for --table1, --all or nothing")
    options = {}
    for text in args.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set: '{text}' is not of the form key=value")
        options[key] = parse_value(value, f"--set {key}")
    return options


def chosen_layers(args: argparse.Namespace) -> dict[str, Layer]:
    """The layers asked for, by name. UserError names one that does not exist."""
    chosen: dict[str, Layer] = {}
    if args.table1:
        chosen |= {**TABLE_1, "i_dynamic": MORE["i_dynamic"]}
    if args.all:
        chosen |= LAYERS
    options = options_of(args)
    chosen |= {name: find_layer(name, options) for name in args.names}
    if not chosen:
        raise UserError("give a NAME, --table1 or --all (--list prints the names)")
    return chosen


def describe(name: str, layer: Layer, setting: Setting, seed: int) -> dict[str, Any]:
    """One entry of the JSON output."""
    result = measure_layer(layer, setting, seed=seed)
    promised = declared(layer, setting)
    return {
        "name": name,
        "label": layer.label,
        "table1": row(result.properties),
        "measured": vars(result.properties),
        "declared_equals_measured": promised == result.properties,
        "declared": vars(promised),
        **numbers(result),
    }


def numbers(result: Measurement) -> dict[str, Any]:
    """What the matrix says besides the properties."""
    return {
        "window": list(result.window),
        "windows_see_each_other": not result.partition,
        "period": result.period[0] if result.period[0] == result.period[1] else list(result.period),
        "channel_groups": result.channel_groups,
        "rank": result.rank,
        "neurons": result.neurons,
    }


def print_table(entries: list[dict[str, Any]]) -> None:
    """Table 1 as measured, one row a layer."""
    heads = ["layer", *COLUMNS.values(), "rank", "declared"]
    rows = [
        [
            entry["label"],
            *entry["table1"].values(),
            f"{entry['rank']}/{entry['neurons']}",
            "same" if entry["declared_equals_measured"] else "DIFFERS",
        ]
        for entry in entries
    ]
    print(aligned([heads, *rows], rule=True))


def chosen_subjects(args: argparse.Namespace) -> list[Subject]:
    """The mixers whose curves are asked for. UserError names one that is no mixer of the zoo."""
    options = options_of(args)
    return [find_subject(name, options) for name in args.names] or SUBJECTS


def print_translation(subjects: list[Subject], as_json: bool) -> None:
    """Error over shift, borders left out: each mixer, and a stage of two blocks of it."""
    measured = {subject.label: measure_curves(subject) for subject in subjects}
    if as_json:
        print(json.dumps({label: vars(curves) for label, curves in measured.items()}, indent=1))
        return
    width = max(17, *map(len, measured))  # of the heading
    shifts = "".join(f"{shift:>8}" for shift in SHIFTS)
    print(f"{f'shift (windows of {WINDOW})':{width + 7}}{shifts}  equivalent to")
    for label, curves in measured.items():
        for part, errors in (("mixer", curves.mixer), ("stage", curves.stage)):
            cells = "".join(f"{error if error >= EXACT else 0:>8.3g}" for error in errors.values())
            kind = translation_kind(errors, WINDOW)
            words = KIND_WORDS.get(kind, f"translation by {kind}")
            print(f"{label:{width}}  {part}{cells}  {words}")


@cli.command("analyze_operator")
def main() -> int:
    args = parser().parse_args()
    if args.translation:
        print_translation(chosen_subjects(args), args.json)
        return 0
    if args.list:
        print("\n".join(sorted({*LAYERS, *list_mixers()})))
        return 0
    setting = setting_of(args)
    entries = [describe(name, layer, setting, args.seed) for name, layer in chosen_layers(args).items()]
    if args.json:
        print(json.dumps(entries, indent=1))
    else:
        print_table(entries)
    return 0 if all(entry["declared_equals_measured"] for entry in entries) else 1


if __name__ == "__main__":
    sys.exit(main())

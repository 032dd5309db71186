"""Tables inside README and docs: generated between markers, written or checked.

A table stands between `<!-- generated: table 5 -->` and `<!-- end -->`; the results of a sweep between
`<!-- generated: sweep benchmarks/NAME.json -->` and `<!-- end -->`; the models of a folder of configs between
`<!-- generated: zoo configs/imagenet -->` and `<!-- end -->`; the answers to a file of questions between
`<!-- generated: questions configs/questions.yaml -->` and `<!-- end -->`.
"""

import re
from collections.abc import Callable
from pathlib import Path

from engine.errors import ConfigError, hint
from engine.files import write_atomic
from tools.tables.schema import ROOT, shown

BLOCK = re.compile(r"<!-- generated: (?P<kind>\w+) (?P<name>\S+) -->\n(?P<body>.*?)<!-- end -->", re.DOTALL)
OPENING = re.compile(r"<!-- generated:[^\n]*")
Generator = Callable[[str], str]


def pages(root: Path = ROOT) -> list[Path]:
    """The pages that may hold generated tables."""
    return [path for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))) if path.is_file()]


def named(text: str, kind: str) -> list[str]:
    """The names of the blocks of one kind in a page."""
    return [match["name"] for match in BLOCK.finditer(text) if match["kind"] == kind]


def filled(path: Path, generators: dict[str, Generator]) -> tuple[str, str]:
    """The text of a page as it is, and as it would be if every block were generated now.

    Raises:
        ConfigError: a marker is not understood or its end is missing.
    """
    text = path.read_text(encoding="utf-8")
    if len(OPENING.findall(text)) != len(BLOCK.findall(text)):
        raise ConfigError(f"{shown(path)}: a line '<!-- generated: ... -->' has no '<!-- end -->' or a wrong form")

    def fill(match: re.Match[str]) -> str:
        kind, name = match["kind"], match["name"]
        if kind not in generators:
            raise ConfigError(f"{shown(path)}: nothing generates {kind!r}; {hint(kind, generators)}")
        return f"<!-- generated: {kind} {name} -->\n{generators[kind](name)}\n<!-- end -->"

    return text, BLOCK.sub(fill, text)


def stale(paths: list[Path], generators: dict[str, Generator]) -> list[str]:
    """One line for each page whose tables are not what the data gives, with the first line that differs."""
    found = []
    for path in paths:
        old, new = filled(path, generators)
        pairs = zip(old.splitlines(), new.splitlines(), strict=False)
        if old != new:
            number, line = next(
                ((n, b) for n, (a, b) in enumerate(pairs, start=1) if a != b), (len(old.splitlines()) + 1, "more lines")
            )
            found.append(f"{shown(path)}: line {number} is not what the data gives: {line[:100]!r}")
    return found


def write(paths: list[Path], generators: dict[str, Generator]) -> list[Path]:
    """Generate all blocks anew; returns the pages that changed."""
    changed = []
    for path in paths:
        old, new = filled(path, generators)
        if old != new:
            write_atomic(path, new.encode())
            changed.append(path)
    return changed

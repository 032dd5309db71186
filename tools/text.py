"""Tables for a terminal and for pages."""

from collections.abc import Sequence


def aligned(lines: Sequence[Sequence[str]], *, right: bool = False, rule: bool = False) -> str:
    """A header and rows in columns two blanks apart: ``right`` puts all but the first column to the right, ``rule``
    draws a line of dashes under the header.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines = [lines[0], ["-" * width for width in widths], *lines[1:]] if rule else lines
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right and column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown_row(line: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its header first."""
    return "\n".join(markdown_row(line) for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])

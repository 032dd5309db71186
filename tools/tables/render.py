"""Tables as text, as Markdown and as the generated parts of pages."""

import re
from collections.abc import Callable
from pathlib import Path

from engine.files import write_atomic
from models.errors import UserError, hint
from models.released import RELEASES
from models.zoo import FAMILIES
from tools.tables.costs import count, row_config
from tools.tables.entries import TableEntry, paper_prints
from tools.tables.loading import ROOT, shown
from tools.tables.printed import COSTS, UNITS
from tools.tables.results import Record, counting, measured_value, of_row
from tools.tables.schema import Column, Row, Table
from tools.text import aligned, markdown_row, markdown_table

OURS = "ours"


def heading(table: Table) -> str:
    """The name and title of a table."""
    name = table.table.replace("figure", "Figure ") if table.table.startswith("figure") else f"Table {table.table}"
    name = table.table if table.is_own else name
    return f"{name}: {table.title} ({table.source})"


def shows_ours(column: Column) -> bool:
    """Whether a column has a column of ours beside it: text has none."""
    return column.quantity != "text"


def cells(table: Table, entries: list[TableEntry]) -> list[list[str]]:
    """The header and the rows; entries of one row for several tasks stand on one line. An own table has no paper's."""
    header = ["model"]
    for column in table.columns:
        header += [column.label, OURS] if shows_ours(column) and not table.is_own else [column.label]
    lines = [[*header, "status"]]
    for row in table.rows:
        own = [entry for entry in entries if entry.row.key == row.key]
        lines.append([row.label, *row_cells(table, row, own), status(own)])
    return lines


def row_cells(table: Table, row: Row, entries: list[TableEntry]) -> list[str]:
    """Printed cells, each followed by ours where the column shows it; a misprint carries an asterisk."""
    found = []
    for column in table.columns:
        if not (table.is_own and shows_ours(column)):
            found.append(row.paper[column.key] + ("*" if column.key in row.misprints else ""))
        if shows_ours(column):
            values = [entry.ours(column) for entry in entries]
            value = next((value for value in values if value is not None), None)
            found.append(shown_value(value, column, row))
    return found


def shown_value(value: float | str | None, column: Column, row: Row) -> str:
    """Our value with more digits than the paper prints; "-" where there is none."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if column.quantity == "params":
        return f"{value:,.0f}"
    if column.quantity == "flops":
        return f"{value / float(UNITS[row.flops_unit]):.3f}{row.flops_unit}"
    return f"{value:.2f}"


def status(entries: list[TableEntry]) -> str:
    """The status of a row, by task where the tasks differ; tasks that a row has no config for do not count."""
    entries = [entry for entry in entries if entry.config is not None] or entries
    if len({entry.status for entry in entries}) == 1:
        return entries[0].status
    return ", ".join(f"{entry.task} {entry.status}" for entry in entries)


def footnotes(table: Table, entries: list[TableEntry]) -> list[str]:
    """Misprints with both values, wrong costs, the counter where it is not the paper's, and the table's notes."""
    labels = {column.key: column.label for column in table.columns}
    found = []
    for row in table.rows:
        for key, misprint in row.misprints.items():
            text = f"printed {misprint.printed}, found {misprint.found}: {misprint.reason}"
            found.append(f"* {row.label} ({row.key}), {labels[key]}: {text}.")
    for entry in entries:
        found += [f"! {entry.row.key}: {text}" for text in entry.wrong]
        found += [*other_precision(entry), *timed_on(entry), *released_weights(entry)]
    quoted = [entry.row.label for entry in entries if entry.cost is not None and entry.cost.counter == "torch"]
    if quoted and any(column.quantity in COSTS for column in table.columns):
        names = ", ".join(dict.fromkeys(quoted))
        found.append(f"Counted as multiply-adds alone, as in the publications that the paper quotes: {names}.")
    if any(row.flops_unit == "Gi" for row in table.rows):
        found.append("Gi: the paper prints these rows as G in units of 2^30.")
    return found + list(table.notes)


def other_precision(entry: TableEntry) -> list[str]:
    """A note for each training in another precision than the row's config has, which is its authors'."""
    if entry.config is None or entry.task != "classification":
        return []
    wanted = row_config(entry.config).train.precision
    trained = {record.precision for record in entry.records if record.kind == "trained" and record.precision}
    return [f"{entry.row.key}: trained in {found}, its config says {wanted}." for found in sorted(trained - {wanted})]


def timed_on(entry: TableEntry) -> list[str]:
    """A note for a speed: what it was measured on."""
    return [f"{entry.row.key}: timed on {record.device}." for record in counting(list(entry.records), "throughput")]


def released_weights(entry: TableEntry) -> list[str]:
    """A note for the files that were released and evaluated here, where the cells show them."""
    shown = [record for column in entry.table.columns for record in counting(list(entry.records), column.quantity)]
    files = dict.fromkeys(f"{record.release} on {record.dataset}" for record in shown if record.release)
    return [f"{entry.row.key}: released weights, {', '.join(files)}."] if files else []


def as_text(table: Table, entries: list[TableEntry]) -> str:
    """For a terminal: aligned columns, groups, footnotes, and the command of each row."""
    output = [heading(table), ""]
    for number, line in enumerate(aligned(cells(table, entries)).splitlines()):
        if number and (group := table.heading_before(table.rows[number - 1])):
            output.append(f"-- {group}")
        output.append(line)
    output += ["", *footnotes(table, entries)] if footnotes(table, entries) else []
    commands = [f"  {entry.row.key}: {entry.command}" for entry in entries if entry.command]
    output += ["", "To measure:" if entries[0].properties else "To train:", *commands] if commands else []
    return "\n".join(output)


def as_markdown(table: Table, entries: list[TableEntry]) -> str:
    """For the docs: status and config beside the model, where a narrow window still shows them; a group's rows are a
    table of their own under its title, which a cell would fold into a column of words.
    """
    header, *lines = cells(table, entries)
    heads = [header[0], header[-1], "operator" if entries[0].properties else "config", *header[1:-1]]
    output: list[str] = []
    for line, row in zip(lines, table.rows, strict=True):
        group = table.heading_before(row)
        if group or not output:
            output += ["", f"*{group}*", ""] if group else []
            output += [markdown_row(heads), markdown_row(["---"] * len(heads))]
        sources = dict.fromkeys(entry.config or entry.row.operator for entry in entries if entry.row.key == row.key)
        config = "<br>".join(f"`{source}`" for source in sources if source)
        output.append(markdown_row([line[0], line[-1], config, *line[1:-1]]))
    notes = [note.replace("*", "\\*", 1) if note.startswith("*") else note for note in footnotes(table, entries)]
    return "\n".join([*output, *(["", *(f"- {note}" for note in notes)] if notes else [])]).lstrip("\n")


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
        UserError: a marker is not understood or its end is missing.
    """
    text = path.read_text(encoding="utf-8")
    if len(OPENING.findall(text)) != len(BLOCK.findall(text)):
        raise UserError(f"{shown(path)}: a line '<!-- generated: ... -->' has no '<!-- end -->' or a wrong form")

    def fill(match: re.Match[str]) -> str:
        kind, name = match["kind"], match["name"]
        if kind not in generators:
            raise UserError(f"{shown(path)}: nothing generates {kind!r}; {hint(kind, generators)}")
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


ZOO_HEADER = ["model", "parameters", "MACs, torch counter", "paper's counter", "top-1 in the paper", "here", "weights"]


def zoo_table(tables: list[Table], records: list[Record], folder: str) -> str:
    """One row for each config of ``folder`` (such as ``configs/imagenet``), family by family, the smaller first."""
    paths = [path for family in FAMILIES for path in sorted((ROOT / folder).glob(f"{family}_*.yaml"), reverse=True)]
    return markdown_table([ZOO_HEADER, *(row_of(tables, records, f"{folder}/{path.name}") for path in paths)])


def row_of(tables: list[Table], records: list[Record], config: str) -> list[str]:
    """The cells of one config; I-Dynamic's window sum, which the paper leaves out, stands apart."""
    ours, paper = count(config, "torch"), count(config, "paper")
    apart = f" + {ours.aggregation / 1e9:.4f} G window sum" if ours.aggregation else ""
    accuracy = measured_value(of_row(records, config, "classification"), "top1")
    here = "not run" if accuracy is None else f"{accuracy:.2f}"
    name = row_config(config).model.name
    release = RELEASES.get((name, "classification"))
    cells = [f"`{name}`", f"{ours.params:,}", f"{ours.macs / 1e9:.4f} G{apart}", f"{paper.macs / 1e9:.4f} G"]
    weights = "none" if release is None else f"[released]({release.url})"
    return [*cells, paper_prints(tables, config, "classification", "top1"), here, weights]

"""The paper's yes/no questions: what it found beside what a sweep found, and whether the two agree.

A question compares two rows of a printed table, and the two runs that stand for them. The answer is their difference,
paired by seed, with its 95% interval (tools/tables/paired.py); the paper has no intervals.
"""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from statistics import mean
from typing import TypeVar

from pydantic import Field, ValidationError

from engine.config import read_mapping
from models.errors import UserError, hint
from tools.sweeps import report
from tools.tables.loading import ROOT, shown
from tools.tables.paired import Difference, Noise, Scores, difference, pooled_noise
from tools.tables.schema import Strict, Table
from tools.text import markdown_table

SAME = 1.0  # points: where the paper saw no difference, one within this is none either
AGREES, DISAGREES, CANNOT_TELL, NOT_RUN = "agrees", "disagrees", "cannot tell", "not run"
Member = TypeVar("Member")
HEADER = ("question", "the paper", "here", "seeds", "verdict")


class Question(Strict):
    """Does the second run differ from the first? `rows` are keys of a table, `runs` those of a sweep's results."""

    question: str
    table: str
    rows: list[str] = Field(min_length=2, max_length=2)
    column: str = "top1"
    results: str
    runs: list[str] = Field(min_length=2, max_length=2)


class Questions(Strict):
    """A file of questions."""

    questions: list[Question]


@dataclass(frozen=True)
class Answer:
    """The paper's two figures, in percent, and what both runs reached here, by seed.

    Args:
        noise: of all runs of the sweep; None where it cannot be told from their seeds.
    """

    printed: tuple[Decimal, Decimal]
    scores: tuple[Scores, Scores]
    noise: Noise | None

    @property
    def paper(self) -> float:
        """Points by which the paper's second row is above its first."""
        return float(self.printed[1] - self.printed[0])

    @property
    def seeds(self) -> list[int]:
        """What both runs were trained with."""
        return sorted(self.scores[0].keys() & self.scores[1].keys())

    @property
    def means(self) -> tuple[float, float]:
        """Both runs' means over the seeds that they share."""
        first, second = (mean(scores[seed] for seed in self.seeds) for scores in self.scores)
        return first, second

    @property
    def difference(self) -> Difference | None:
        """The second run less the first; None where no seed is shared or the noise is not known."""
        return difference(*self.scores, self.noise) if self.noise else None

    @property
    def verdict(self) -> str:
        """One rule, fixed before the runs: the whole 95% interval must be on the paper's side of zero to agree and on
        the other to disagree; where the paper saw no difference, within one point to agree and beyond it to disagree.
        """
        if not self.seeds:
            return NOT_RUN
        if self.difference is None:
            return CANNOT_TELL
        low, high = self.difference.interval
        if not self.paper:
            outside = low > SAME or high < -SAME
            return AGREES if low > -SAME and high < SAME else DISAGREES if outside else CANNOT_TELL
        if low <= 0 <= high:
            return CANNOT_TELL
        return AGREES if (low > 0) == (self.paper > 0) else DISAGREES

    def explained(self) -> str:
        """The verdict; where it is open, with the smallest difference that would have been seen with 80% power."""
        if self.verdict != CANNOT_TELL:
            return "" if self.verdict == NOT_RUN else self.verdict
        why = "one seed" if self.difference is None else f"smallest difference seen: {self.difference.smallest:.1f}"
        return f"{CANNOT_TELL} ({why})"

    def cells(self, table: str) -> list[str]:
        """The paper's cell, ours, the number of seeds and the verdict."""
        first, second = self.printed
        paper = f"{first} to {second}: {signed(self.paper)} (Table {table})"
        if not self.seeds:
            return [paper, NOT_RUN, "", ""]
        low, high = self.means
        ours = f"{low:.2f} to {high:.2f}: {signed(high - low)}"
        if self.difference is not None:
            ours += f" ({signed(self.difference.interval[0])} to {signed(self.difference.interval[1])})"
        return [paper, ours, str(len(self.seeds)), self.explained()]


def signed(value: float) -> str:
    """A difference with its sign and one decimal; no sign where it rounds to zero."""
    text = f"{value:+.1f}".replace("-", "−")
    return text[1:] if text in ("+0.0", "−0.0") else text


def answer(question: Question, tables: dict[str, Table]) -> Answer:
    """Look up both sides of a question.

    Raises:
        UserError: a table, row, column or run that is not there, or a cell without a number.
    """
    where = f"question {question.question!r}"
    table = member(tables, question.table, f"{where}: table")
    rows = {row.key: row for row in table.rows}
    columns = {column.key: column for column in table.columns}
    column = member(columns, question.column, f"{where}: column")
    printed = []
    for key in question.rows:
        cell = table.printed(member(rows, key, f"{where}: rows"), column)
        if cell is None:
            raise UserError(f"{where}: rows: {key!r} has no number in column {column.key!r}")
        printed.append(cell.value)
    runs = report.load(ROOT / question.results).by_name
    first, second = (member(runs, name, f"{where}: runs") for name in question.runs)
    noise = pooled_noise({row.name: row.by_seed for row in runs.values() if row.task == first.task})
    return Answer((printed[0], printed[1]), (first.by_seed, second.by_seed), noise)


def member(known: dict[str, Member], key: str, where: str) -> Member:
    """The entry of a key, or a UserError that names the nearest one."""
    if key not in known:
        raise UserError(f"{where}: {key!r} is not there; {hint(key, known)}")
    return known[key]


def load_questions(path: Path) -> list[Question]:
    """Read a file of questions.

    Raises:
        UserError: the file and what is wrong in it.
    """
    try:
        return Questions.model_validate(read_mapping(path)).questions
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{shown(path)}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def as_markdown(path: Path, tables: list[Table]) -> str:
    """The questions of a file as a table, each with its answer."""
    by_name = {table.table: table for table in tables}
    asked = load_questions(path)
    return markdown_table([HEADER, *([q.question, *answer(q, by_name).cells(q.table)] for q in asked)])

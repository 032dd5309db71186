"""The paper's yes/no questions: what it found beside what a sweep found, and whether the two agree.

A question compares two rows of a printed table, and the two runs that stand for them. The answer is the difference of
the means over the seeds with its 95% interval (Welch's t: the two variances may differ); the paper has no intervals.
"""

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from statistics import mean
from typing import TypeVar

from pydantic import Field, ValidationError
from scipy import stats

from engine.config import read_mapping
from models.errors import UserError, hint
from tools.sweeps import report
from tools.tables.schema import ROOT, Strict, Table, shown

TableEntry = TypeVar("TableEntry")
HEADER = ("question", "the paper", "here", "agree?")


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
    """Points in percent: the paper's two, the scores of both runs, their difference and its 95% interval."""

    printed: tuple[Decimal, Decimal]
    scores: tuple[list[float], list[float]]

    @property
    def means(self) -> tuple[float, float]:
        """Both runs' means over their seeds."""
        return mean(self.scores[0]), mean(self.scores[1])

    @property
    def difference(self) -> float:
        """Mean of the second run less mean of the first."""
        return self.means[1] - self.means[0]

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the difference; None where a run has one seed alone."""
        if min(map(len, self.scores)) < 2:
            return None
        test = stats.ttest_ind(self.scores[1], self.scores[0], equal_var=False)
        low, high = test.confidence_interval(0.95)
        return float(low), float(high)

    def verdict(self) -> str:
        """Whether the difference has the sign of the paper's, as far as it is told apart from none."""
        paper = self.printed[1] - self.printed[0]
        if not all(self.scores):
            return ""
        if self.interval is None:
            return "one seed: undecided"
        if self.interval[0] <= 0 <= self.interval[1]:
            return "undecided" if paper else "nothing against it"
        return "yes" if paper and (self.difference > 0) == (paper > 0) else "no"

    def cells(self, table: str) -> list[str]:
        """The paper's cell, ours and the verdict."""
        first, second = self.printed
        paper = f"{first} to {second}: {signed(second - first)} (Table {table})"
        if not all(self.scores):
            return [paper, "not run", ""]
        ours = f"{self.means[0]:.2f} to {self.means[1]:.2f}: {signed(self.difference)}"
        if self.interval is not None:
            ours += f" ({signed(self.interval[0])} to {signed(self.interval[1])})"
        return [paper, ours, self.verdict()]


def signed(value: float | Decimal) -> str:
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
    return Answer((printed[0], printed[1]), (first.scores, second.scores))


def member(known: dict[str, TableEntry], key: str, where: str) -> TableEntry:
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
    lines = [HEADER, ["---"] * len(HEADER)]
    for question in load_questions(path):
        lines.append([question.question, *answer(question, by_name).cells(question.table)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

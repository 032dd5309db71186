"""The questions page: differences, intervals and verdicts from tables and results; refusals by name."""

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats
from whole_records import sweep_result, sweep_row

from models.errors import UserError
from tools.sweeps.grid import load_grid
from tools.tables.questions import Answer, as_markdown, load_questions, signed
from tools.tables.schema import ROOT, load_tables

QUESTION = {"question": "SE?", "table": "6", "rows": ["dw_conv", "dw_conv_se"], "runs": ["a", "b"]}
UP, DOWN, SAME = (Decimal("81.3"), Decimal("81.7")), (Decimal("81.3"), Decimal("81.1")), (Decimal("1"), Decimal("1"))


def test_the_interval_is_welchs() -> None:
    first, second = [40.0, 42.0, 41.0], [44.0, 44.5, 46.0]
    found = Answer(UP, (first, second))
    assert found.difference == pytest.approx(np.mean(second) - np.mean(first))
    parts = [np.var(scores, ddof=1) / len(scores) for scores in (first, second)]
    freedom = sum(parts) ** 2 / sum(part**2 / 2 for part in parts)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(sum(parts))
    assert found.interval == pytest.approx((found.difference - half, found.difference + half))


@pytest.mark.parametrize(
    ("printed", "first", "second", "verdict"),
    [
        (UP, [40.0, 40.1, 40.2], [44.0, 44.1, 44.2], "yes"),
        (DOWN, [40.0, 40.1, 40.2], [44.0, 44.1, 44.2], "no"),
        (SAME, [40.0, 40.1, 40.2], [44.0, 44.1, 44.2], "no"),
        (UP, [40.0, 44.0, 42.0], [41.0, 43.0, 44.0], "undecided"),
        (SAME, [40.0, 44.0, 42.0], [41.0, 43.0, 44.0], "nothing against it"),
        (UP, [40.0], [44.0, 44.1], "one seed: undecided"),
        (UP, [], [44.0], ""),
    ],
)
def test_verdicts(printed: tuple, first: list[float], second: list[float], verdict: str) -> None:
    assert Answer(printed, (first, second)).verdict() == verdict


def test_differences_are_printed_with_their_sign() -> None:
    assert [signed(value) for value in (0.44, -0.44, 0.04, -0.04)] == ["+0.4", "−0.4", "0.0", "0.0"]


def write(folder: Path, **changes: object) -> Path:
    runs = {"a": [40.0, 40.2], "b": [44.0, 44.2], "c": []}
    rows = [sweep_row(name=name, mean=None, runs=[{"top1": s} for s in scores]) for name, scores in runs.items()]
    results = folder / "results.json"
    results.write_text(json.dumps(sweep_result(rows)))
    path = folder / "questions.yaml"
    path.write_text(yaml.safe_dump({"questions": [QUESTION | {"results": str(results)} | changes]}))
    return path


def test_an_answer_stands_beside_the_papers_figures(tmp_path: Path) -> None:
    line = as_markdown(write(tmp_path), load_tables()).splitlines()[-1]
    assert line.startswith("| SE? | 81.3 to 81.7: +0.4 (Table 6) | 40.10 to 44.10: +4.0 (+3.4 to +4.6) | yes |")
    line = as_markdown(write(tmp_path, runs=["a", "c"]), load_tables()).splitlines()[-1]
    assert line.endswith("| not run |  |")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "66"}, r"question 'SE\?': table: '66' is not there"),
        ({"rows": ["dw_conv", "dw_conv_s"]}, r"rows: 'dw_conv_s' is not there; the nearest valid one is dw_conv_se"),
        ({"column": "se"}, r"rows: 'dw_conv' has no number in column 'se'"),
        ({"runs": ["a", "bb"]}, r"runs: 'bb' is not there"),
        ({"run": []}, r"questions\.yaml: questions\.0\.run: Extra inputs"),
        ({"runs": ["a"]}, r"questions\.0\.runs: List should have at least 2 items"),
    ],
)
def test_a_wrong_question_is_refused_by_its_key(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_markdown(write(tmp_path, **changes), load_tables())


def test_the_projects_questions_ask_each_table_and_name_runs_of_a_sweep() -> None:
    found = load_questions(ROOT / "configs" / "tables" / "questions.yaml")
    assert {question.table for question in found} >= {"2", "4", "6", "9", "10", "11", "12"}
    for question in found:
        grid = load_grid(ROOT / "configs" / "sweeps" / f"{Path(question.results).stem}.yaml")
        assert {run.name for run in grid.runs} >= set(question.runs), question.question

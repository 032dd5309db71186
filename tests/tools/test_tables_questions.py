"""The questions page: differences, intervals and verdicts from tables and results; refusals by name."""

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from whole_records import sweep_result, sweep_row

from models.errors import UserError
from tools import plot
from tools.sweeps.grid import load_grid
from tools.tables import forest
from tools.tables.loading import ROOT, load_tables
from tools.tables.paired import Noise
from tools.tables.questions import Answer, as_markdown, load_questions, signed

QUESTION = {"question": "SE?", "table": "6", "rows": ["dw_conv", "dw_conv_se"], "runs": ["a", "b"]}
UP, DOWN, SAME = (Decimal("81.3"), Decimal("81.7")), (Decimal("81.3"), Decimal("81.1")), (Decimal("1"), Decimal("1"))


def found(printed: tuple, difference: float, deviation: float, seeds: int = 3) -> Answer:
    """An answer whose 95% interval has half the length 2.78 * sqrt(2 / seeds) * deviation, from t tables."""
    second = dict.fromkeys(range(seeds), 40.0 + difference)
    return Answer(printed, (dict.fromkeys(range(seeds), 40.0), second), Noise(deviation, 4))


@pytest.mark.parametrize(
    ("printed", "difference", "deviation", "verdict"),
    [
        (UP, 4.0, 1.0, "agrees"),
        (DOWN, 4.0, 1.0, "disagrees"),
        (DOWN, -4.0, 1.0, "agrees"),
        (UP, -4.0, 1.0, "disagrees"),
        (UP, 2.0, 1.0, "cannot tell"),  # -0.3 to +4.3
        (SAME, 0.1, 0.3, "agrees"),  # -0.6 to +0.8, within a point
        (SAME, 0.5, 0.3, "cannot tell"),  # -0.2 to +1.2
        (SAME, 1.5, 0.3, "cannot tell"),  # +0.8 to +2.2: a difference, but it may be below a point
        (SAME, 4.0, 1.0, "disagrees"),
        (SAME, -4.0, 1.0, "disagrees"),
    ],
)
def test_verdicts(printed: tuple, difference: float, deviation: float, verdict: str) -> None:
    assert found(printed, difference, deviation).verdict == verdict


def test_an_open_verdict_says_what_it_could_have_seen() -> None:
    # t(4): 2.776 at 97.5%, 0.941 at 80%; standard error sqrt(2 / 3)
    assert found(UP, 1.0, 1.0).explained() == f"cannot tell (smallest difference seen: {3.717 * (2 / 3) ** 0.5:.1f})"
    assert found(UP, 4.0, 1.0).explained() == "agrees"
    one = Answer(UP, ({0: 40.0}, {0: 44.0}), None)
    assert (one.verdict, one.explained()) == ("cannot tell", "cannot tell (one seed)")
    apart = Answer(UP, ({0: 40.0}, {1: 44.0}), None)
    assert (apart.verdict, apart.explained()) == ("not run", "")


def test_differences_are_printed_with_their_sign() -> None:
    assert [signed(value) for value in (0.44, -0.44, 0.04, -0.04)] == ["+0.4", "−0.4", "0.0", "0.0"]


def write(folder: Path, **changes: object) -> Path:
    runs = {"a": [40.0, 40.2], "b": [44.0, 44.4], "c": []}
    records = {
        name: [{"top1": score, "seed": seed} for seed, score in enumerate(scores)] for name, scores in runs.items()
    }
    rows = [sweep_row(name=name, mean=None, runs=record) for name, record in records.items()]
    results = folder / "results.json"
    results.write_text(json.dumps(sweep_result(rows)))
    path = folder / "questions.yaml"
    path.write_text(yaml.safe_dump({"questions": [QUESTION | {"results": str(results)} | changes]}))
    return path


def test_an_answer_stands_beside_the_papers_figures(tmp_path: Path) -> None:
    line = as_markdown(write(tmp_path), load_tables()).splitlines()[-1]
    # The differences 4.0 and 4.2: 4.1, and t(1) = 12.706 times their standard error 0.1.
    assert line == "| SE? | 81.3 to 81.7: +0.4 (Table 6) | 40.10 to 44.20: +4.1 (+2.8 to +5.4) | 2 | agrees |"
    line = as_markdown(write(tmp_path, runs=["a", "c"]), load_tables()).splitlines()[-1]
    assert line.endswith("| not run |  |  |")


def test_the_picture_shows_every_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sys.argv", ["plot.py", "questions", str(write(tmp_path)), "--output", str(tmp_path / "one.png")]
    )
    plot.main()
    answers = [("first", found(UP, 4.0, 1.0)), ("second", found(SAME, 4.0, 1.0)), ("third", Answer(UP, ({}, {}), None))]
    forest.draw(answers, tmp_path / "three.png")
    one, three = (
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int) for name in ("one", "three")
    )
    assert three.shape[0] > one.shape[0]
    for colour, expected in (("#1b7f4d", (True, True)), ("#c2410c", (False, True))):
        wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        assert tuple(bool((np.abs(image - wanted).sum(2) < 6).any()) for image in (one, three)) == expected


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

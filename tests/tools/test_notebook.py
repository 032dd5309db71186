"""docs/zoo.ipynb runs from the first cell to the last, as plain Python."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def cells() -> list[dict]:
    """The cells of code."""
    notebook = json.loads((ROOT / "docs" / "zoo.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_what_the_notebook_imports_is_there() -> None:
    found = [node for cell in cells() for node in ast.walk(ast.parse("".join(cell["source"])))]
    imports = [node for node in found if isinstance(node, ast.ImportFrom)]
    assert {node.module for node in imports} >= {"engine.config", "engine.run"}
    for node in imports:
        module = importlib.import_module(str(node.module))
        for name in (alias.name for alias in node.names):
            assert hasattr(module, name) or importlib.util.find_spec(f"{node.module}.{name}")


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import matplotlib.pyplot as plt

    assert len(cells()) > 5 and not any(cell["outputs"] or cell["execution_count"] for cell in cells())
    monkeypatch.chdir(ROOT / "docs")
    monkeypatch.setattr(plt, "show", lambda: None)
    monkeypatch.syspath_prepend(str(ROOT))
    space: dict[str, object] = {}
    for cell in cells():
        exec(compile("".join(cell["source"]), cell["id"], "exec"), space)
    printed = capsys.readouterr().out
    # The paper's Table 2: 28M and 88M for Swin, 24M and 74M for DW-Conv.
    counts = {
        line.split()[0]: int(line.split()[1].replace(",", "")) for line in printed.splitlines() if "parameters" in line
    }
    millions = {name: round(count / 1e6) for name, count in counts.items()}
    assert (millions["swin_tiny"], millions["swin_base"]) == (28, 88)
    assert (millions["dw_conv_tiny"], millions["dw_conv_base"]) == (24, 74)
    answers = [json.loads(line.partition("]")[0] + "]") for line in printed.splitlines() if "and the program" in line]
    assert len(answers) == 2 and all(len(set(each)) == 1 for each in answers)
    top1 = float(printed.partition("top-1 after two epochs: ")[2].partition("%")[0])
    assert top1 > 50  # ten classes: a tenth by chance
    figure = plt.gcf()
    drawn = [axis.images[0].get_array() for axis in figure.axes]
    assert len(drawn) == 10 and abs(drawn[1] - drawn[6]).max() > 1e-3  # the same channel for two images
    plt.close(figure)


def test_the_notebook_is_code_and_words_without_outputs() -> None:
    notebook = json.loads((ROOT / "docs" / "zoo.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), cell["id"], "exec")
            assert not cell["outputs"] and cell["execution_count"] is None

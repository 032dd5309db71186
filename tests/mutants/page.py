"""The table of the mutants: score by module, and each survivor with the reason why it lives."""

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.mutants.changed import Change

REASONS = Path(__file__).with_name("survivors.yaml")
EQUIVALENT, WORDING, UNKNOWN = "equivalent", "wording", "not looked at"


def reason_of(change: Change) -> tuple[str, str]:
    """Kind and words: ``equivalent`` (no test can tell it from the code), ``wording`` (letters of a message), or
    another kind of ``survivors.yaml``, where the change is known by its function and its lines.
    """
    known = _reasons(REASONS).get(change)
    if known is not None:
        return known
    if change.now.replace("XX", "").casefold() == change.was.casefold():
        return WORDING, "the letters of a text"
    return UNKNOWN, ""


@cache
def _reasons(path: Path) -> dict[Change, tuple[str, str]]:
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {Change(e["where"], e["was"], e["now"]): (e["kind"], e["why"]) for e in entries}


def interval(caught: int, tried: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share, in percent."""
    z, share = 1.96, caught / tried
    middle = (share + z * z / (2 * tried)) / (1 + z * z / tried)
    half = z * math.sqrt(share * (1 - share) / tried + z * z / (4 * tried * tried)) / (1 + z * z / tried)
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def write_page(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Put the rows of some modules into ``mutants.json`` and write the page of all, ``mutants.md``.

    Reasons are looked up anew for all of them: most are found after the run that they explain.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mutants.json"
    kept = {row["module"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    kept |= {row["module"]: row for row in rows}
    ordered = [kept[module] for module in sorted(kept)]
    for item in (item for row in ordered for item in row["survivors"]):
        item["kind"], item["why"] = reason_of(Change(item["where"], item["was"], item["now"]))
    path.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "mutants.md").write_text("\n".join(_page(ordered)), encoding="utf-8")


def _page(rows: list[dict[str, Any]]) -> list[str]:
    machines = " and ".join(sorted({row["machine"] for row in rows}))
    return [
        "# Mutation tests",
        "",
        "Written by `make mutants` (`python -m tests.mutants`) from `mutants.json`; do not edit. "
        f"[mutmut](https://github.com/boxed/mutmut) writes a small fault into a function, and the tests that call it "
        f"must fail; on {machines}.",
        "",
        "Score: mutants that a test noticed, of those tried that are not equivalent to the code. Where only a part was "
        "tried, it was drawn by chance, and the interval (Wilson, 95%) says what that leaves open. Only tests that "
        "start no other process were run; `make test` and `make faults` have more.",
        "",
        "| module | mutants | tried | equivalent | noticed | score (%) | 95% interval | CPU seconds | commit |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in rows),
        _line(_sum(rows)),
        "",
        "## Survivors",
        "",
        *(line for row in rows for line in _survivors(row)),
    ]


def _sum(rows: list[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {key: sum(row[key] for row in rows) for key in ("mutants", "tried", "caught", "seconds")}
    survivors = [item for row in rows for item in row["survivors"]]
    return total | {"module": "**all**", "survivors": survivors, "commit": ""}


def _line(row: dict[str, Any]) -> str:
    equivalent = sum(item["kind"] == EQUIVALENT for item in row["survivors"])
    counted = row["tried"] - equivalent
    low, high = interval(row["caught"], counted)
    between = f"{low:.0f} to {high:.0f}" if row["tried"] < row["mutants"] else "all tried"
    values = (row["module"], row["mutants"], row["tried"], equivalent, row["caught"])
    share = f"{100 * row['caught'] / counted:.1f}"
    return f"| {' | '.join(map(str, values))} | {share} | {between} | {row['seconds']:.0f} | {row['commit'][:10]} |"


def _survivors(row: dict[str, Any]) -> list[str]:
    if not row["survivors"]:
        return []
    lines = [f"### {row['module']}", "", "| function | code | mutant | why it lives |", "|---|---|---|---|"]
    for item in row["survivors"]:
        was, now = (f"`` {item[key].replace('|', chr(92) + '|')} ``" for key in ("was", "now"))
        why = f"{item['kind']}: {item['why']}" if item["why"] else item["kind"]
        lines.append(f"| {item['where'].rpartition('.')[2]} | {was} | {now} | {why} |")
    return [*lines, ""]

"""Grids: broken ones are refused by their key before anything starts; those of the checkout resolve and cost what they
should.
"""

import sys
from pathlib import Path

import pytest

from models.errors import UserError
from tests.tools.test_sweep import DW, NANO, REPO, SE, write_grid
from tools import sweep
from tools.sweeps.grid import load_grid
from tools.sweeps.jobs import jobs
from tools.sweeps.runner import check_configs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, r"seed: unknown key; the nearest valid one is seeds"),
        ({"seeds": []}, r"seeds: List should have at least 1 item"),
        ({"groups": [{"title": "t", "runs": ["dwx"]}]}, r"groups: 't': 'dwx' is no run; the nearest valid one is dw"),
        ({"groups": [{"title": "t", "runs": ["dw"], "x": [1.0, 2.0]}]}, r"x: 2 values for 1 runs"),
        ({"runs": [{"name": "a", "label": "A", "config": NANO}] * 2}, r"'a' is given twice"),
        (
            {"runs": [{"name": "a", "label": "A", "config": NANO, "start_from": "b"}], "groups": []},
            r"runs: a: start_from: 'b' is no run before it",
        ),
        (
            {"runs": [DW | {"seeds": [0]}, SE], "groups": []},
            r"runs: se: start_from: 'dw' is not trained with seed 2",
        ),
        (
            {"runs": [DW | {"task": "segmentation"}, SE], "groups": []},
            r"runs: se: start_from: 'dw' is a run of segmentation; only classifiers",
        ),
        (
            {"runs": [DW, SE | {"task": "segmentation"}], "groups": []},
            r"groups: runs of several tasks are shown in groups",
        ),
        (
            {"runs": [DW, SE | {"task": "segmentation"}], "groups": [{"title": "t", "runs": ["dw", "se"]}]},
            r"groups: 't': shows classification and segmentation, whose figures cannot be compared",
        ),
    ],
)
def test_a_broken_grid_is_refused_by_its_key(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_grid(write_grid(tmp_path, **changes))


def test_a_wrong_override_is_refused_before_anything_starts(tmp_path: Path, monkeypatch, capsys) -> None:
    grid = write_grid(tmp_path, runs=[{"name": "dw", "label": "DW", "config": f"{NANO} model.sse=true"}], groups=[])
    with pytest.raises(UserError, match=r"runs: dw: command line: model\.sse: unknown key"):
        check_configs(jobs(load_grid(grid), tmp_path / "runs", REPO))
    monkeypatch.setattr(sys, "argv", ["sweep.py", str(grid), "--output", str(tmp_path / "runs")])
    assert sweep.main() == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_the_papers_grid_resolves_and_covers_every_ablation_table() -> None:
    grid = load_grid(REPO / "configs" / "sweeps" / "ablations_nano.yaml")
    check_configs(jobs(grid, Path("runs/grid"), REPO))
    titles = " ".join(group.title for group in grid.groups)
    assert all(f"Table {n}" in titles or f"and {n}" in titles for n in (4, 5, 6, 9, 10, 11, 12, 13))
    assert "Figure 3" in titles
    shown = {name for group in grid.groups for name in group.runs}
    assert shown == {run.name for run in grid.runs}


@pytest.mark.parametrize(
    "name",
    [
        "evidence",
        "evidence_rates",
        "evidence_questions",
        "evidence_finetune",
        "proxy",
        "proxy_questions",
        "conv_attention_nano",
    ],
)
def test_the_grids_of_the_evidence_resolve_and_show_every_run(name: str) -> None:
    grid = load_grid(REPO / "configs" / "sweeps" / f"{name}.yaml")
    one_seed = {job.run.name: job for job in jobs(grid, Path("runs/grid"), REPO)}
    check_configs(list(one_seed.values()))
    assert len({job.recipe() for job in one_seed.values()}) == len(one_seed)
    assert not grid.groups or {name for group in grid.groups for name in group.runs} == one_seed.keys()


def test_the_families_of_the_evidence_cost_what_they_cost_at_t_size() -> None:
    """The paper's Tables 2 and 11, relative to DW-Conv-T: 24.2M parameters and 3.8G."""
    grid = load_grid(REPO / "configs" / "sweeps" / "evidence.yaml")
    cost = {job.run.name: job.cost()[0] for job in jobs(grid, Path("runs/grid"), REPO) if job.seed == 4}
    paper = {"swin": (28.3, 4.5), "d_dw_conv": (51.1, 3.8), "i_dynamic": (26.2, 4.4)}
    for name, (params, macs) in paper.items():
        assert cost[name].params / cost["dw_conv"].params == pytest.approx(params / 24.2, rel=0.05)
        assert (cost[name].macs + cost[name].aggregation) / cost["dw_conv"].macs == pytest.approx(macs / 3.8, rel=0.05)

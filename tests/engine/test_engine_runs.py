"""Whole small runs: what they leave behind, what they refuse, and a short version of the fault suite."""

import json
import random
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from engine.weights import file_hash
from tests.faults.inject import Injection
from tests.faults.trials import load_suite, try_fault

SHORT = [item for item in load_suite() if item.short]


@pytest.mark.parametrize("item", SHORT, ids=[item.name for item in SHORT])
def test_fault(small_runs, item):
    """A few trials of each fault; `make faults` does them all."""
    outcome = try_fault(item, small_runs, min(item.short, 2), seed=random.randrange(10**6))
    assert outcome.passed == outcome.total > 0, outcome.failures


def test_a_run_leaves_what_it_did(finished):
    meta = json.loads((finished / "meta.json").read_text())
    assert meta["versions"]["torch"] == torch.__version__.split("+")[0] or meta["versions"]["torch"]
    assert meta["command"] and meta["commit"] and meta["starts"][0]["step"] == 0
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["train"]["betas"] is None and config["train"]["clip_grad"] == 5.0
    records = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "step"] == list(range(1, 10))
    assert [r["epoch"] for r in records if r["kind"] == "epoch"] == [1, 2, 3]
    wanted = {"loss", "lr", "grad_norm", "images_per_second", "data_seconds", "step_seconds", "memory_gib"}
    assert wanted | {"eta_seconds"} <= set(records[0])
    assert list((finished / "tensorboard").glob("events*"))
    assert "loss" in (finished / "train.log").read_text()
    result = json.loads((finished / "result.json").read_text())
    assert result["epochs"] == 3 and result["steps"] == 9 and result["eval_images"] == 13
    assert (finished / "best.safetensors").exists()
    assert len(list((finished / "checkpoints").glob("*.safetensors"))) == 2


def test_the_same_command_again_says_that_it_is_finished(small_runs, finished):
    before = (finished / "last.safetensors").stat().st_mtime_ns
    (ended,) = small_runs.start(finished, ["train.tensorboard=true"]).wait()
    assert ended.status == 0 and "is finished" in ended.last_line
    assert (finished / "last.safetensors").stat().st_mtime_ns == before


def test_another_config_in_the_same_folder_is_refused(small_runs, finished):
    (ended,) = small_runs.start(finished, ["train.lr=0.5"]).wait()
    assert ended.status == 2
    assert "holds a run with train.lr = 0.0005, now it is 0.5" in ended.last_line


def test_the_log_of_a_resumed_run_has_each_step_once(small_runs):
    import signal

    output = small_runs.folder()
    run = small_runs.start(output)
    run.wait_for("step 6 ")
    run.signal(signal.SIGKILL)
    run.wait()
    small_runs.finish(output)
    records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "step"] == list(range(1, 10))
    assert [r["epoch"] for r in records if r["kind"] == "epoch"] == [1, 2, 3]


REFUSED = [
    (["data.root=/nowhere"], "data: "),
    (["model.num_classes=3"], "model.num_classes: 3 is below the 4 classes"),
    (["train.batch_size=1000"], "40 training images do not fill one batch of 1000"),
    (["train.device=cuda"], "train.device: cuda"),
    (["train.wandb=project"], "train.wandb: the package wandb is not installed"),
    (["train.init_checkpoint=/nowhere.safetensors"], "train.init_checkpoint: /nowhere.safetensors"),
    (["eval.labels=real"], "eval.labels: real needs the 1000 classes"),
    (["train.optimizer=adamx"], "train.optimizer: adamx"),
    (["train.epochs=0"], "train.epochs"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=[r[0][0] for r in REFUSED])
def test_bad_input_is_one_line_and_status_2(small_runs, overrides, message):
    if "cuda" in message and torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so cuda is a good choice")
    (ended,) = small_runs.start(small_runs.folder(), overrides).wait()
    assert ended.status == 2, ended.text
    assert len(ended.text.strip().splitlines()) == 1 and message in ended.text


def test_fine_tuning_starts_from_weights_of_another_size(small_runs, finished):
    """Table 5: kernels are resized, classes of another list are taken by name, both are said; then it trains."""
    output, weights, names = small_runs.folder(), finished / "last.safetensors", small_runs.root / "five.txt"
    names.write_text("class3\nanother one\nclass2\nclass1\nclass0\n")
    overrides = [f"train.init_checkpoint={weights}", "model.window_size=12", "model.num_classes=5", "train.epochs=2"]
    (ended,) = small_runs.start(output, [*overrides, f"data.classes={names}"]).wait()
    assert ended.status == 0, ended.text
    assert "resized stages.0.blocks.0.mixer" in ended.text and "(7, 7) -> " in ended.text.replace("8, 7, 7", "7, 7")
    assert "head: 4 of 5 classes are those of the weights, by name; the others start anew" in ended.text
    assert "1 of 5 classes have no images in images: 'another one'" in ended.text
    assert load_file(output / "last.safetensors")["head.weight"].shape[0] == 5


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.accumulation=2", "data.mixup.group=2"],
        ["train.precision=bf16", "train.channels_last=true"],
        ["train.precision=fp16", "train.ema_decay=null", "train.optimizer=lamb", "train.layer_decay=0.8"],
        ["train.schedule=wsd", "train.schedule_args.decay_epochs=1", "train.deterministic=true"],
    ],
    ids=["accumulation", "bf16", "fp16", "wsd"],
)
def test_options_resume_exactly(small_runs, overrides):
    """Each option once uninterrupted and once killed: the same hash."""
    import signal

    output = small_runs.folder()
    run = small_runs.start(output, overrides)
    assert run.wait_for("step 5 "), run.said()
    run.signal(signal.SIGKILL)
    run.wait()
    assert small_runs.finish(output, overrides) == small_runs.reference(overrides)


def test_sync_bn_on_two_ranks_resumes_exactly(small_runs):
    import signal

    output = small_runs.folder()
    run = small_runs.start(output, ["train.sync_bn=true"], ranks=2)
    run.wait_for("step 4 ")
    run.signal(signal.SIGKILL)
    run.wait()
    assert small_runs.finish(output, ["train.sync_bn=true"], 2) == small_runs.reference(["train.sync_bn=true"], 2)


def test_a_compiled_run_compiles_once(small_runs):
    """Evaluation between and after the epochs, at another batch size and without gradients, adds no graph."""
    output = small_runs.folder()
    graphs = output.with_name("graphs.txt")
    count = Injection("count_graphs", None, {"path": str(graphs)})
    (ended,) = small_runs.start(output, ["train.compile=true", "train.ema_decay=null"], faults=[count]).wait()
    assert ended.status == 0 and "epoch 3/3  top-1" in ended.text, ended.text
    assert graphs.read_text() == "training\n"


def test_profile_writes_a_trace(small_runs):
    output = small_runs.folder()
    small_runs.finish(output, ["train.profile=true"])
    trace = json.loads((output / "profile" / "rank0.json").read_text())
    assert any("conv" in event.get("name", "") for event in trace["traceEvents"])


def test_one_process_and_torchrun_train_to_the_same_loss(small_runs, repo, tmp_path):
    """The real commands. Swin has no batch statistics, so one and two ranks differ by rounding only."""
    same = ["model.name=swin_nano", "model.num_heads=[1, 1, 2, 4]", "model.drop_path_rate=0.0", "train.lr=1e-3"]
    script = [str(repo / "train_cls.py"), "--config", str(small_runs.config), *same]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, start in (("one", []), ("two", torchrun)):
        command = [sys.executable, *start, *script, f"output={tmp_path / name}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=repo)
        assert done.returncode == 0, done.stderr
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines() if "eta" in line]
        for name in ("one", "two")
    ]
    assert len(losses[0]) == 9 and losses[0] == pytest.approx(losses[1], rel=1e-4)
    done = subprocess.run(
        [
            *(sys.executable, *torchrun, str(repo / "eval_cls.py"), "--config", str(small_runs.config), *same[:2]),
            *("--checkpoint", str(tmp_path / "two" / "last.safetensors")),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=repo,
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["images"] == 13 and answer["ranks"] == 2
    assert answer["top1"] == json.loads((tmp_path / "two" / "result.json").read_text())["top1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train_cls.py", "--config", "nothing.yaml"], "error: nothing.yaml: no such config file"),
        (["eval_cls.py", "--config", "CONFIG", "--checkpoint", "no.safetensors"], "no.safetensors: no such checkpoint"),
        (["train_cls.py", "--config", "CONFIG", "train.epoch=1"], "the nearest valid one is train.epochs"),
    ],
)
def test_the_commands_refuse_bad_input(small_runs, repo, arguments, message):
    arguments = [str(small_runs.config) if a == "CONFIG" else a for a in arguments]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=repo, timeout=100)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_reader_that_goes_away_does_not_end_a_run(small_runs, repo):
    """``train_cls.py ... | head -1``: the screen is lost, the run and its log are not."""
    output = small_runs.folder()
    command = f"{sys.executable} train_cls.py --config {small_runs.config} output={output} 2>&1 | head -1"
    shell = ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(shell, cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and len(done.stdout.splitlines()) == 1
    assert file_hash(output / "last.safetensors") == small_runs.reference()
    assert "epoch 3/3  top-1" in (output / "train.log").read_text()


def test_a_run_of_before_a_key_existed_goes_on(small_runs):
    """Keys that came later have their defaults in a config that a run folder kept."""
    output = small_runs.folder()
    small_runs.finish(output)
    (output / "result.json").unlink()
    config = yaml.safe_load((output / "config.yaml").read_text())
    del config["data"]["exif"], config["train"]["keep_kernel_response"], config["eval"]["precision"]
    (output / "config.yaml").write_text(yaml.safe_dump(config))
    assert small_runs.finish(output) == small_runs.reference()
    (ended,) = small_runs.start(output, ["data.exif=true"]).wait()
    assert ended.status == 2 and "holds a run with data.exif = False, now it is True" in ended.last_line

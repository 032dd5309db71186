"""benchmarks/speed.py: one small comparison from the command line, its file, and what is refused."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import loop, measure, speed, suites
from benchmarks.measure import interleaved, peak_memory
from benchmarks.report import group_table, paper_accuracy
from benchmarks.runtimes import RUNTIMES, runtime_step
from benchmarks.specs import Spec, Work, build_model, flops_of_image, parse_spec, size_of, step_of
from tools.text import aligned

ROOT = Path(__file__).parents[2]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/speed.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


def test_comparison_as_json_and_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    small = ("--img-size", "32", "--batch", "2", "--rounds", "2", "--threads", "1")
    done = _run("dw_conv_nano", "dw_conv_nano+fuse", "torchvision:resnet18", *small, "--json", "--output", str(path))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads(path.read_text())
    rows = report["groups"][0]["rows"]
    assert [row["model"] for row in rows] == ["dw_conv_nano", "dw_conv_nano+fuse", "torchvision:resnet18"]
    assert rows[0]["ratio"] == 1 and all(row["images_per_second"] > 0 and row["peak_bytes"] > 0 for row in rows)
    assert rows[2]["ratio"] == pytest.approx(rows[0]["milliseconds"] / rows[2]["milliseconds"])
    assert report["ceilings"].keys() == {"gemm_fp32", "copy"} and report["machine"]["threads"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dw_conv_tin", "the nearest valid one is dw_conv_tiny"),
        ("timm:resnet5", "the nearest valid one is"),
        ("dw_conv_tiny+fast", "(one of: +fuse, +compile, +onnxruntime, +openvino)"),
        ("dw_conv_tiny+compile+openvino", "+compile and +openvino exclude each other"),
        ("hub:resnet", "not a library"),
        ("timm:resnet18+fuse", "models of this project"),
    ],
)
def test_unknown_models_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=text.split("+")[0].split(":")[0]) as caught:
        parse_spec(text)
    assert message in str(caught.value)


def test_bad_input_ends_with_status_two_and_one_line() -> None:
    done = _run("dw_conv_tin", "--device", "cpu")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "dw_conv_tiny" in done.stderr
    if not torch.cuda.is_available():
        done = _run("--suite", "gpu")
        assert done.returncode == 2 and "no GPU" in done.stderr and done.stderr.count("\n") == 1


def test_the_loop_is_measured_from_bytes_to_a_batch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--batch", "4", "--img-size", "32", "--rounds", "3"]
    monkeypatch.setattr(sys, "argv", ["loop.py", *small])
    loop.main()
    lines = capsys.readouterr().out.splitlines()
    assert "threads" in lines[0] and lines[1] == "batch 4, 32x32"
    assert [line.split(",")[0] for line in lines[3:]] == ["floats", "bytes"] and "1.0x" in lines[3]
    monkeypatch.setattr(sys, "argv", ["loop.py", "--batch", "0"])
    assert loop.main() == 2 and "--batch: 0 is below 1" in capsys.readouterr().err


def test_ratios_name_their_peer_when_the_first_model_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(spec: Spec, work: Work) -> torch.nn.Module:
        if spec.name == "swin_nano":
            raise ValueError("no such luck\nand more")
        return build_model(spec, work)

    monkeypatch.setattr(speed, "build_model", build)
    models = suites.group(Work("inference", "fp32", 2, 32, "cpu"), ["swin_nano", "dw_conv_nano", "d_dw_conv_nano"])
    found = speed.run_group(models, {"gemm_fp32": 1.0}, 2, time.monotonic() + 60)
    failed, peer, other = found["rows"]
    assert failed == {"model": "swin_nano", "error": "no such luck"} and found["ratio_to"] == "dw_conv_nano"
    assert peer["ratio"] == 1 and other["ratio"] == pytest.approx(peer["milliseconds"] / other["milliseconds"])
    assert other["images_per_second"] * other["milliseconds"] == pytest.approx(1000 * 2)  # two images a step
    title, _, first, *_ = group_table(found).splitlines()
    assert title.endswith("; ratios to dw_conv_nano, as swin_nano failed") and "no such luck" in first


def test_calls_take_turns_and_stop_in_time() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: (order.append(name), time.sleep(0.11)) for name in "ab"}
    timings = interleaved(calls, "cpu", rounds=50, deadline=time.monotonic())
    assert order[-6:] == ["a", "b"] * 3 and timings["a"].rounds == 3
    assert 0.1 < timings["a"].quarter <= timings["a"].median <= timings["a"].three_quarters


def test_the_clock_of_a_gpu_is_read_when_it_has_done_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def clock() -> float:
        order.append("clock")
        return 2.0 * len(order)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("wait"))
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=clock))
    assert measure.seconds_of(lambda: order.append("call"), "cuda:1", repeats=2) == 4
    assert order == ["wait", "clock", "call", "call", "wait", "clock"]


def test_inference_is_timed_without_gradients_and_training_with_them() -> None:
    spec, seen = parse_spec("dw_conv_nano"), []
    for mode in ("inference", "train"):
        work = Work(mode, "fp32", 2, 32, "cpu")
        model = build_model(spec, work)
        step = step_of(model, spec, work)
        model.head.register_forward_hook(lambda head, *_: seen.append((torch.is_grad_enabled(), head.training)))
        step()
    assert seen == [(False, False), (True, True)]


def test_peak_memory_counts_what_lives_together() -> None:
    def call() -> None:
        for _ in range(3):
            a = torch.empty(1 << 20)
            torch.empty(1 << 18)
            del a

    megabytes = peak_memory(call, "cpu") / 2**20
    assert 5 <= megabytes < 6  # 4 MB and 1 MB at once


def test_flops_do_not_depend_on_the_options() -> None:
    work = Work("inference", "bf16", 4, 64, "cpu")
    assert flops_of_image(parse_spec("dw_conv_nano+fuse"), work) == flops_of_image(parse_spec("dw_conv_nano"), work) > 0
    assert next(build_model(parse_spec("dw_conv_nano+fuse"), work).parameters()).dtype == torch.bfloat16


def test_accuracies_come_from_the_tables() -> None:
    assert paper_accuracy(parse_spec("timm:swin_tiny_patch4_window7_224+compile")) == 81.3
    assert paper_accuracy(parse_spec("d_dw_conv_tiny+fuse")) == 81.9
    assert paper_accuracy(parse_spec("i_dynamic_tiny+fuse")) == 81.8  # stands in the table of three tasks only
    assert paper_accuracy(parse_spec("dw_conv_nano")) is None


def test_columns_line_up() -> None:
    assert aligned([["a", "10"], ["long", "2"]], right=True) == "a     10\nlong   2"


def test_a_config_is_built_as_it_says_at_its_own_size() -> None:
    name = "configs/quickstart/dw_conv_nano.yaml"
    assert size_of(name) == 28 and size_of("dw_conv_nano") == 224
    work = Work("inference", "fp32", 1, 28, "cpu")
    model = build_model(parse_spec(name), work)
    assert model.num_classes == 10 and model(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    assert flops_of_image(parse_spec(f"{name}+fuse"), work) > 0
    train = replace(work, mode="train", batch=4)
    step_of(build_model(parse_spec(name), train), parse_spec(name), train)()  # targets are of the config's ten classes
    with pytest.raises(ValueError, match=r"the nearest is .*dw_conv_nano\.yaml"):
        parse_spec("configs/quickstart/dw_conv_nan.yaml")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_runtimes_of_others_compute_the_model(runtime: str) -> None:
    """What is timed is the model: the logits of the runtime are PyTorch's."""
    work = Work("inference", "fp32", 2, 64, "cpu")
    model, images = build_model(parse_spec(f"dw_conv_nano+fuse+{runtime}"), work), torch.randn(2, 3, 64, 64)
    found = runtime_step(model, images, runtime, "fp32")()
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found[0]), model(images), rtol=1e-3, atol=1e-4)


def test_what_a_runtime_cannot_do_is_a_row_that_says_so() -> None:
    work = Work("inference", "bf16", 1, 28, "cpu")
    found = speed.run_group(suites.group(work, ["dw_conv_nano+onnxruntime"]), {}, 2, time.monotonic() + 60)
    assert found["rows"][0]["error"] == "onnxruntime does not compute in bf16 on a CPU"
    found = speed.run_group(
        suites.group(replace(work, mode="train"), ["dw_conv_nano+openvino"]), {}, 2, time.monotonic() + 60
    )
    assert found["rows"][0]["error"] == "+openvino does not train" and "+openvino does not train" in group_table(found)


def test_a_numbered_gpu_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the GPU, counts its memory and names it asks the current one."""
    chosen: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    speed.checked(speed.parser().parse_args(["dw_conv_nano", "--device", "cuda:1"]))
    assert chosen == ["cuda:1"]

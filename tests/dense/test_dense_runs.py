"""Training, resuming and testing through the entry points, on a few scenes."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from engine.dense.launch import start_cpu_group, train
from engine.dense.launch import test as run_test
from engine.dense.weights import load_model, load_start, read_checkpoint
from engine.weights import file_hash
from models.errors import UserError

pytestmark = pytest.mark.dense
ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    "detection": str(ROOT / "detection/configs/mask-rcnn_dw-conv-nano_fpn_scenes.py"),
    "segmentation": str(ROOT / "segmentation/configs/upernet_dw-conv-nano_scenes.py"),
}
LOADERS = [
    f"{split}_dataloader.{key}"
    for split in ("train", "val", "test")
    for key in ("num_workers=0", "persistent_workers=False", "batch_size=4")
]
SHORT = {
    "detection": ["train_cfg.max_epochs={}", "default_hooks.checkpoint.interval=1", "default_hooks.logger.interval=1"],
    "segmentation": [
        "train_cfg.max_iters={}",
        "train_cfg.val_interval=2",
        "default_hooks.checkpoint.interval=2",
        "default_hooks.logger.interval=1",
    ],
}


def options(task: str, scenes: Path, work: Path, length: int) -> list[str]:
    short = [option.format(length) for option in SHORT[task]]
    return ["--data-root", str(scenes), "--work-dir", str(work), "--scale-lr", "--cfg-options", *LOADERS, *short]


def losses(work: Path) -> list[float]:
    """All training losses in the run folder's log files, in order."""
    lines = [line for file in sorted(work.glob("*/vis_data/scalars.json")) for line in file.read_text().splitlines()]
    rows = [json.loads(line) for line in lines if file_is_log(line)]
    return [row["loss"] for row in rows]


def file_is_log(line: str) -> bool:
    return '"loss"' in line and "lr" in line


@pytest.mark.parametrize("task,steps,metrics", [
    ("detection", 4, ("coco/bbox_mAP_50", "coco/segm_mAP_50")),
    ("segmentation", 2, ("mIoU", "aAcc")),
])  # fmt: skip
def test_trains_resumes_and_tests(task: str, steps: int, metrics, scenes: Path, tmp_path: Path, capfd) -> None:
    work = tmp_path / "run"
    first = 1 if task == "detection" else 2
    amp = ["--amp", "bf16"] if task == "segmentation" else []
    train(task, [CONFIGS[task], *amp, "--seed", "1", *options(task, scenes, work, first)])
    assert len(losses(work)) == steps
    before = json.loads((work / "result.json").read_text())
    assert before["iterations"] == steps and before["seed"] == 1 and before["eval_images"] == 6
    assert before["metrics"].keys() >= set(metrics)
    train(task, [CONFIGS[task], *amp, "--resume", *options(task, scenes, work, 2 * first)])
    found = losses(work)
    assert len(found) == 2 * steps and all(0 < value < 20 for value in found)
    last = (work / "last_checkpoint").read_text()
    result = json.loads((work / "result.json").read_text())
    assert result["checkpoint_sha256"] == file_hash(Path(last))
    torch.load(last, weights_only=True)  # plain, without any exception
    capfd.readouterr()
    folder = tmp_path / "pictures"
    arguments = [CONFIGS[task], last, "--data-root", str(scenes), "--work-dir", str(work), "--show-dir", str(folder)]
    drawn = ["+default_hooks.visualization.score_thr=0.05"] if task == "detection" else []  # it is sure of nothing yet
    run_test(task, [*arguments, "--json", str(tmp_path / "m.json"), "--cfg-options", *LOADERS, *drawn])
    printed = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert printed == json.loads((tmp_path / "m.json").read_text())
    # A validation computes in float32 whatever the training does, as a test does.
    assert {name: printed[name] for name in result["metrics"]} == pytest.approx(result["metrics"], abs=1e-5)
    pictures = sorted([*folder.rglob("*.png"), *folder.rglob("*.jpg")])
    for picture, original in zip(pictures, sorted((scenes / "images/validation").iterdir()), strict=True):
        assert original.stem in picture.name
        shown = differences(np.asarray(Image.open(picture).convert("RGB"), float), np.asarray(Image.open(original)))
        assert min(shown) > 4, "truth and predictions are drawn in"


def differences(picture: np.ndarray, original: np.ndarray) -> list[float]:
    """Mean differences of a picture's halves, which are the truth and the predictions, from the original and of both;
    of JPEG alone it is below 2.
    """
    truth, found = np.split(picture, 2, axis=1)
    return [float(np.abs(one - two).mean()) for one, two in ((truth, original), (found, original), (truth, found))]


def test_a_run_stopped_in_its_last_validation_is_validated_when_it_goes_on(scenes: Path, tmp_path: Path) -> None:
    arguments = [CONFIGS["segmentation"], "--resume", "--seed", "1", *options("segmentation", scenes, tmp_path, 2)]
    train("segmentation", arguments)
    whole = json.loads((tmp_path / "result.json").read_text())
    (tmp_path / "result.json").unlink()
    train("segmentation", arguments)
    again = json.loads((tmp_path / "result.json").read_text())
    assert again == whole and len(losses(tmp_path)) == 2
    written = (tmp_path / "result.json").stat().st_mtime_ns
    train("segmentation", arguments)
    assert (tmp_path / "result.json").stat().st_mtime_ns == written
    anew = [argument for argument in arguments if argument != "--resume"]
    with pytest.raises(UserError, match="holds a run already; go on with --resume, or give another folder"):
        train("segmentation", anew)
    with pytest.raises(UserError, match="--seed 2: the run that goes on was begun with seed 1"):
        train("segmentation", ["2" if argument == "1" else argument for argument in arguments])
    assert (tmp_path / "result.json").stat().st_mtime_ns == written
    longer = [argument.replace("max_iters=2", "max_iters=4") for argument in arguments]
    watch_record(tmp_path, lambda: train("segmentation", longer))
    assert json.loads((tmp_path / "result.json").read_text())["iterations"] == 4


def watch_record(work: Path, run) -> None:
    """While weights move, no record of earlier ones stands beside them."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        step = OptimWrapper.update_params

        def update(self, *args, **kwargs):
            seen.append((work / "result.json").exists())
            return step(self, *args, **kwargs)

        patch.setattr(OptimWrapper, "update_params", update)
        run()
    assert seen and not any(seen)


def build(task: str) -> torch.nn.Module:
    config = Config.fromfile(CONFIGS[task])
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return MODELS.build({**config.model, "_scope_": config.default_scope})


def test_a_checkpoint_must_fit_without_rest(tmp_path: Path) -> None:
    model = build("segmentation")
    state = model.state_dict()
    file = tmp_path / "model.pth"
    torch.save({"state_dict": state}, file)
    load_model(model, file)
    changes = {
        "left over": lambda s: s.update({"decode_head.extra": torch.ones(1)}),
        "missing": lambda s: s.pop("decode_head.conv_seg.bias"),
        "shape": lambda s: s.update({"decode_head.conv_seg.bias": torch.ones(5)}),
    }
    for word, change in changes.items():
        broken = dict(state)
        change(broken)
        torch.save({"state_dict": broken}, file)
        with pytest.raises(UserError, match=f"model.pth does not fit.*{word}"):
            load_model(model, file)
    torch.save({"state_dict": {"head.weight": torch.ones(1)}}, file)
    with pytest.raises(UserError, match="no detector or segmentor"):
        load_model(model, file)


def test_a_start_from_another_models_weights_says_what_stays_random(tmp_path: Path) -> None:
    """Swin's names in the file, another number of classes, one head more and one less."""
    config = Config.fromfile(CONFIGS["segmentation"])
    config.model.backbone.name, config.model.decode_head.num_classes = "swin_nano", 11
    source, target = (MODELS.build({**config.model, "_scope_": "mmseg"}) for _ in range(2))
    target.decode_head.conv_seg = torch.nn.Conv2d(64, 5, 1)
    state = {swins_name(key): value for key, value in source.state_dict().items()}
    state["extra_head.weight"] = state.pop("auxiliary_head.conv_seg.bias")
    torch.save({"state_dict": state}, tmp_path / "swin.pth")
    before = target.decode_head.conv_seg.weight.clone()
    lines = load_start(target, tmp_path / "swin.pth")
    assert [line.removeprefix(f"load_from {tmp_path}/swin.pth: ") for line in lines] == [
        "stays random: auxiliary_head.conv_seg.bias is not in the file",
        "stays random: decode_head.conv_seg.bias: shape (11,) in the checkpoint, (5,) in the model",
        "stays random: decode_head.conv_seg.weight: shape (11, 64, 1, 1) in the checkpoint, (5, 64, 1, 1) in the model",
        "not used: extra_head.weight",
    ]
    own, wanted = target.state_dict(), source.state_dict()
    assert all(torch.equal(own[key], wanted[key]) for key in own if key.startswith("backbone."))
    assert torch.equal(target.decode_head.conv_seg.weight, before)
    state.pop(next(key for key in state if key.endswith("attn.qkv.weight")))
    torch.save({"state_dict": state}, tmp_path / "swin.pth")
    with pytest.raises(UserError, match=r"swin\.pth.*qkv"):
        load_start(target, tmp_path / "swin.pth")


def swins_name(key: str) -> str:
    """A key of a dense Swin as Swin's release writes it."""
    for ours, swins in (
        (r"\.patch_embed\.norm", ".patch_embed.norm"), (r"\.stages\.(\d)\.blocks", r".layers.\1.blocks"),
        (r"\.stages\.1\.downsample", ".layers.0.downsample"), (r"\.stages\.2\.downsample", ".layers.1.downsample"),
        (r"\.stages\.3\.downsample", ".layers.2.downsample"), (r"\.mixer\.", ".attn."),
    ):  # fmt: skip
        key = re.sub(ours, swins, key) if key.startswith("backbone.") else key
    return key


def test_weights_and_data_of_other_classes_are_refused(scenes: Path, tmp_path: Path) -> None:
    """Names are kept in the checkpoint; testing and resuming compare them one by one."""
    work = tmp_path / "run"
    train("segmentation", [CONFIGS["segmentation"], *options("segmentation", scenes, work, 2), "+randomness.seed=7"])
    assert json.loads((work / "result.json").read_text())["seed"] == 7  # the config's own
    last = (work / "last_checkpoint").read_text()
    others = ["background", *"abcdefghij"]
    swapped = [f"{split}_dataloader.dataset.metainfo.classes={others}" for split in ("train", "val", "test")]
    common = ["--data-root", str(scenes), "--work-dir", str(work)]
    with pytest.raises(UserError, match=r"iter_2\.pth: class 1 was trained as '0', the data set calls it 'a'"):
        run_test("segmentation", [CONFIGS["segmentation"], last, *common, "--cfg-options", *LOADERS, *swapped])
    with pytest.raises(UserError, match=r"--resume .*class 1 was trained as '0'"):
        arguments = options("segmentation", scenes, work, 4)
        train("segmentation", [CONFIGS["segmentation"], "--resume", *arguments, *swapped])


class Payload:
    """A pickle that would create a file when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def test_a_pickle_runs_nothing(scenes: Path, tmp_path: Path) -> None:
    """Neither testing nor resuming opens a pickle in the unsafe way."""
    target, file = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"state_dict": Payload(target)}, file)
    work = options("segmentation", scenes, tmp_path, 2)
    with pytest.raises(UserError, match=r"evil\.pth: cannot be read"):
        train("segmentation", [CONFIGS["segmentation"], "--resume", str(file), *work])
    with pytest.raises(UserError, match=r"evil\.pth: cannot be read"):
        run_test("segmentation", [CONFIGS["segmentation"], str(file), *work[:4]])
    assert not target.exists()


def test_a_checkpoint_of_the_librarys_own_tools_is_read(tmp_path: Path) -> None:
    """With the log buffers inside, which refer to methods of their class; any other reference is refused."""
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    buffer.mean()
    file = tmp_path / "library.pth"
    content = {"state_dict": {}, "message_hub": {"log_scalars": {"loss": buffer}}, "meta": {"epoch": 3}}
    torch.save(content, file)
    assert read_checkpoint(file)["meta"]["epoch"] == 3
    buffer._statistics_methods["evil"] = HistoryBuffer.register_statistics
    torch.save(content, file)
    del buffer._statistics_methods["evil"]
    with pytest.raises(UserError, match="register_statistics"):
        read_checkpoint(file)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the library itself starts the group on GPUs")
def test_slurm_on_machines_without_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first node that scontrol lists is the meeting point, and SLURM's numbers become torch's."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$3" = "node[1-2]" ] && printf "localhost\\nnode2\\n"\n')
    scontrol.chmod(0o755)
    given = {"SLURM_NODELIST": "node[1-2]", "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"}
    for name, value in {**given, "RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": "", "MASTER_PORT": "29677"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "to be restored")
    monkeypatch.delenv("MASTER_ADDR")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    start_cpu_group("slurm")
    try:
        assert torch.distributed.get_backend() == "gloo" and torch.distributed.get_world_size() == 1
        assert (os.environ["MASTER_ADDR"], os.environ["RANK"]) == ("localhost", "0")
    finally:
        torch.distributed.destroy_process_group()

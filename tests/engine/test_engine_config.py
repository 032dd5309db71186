"""The config: values, merging, and the one line that each fault gets."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from engine.config import check_batch, load_config
from engine.explain import text_of
from engine.schema import Config
from models.errors import UserError

BASE = """
model: {name: dw_conv_nano, num_classes: 10}
data: {format: mnist5k}
train: {weight_decay: 1e-8, betas: [0.9, 0.95], epochs: 7}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(BASE)
    return file


def test_values_are_read_as_written(path):
    config = load_config(path, ["train.lr=5e-4", "train.min_lr=.5e-5", "output=runs/1e3"])
    assert (config.train.weight_decay, config.train.lr, config.train.min_lr) == (1e-8, 5e-4, 5e-6)
    assert config.train.betas == (0.9, 0.95)
    assert config.output == Path("runs/1e3")


def test_output_defaults_to_the_name_of_the_file(path):
    assert load_config(path).output == Path("runs/run")


def test_base_is_changed_by_the_file_and_both_by_the_command_line(path, tmp_path):
    child = tmp_path / "child.yaml"
    child.write_text("base: run.yaml\ntrain: {epochs: 9, seed: 3}\ndata: {mixup: {mixup: 0.5}}\n")
    config = load_config(child, ["train.seed=4"])
    assert (config.train.epochs, config.train.seed, config.train.weight_decay) == (9, 4, 1e-8)
    assert (config.data.mixup.mixup, config.data.mixup.cutmix) == (0.5, 1.0)


def test_only_one_level_of_base(path, tmp_path):
    (tmp_path / "b.yaml").write_text("base: run.yaml\n")
    (tmp_path / "c.yaml").write_text("base: b.yaml\n")
    with pytest.raises(UserError, match=r"c\.yaml: base: .*b\.yaml has a base of its own"):
        load_config(tmp_path / "c.yaml")


FAULTS = [
    ("train.epoch=3", "command line: train.epoch: unknown key; the nearest valid one is train.epochs"),
    ("train.img_size=3", "the nearest valid one is model.img_size"),
    ("trian.epochs=3", "command line: trian: unknown key; the nearest valid one is train"),
    ("data.mixup.mixpu=1", "data.mixup.mixpu: unknown key; the nearest valid one is data.mixup.mixup"),
    ("train.epochs=a", 'train.epochs: should be a valid integer, not "a"'),
    ("train.epochs=1.5", "train.epochs: should be a valid integer"),
    ("train.lr=-1", "train.lr: should be greater than or equal to 0, not -1"),
    ("train.compile=yes", 'train.compile: should be a valid boolean, not "yes"'),
    ("train.betas=[0.9]", "train.betas"),
    ("train.schedule=cosin", "train.schedule: should be 'cosine'"),
    ("train=3", "train: should be an object, not 3"),
    ("train.epochs", "is not of the form section.key=value"),
    ("=3", "is not of the form section.key=value"),
    ("train.lr={", "train.lr, line 1: not valid YAML"),
    ("model.name=dw_conv_nan", "dw_conv_nano"),
    ("model.mixer=dw", "model"),
    ("train.lr=.nan", "train.lr: should be a finite number"),
    ("train.min_lr=-.inf", "train.min_lr: should be"),
    ("train.eps=1e999", "train.eps: should be a finite number"),
    ("data.mean=[.nan]", "data.mean.0: should be a finite number"),
    ("data.std=[.inf]", "data.std.0: should be a finite number"),
    ("model.mlp_ratio=.inf", "model.mlp_ratio: should be a finite number"),
    ("model.in_chans=0", "model.in_chans: should be greater than or equal to 1"),
    ("train.threads=100000000", "train.threads: should be less than or equal to 1024"),
    ("train.epochs=10000000000000000000000", "train.epochs: should be less than 2147483648"),
    (f"train.epochs={'9' * 5000}", "train.epochs: not valid YAML: Exceeds the limit"),
    ("train.lr=!!float x", "train.lr: not valid YAML: could not convert"),
    ("train.optimizer_args={1: 2}", "the key 1 is no text; write it in quotes"),
    ("train.optimizer_args=" + "{a: " * 3000, "train.optimizer_args: not valid YAML: nested too deeply"),
    ("output=", "output: "),
]


@pytest.mark.parametrize(("override", "message"), FAULTS)
def test_each_fault_is_one_line_that_names_the_key(path, override, message):
    with pytest.raises(UserError) as caught:
        load_config(path, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_that_joins_keys_is_told_without_the_values_of_the_section(path) -> None:
    with pytest.raises(UserError) as caught:
        load_config(path, ["data.augment.scale=[2, 1]"])
    assert str(caught.value) == "command line: data.augment: scale must be [low, high] with 0 < low <= high"


def test_an_empty_value_is_null_in_a_file_and_on_the_command_line(path) -> None:
    path.write_text(BASE.replace("{format: mnist5k}", "{format: mnist5k, name: , train: }"))
    config = load_config(path, ["data.classes="])
    assert (config.data.name, config.data.train, config.data.classes) == (None, None, None)


def test_fault_in_a_file_names_the_file_it_stands_in(path, tmp_path):
    path.write_text(BASE.replace("epochs", "epoch"))
    child = tmp_path / "child.yaml"
    child.write_text("base: run.yaml\n")
    with pytest.raises(UserError) as caught:
        load_config(child)
    assert str(caught.value).startswith(f"{path}: train.epoch: unknown key")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "a config is a mapping"),
        ("train: {a: 1\n", "not valid YAML"),
        ("train: {lr: 1, lr: 2}\n", "the key 'lr' stands twice"),
        ("base: 3\n", "base: must be the path"),
        ("base: nothing.yaml\n", "no such config file"),
        ("train: !!python/object/apply:os.system [true]\n", "not valid YAML"),
        ("data: {format: mnist5k}\n", "model: missing"),
    ],
)
def test_a_broken_file_is_refused(path, text, message):
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_the_nearest(path):
    with pytest.raises(UserError, match=r"no such config file; the nearest is .*run\.yaml"):
        load_config(path.with_name("rum.yaml"))


def test_batch_must_divide_by_ranks_and_accumulation(path):
    with pytest.raises(UserError, match=r"train.batch_size: 1024 .*3 ranks x 2 .*nearest valid is 1020 or 1026"):
        load_config(path, ["train.accumulation=2"], world_size=3)
    assert check_batch(load_config(path, ["train.accumulation=2"]), 4) == 128


KINDS = ["imagenet/i_dynamic_base", "finetune384/dw_conv_tiny_w12", "ablations/table13/volo_d1", "quickstart/swin_nano"]


@pytest.mark.parametrize("path", KINDS)
def test_the_resolved_config_is_printed_and_reads_to_itself(path: str, repo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "train_cls.py", "--config", f"configs/{path}.yaml", "train.seed=7", "--print-config"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = tmp_path / "printed.yaml"
    printed.write_text(done.stdout, encoding="utf-8")
    config = load_config(repo / "configs" / f"{path}.yaml", ["train.seed=7"], world_size=1)
    assert load_config(printed, world_size=1) == config and config.train.seed == 7


def every_key(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted names of all values, by a walk over pydantic's own fields."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from every_key(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.mark.parametrize(("section", "of"), [(None, ""), ("train", "train."), ("data.mixup", "data.mixup.")])
def test_help_shows_every_key_once_with_type_default_and_sentence(section: str | None, of: str) -> None:
    lines = text_of(Config, section).splitlines()
    assert [line.split(":")[0] for line in lines[::2]] == [key for key in every_key(Config) if key.startswith(of)]
    for head, sentence in zip(lines[::2], lines[1::2], strict=True):
        assert re.search(r": \S.*; (default|must be given)", head), head
        assert re.match(r"    \S+( \S+){2}", sentence), f"{head} has no sentence"


def test_help_says_what_the_schema_allows() -> None:
    text = text_of(Config)
    assert 'train.precision: one of fp32, bf16, fp16; default "fp32"' in text
    assert "train.lr_batch: integer above 0 below 2147483648 or null; default 512" in text
    assert "data.augment.hflip: number at least 0 at most 1; default 0.5" in text


def test_the_options_of_help_end_the_program(repo: Path) -> None:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *command], cwd=repo, capture_output=True, text=True, check=False)

    grid = run("tools/sweep.py", "--help-grid")
    assert grid.returncode == 0 and "runs[].start_from: text or null; default null" in grid.stdout
    assert run("train_cls.py", "--help-config", "eval").stdout.startswith("eval.batch_size: integer")
    wrong = run("train_cls.py", "--help-config", "tran")
    assert (
        wrong.returncode == 2
        and wrong.stderr == "train_cls.py: tran: no such section; the nearest valid one is train\n"
    )

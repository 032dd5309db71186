"""Nothing in the loop waits for the device: its numbers are read a step later, and a bad step still leaves no trace."""

import contextlib
import importlib

import pytest
import torch
from test_engine_step import WORLD, make_batches, make_config, mix_of
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import engine.build
import engine.optim
import engine.readback
import engine.step
import engine.trainer
from data import Batch
from engine.build import build_state
from engine.config import load_config
from engine.distributed import World
from engine.meter import Meter, StepProfiler
from engine.readback import Readback
from engine.reader import StepReader
from engine.signals import StopRequest
from engine.state import Progress
from engine.step import StepResult, train_step
from engine.watchdog import Watchdog
from models import create_model

LOOKS = {
    getattr(torch.ops.aten, name).default
    for name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2")
}


class Blindfold(TorchDispatchMode):
    """Fails where the host looks at a value; what copies a tensor to the host fails by a patch."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        assert function not in LOOKS, f"the host waits for {function}"
        return function(*arguments, **(options or {}))


@contextlib.contextmanager
def blindfold():
    """The host sees no value of a tensor."""

    def forbidden(*arguments, **options):
        raise AssertionError("the host waits for the device")

    with pytest.MonkeyPatch.context() as patch, Blindfold():
        for name in ("tolist", "numpy", "cpu", "__array__"):
            patch.setattr(torch.Tensor, name, forbidden)
        patch.setattr(torch.cuda, "synchronize", forbidden)
        yield


def small_state(config):
    model = create_model("dw_conv_nano", num_classes=10, img_size=32, embed_dim=8, depths=[1, 1, 1, 1])
    return build_state(model, config, WORLD, 5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_asks_nothing_of_the_device(precision):
    config = make_config(precision=precision, ema_decay=0.9, accumulation=2)
    state, batches, mix = small_state(config), make_batches(2, 4), mix_of(config)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0, enabled=precision == "fp16")
    mixed = [Batch(b.images, mix(b.images, b.targets, (0, 0, 0))[1], b.indices) for b in batches]
    before = state.model.head.weight.clone()
    with blindfold():
        for _ in range(2):
            train_step(state, mixed, lambda images, targets, _: (images, targets), config.train, WORLD)
            state.progress.step += 1
    assert not torch.equal(state.model.head.weight, before)


def test_no_model_asks_anything_of_the_device(mixer_family):
    config = make_config()
    torch.manual_seed(0)
    model = create_model(f"{mixer_family}_nano", num_classes=10, img_size=32, depths=[1, 1, 1, 1], drop_path_rate=0.5)
    state, before = build_state(model, config, WORLD, 5), model.head.weight.clone()
    with blindfold():
        train_step(state, make_batches(1, 8), lambda i, t, _: (i, torch.ones(8, 10)), config.train, WORLD)
    assert not torch.equal(model.head.weight, before)


def test_the_blindfold_sees_who_looks():
    """The optimiser that must be told by the host whether to step."""
    config = make_config(optimizer_args={"foreach": True})
    state, batches = small_state(config), make_batches(1, 8)
    with blindfold(), pytest.raises(AssertionError, match="the host waits for"):
        train_step(state, batches, lambda i, t, _: (i, torch.ones(8, 10)), config.train, WORLD)


def test_an_epoch_reads_each_step_when_the_next_one_is_queued(small_runs, monkeypatch):
    """On a device without values (meta), where every look fails, from the loader's bytes to the update."""
    overrides = ["train.batch_size=4", "train.log_every=100", "train.save_every=100", "train.ema_decay=null"]
    output = small_runs.folder()
    config = load_config(small_runs.config, [f"output={output}", *overrides, "data.mixup.group=2"])
    monkeypatch.setattr(engine.step, "autocast", lambda *_: contextlib.nullcontext())  # it has none for meta
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda _: None)  # no GPU, which its kernels are for
    monkeypatch.setattr(engine.trainer.CheckpointSaver, "save", lambda *_: None)
    started, read = [], []

    def values(self):
        read.append(len(started))
        return [1.0, 0.0, 0.0, 1.0, 0.0]

    def step(state, *arguments):
        started.append(state.progress.step)
        return train_step(state, *arguments)

    monkeypatch.setattr(Readback, "values", values)
    monkeypatch.setattr(engine.trainer, "train_step", step)
    output.mkdir(parents=True)
    world = World(0, 1, torch.device("meta"))
    with Watchdog(world, config.train.timeout) as watchdog:
        trainer = engine.trainer.Trainer(config, world, StopRequest(), watchdog)
        trainer.profiler = StepProfiler(output, world, wanted=False)
        trainer._train_epoch()
    assert started == list(range(10))
    assert read == [*range(2, 11), 10]  # the last two where the epoch ends


class Later:
    """A step that has been started and not read."""

    def __init__(self, number, bad=False):
        self.result = StepResult(number, float(number), 1.0, 0.1, not bad, bad)
        self.seen = False

    def read(self):
        self.seen = True
        return self.result


def test_steps_are_read_in_order_one_behind():
    progress = Progress()
    reader = StepReader(progress, Meter(8, WORLD), 10, lambda *_: pytest.fail("no reason to give up"))
    assert reader.last is None
    steps = [Later(0), Later(1, bad=True), Later(2)]
    for number, step in enumerate(steps):
        reader.add(step, [])
        reader.catch_up(1)
        assert [s.seen for s in steps[: number + 1]] == [True] * number + [False]
    assert (progress.step, progress.skipped, progress.bad_in_row, progress.loss_sum) == (3, 1, 1, 0.0)
    reader.catch_up()
    assert (progress.skipped, progress.bad_in_row, progress.loss_sum, progress.loss_steps) == (1, 0, 2.0, 2)
    assert reader.last is steps[2].result


def test_no_step_follows_the_one_that_is_one_too_many():
    """The weights and the batches of the last bad step are still there when it is looked into."""
    given_up = []
    reader = StepReader(Progress(), Meter(8, WORLD), 3, lambda last, batches: given_up.append((last.number, batches)))
    for number in range(3):
        reader.add(Later(number, bad=True), [number])
        reader.catch_up(1)
        assert given_up == ([(2, [2])] if number == 2 else [])


def test_reading_late_changes_no_bit(small_runs):
    """A step is the same whether the host reads each of them at once, as for a line of the log, or late."""
    late, at_once = (
        small_runs.finish(small_runs.folder(), ["train.save_every=100", f"train.log_every={n}"]) for n in (100, 1)
    )
    assert late == at_once


def test_only_optimisers_that_leave_no_trace_are_asked_to_skip():
    model = torch.nn.Linear(2, 2)
    for name, obeys in (("adamw", True), ("adam", True), ("sgd", False)):
        optimizer = engine.optim.build_optimizer(model, make_config(optimizer=name).train)
        assert engine.optim.obeys_flag(optimizer) is obeys


def test_numbers_come_back_through_pinned_memory(monkeypatch):
    """A GPU that does not exist: the copy is queued, and only the reader waits, for the copy's own event."""
    order = []

    class Event:
        def record(self, stream):
            order.append("recorded")

        def synchronize(self):
            order.append("waited")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    copied = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            if function is torch.ops.aten.empty_like.default:
                order.append("pinned" if (options or {}).get("pin_memory") else "pageable")
            if function is torch.ops.aten.copy_.default:
                copied.append((arguments[0].device.type, arguments[1].device.type, arguments[2]))
                order.append("queued")
            return function(*arguments, **(options or {}))

    with FakeTensorMode(), Copies():
        readback = Readback(torch.zeros(5, device="cuda"))
        assert order == ["pinned", "queued", "recorded"] and copied == [("cpu", "cuda", True)]
        with pytest.raises(DataDependentOutputException):  # what comes then is the look, and there is no value
            readback.values()
    assert order[3:] == ["waited"]


def test_the_pass_that_settles_the_buckets_has_the_layout_of_a_step():
    """A compiled network would be compiled again for a step whose images lie otherwise."""
    config = make_config(channels_last=True)
    state, seen = small_state(config), []
    last = {"memory_format": torch.channels_last}
    state.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous(**last)))
    engine.build._settle_buckets(state, config, WORLD)
    assert seen == [True]


def test_fp32_is_not_tf32():
    """torch's default lets cuDNN round the factors of a convolution to 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = True
        engine.build.prepare_torch(make_config())
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before

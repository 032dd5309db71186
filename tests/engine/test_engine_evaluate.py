"""Exact accuracy: sizes 1 to 64 on 1 to 3 ranks, ReaL labels, fewer classes, stops and faults."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from engine_ranks import on_ranks
from timm.data import RealLabelsImagenet
from torch import nn

from data import Batch
from data.classes import imagenet_classes
from data.sampler import EvalSampler
from engine.distributed import World
from engine.evaluate import RunStopped, TrainingFailed, evaluate
from engine.labels import RealAccuracy, TopKAccuracy, build_metric, real_labels
from engine.schema import TrainConfig
from models.errors import UserError

ALONE = World(0, 1, torch.device("cpu"))
CLASSES = 10


class Lookup(nn.Module):
    """A model whose logits are a fixed function of the image's only pixel, its number."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.table = torch.randn(200, classes, generator=torch.Generator().manual_seed(5))

    def forward(self, images):
        return self.table[images[:, 0, 0, 0].long()]


class Numbers:
    """A loader with the project's sampler whose image number i holds i; its label is i mod classes."""

    def __init__(self, count, rank=0, world_size=1, batch_size=4, classes=CLASSES):
        self.sampler = EvalSampler(count, batch_size=batch_size, rank=rank, world_size=world_size)
        self.num_images, self.num_classes, self.dataset_name = count, classes, "numbers"
        self.classes, self.class_outputs = imagenet_classes(), None

    def __len__(self):
        return len(self.sampler)

    def __iter__(self):
        for key in self.sampler:
            indices = torch.from_numpy(key.indices)
            yield Batch(indices.float().view(-1, 1, 1, 1), indices % self.num_classes, indices)

    def name(self, index):
        return f"val/n{index % 7}/ILSVRC2012_val_{index + 1:08d}.JPEG"


def counted(count, world=ALONE, **options):
    loader = Numbers(count, world.rank, world.size)
    found = evaluate(Lookup(), loader, TopKAccuracy(), world, TrainConfig(), **options)
    return found.images, found.correct1, found.correct5


def brute(count):
    """The same counts by sorting all logits of all images at once."""
    order = Lookup().table[:count].argsort(dim=1, descending=True).tolist()
    right = [[guess == i % CLASSES for guess in row] for i, row in enumerate(order)]
    return count, sum(r[0] for r in right), sum(any(r[:5]) for r in right)


def test_one_process_counts_every_size():
    assert [counted(n) for n in range(1, 65)] == [brute(n) for n in range(1, 65)]


def every_size(world):
    return [counted(n, world) for n in range(1, 65)]


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_count_the_same(ranks):
    """Real gloo processes; one start for all sizes. Ranks without an image take part, too."""
    assert on_ranks(ranks, every_size) == [[brute(n) for n in range(1, 65)]] * ranks


def test_mode_of_the_model_is_given_back():
    model = Lookup().train()
    evaluate(model, Numbers(5), TopKAccuracy(), ALONE, TrainConfig())
    assert model.training


def test_nothing_is_kept_for_gradients():
    kept = []
    model = Lookup()
    model.table.requires_grad_()
    model.register_forward_hook(lambda module, inputs, logits: kept.append(logits.requires_grad))
    evaluate(model, Numbers(5), TopKAccuracy(), ALONE, TrainConfig())
    assert kept == [False, False]


def test_fewer_than_five_classes():
    loader = Numbers(7, classes=3)
    found = evaluate(Lookup(3), loader, TopKAccuracy(), ALONE, TrainConfig())
    assert found.correct5 == 7 == found.images


def test_real_labels_are_timms():
    """The whole published list, random logits, images in the order of their classes and not of their numbers."""
    count = 50_000
    names = [f"val/n/ILSVRC2012_val_{i + 1:08d}.JPEG" for i in torch.randperm(count).tolist()]
    loader = SimpleNamespace(num_images=count, name=names.__getitem__, num_classes=1000, dataset_name="x")
    theirs, ours = RealLabelsImagenet(names), torch.zeros(3, dtype=torch.int64)
    metric = RealAccuracy(loader, torch.device("cpu"))
    for first in range(0, count, 10_000):
        logits = torch.randn(10_000, 1000)
        for row in range(0, 10_000, 2):  # half of the images get a right answer, if they have one
            labels = theirs.real_labels[Path(names[first + row]).name]
            if labels:
                logits[row, labels[-1]] = 10
        theirs.add_result(logits)
        ours += metric(logits, torch.zeros(10_000, dtype=torch.int64), torch.arange(first, first + 10_000))
    images, correct1, correct5 = ours.tolist()
    assert images == 46_837  # the images that the reassessment gives a label
    assert 100 * correct1 / images == pytest.approx(theirs.get_accuracy(1), abs=1e-9)
    assert 100 * correct5 / images == pytest.approx(theirs.get_accuracy(5), abs=1e-9)


def test_a_long_evaluation_says_how_far_it_is(monkeypatch, caplog):
    monkeypatch.setattr("engine.evaluate.SAY_EVERY", -1.0)
    with caplog.at_level("INFO", logger="engine.evaluate"):
        counted(10)
    assert [line.split(",")[0] for line in caplog.messages] == [f"evaluation [{done}/3]" for done in (1, 2, 3)]
    assert caplog.messages[-1].endswith("00:00:00 left")


def real_counts(world):
    loader = Numbers(61, world.rank, world.size, classes=1000)
    metric = build_metric("real", loader, 1000, world.device)
    found = evaluate(Lookup(1000), loader, metric, world, TrainConfig())
    return found.images, found.correct1, found.correct5


def test_real_labels_on_three_ranks():
    assert set(on_ranks(3, real_counts)) == {real_counts(ALONE)}


def test_outputs_of_a_subset():
    """ImageNet-A and -R: only the listed outputs can be guessed."""
    logits = torch.tensor([[9.0, 1.0, 2.0, 0.0], [9.0, 0.0, 1.0, 5.0]])
    metric = TopKAccuracy(torch.tensor([1, 2]))
    assert metric(logits, torch.tensor([2, 1]), torch.arange(2)).tolist() == [2, 1, 2]


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ("real", 10, "eval.labels: real needs the 1000 classes of ImageNet, model.num_classes is 10"),
        ("original", 9, "model.num_classes: 9 is below the 10 classes of numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, classes, message):
    with pytest.raises(UserError, match=message):
        build_metric(labels, Numbers(3), classes, ALONE.device)


def test_real_needs_the_names_of_imagenet():
    loader = SimpleNamespace(num_images=1, name=lambda i: "cat.jpg", num_classes=1000, classes=imagenet_classes())
    with pytest.raises(UserError, match=r"not cat\.jpg"):
        build_metric("real", loader, 1000, ALONE.device)
    loader.classes, loader.records = ["cat", *imagenet_classes()[1:]], SimpleNamespace(numbered=False)
    with pytest.raises(UserError, match="needs the 1000 classes of ImageNet, the model's are 'cat', 'n01443537'"):
        build_metric("real", loader, 1000, ALONE.device)


def test_real_knows_the_names_of_hugging_faces_copy():
    loader = SimpleNamespace(num_images=2, name=lambda i: f"ILSVRC2012_val_{i + 2:08d}_n01440764.JPEG")
    first, second = real_labels()[1:3]
    logits = torch.zeros(2, 1000)
    logits[0, first[0]] = logits[1, second[0]] = 1.0
    metric = RealAccuracy(loader, torch.device("cpu"))
    assert metric(logits, torch.zeros(2, dtype=torch.int64), torch.arange(2)).tolist() == [2, 2, 2]


class Failing(Numbers):
    def __iter__(self):
        for number, batch in enumerate(super().__iter__()):
            if number == 1:
                raise OSError("no such disk")
            yield batch


def stops_and_faults(world):
    """Only the last rank stops or fails; what does each rank raise?"""
    last = world.rank == world.size - 1
    found = []
    for loader, stop in ((Numbers, last), (Failing if last else Numbers, False)):
        try:
            evaluate(Lookup(), loader(40, world.rank, world.size), TopKAccuracy(), world, TrainConfig(), stop)
        except (RunStopped, TrainingFailed) as error:
            found.append(f"{type(error).__name__} {error}")
    return found


def test_all_ranks_stop_and_fail_together():
    found = on_ranks(2, stops_and_faults)
    assert found[0] == found[1]
    assert found[0][0].startswith("RunStopped")
    assert "rank 1: OSError: no such disk" in found[0][1]

"""Where images come from: the official ImageNet archives, read without unpacking them, or an image folder."""

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Protocol

from scipy.io import loadmat

from data.image_list import check_name
from data.readers import Split
from data.readers.archives import MAX_FILE_BYTES, Files
from data.readers.folder import is_image_name, scan_folder
from models.errors import UserError

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
_SYNSET = re.compile(r"n\d{8}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One image: its name `<class>/<file>`, and where its bytes lie in an archive (for a folder: size -1)."""

    name: str
    offset: int = 0
    size: int = -1

    @property
    def class_name(self) -> str:
        """The class folder."""
        return self.name.split("/", 1)[0]


class Source(Protocol):
    """What the writers need: a sorted list of images, and the bytes of each."""

    def entries(self, split: Split) -> list[Entry]:
        """Return all images of a split, sorted by name. Raises UserError."""

    def read(self, split: Split, entry: Entry) -> bytes:
        """Return the content of one file."""


def open_source(path: Path) -> Source:
    """Open a folder that holds the archives, or `train/` and `val/`. Raises UserError for anything else."""
    if (path / TRAIN).is_file() or (path / VAL).is_file():
        return ArchiveSource(path)
    if (path / "train").is_dir() or (path / "val").is_dir():
        return FolderSource(path)
    raise UserError(f"{path} holds neither {TRAIN} and {VAL} nor the folders train and val")


class FolderSource:
    """Images in `train/<class>/` and `val/<class>/`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self, split: Split) -> list[Entry]:
        """See `Source`."""
        records = scan_folder(self.root / split)
        return sorted(
            (Entry(check_name(records.name(i), self.root)) for i in range(len(records))), key=attrgetter("name")
        )

    def read(self, split: Split, entry: Entry) -> bytes:
        """See `Source`."""
        return (self.root / split / entry.name).read_bytes()


class ArchiveSource:
    """The official archives: a tar of one tar for each class, a flat tar of validation images, the devkit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files = {"train": Files([root / TRAIN]), "val": Files([root / VAL])}

    def entries(self, split: Split) -> list[Entry]:
        """See `Source`. Validation images get their class from the devkit's ground truth."""
        path = self.root / (TRAIN if split == "train" else VAL)
        if not path.is_file():
            raise UserError(f"there is no archive {path}")
        try:
            return sorted(self._train(path) if split == "train" else self._val(path), key=attrgetter("name"))
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(f"{path} is not a readable tar file ({error})") from error

    def read(self, split: Split, entry: Entry) -> bytes:
        """See `Source`."""
        data = self._files[split].read(0, entry.offset, entry.size)
        if len(data) != entry.size:
            raise UserError(f"{self._files[split].paths[0]} is cut off at {entry.name}")
        return data

    def _train(self, path: Path) -> Iterator[Entry]:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as outer:
            for inner in outer:
                synset = PurePosixPath(inner.name).stem
                if not inner.isreg() or not _SYNSET.fullmatch(synset):
                    raise UserError(f"{path}: {inner.name!r} is not the archive of a class (n........tar)")
                file.seek(inner.offset_data)
                with tarfile.open(fileobj=file, mode="r:") as images:
                    for image in images:
                        yield _entry(path, synset, image)

    def _val(self, path: Path) -> Iterator[Entry]:
        synsets = ground_truth(self.root / DEVKIT)
        with tarfile.open(path, "r:") as images:
            for image in images:
                number = re.search(r"ILSVRC2012_val_(\d{8})\.JPEG$", image.name)
                if not number or not 1 <= int(number[1]) <= len(synsets):
                    raise UserError(f"{path}: {image.name!r} has no line in the devkit's ground truth")
                yield _entry(path, synsets[int(number[1]) - 1], image)


def _entry(path: Path, synset: str, member: tarfile.TarInfo) -> Entry:
    check_name(member.name, path)
    if not member.isreg() or not is_image_name(member.name):
        raise UserError(f"{path}: {member.name!r} is not an image file")
    if member.size > MAX_FILE_BYTES:
        raise UserError(f"{path}: {member.name} claims {member.size} bytes, refused as a decompression bomb")
    return Entry(f"{synset}/{PurePosixPath(member.name).name}", member.offset_data, member.size)


def ground_truth(devkit: Path) -> list[str]:
    """Return the synset of each validation image from the devkit. Raises UserError where it is incomplete."""
    if not devkit.is_file():
        raise UserError(f"there is no devkit {devkit}; the classes of validation images come from it")
    truth = _member(devkit, "ILSVRC2012_validation_ground_truth.txt").decode()
    table = loadmat(io.BytesIO(_member(devkit, "meta.mat")), squeeze_me=True)["synsets"]
    synsets = {
        int(number): str(name)
        for number, name, children in zip(table["ILSVRC2012_ID"], table["WNID"], table["num_children"], strict=True)
        if int(children) == 0
    }
    try:
        return [synsets[int(line)] for line in truth.split()]
    except (KeyError, ValueError) as error:
        raise UserError(f"{devkit}: the ground truth names class {error}, which meta.mat does not have") from error


def _member(devkit: Path, name: str) -> bytes:
    """Read one file of the devkit into memory, wherever in the archive it lies."""
    try:
        with tarfile.open(devkit, "r:gz") as archive:
            for member in archive:
                if member.isreg() and PurePosixPath(member.name).name == name and member.size < MAX_FILE_BYTES:
                    file = archive.extractfile(member)
                    if file is not None:
                        return file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{devkit} is not a readable tar.gz file ({error})") from error
    raise UserError(f"{devkit} has no {name}")

"""Released weights on this machine: fetched once into torch.hub's cache, whole or not at all."""

import fcntl
import hashlib
import logging
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.request import Request, urlopen

import torch
from torch.hub import tqdm

from .checkpoint import convert_state, read_weights
from .errors import UserError
from .recognise import zoo_model
from .released import Release

LOG = logging.getLogger(__name__)
MIRROR = "LOCALMIXER_MIRROR"
TIMEOUT = 60.0
"""Seconds without an answer or a further byte after which a host counts as gone."""
CHUNK = 2**20


def cached(release: Release) -> Path:
    """Where the file of a release lies on this machine once it is fetched, or put there by hand."""
    return Path(torch.hub.get_dir(), "checkpoints", release.file)


def source(release: Release) -> str:
    """The URL that is asked: the released one, or LOCALMIXER_MIRROR's (a folder or a prefix) with the file's name."""
    mirror = os.environ.get(MIRROR)
    if not mirror:
        return release.url
    if "://" not in mirror:
        mirror = Path(mirror).expanduser().absolute().as_uri()
    return f"{mirror.rstrip('/')}/{release.file}"


def fetch(release: Release, progress: bool = True) -> Path:
    """The file of a release, downloaded if it is not in the cache (``torch.hub.get_dir()/checkpoints``) yet.

    Of several processes one downloads and the others wait. The file has its name once its size, its checksums and the
    model that its tensors are of are right; checksums are looked at each time, and what is broken is fetched again.

    Args:
        progress: show a bar on stderr.

    Raises:
        UserError: it cannot be had, or what came is not it; names the URL and what to do. Nothing of it stays.
    """
    path = cached(release)
    if path.is_file() and _damage(path, release) is None:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _only_writer(path.with_name(f"{path.name}.partial")) as file:
            if not _is_there(path, release):  # perhaps by the process that was waited for
                _download(source(release), file, release, progress)
                Path(file.name).replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


@contextmanager
def _only_writer(path: Path) -> Iterator[BinaryIO]:
    """An empty file for one process at a time; the system frees it when its process ends in whatever way.

    Whoever gets it after a wait may hold a file that was renamed or removed meanwhile, and asks again.
    """
    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                LOG.warning("waiting for another process, which is fetching %s", path.name.removesuffix(".partial"))
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(path, file):
                continue
            try:
                file.truncate(0)
                yield file
            finally:
                if _is_at(path, file):
                    path.unlink()
            return


def _is_at(path: Path, file: BinaryIO) -> bool:
    return path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))


def _is_there(path: Path, release: Release) -> bool:
    """Whether the cache has the file, whole; a broken one is removed."""
    if not path.is_file():
        return False
    damage = _damage(path, release)
    if damage is not None:
        LOG.warning("%s: %s; it is fetched again", path, damage)
        path.unlink()
    return damage is None


def _damage(path: Path, release: Release) -> str | None:
    """What is wrong with a file by its hash, where one is known, and by the checksums inside it."""
    if release.sha256 is not None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if not digest.startswith(release.sha256):
            return f"its SHA-256 is {digest[: len(release.sha256)]}, not {release.sha256}"
    try:
        with zipfile.ZipFile(path) as archive:  # as torch saves; its own reader does not look at the checksums
            broken = archive.testzip()
    except zipfile.BadZipFile:
        return _no_weights(path)
    except (EOFError, RuntimeError, zlib.error) as error:
        return f"cannot be read ({error})"
    return None if broken is None else f"the checksum of {broken} inside it is wrong"


def _no_weights(path: Path) -> str | None:
    """What is wrong with a file that is no archive: nothing, if it is a checkpoint as torch saved them before 1.6."""
    with path.open("rb") as file:
        if file.read(256).lstrip().startswith(b"<"):
            return "it is a web page"
    try:
        read_weights(path)
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


def _download(url: str, file: BinaryIO, release: Release, progress: bool) -> None:
    """Fill ``file`` from a URL, down to the disk.

    Raises:
        UserError: there is no such file, or it is not the release's.
    """
    try:
        with urlopen(Request(url, headers={"User-Agent": "localmixer"}), timeout=TIMEOUT) as answer:
            length = answer.headers.get("Content-Length")
            total = int(length) if length else None
            with tqdm(total=total, desc=release.file, unit="B", unit_scale=True, disable=not progress) as bar:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
        wrong = f"{size:,} of {total:,} bytes came" if total not in (None, size) else _wrong(Path(file.name), release)
    except (HTTPException, OSError, ValueError) as error:
        wrong = str(getattr(error, "reason", error)) or type(error).__name__
    if wrong is not None:
        raise UserError(
            f"{url}: {wrong}; {release.file} could not be fetched: put it into {cached(release).parent} by hand (it is "
            f"released as {release.url}), or name a folder or a URL prefix that has it in {MIRROR}"
        )


def _wrong(path: Path, release: Release) -> str | None:
    """Why a downloaded file is not the release; None if it is."""
    damage = _damage(path, release)
    if damage is not None:
        return damage
    try:
        found = zoo_model(convert_state(read_weights(path)))
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")
    return None if found == release.model else f"it holds the weights of {found or 'another model'}"

"""Writers of the four forms. Each can be stopped at any moment and goes on where it was; none leaves half a result."""

import csv
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

from data.prepare.sources import Entry, Source
from data.readers import Split
from data.readers.archives import map_file

Progress = Callable[[int], object]
_DATE = (1980, 1, 1, 0, 0, 0)  # the same input gives the same archive
_FLUSH_IMAGES = 1000


def class_numbers(entries: list[Entry]) -> dict[str, int]:
    """Return the label of each class: its place in sorted order."""
    return {name: label for label, name in enumerate(sorted({entry.class_name for entry in entries}))}


def write_folder(source: Source, split: Split, entries: list[Entry], out: Path, progress: Progress) -> None:
    """Write `<out>/<split>/<class>/<file>`; a class folder appears when it is complete."""
    for name, group in groupby(entries, key=lambda entry: entry.class_name):
        members = list(group)
        final, partial = out / split / name, out / split / f".{name}.partial"
        if not final.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
            for entry in members:
                path = partial / entry.name.split("/", 1)[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(source.read(split, entry))
            partial.rename(final)
        progress(len(members))


def write_csv(source: Source, split: Split, entries: list[Entry], out: Path, progress: Progress) -> None:
    """Write the files as `write_folder` does, and `<split>.csv` with a line `path,label` for each.

    Labels are the names of the classes: numbers would mean others in a split that lacks a class.
    """
    write_folder(source, split, entries, out, progress)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "label"])
    table.writerows([f"{split}/{entry.name}", entry.class_name] for entry in entries)
    write_text(out / f"{split}.csv", text.getvalue())


def write_tar(
    source: Source, split: Split, entries: list[Entry], out: Path, progress: Progress, shard_images: int = 10_000
) -> None:
    """Write shards `<split>-<number>.tar`, each complete or absent. Classes are mixed over the shards' order only."""
    for number, start in enumerate(range(0, len(entries), shard_images)):
        members = entries[start : start + shard_images]
        final = out / f"{split}-{number:05d}.tar"
        if not final.is_file():
            partial = out / f".{final.name}.partial"
            with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
                for entry in members:
                    data = source.read(split, entry)
                    member = tarfile.TarInfo(entry.name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
            _publish(partial, final)
        progress(len(members))


def write_zip(source: Source, split: Split, entries: list[Entry], out: Path, progress: Progress) -> None:
    """Write `<split>.zip` (not compressed: JPEGs are already) and Swin's `<split>_map.txt`.

    A journal beside the unfinished archive lists its members, so an interrupted one is cut back to the last
    safe point and continued.
    """
    final, partial, journal = out / f"{split}.zip", out / f".{split}.zip.partial", out / f".{split}.zip.journal"
    numbers = class_numbers(entries)
    if not final.is_file():
        done = _read_journal(partial, journal)
        progress(len(done))
        with zipfile.ZipFile(partial, "a" if done else "w") as archive, journal.open("a") as log:
            for info in done:
                archive.filelist.append(info)
                archive.NameToInfo[info.filename] = info
            for chunk in _chunks(entries[len(done) :]):
                for entry in chunk:
                    archive.writestr(zipfile.ZipInfo(entry.name, _DATE), source.read(split, entry))
                _append_journal(archive, log, len(chunk))
                progress(len(chunk))
        _publish(partial, final)
        journal.unlink()
    else:
        progress(len(entries))
    lines = [f"{entry.name}\t{numbers[entry.class_name]}\n" for entry in entries]
    write_text(map_file(final), "".join(lines))


def _chunks(entries: list[Entry]) -> Iterator[list[Entry]]:
    for start in range(0, len(entries), _FLUSH_IMAGES):
        yield entries[start : start + _FLUSH_IMAGES]


def _append_journal(archive: zipfile.ZipFile, log: io.TextIOWrapper, count: int) -> None:
    """Note the last members, after their bytes are safe on the disk."""
    if archive.fp is not None:
        archive.fp.flush()
        os.fsync(archive.fp.fileno())
    for info in archive.filelist[-count:]:
        log.write(json.dumps([info.filename, info.header_offset, info.file_size, info.CRC]) + "\n")
    log.flush()
    os.fsync(log.fileno())


def _read_journal(partial: Path, journal: Path) -> list[zipfile.ZipInfo]:
    """Return the members that are safe and cut the archive after them; start anew where nothing fits."""
    if not partial.is_file() or not journal.is_file():
        journal.unlink(missing_ok=True)
        return []
    done, end = [], 0
    lines = journal.read_text().splitlines(keepends=True)
    lines = [line for line in lines if line.endswith("\n")]
    for line in lines:
        name, offset, size, crc = json.loads(line)
        end = offset + 30 + len(name.encode()) + size  # the local header has no other fields
        info = zipfile.ZipInfo(name, _DATE)
        info.header_offset, info.file_size, info.compress_size, info.CRC = offset, size, size, crc
        info.create_system, info.external_attr = 3, 0o600 << 16
        done.append(info)
    if partial.stat().st_size < end:
        journal.unlink()
        return []
    journal.write_text("".join(lines))
    os.truncate(partial, end)
    return done


def _publish(partial: Path, final: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.rename(final)


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    _publish(partial, path)


WRITERS: dict[str, Callable[[Source, Split, list[Entry], Path, Progress], None]] = {
    "folder": write_folder,
    "zip": write_zip,
    "tar": write_tar,
    "csv": write_csv,
}

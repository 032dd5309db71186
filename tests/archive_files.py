"""Small pictures in zip and tar files."""

import io
import tarfile
import zipfile
from pathlib import Path

from PIL import Image

Files = dict[str, bytes] | list[tuple[str, bytes]]
"""Contents by name; pairs where a name is there twice."""


def jpeg(value: int = 90, size: tuple[int, int] = (8, 8)) -> bytes:
    """A picture of one red; size is (width, height)."""
    file = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def write_zip(path: Path, files: Files, method: int = zipfile.ZIP_STORED, extra: bytes = b"") -> Path:
    """Write an archive; every member has the extra field."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            about = zipfile.ZipInfo(name)
            about.compress_type, about.extra = method, extra
            archive.writestr(about, content)
    return path


def write_tar(path: Path, files: Files) -> Path:
    """Write an uncompressed archive."""
    with tarfile.open(path, "w") as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path

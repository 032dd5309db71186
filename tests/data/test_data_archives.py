"""Archives by the byte: what is listed is what other tools list, and each thing that can be wrong is named."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from data.errors import CorruptImageError
from data.readers import archives
from data.readers.archives import Files, TarReader, ZipReader, list_shards, map_file, scan_tar, scan_zip
from models.errors import UserError
from tests.archive_files import jpeg, write_tar, write_zip


def refused(action) -> str:
    with pytest.raises(UserError) as caught:
        action()
    return str(caught.value)


FILES = {f"{name}/{number}.jpg": jpeg(40 * number) for name in ("dog", "cat") for number in range(2)}
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("extra", [b"", b"\x99\x99\x04\x00abcd", b"\x99\x99\x2c\x01" + bytes(300)])
@pytest.mark.parametrize("long", [False, True])  # a name of more than 255 letters
def test_members_of_a_zip_lie_where_its_directory_says(tmp_path: Path, method: int, extra: bytes, long: bool) -> None:
    files = FILES | {f"dog/{'x' * (300 if long else 3)}.jpg": jpeg(200), "dog/readme.txt": b"no image"}
    path = write_zip(tmp_path / "val.zip", files, method, extra)
    records = scan_zip(path)
    names = sorted(name for name in files if name.endswith(".jpg"))
    assert [records.name(index) for index in range(len(records))] == names
    assert (records.classes, records.numbered) == (["cat", "dog"], False)
    assert records.labels.tolist() == [0, 0, 1, 1, 1]
    with zipfile.ZipFile(path) as archive:
        listed = [archive.getinfo(name) for name in names]
    reader = ZipReader(path, 64, records)  # 8 x 8 pixels are just allowed
    for index, about in enumerate(listed):
        found = {key: values[index] for key, values in records.extra.items()}
        assert found == {
            **{"offset": about.header_offset, "packed": about.compress_size, "size": about.file_size},
            **{"crc": about.CRC, "method": about.compress_type},
        }
        image = reader.open(index)
        assert (image.data, image.name, image.size) == (files[names[index]], f"{path}:{names[index]}", (8, 8))
    types = {key: values.dtype.name for key, values in records.extra.items()}
    assert types == {"offset": "int64", "packed": "int64", "size": "int64", "crc": "uint32", "method": "uint8"}
    with pytest.raises(CorruptImageError, match=r"8 x 8 pixels are above data.max_pixels 63$"):
        ZipReader(path, 63, records).open(0)


def test_a_map_beside_a_zip_orders_it(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "train.zip", FILES)
    assert map_file(path) == tmp_path / "train_map.txt"
    names = ["dog/1.jpg", "cat/0.jpg", "dog/0.jpg", "cat/1.jpg"]
    map_file(path).write_bytes("".join(f"{name}\t{7 * (name < 'd')}\r\n" for name in names).encode("utf-8-sig"))
    records = scan_zip(path)
    assert [records.name(index) for index in range(4)] == names and records.labels.tolist() == [0, 7, 0, 7]
    assert records.numbered and records.classes == [str(number) for number in range(8)]
    assert [ZipReader(path, 99, records).open(index).data for index in range(4)] == [FILES[name] for name in names]
    map_file(path).write_text("dog/7.jpg\t0\n")
    assert refused(lambda: scan_zip(path)) == f"{tmp_path}/train_map.txt lists 'dog/7.jpg', which is not in train.zip"
    map_file(path).write_text("dog/1.jpg\t0\n")
    assert refused(lambda: scan_zip(path)) == f"{tmp_path}/train_map.txt lists 1 of the 4 images in train.zip"


def test_a_zip_that_is_newer_than_its_index_is_named(tmp_path: Path) -> None:
    """Same size, same checksums, other names: the offsets still fit, the labels do not."""
    path = write_zip(tmp_path / "val.zip", {"cat/a.jpg": jpeg(1), "dog/a.jpg": jpeg(2)})
    records = scan_zip(path)
    write_zip(path, {"dog/a.jpg": jpeg(1), "cat/a.jpg": jpeg(2)})
    told = f"{path}:cat/a.jpg: the archive is damaged or newer than its index"
    assert broken(lambda: ZipReader(path, 99, records).open(0)) == told
    accent = scan_zip(write_zip(path, {"k\u00e4tzchen/a.jpg": jpeg(1)}))
    assert ZipReader(path, 99, accent).open(0).data == jpeg(1)


def test_what_a_zip_may_not_be_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "val.zip"
    assert refused(lambda: scan_zip(path)) == f"there is no zip file {path}"
    path.write_bytes(b"PK")
    assert refused(lambda: scan_zip(path)).startswith(f"{path} is not a readable zip file (")
    assert refused(lambda: scan_zip(write_zip(path, {"cat/a.txt": b""}))) == f"{path} has no images"
    told = f"{path}: 'a.jpg' lies in no class folder, and no list of labels is given"
    assert refused(lambda: scan_zip(write_zip(path, {"a.jpg": b""}))) == told
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1000)
    write_zip(path, {"cat/a.jpg": bytes(1001)})
    told = f"{path}: cat/a.jpg claims 1001 bytes, refused as a decompression bomb"
    assert refused(lambda: scan_zip(path)) == told
    assert len(scan_zip(write_zip(path, {"cat/a.jpg": bytes(1000)}))) == 1
    told = f"{path}: cat/a.jpg is encrypted or not packed by 'store' or 'deflate'"
    assert refused(lambda: scan_zip(write_zip(path, {"cat/a.jpg": b"x"}, zipfile.ZIP_BZIP2))) == told
    content = bytearray(write_zip(path, {"cat/a.jpg": b"x"}).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of encryption in the directory
    path.write_bytes(content)
    assert refused(lambda: scan_zip(path)) == told
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("cat/a.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "elsewhere")
    assert refused(lambda: scan_zip(path)) == f"{path}: cat/a.jpg is a symbolic link"


def broken(action) -> str:
    with pytest.raises(CorruptImageError) as caught:
        action()
    return str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_damage_inside_a_zip_is_named(tmp_path: Path, method: int) -> None:
    path = write_zip(tmp_path / "val.zip", {"cat/a.jpg": jpeg()}, method)
    reader, name, content = ZipReader(path, 99, scan_zip(path)), f"{path}:cat/a.jpg", path.read_bytes()
    start = 30 + len("cat/a.jpg")
    path.write_bytes(content[:start] + bytes([content[start] ^ 0xFF]) + content[start + 1 :])
    said = broken(lambda: ZipReader(path, 99, reader.records).open(0))
    if method == zipfile.ZIP_STORED:
        assert said == f"{name}: the content does not fit its checksum"
    else:
        assert said.startswith(f"{name}: cannot be unpacked (")
    path.write_bytes(b"QK" + content[2:])
    told = f"{name}: the archive is damaged or newer than its index"
    assert broken(lambda: ZipReader(path, 99, reader.records).open(0)) == told
    path.write_bytes(content)
    reader.records.extra["size"][0] += 1
    assert broken(lambda: reader.open(0)) == f"{name}: the content does not fit its checksum"


def test_shards_are_listed_in_the_order_of_their_names(tmp_path: Path) -> None:
    second = write_tar(tmp_path / "val-1.tar", {"dog/b.jpg": jpeg(2), "cat/b.jpg": jpeg(3)})
    first = write_tar(tmp_path / "val-0.tar", {"dog/a.jpg": jpeg(1)})
    shards = list_shards(tmp_path / "val-*.tar")
    assert shards == [first, second]
    records = scan_tar(shards)
    assert [records.name(index) for index in range(3)] == ["dog/a.jpg", "dog/b.jpg", "cat/b.jpg"]
    assert (records.classes, records.labels.tolist(), records.numbered) == (["cat", "dog"], [1, 1, 0], False)
    assert records.extra["shard"].tolist() == [0, 1, 1]
    with tarfile.open(second) as archive:
        members = archive.getmembers()
    assert records.extra["offset"].tolist()[1:] == [member.offset_data for member in members]
    assert records.extra["size"].tolist()[1:] == [member.size for member in members]
    types = [records.extra[key].dtype.name for key in ("shard", "offset", "size")]
    assert types == ["int32", "int64", "int64"] and all(x.flags.c_contiguous for x in records.extra.values())
    reader = TarReader(shards, 64, records)
    assert [reader.open(index).data for index in range(3)] == [jpeg(1), jpeg(2), jpeg(3)]
    assert reader.open(2).name == f"{second}:cat/b.jpg"
    with pytest.raises(CorruptImageError, match=r"above data\.max_pixels 63$"):
        TarReader(shards, 63, records).open(0)
    second.write_bytes(second.read_bytes()[: members[1].offset_data + 9])
    assert broken(lambda: TarReader(shards, 64, records).open(2)) == f"{second}:cat/b.jpg: the shard is cut off"
    told = f"there are no tar shards {tmp_path}/x-*.tar"
    assert refused(lambda: list_shards(tmp_path / "x-*.tar")) == told


def test_a_shard_rewritten_to_the_same_size_is_noticed(tmp_path: Path) -> None:
    """An index knows a shard by name and size; the header before each image says whether it is still that image."""
    path = write_tar(tmp_path / "s-0.tar", {"dog/a.jpg": jpeg(1), "cat/a.jpg": jpeg(2)})
    size, reader = path.stat().st_size, TarReader([path], 64, scan_tar([path]))
    told = f"{path}:dog/a.jpg: the shard is damaged or newer than its index"
    others = {"cat/a.jpg": jpeg(2), "dog/a.jpg": jpeg(1)}, {"dog/a.jpg": jpeg(1) + b"x", "cat/a.jpg": jpeg(2)}
    for files in others:
        write_tar(path, files)
        assert path.stat().st_size == size and broken(lambda: reader.open(0)) == told
    write_tar(path, {"dog/a.jpg": jpeg(1), "cat/a.jpg": jpeg(2)})
    assert reader.open(0).data == jpeg(1)
    content = bytearray(path.read_bytes())
    content[150] ^= 1  # a digit of the header's checksum
    path.write_bytes(content)
    assert broken(lambda: reader.open(0)) == told


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["cat/" + "a" * 95 + ".jpg", "cat/" * 30 + "a.jpg", "cat/\u00e4.jpg", "./cat/a.jpg"])
def test_names_of_every_form_are_read(tmp_path: Path, name: str, format: int) -> None:
    path = tmp_path / "s-0.tar"
    with tarfile.open(path, "w", format=format) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(jpeg())
        archive.addfile(member, io.BytesIO(jpeg()))
    records = scan_tar([path])
    assert records.name(0) == name
    assert TarReader([path], 64, records).open(0).data == jpeg()


def labels_of(tmp_path: Path, files: dict[str, bytes]) -> tuple[list[str], list[int], bool]:
    records = scan_tar([write_tar(tmp_path / "s-0.tar", files)])
    return records.classes, records.labels.tolist(), records.numbered


def test_labels_of_shards_are_their_own_files_or_their_folders(tmp_path: Path) -> None:
    assert labels_of(tmp_path, {"a.jpg": jpeg(), "a.cls": b" 2\n", "b.b.jpg": jpeg(), "b.b.cls": b"0"}) == (
        *(["0", "1", "2"], [2, 0], True),
    )
    words = {"x/a.jpg": jpeg(), "x/a.cls": b"owl", "y/a.cls": b"ant", "y/a.jpg": jpeg()}
    assert labels_of(tmp_path, words) == (["ant", "owl"], [1, 0], False)
    assert labels_of(tmp_path, {"x/9.jpg": jpeg(), "x/note.txt": b"", "10/9.jpg": jpeg()})[0] == ["10", "x"]
    digit = {"a.jpg": jpeg(), "a.cls": "²".encode(), "b.jpg": jpeg(), "b.cls": b"1"}  # no number to int()
    assert labels_of(tmp_path, digit) == (["1", "²"], [1, 0], False)
    silverado = "Chevrolet Silverado "
    long = {"a.jpg": jpeg(), "a.cls": f"{silverado}2500HD".encode(), "b.jpg": jpeg()}
    long["b.cls"] = f"{silverado}1500".encode()
    assert labels_of(tmp_path, long) == ([f"{silverado}1500", f"{silverado}2500HD"], [1, 0], False)
    path, whose = tmp_path / "s-0.tar", "and its other shards"
    told = f"{path}: a.cls has 1001 bytes, too many for the name of a class"
    assert refused(lambda: labels_of(tmp_path, {"a.jpg": jpeg(), "a.cls": b"x" * 1001})) == told
    told = f"{path}: none of its 1 .cls files, such as b.cls, is of an image"
    assert refused(lambda: labels_of(tmp_path, {"x/a.jpg": jpeg(), "b.cls": b"1"})) == told
    dots = {"./part/a.jpg": jpeg(), "./part/a.cls": b"owl", "part/b.jpg": jpeg(), "./part/b.cls": b"ant"}  # as GNU tar
    assert labels_of(tmp_path, dots) == (["ant", "owl"], [1, 0], False)
    one = {"a.jpg": jpeg(), "b.jpg": jpeg(), "b.cls": b"1"}
    told = f"{path} {whose}: 'a.jpg' has no .cls file, other images have one"
    assert refused(lambda: labels_of(tmp_path, one)) == told
    assert len(labels_of(tmp_path, {"a.jpg": jpeg(), "a.cls": b"1048575"})[0]) == 1 << 20
    told = f"{path} {whose}: label 1048576 is no class number"
    assert refused(lambda: labels_of(tmp_path, {"a.jpg": jpeg(), "a.cls": b"1048576"})) == told
    told = f"{path} and 0 more shards have no images"
    assert refused(lambda: labels_of(tmp_path, {"note.txt": b""})) == told
    assert refused(lambda: labels_of(tmp_path, {"a.jpg": jpeg()})).startswith(f"{path}: 'a.jpg' lies in no class")


def test_what_a_shard_may_not_be_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s-0.tar"
    path.write_bytes(b"x" * 2000)
    assert refused(lambda: scan_tar([path])).startswith(f"{path} is not a readable uncompressed tar file (")
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1000)
    told = f"{path}: cat/a.jpg claims 1001 bytes, refused as a decompression bomb"
    assert refused(lambda: scan_tar([write_tar(path, {"cat/a.jpg": bytes(1001)})])) == told
    assert len(scan_tar([write_tar(path, {"cat/a.jpg": bytes(1000)})])) == 1
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("cat/a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "b.jpg"
        archive.addfile(link)
    assert refused(lambda: scan_tar([path])) == f"{path}: cat/a.jpg is a link or a device, not a file"


def test_an_archive_ends_with_two_blocks_of_zeros(tmp_path: Path) -> None:
    """POSIX: 1,024 bytes at least; what follows the last member is looked at to the end of the file."""
    path = write_tar(tmp_path / "s-0.tar", {"cat/a.jpg": jpeg()})
    with tarfile.open(path) as archive:
        (member,) = archive.getmembers()
    end = member.offset_data + -(-member.size // 512) * 512
    content = path.read_bytes()[:end]
    path.write_bytes(content + bytes(1024))
    assert len(scan_tar([path])) == 1
    path.write_bytes(content + bytes(1023))
    assert refused(lambda: scan_tar([path])) == (
        f"{path}: cut off after 'cat/a.jpg', at byte {end}: the archive has no end"
    )
    path.write_bytes(content + bytes((1 << 20) + 1024) + b"x")
    assert refused(lambda: scan_tar([path])) == (
        f"{path}: what stands after 'cat/a.jpg', at byte {end}, is neither a member nor the archive's end: damaged, or "
        "two archives in one"
    )
    path.write_bytes(bytes(512))
    assert refused(lambda: scan_tar([path])) == f"{path}: cut off after 'its start', at byte 0: the archive has no end"


def open_files(path: Path) -> list[int]:
    """This process's descriptors of a file."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        if entry.exists() and entry.resolve() == path:
            found.append(int(entry.name))
    return found


def test_a_file_is_opened_once_a_process_and_closed_with_its_owner(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(path.name.encode() * 3 + b"0123456789")
    files = Files(paths)
    assert open_files(paths[0]) == []
    assert [files.read(1, 3, 4), files.read(0, 0, 3), files.read(1, 11, 9)] == [b"0123", b"aaa", b"89"]
    assert len(open_files(paths[0])) == len(open_files(paths[1])) == 1
    (parent,) = open_files(paths[0])
    child = os.fork()
    if child == 0:  # its own descriptor, and the parent's stays open when the child's copy goes
        right = files.read(0, 3, 2) == b"01" and len(open_files(paths[0])) == 2
        files.__del__()
        os._exit(0 if right and open_files(paths[0]) == [parent] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert files.__getstate__() == {"paths": paths, "_open": {}}
    del files
    assert open_files(paths[0]) == open_files(paths[1]) == []

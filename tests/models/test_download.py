"""Released weights are fetched once, whole or not at all, from the host or from a mirror."""

import hashlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.download import cached, fetch, source
from models.errors import UserError
from models.released import RELEASES
from tests.released_weights import NANO, Host, save_as_released, serve

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's cache, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("LOCALMIXER_MIRROR", raising=False)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A mirror that has the file."""
    (tmp_path / "host").mkdir()
    save_as_released(tmp_path / "host" / NANO.file)
    with serve(tmp_path / "host") as running:
        monkeypatch.setenv("LOCALMIXER_MIRROR", running.url)
        yield running


def content(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_one_request_and_then_offline(host: Host, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(NANO)
    assert path == cache / NANO.file and path.read_bytes() == (host.folder / NANO.file).read_bytes()
    monkeypatch.delenv("LOCALMIXER_MIRROR")
    assert fetch(NANO) == path
    assert host.asked == {f"/released/{NANO.file}": 1} and content(cache) == [NANO.file]


def test_the_bar_is_shown_or_not(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(NANO, progress=False)
    assert capsys.readouterr().err == ""
    cached(NANO).unlink()
    fetch(NANO)
    error = capsys.readouterr().err
    assert NANO.file in error and "100%" in error


@pytest.mark.parametrize("form", ["{folder}", "file://{folder}", "file://{folder}/"])
def test_a_folder_is_a_mirror(form: str, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALMIXER_MIRROR", form.format(folder=host.folder))
    assert source(NANO) == f"file://{host.folder}/{NANO.file}"
    assert fetch(NANO).is_file() and not host.asked


def test_without_a_mirror_the_released_host_is_asked() -> None:
    """PAPER section 7: two of the addresses, written out."""
    assert source(RELEASES["d_dw_conv_base", "classification"]) == (
        "https://github.com/Atten4Vis/DemystifyLocalViT/releases/download/prerelease/dynamic_dwnet_base_224.pth"
    )
    assert source(RELEASES["swin_tiny", "segmentation"]) == (
        "https://github.com/SwinTransformer/storage/releases/download/v1.0.1/upernet_swin_tiny_patch4_window7_512x512.pth"
    )


def truncated(host: Host) -> None:
    host.announced = 5000


def web_page(host: Host) -> None:
    host.answer = b"\n<!DOCTYPE html><html>Sign in</html>" * 9


def half(host: Host) -> None:
    host.answer = (host.folder / NANO.file).read_bytes()[:-9000]


def flipped(host: Host) -> None:
    whole = bytearray((host.folder / NANO.file).read_bytes())
    whole[len(whole) // 2] ^= 1
    host.answer = bytes(whole)


def of_another_model(host: Host) -> None:
    save_as_released(host.folder / NANO.file, "swin")


def of_another_architecture(host: Host) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(4, 3, 3, 3)}, host.folder / NANO.file)


def of_objects(host: Host) -> None:
    torch.save({"model": {"weight": torch.zeros(2)}, "args": Path("here")}, host.folder / NANO.file)


def missing(host: Host) -> None:
    (host.folder / NANO.file).unlink()


FAULTS = [
    (truncated, r"[\d,]+ of [\d,]+ bytes came"),
    (web_page, "it is a web page"),
    (half, "cannot be read as weights"),
    (flipped, "the checksum of dwnet_nano/data/.* inside it is wrong"),
    (of_another_model, "it holds the weights of swin_nano"),
    (of_another_architecture, r"layer1.0.conv1.weight: unknown key.*the file is of a ResNet"),
    (of_objects, "something else than tensors"),
    (missing, "Not Found"),
]


@pytest.mark.parametrize(("fault", "words"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_what_is_not_the_file_is_one_line_and_leaves_nothing(fault, words: str, host: Host, cache: Path) -> None:
    fault(host)
    with pytest.raises(UserError, match=words) as caught:
        fetch(NANO, progress=False)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(f"{host.url}/{NANO.file}: ")
    assert all(word in text for word in (str(cache), NANO.url, "LOCALMIXER_MIRROR", "by hand"))
    assert content(cache) == []
    host.answer, host.announced = None, 0
    save_as_released(host.folder / NANO.file)
    assert fetch(NANO, progress=False).is_file()


def test_no_network(cache: Path) -> None:
    with pytest.raises(UserError, match=r"Connection refused.*by hand") as caught:
        fetch(NANO)
    assert str(caught.value).startswith(f"{NANO.url}: ") and content(cache) == []


def test_a_cache_that_cannot_be_made(cache: Path) -> None:
    cache.parents[1].write_text("a file where a folder should be")
    with pytest.raises(UserError, match=r"dwnet_nano.pth: cannot be written: Not a directory"):
        fetch(NANO)


def test_a_known_hash_is_checked(host: Host, cache: Path) -> None:
    digest = hashlib.sha256((host.folder / NANO.file).read_bytes()).hexdigest()
    with pytest.raises(UserError, match=f"its SHA-256 is {digest[:8]}, not 01234567"):
        fetch(replace(NANO, sha256="01234567"), progress=False)
    assert content(cache) == []
    assert fetch(replace(NANO, sha256=digest[:8]), progress=False).is_file()


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_broken_file_in_the_cache_is_fetched_again(
    damage: str, host: Host, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch(NANO, progress=False)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    broken = bytes(whole) if damage == "changed" else bytes(whole[:-100])
    path.write_bytes(broken)
    assert fetch(NANO, progress=False).read_bytes() == (host.folder / NANO.file).read_bytes()
    assert "it is fetched again" in caplog.text and host.asked.total() == 2
    path.write_bytes(broken)
    monkeypatch.delenv("LOCALMIXER_MIRROR")
    with pytest.raises(UserError, match="Connection refused"):
        fetch(NANO, progress=False)
    assert content(cache) == []  # a broken file is never used


def test_checkpoints_as_torch_saved_them_before_1_6(host: Host) -> None:
    state = torch.load(host.folder / NANO.file)
    torch.save(state, host.folder / NANO.file, _use_new_zipfile_serialization=False)
    assert fetch(NANO, progress=False) == fetch(NANO, progress=False)
    assert host.asked.total() == 1


def start_fetching(results) -> None:
    try:
        results.put(str(fetch(NANO, progress=False)))
    except UserError as error:
        results.put(f"error: {error}")


def wait_until(true, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_eight_processes_fetch_once(host: Host, cache: Path) -> None:
    host.hold.clear()
    results = FORK.Queue()
    processes = [FORK.Process(target=start_fetching, args=(results,)) for _ in range(8)]
    for process in processes:
        process.start()
    wait_until(lambda: host.asked.total() == 1)
    time.sleep(0.5)  # for the others to come and wait
    host.hold.set()
    assert {results.get(timeout=60) for _ in processes} == {str(cache / NANO.file)}
    for process in processes:
        process.join(60)
    assert host.asked.total() == 1 and content(cache) == [NANO.file]


def test_a_killed_download_holds_nobody_up(host: Host, cache: Path) -> None:
    host.hold.clear()
    process = FORK.Process(target=start_fetching, args=(FORK.Queue(),))
    process.start()
    partial = cache / f"{NANO.file}.partial"
    wait_until(lambda: host.asked.total() == 1 and partial.is_file())
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert content(cache) == [partial.name]  # what a killed process leaves has not the file's name
    host.hold.set()
    assert fetch(NANO, progress=False).is_file()
    assert content(cache) == [NANO.file] and host.asked.total() == 2

"""Made-up weights under the names of the released files, and a host that serves them, well or badly."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from models.released import Release
from tests.models.oracle import make_state

NANO = Release(
    file="dwnet_nano.pth",
    prefix="http://127.0.0.1:9/nowhere/",  # the port of "discard", where nobody listens
    model="dw_conv_nano",
    task="classification",
    readme={"top1": 10.0},
)


def save_as_released(path: Path, kind: str = "dw_conv", classes: int = 1000) -> dict[str, torch.Tensor]:
    """Weights of a nano model under the authors' names, in a file as they save them."""
    state = make_state(kind, 32, (1, 1, 2, 1), classes=classes, heads=(1, 2, 4, 8), per_group=8, img_size=224)
    torch.save({"model": state}, path)
    return state


class Host:
    """A web server on this machine that serves the files of a folder and counts what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: Counter[str] = Counter()
        self.answer: bytes | None = None
        """In place of a file, with status 200."""
        self.announced = 0
        """Bytes that are promised beyond those that come."""
        self.hold = threading.Event()
        """What comes after the first half of a file waits for this."""
        self.hold.set()
        self.url = ""

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        self.asked[request.path] += 1
        path = self.folder / request.path.rsplit("/", 1)[-1]
        if self.answer is None and not path.is_file():
            return request.send_error(404)
        content = path.read_bytes() if self.answer is None else self.answer
        request.send_response(200)
        request.send_header("Content-Length", str(len(content) + self.announced))
        request.end_headers()
        half = len(content) // 2
        request.wfile.write(content[:half])
        request.wfile.flush()
        self.hold.wait(60)
        request.wfile.write(content[half:])
        return None


@contextmanager
def serve(folder: Path) -> Iterator[Host]:
    """A running :class:`Host`."""
    host = Host(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):  # who asked has gone
                host.respond(self)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        host.url = f"http://127.0.0.1:{server.server_address[1]}/released"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield host
        host.hold.set()
        server.shutdown()

"""Run a function on several ranks that talk by gloo, each a process of its own."""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["engine.run"])


def on_ranks(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function(world, *arguments)`` returns on each rank; it must stand at the top of its module."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers = _SERVER.Queue()
    processes = [
        _SERVER.Process(target=_rank, args=(rank, size, port, answers, function, arguments)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    found = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    failures = [text for _, failed, text in found if failed]
    assert not failures, "\n".join(failures)
    return [pickle.loads(value) for _, _, value in sorted(found, key=lambda answer: answer[0])]


def _rank(rank: int, size: int, port: int, answers: Any, function: Callable[..., Any], arguments: Any) -> None:
    import torch

    torch.set_num_threads(1)
    values = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({key: str(value) for key, value in values.items()})
    from engine.distributed import join_world

    world = join_world("cpu", 60.0)
    try:
        answers.put((rank, False, pickle.dumps(function(world, *arguments))))
    except BaseException:
        answers.put((rank, True, f"rank {rank}:\n{traceback.format_exc()}"))
    finally:
        world.close()

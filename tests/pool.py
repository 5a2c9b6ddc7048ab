"""Processes of torch.distributed on this machine, started once for many tests: importing torch takes seconds."""

import multiprocessing
import os
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from echelon.persistent.processes import birth, end_with

_SECONDS = 100


class Pool:
    """Processes that share a process group (gloo, loopback) and call a function side by side.

    The store is in the test's own process, which is none of them. They end with it, whatever ends it.

    Parameters
    ----------
    size : int
        Number of processes.
    """

    def __init__(self, size: int) -> None:
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        me = os.getpid()
        start = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        for process in range(size):
            mine, theirs = start.Pipe()
            started = start.Process(
                target=_serve, args=(process, size, self._store.port, theirs, me, birth(me)), daemon=True
            )
            started.start()
            theirs.close()
            self._pipes.append(mine)
            self._processes.append(started)

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call a function of a module in every process; return what each returns, or raise what one raises."""
        for pipe in self._pipes:
            pipe.send((function, arguments))
        answers = [self._answer(pipe) for pipe in self._pipes]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def end(self) -> None:
        """End the processes, also those that hang."""
        for process in self._processes:
            process.kill()
            process.join()

    def _answer(self, pipe: Connection) -> Any:
        if not pipe.poll(_SECONDS):
            self.end()
            raise TimeoutError(f"a process has not answered for {_SECONDS} s")
        return pipe.recv()


def _serve(process: int, size: int, port: int, calls: Connection, parent: int, born: str | None) -> None:
    end_with(parent, born)  # the parent may have ended before this process has imported torch
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # as torchrun does
    store = dist.TCPStore("127.0.0.1", port, is_master=False)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=process, world_size=size, timeout=timedelta(seconds=_SECONDS))
    while True:
        function, arguments = calls.recv()
        try:
            calls.send(function(*arguments))
        except Exception as error:
            calls.send(error)

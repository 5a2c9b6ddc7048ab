"""Processes of torch.distributed on this machine (gloo, loopback, one thread each), as torchrun would start them."""

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing


def spawn(workers: int, task: Callable[..., None], *arguments: Any) -> None:
    """Call a function in every process; it ends when all have returned.

    Raises
    ------
    Exception
        Of the first process that fails; the others are ended.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    options = (workers, store.port, task, arguments)
    multiprocessing.spawn(_run, options, nprocs=workers)  # type: ignore[attr-defined,no-untyped-call]


def _run(process: int, workers: int, port: int, task: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    store = dist.TCPStore("127.0.0.1", port, is_master=False)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=process, world_size=workers)
    task(*arguments)
    dist.destroy_process_group()

"""The processes of a run, the workers that each of them holds, and numbers that all of them gather."""

import os
from collections.abc import Sequence
from datetime import timedelta
from itertools import count

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from echelon.core.mixing import Floats


class Group:
    """The default process group of torch.distributed, which holds N workers.

    Numbers travel through the store and rows through the backend: with more processes than cores, small collectives
    cost more than the store.

    Parameters
    ----------
    owners : sequence of int, optional
        The process that holds each worker, by the worker's rank; by default worker i is process i.
    device : str or torch.device
        Where the models are. Rows stay there if the backend sends from it (NCCL on GPUs); otherwise they travel through
        the CPU.
    store : torch.distributed.Store, optional
        Shared by all processes; by default that of MASTER_ADDR and MASTER_PORT, which torchrun sets.
    timeout : float
        Seconds to wait for the numbers of another process.

    Attributes
    ----------
    process, num_processes, num_workers : int
        This process, how many there are, and N.
    owners : tuple of int, length N
        See above.
    local : list of int
        Ranks of the workers in this process.
    device : torch.device
        Where rows must be to be sent.
    store : torch.distributed.Store
        For this group alone.

    Raises
    ------
    RuntimeError
        If torch.distributed has no process group.
    ValueError
        If a process holds no worker, or there is no store.
    """

    def __init__(
        self,
        owners: Sequence[int] | None = None,
        device: str | torch.device = "cpu",
        store: Store | None = None,
        timeout: float = 1800.0,
    ) -> None:
        if not dist.is_initialized():
            raise RuntimeError(
                "torch.distributed has no process group: call torch.distributed.init_process_group first"
            )
        self.process, self.num_processes = dist.get_rank(), dist.get_world_size()
        self.owners = tuple(range(self.num_processes)) if owners is None else tuple(owners)
        self.num_workers = len(self.owners)
        if idle := sorted(set(range(self.num_processes)) - set(self.owners)):
            raise ValueError(f"owners must give every process a worker; process {idle[0]} has none")
        self.local = self.held_by(self.process)
        device = torch.device(device)
        on_gpu = device.type == "cuda" and "nccl" in dist.get_backend_config()
        self.device = device if on_gpu else torch.device("cpu")
        self.store = self._own(store or self._connect(), timeout)
        self._gathers = count()

    def held_by(self, process: int) -> list[int]:
        """Return the ranks of the workers in a process."""
        return [rank for rank, owner in enumerate(self.owners) if owner == process]

    def gather(self, table: Floats) -> Floats:
        """Return the table of all workers, shape (N, columns), from the rows of this process's workers in ``table``."""
        number = next(self._gathers)
        self.store.set(f"{number}/{self.process}", table[self.local].tobytes())  # type: ignore[arg-type]
        pieces = self.store.multi_get([f"{number}/{process}" for process in range(self.num_processes)])
        if number:  # all have read the numbers before these, or they would not have sent these
            self.store.delete_key(f"{number - 1}/{self.process}")
        gathered = np.empty_like(table)
        for process, piece in enumerate(pieces):
            gathered[self.held_by(process)] = np.frombuffer(piece).reshape(-1, table.shape[1])
        return gathered

    def _own(self, store: Store, timeout: float) -> Store:
        """Return a part of the store for this group: a script may make several, each after the one before."""
        store.set_timeout(timedelta(seconds=timeout))
        before = (store.add("echelon", 1) - 1) // self.num_processes
        return PrefixStore(f"echelon/{before}", store)

    def _connect(self) -> Store:
        if self.num_processes == 1:
            return dist.HashStore()  # type: ignore[attr-defined]
        host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
        if host is None or port is None:
            raise ValueError("store must be given where MASTER_ADDR and MASTER_PORT are not set; got None")
        # A connection of its own: the backend's threads must not wait while this one waits for numbers.
        return dist.TCPStore(host, int(port), is_master=False)  # type: ignore[attr-defined]

"""The processes of a run, the workers that each of them holds, and numbers that all of them gather."""

import os
from collections.abc import Sequence
from datetime import timedelta
from itertools import count

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
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
    members : tuple of int
        The processes that take part, ascending: all of them, unless one can be lost.
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
        self._hold(dist.get_rank(), range(dist.get_world_size()) if owners is None else owners)
        if (count_all := dist.get_world_size()) > self.num_processes:
            raise ValueError(f"owners must give every process a worker; process {count_all - 1} has none")
        device = torch.device(device)
        on_gpu = device.type == "cuda" and "nccl" in dist.get_backend_config()
        self.device = device if on_gpu else torch.device("cpu")
        self.store = self._own(store or self._connect(), timeout)
        self._gathers = count()

    def held_by(self, process: int) -> list[int]:
        """Return the ranks of the workers in a process."""
        return [rank for rank, owner in enumerate(self.owners) if owner == process]

    @property
    def is_first(self) -> bool:
        """Whether this is the first of the processes that take part."""
        return self.process == self.members[0]

    @property
    def there(self) -> NDArray[np.bool_]:
        """Whose process takes part, (N,)."""
        return np.isin(self.owners, self.members)

    def address(self, process: int) -> int:
        """Return the rank of a process in torch's process group."""
        return self.members.index(process)

    def introduce(self, piece: bytes) -> dict[int, bytes]:
        """Return what every process has said of its workers before the first round, by process."""
        return self.collect(piece)

    def collect(self, piece: bytes) -> dict[int, bytes]:
        """Return what every process that takes part has given, by process; each of them must call it."""
        number = next(self._gathers)
        self.store.set(f"{number}/{self.process}", piece)  # type: ignore[arg-type]
        pieces = self.store.multi_get([f"{number}/{process}" for process in self.members])
        if number:  # all have read the numbers before these, or they would not have sent these
            self.store.delete_key(f"{number - 1}/{self.process}")
        return dict(zip(self.members, pieces, strict=True))

    def gather(self, table: Floats, absent: float = 0.0) -> Floats:
        """Return the table of all workers, shape (N, columns), from the rows of this process's workers in ``table``.

        The rows of workers whose process does not take part are filled with ``absent``.
        """
        gathered = np.full_like(table, absent)
        for process, piece in self.collect(table[self.local].tobytes()).items():
            gathered[self.held_by(process)] = np.frombuffer(piece).reshape(-1, table.shape[1])
        return gathered

    def _hold(self, process: int, owners: Sequence[int]) -> None:
        """Note who holds which worker."""
        self.process, self.owners = process, tuple(owners)
        self.num_processes, self.num_workers = max(self.owners) + 1, len(self.owners)
        if idle := sorted(set(range(self.num_processes)) - set(self.owners)):
            raise ValueError(f"owners must give every process a worker; process {idle[0]} has none")
        self.members = tuple(range(self.num_processes))
        self.local = self.held_by(process)

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

"""The event that ends a non-blocking round in real time: enough workers have finished."""

import math
import os

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from echelon.core.work import NonBlocking, WorkPolicy


class Finish:
    """Tells the workers that enough of them have finished, through the store of torch.distributed.

    Parameters
    ----------
    store : torch.distributed.Store
        Shared by all processes.
    needed : int
        Workers that must have finished.
    """

    def __init__(self, store: Store, needed: int) -> None:
        self._store = PrefixStore("echelon.finish", store)
        self._needed = needed

    @classmethod
    def of(cls, work: WorkPolicy, num_workers: int, store: Store | None) -> "Finish | None":
        """Return the event of a work policy; None where every worker, or the time alone, ends a round."""
        if not isinstance(work, NonBlocking) or work.trigger == "deadline":
            return None
        quorum = work.quorum if work.trigger == "quorum" else 0.0
        return cls(store or connect(), max(math.ceil(quorum * num_workers - 1e-9), 1))

    def note(self, round_number: int) -> None:
        """Note that a worker has finished."""
        if self._store.add(f"{round_number}/finished", 1) == self._needed:
            self._store.set(f"{round_number}/over", "")

    def is_over(self, round_number: int) -> bool:
        """Return whether enough workers have finished."""
        return self._store.check([f"{round_number}/over"])

    def forget(self, round_number: int) -> None:
        """Remove what is noted of a round, after which nobody asks for it."""
        for name in ("finished", "over"):
            self._store.delete_key(f"{round_number}/{name}")


def connect() -> Store:
    """Return a connection to the store that torchrun, or the script, has given by MASTER_ADDR and MASTER_PORT.

    Raises
    ------
    ValueError
        If they are not set.
    """
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if host is None or port is None:
        raise ValueError("store must be given where MASTER_ADDR and MASTER_PORT are not set; got None")
    return dist.TCPStore(host, int(port), is_master=False)  # type: ignore[attr-defined]

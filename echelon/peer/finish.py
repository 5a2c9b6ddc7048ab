"""The event that ends a non-blocking round in real time: enough workers have finished."""

import math

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
        self._store = PrefixStore("finish", store)
        self._needed = needed

    @classmethod
    def of(cls, work: WorkPolicy, num_workers: int, store: Store) -> "Finish | None":
        """Return the event of a work policy; None where every worker, or the time alone, ends a round."""
        if not isinstance(work, NonBlocking) or work.trigger == "deadline":
            return None
        quorum = work.quorum if work.trigger == "quorum" else 0.0
        return cls(store, max(math.ceil(quorum * num_workers - 1e-9), 1))

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

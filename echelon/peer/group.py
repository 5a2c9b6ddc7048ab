"""The processes of a run, the workers that each of them holds, and numbers that all of them gather."""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from echelon.core.mixing import Floats


class Group:
    """The default process group of torch.distributed, which holds N workers.

    Parameters
    ----------
    owners : sequence of int, optional
        The process that holds each worker, by the worker's rank; by default worker i is process i.
    device : str or torch.device
        Where the models are. Rows stay there if the backend sends from it (NCCL on GPUs); otherwise they travel through
        the CPU.

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

    Raises
    ------
    RuntimeError
        If torch.distributed has no process group.
    ValueError
        If a process holds no worker.
    """

    def __init__(self, owners: Sequence[int] | None = None, device: str | torch.device = "cpu") -> None:
        if not dist.is_initialized():
            raise RuntimeError(
                "torch.distributed has no process group: call torch.distributed.init_process_group first"
            )
        self.process, self.num_processes = dist.get_rank(), dist.get_world_size()
        self.owners = tuple(range(self.num_processes)) if owners is None else tuple(owners)
        self.num_workers = len(self.owners)
        if idle := sorted(set(range(self.num_processes)) - set(self.owners)):
            raise ValueError(f"owners must give every process a worker; process {idle[0]} has none")
        self.local = [rank for rank, owner in enumerate(self.owners) if owner == self.process]
        device = torch.device(device)
        on_gpu = device.type == "cuda" and "nccl" in dist.get_backend_config()
        self.device = device if on_gpu else torch.device("cpu")

    def gather(self, table: Floats) -> Floats:
        """Return a table with the rows of all workers, shape (N, columns), from one where other processes' are 0."""
        shared = torch.from_numpy(table).to(self.device, copy=True)
        dist.all_reduce(shared)
        gathered: Floats = shared.cpu().numpy()
        return gathered

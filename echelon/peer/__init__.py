"""A run without a server, on torch.distributed: every worker holds its own row; all compute the same matrix."""

from echelon.peer.peer import Peer

__all__ = ["Peer"]

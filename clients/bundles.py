"""Train messages of several workers that one process answers together."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message, RecordDict

from echelon.protocol.bundles import join, rank_in, split
from echelon.protocol.packing import PACKED, pack, unpack

if TYPE_CHECKING:
    from .together import Batched
    from .worker import Worker

Request = tuple[RecordDict, Context]


@dataclass(frozen=True)
class TrainBatch:
    """Trains several workers of this process.

    Parameters
    ----------
    find : callable
        (context) -> this process's worker, and the rank of the context's node, whose data is loaded.
    batched : bool or "auto"
        See :func:`clients.make_client_app`.
    """

    find: "Callable[[Context], tuple[Worker, int]]"
    batched: "Batched"

    def __call__(self, queue: deque[Request]) -> Iterator[RecordDict | Exception]:
        """Take contents of train messages off a queue, as many at once as fit; yield replies or errors, in order."""
        while queue:
            try:
                worker, _ = self.find(queue[0][1])
            except Exception as error:  # the engine reports it as this worker's
                queue.popleft()
                yield error
                continue
            together = worker.together(self.batched)
            taken = [queue.popleft() for _ in range(together.at_once(len(queue)))]
            outcomes: list[Any] = [self._request(content, context) for content, context in taken]
            replies = iter(together.train([found for found in outcomes if not isinstance(found, Exception)]))
            for (content, _), found in zip(taken, outcomes, strict=True):
                reply = found if isinstance(found, Exception) else next(replies)
                yield pack(reply) if PACKED in content and not isinstance(reply, Exception) else reply

    def answer(self, message: Message, context: Context) -> Message:
        """Return the replies to the train messages of a bundle, as one; what fails of one worker is in its place."""
        contents = [content for content in split(message.content) if isinstance(content, RecordDict)]
        requests = deque((content, _of_rank(context, rank_in(content))) for content in contents)
        replies = [f"{type(r).__name__}: {r}" if isinstance(r, Exception) else r for r in self(requests)]
        refused = ""
        with suppress(Exception):  # that of the user's data is in the replies
            refused = self.find(context)[0].together(self.batched).refusal
        return Message(join(replies, refused), reply_to=message)

    def _request(self, content: RecordDict, context: Context) -> tuple[int, RecordDict] | Exception:
        """Return the rank and the content of a train message, with the rank's data loaded, or what went wrong."""
        try:
            _, rank = self.find(context)
            return rank, unpack(content)
        except Exception as error:
            return error


def _of_rank(context: Context, rank: int) -> Context:
    """Return the context of the simulated node of a rank."""
    node_config = {**context.node_config, "partition-id": rank}
    return Context(context.run_id, context.node_id, node_config, RecordDict(), context.run_config)

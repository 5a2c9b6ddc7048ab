"""The loop of a node: ask the SuperLink for a message, hand it to the process of its run, push the reply at once."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from logging import ERROR, INFO
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.common.config import get_fused_config_from_fab
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore import log
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_objects, push_object_contents_from_iterable
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supernode.start_client_internal import FAB_VERIFICATION_ERROR, _verify_fab

from echelon.deployment.app_process import Contents, Settings
from echelon.deployment.apps import Answer, AppProcess, error_answer
from echelon.deployment.pace import Pace
from echelon.deployment.patience import patient

# Idle processes are ended, to release memory (of a GPU, for example): Flower does not tell a node that a run has ended;
# that a later one has begun makes it likely.
_IDLE_SECONDS = 900.0
_IDLE_BESIDE_LATER_SECONDS = 120.0
# A message is announced before its objects are there; Flower waits 1 s and doubles.
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS, _RETRIES = 0.02, 2.0, 200


@dataclass(frozen=True)
class Connection:
    """What Flower's connection to the SuperLink consists of, in its order."""

    node_id: int
    receive: Callable[[], tuple[Message, ObjectTree] | None]
    send: Callable[[Message, ObjectTree, float], tuple[set[str], str]]
    get_run: Callable[[int], Run]
    get_fab: Callable[[str, int], Fab]
    pull_object: Callable[[int, str], bytes]
    push_object: Callable[[int, str, str, bytes], None]
    confirm: Callable[[int, str], None]

    def patient(self) -> "Connection":
        """Return a connection that repeats requests at which the SuperLink fails."""
        functions = {name: patient(function) for name, function in vars(self).items() if name != "node_id"}
        return Connection(self.node_id, **functions)


@dataclass
class _Known:
    """A run that this node has had a message of; without a process, its app is not trusted."""

    series: int
    context: Context
    process: AppProcess | None


@dataclass
class Node:
    """A SuperNode that answers one message after the other, of any number of runs.

    Parameters
    ----------
    connection : Connection
        To the SuperLink.
    node_config : dict
        Of ``--node-config``.
    trusted_entities : dict of str to str, optional
        Of ``--trusted-entities``: only apps that one of them has verified are run.
    sleep : callable
        Waits.
    """

    connection: Connection
    node_config: dict[str, Any]
    trusted_entities: dict[str, str] | None = None
    sleep: Callable[[float], None] = time.sleep
    _pace: Pace = field(default_factory=Pace)
    _runs: dict[int, _Known] = field(default_factory=dict)
    _states: dict[int, RecordDict] = field(default_factory=dict)

    def serve(self) -> None:
        """Answer messages until an exception ends it."""
        while True:
            self.step()

    def step(self) -> None:
        """Answer a message, or wait for a moment if there is none."""
        try:
            received = self.connection.receive()
            if received is None:
                self._release_idle()
                self.sleep(self._pace.pause())
                return
            self._pace.heard(None)
            self._handle(*received)
        except RunNotRunningException:
            log(INFO, "A message is dropped: its run has ended")

    def close(self) -> None:
        """End the processes of all runs."""
        for known in self._runs.values():
            if known.process is not None:
                known.process.kill()
        self._runs.clear()

    def _handle(self, message: Message, tree: ObjectTree) -> None:
        run_id, message_id = message.metadata.run_id, message.metadata.message_id
        log(INFO, "[RUN %s, ROUND %s] %s", run_id, message.metadata.group_id, message.metadata.message_type)
        known = self._known(run_id)
        began = time.monotonic()
        if known.process is None:
            self._push(error_answer(message, FAB_VERIFICATION_ERROR), 0.0)
            return
        try:
            contents = self._pulled(run_id, tree)
            self.connection.confirm(run_id, message_id)
            answer = known.process.answer(message, known.context, tree, contents)
            if answer.context is not None:
                known.context.state = self._states[known.series] = answer.context.state
            self._push(answer, time.monotonic() - began)
            self._pace.heard(answer.poll_seconds)
        except Exception as error:  # of the connection: the SuperLink reports that the message was not answered
            log(ERROR, "Message %s failed: %s", message_id, error)

    def _known(self, run_id: int) -> _Known:
        if run_id not in self._runs:
            run = self.connection.get_run(run_id)
            fab = self.connection.get_fab(run.fab_hash, run_id)
            self._runs[run_id] = _Known(run.series_id, self._context(run, fab), self._process(run, fab))
        return self._runs[run_id]

    def _context(self, run: Run, fab: Fab) -> Context:
        return Context(
            run_id=run.run_id,
            node_id=self.connection.node_id,
            node_config=self.node_config,
            state=self._states.get(run.series_id, RecordDict()),
            run_config=get_fused_config_from_fab(fab.content, run),
            series_id=run.series_id,
        )

    def _process(self, run: Run, fab: Fab) -> AppProcess | None:
        """Return the process for a run's app; None if it is not verified by whom the node trusts."""
        if self.trusted_entities and not (
            fab.verifications.get("valid_license") and _verify_fab(fab, self.trusted_entities)
        ):
            log(ERROR, "The app of run %d is refused: none of the trusted entities has verified it", run.run_id)
            return None
        settings = Settings(run.run_id, self.connection.node_id, run.fab_id, run.fab_version, fab.hash_str)
        return AppProcess(settings, fab.content)

    def _pulled(self, run_id: int, tree: ObjectTree) -> Contents:
        return pull_objects(
            list(dict.fromkeys(each.object_id for each in iterate_object_tree(tree))),
            lambda object_id: self.connection.pull_object(run_id, object_id),
            initial_backoff=_FIRST_RETRY_SECONDS,
            backoff_cap=_LONGEST_RETRY_SECONDS,
            max_tries_per_object=_RETRIES,
        )

    def _push(self, answer: Answer, seconds: float) -> None:
        """Announce a reply, and upload those of its objects that the SuperLink does not have."""
        wanted, session = self.connection.send(answer.reply, answer.tree, seconds)
        # In the order in which Flower makes them: no object before those that it contains.
        objects = [(name, content) for name, content in answer.contents.items() if name in wanted]
        push = partial(self.connection.push_object, answer.reply.metadata.run_id, session)
        push_object_contents_from_iterable(objects, push)

    def _release_idle(self) -> None:
        now = time.monotonic()
        used = {run_id: known.process.used for run_id, known in self._runs.items() if known.process is not None}
        for run_id, last in used.items():
            later = any(other > last for other in used.values())
            if now - last > (_IDLE_BESIDE_LATER_SECONDS if later else _IDLE_SECONDS):
                process = self._runs.pop(run_id).process
                assert process is not None
                process.close()

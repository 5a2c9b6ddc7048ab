"""The Flower ClientApp: thin handlers around a worker in this process or in a trainer process.

This module does not import torch at module level: a deployment starts a new process for every message, and only the
process that holds the worker needs torch.
"""

import inspect
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from echelon.persistent import client as trainers
from echelon.persistent import processes
from echelon.persistent.channel import Request
from echelon.protocol.bundles import is_bundle
from echelon.protocol.messages import CONFIG, ROSTER_QUERY, TrainInstructions
from echelon.protocol.packing import PACKED, pack, unpack

from .bundles import TrainBatch
from .errors import check_takes, naming

if TYPE_CHECKING:
    from torch import nn

    from .fleet import Fleet
    from .objectives import Loss, Metrics, Precision, Reduction
    from .optimizers import Factory, Keeper
    from .together import Batched
    from .worker import Worker

Answer = Callable[[str, RecordDict, Context], RecordDict]

# Simulated nodes move between processes and Ray unpickles the app for every message, so the worker is kept here.
_workers: dict[str, "Worker"] = {}


class WorkerApp(ClientApp):
    """A ClientApp whose messages are answered by a worker in this process or, when deployed, in a trainer process.

    Parameters
    ----------
    answer : callable
        (message type, content, context) -> content of the reply.
    mods : list of Flower mods, optional
        Wrapped around every train message.
    persistent : str, optional
        ``module:variable`` from which this app can be imported. When deployed, one trainer process imports it and
        answers all messages of a run. By default every message reloads torch, data and model.
    train_batch : TrainBatch, optional
        Answers several train messages. An engine that has several at once may call it, or send them as one (see
        :mod:`echelon.protocol.bundles`); it bypasses mods.
    bundled : bool or "auto"
        Whether an engine of several processes sends several messages as one: ``auto`` where that is faster.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        mods: list[Mod] | None = None,
        persistent: str | None = None,
        train_batch: TrainBatch | None = None,
        bundled: "Batched" = False,
    ) -> None:
        super().__init__()
        self.answer = answer
        self.train_batch, self.bundled = train_batch, bundled
        self._persistent = persistent
        self.query(ROSTER_QUERY)(self._reply)
        self.train(mods=mods)(self._reply)
        self.evaluate()(self._reply)

    def wishes(self, message: Message) -> dict[str, Any]:
        """Return how a node that keeps this app's process should treat it, see :mod:`echelon.deployment.app_process`.

        Returns
        -------
        dict
            ``seconds`` after which a process that has not answered is killed, whether to ``keep`` the process for
            later messages, and ``poll_seconds``, how often to ask for them at most.
        """
        instructions = _instructions(message)
        seconds = instructions.patience_seconds(message.metadata.message_type)
        return {"seconds": seconds, "keep": instructions.persistent, "poll_seconds": instructions.poll_seconds}

    def _reply(self, message: Message, context: Context) -> Message:
        if self.train_batch is not None and is_bundle(message.content):
            return self.train_batch.answer(message, context)
        deployed = trainers.available()
        if deployed:
            processes.end_with_parent()
        instructions = _instructions(message) if deployed and self._persistent is not None else None
        if instructions is not None and instructions.persistent and self._persistent is not None:
            stateless = Context(context.run_id, context.node_id, context.node_config, RecordDict(), context.run_config)
            request = Request(message.metadata.message_type, message.content, stateless)
            content = trainers.ask(
                self._persistent, request, instructions.patience_seconds(message.metadata.message_type)
            )
        else:
            content = self.answer(message.metadata.message_type, message.content, context)
        return Message(content, reply_to=message)


def _instructions(message: Message) -> TrainInstructions:
    return TrainInstructions.from_config(unpack(message.content).config_records.get(CONFIG, ConfigRecord()))


def make_client_app(
    load_data: Callable[..., Any],
    build_model: "Callable[[], nn.Module]",
    *,
    device: str = "auto",
    fleet: "Fleet | None" = None,
    loss: "Loss | None" = None,
    metrics: "Metrics | None" = None,
    reduction: "Reduction" = "sum",
    precision: "Precision" = "fp32",
    optimizer: "str | Factory" = "sgd",
    optimizer_state: "Keeper" = "server",
    max_grad_norm: float | None = None,
    is_over: Callable[[], bool] = lambda: False,
    mods: list[Mod] | None = None,
    persistent: str | None = None,
    batched: "Batched" = False,
) -> WorkerApp:
    """Return a ClientApp that follows the instructions of these strategies; it also works with Flower's own FedAvg.

    Parameters
    ----------
    load_data : callable
        ``load_data(rank, num_workers)`` or ``load_data(context)`` returns the data that this worker can access: a pair
        (inputs, labels) or a dict of tensors, a torch or Hugging Face dataset, a DataLoader, or an object with
        ``len()`` and ``batch(indices, generator)``. Called once per process and rank. The server's partition indexes
        into it; without a partition all of it is the shard.
    build_model : callable
        Returns the torch module; its ``state_dict`` names the arrays. Parameters with ``requires_grad=False`` stay
        where they are: they must be the same on every worker.
    device : {"auto", "cpu", "cuda", "mps", "xpu"}
        Where to compute; ``auto`` uses an accelerator if there is one. ``device`` in a node's node-config overrides it.
    fleet : Fleet, optional
        Simulated devices of unequal speed. By default the wall clock measures this device.
    loss : callable, optional
        (module, mini-batch) -> loss; by default the cross-entropy of ``module(inputs)`` for (inputs, labels).
    metrics : callable, optional
        (module, mini-batch) -> what an evaluation reports, by name; by default ``loss`` and, for the default loss,
        ``accuracy``.
    reduction : {"sum", "mean"}
        What ``loss`` and ``metrics`` return: sums over the samples of a mini-batch, or their means.
    precision : {"fp32", "bf16"}
        ``bf16`` computes the loss under torch's autocast.
    optimizer, optimizer_state, max_grad_norm
        See :class:`clients.optimizers.Optimizer`: a name or a function of the parameters, who keeps its state, and a
        bound on the gradient's norm.
    is_over : callable, optional
        Asked under the wall clock, before every mini-batch, whether an event has ended the round.
    mods : list of Flower mods, optional
        Wrapped around every train message, as by ``@app.train(mods=...)``; ``docs/security.md`` lists which mods are
        compatible with these strategies.
    persistent : str, optional
        ``module:variable`` that this app is bound to, as in
        ``app = make_client_app(..., persistent="client_app:app")``. When deployed, a trainer process imports it and
        keeps torch, data and model between messages.
    batched : bool or "auto"
        Whether an engine that runs several workers in a process trains them in one batched computation; ``auto`` where
        that is faster. What cannot be batched is trained one worker after the other. Only for strategies that wait
        for all workers: the last bits of a batch depend on who is in it. Mini-batches of a step that nothing can end
        the round between are computed at once, too, where that is the same mathematics.

    Returns
    -------
    WorkerApp

    Raises
    ------
    TypeError
        For a function that cannot be called as above.
    ValueError
        For a secure-aggregation mod. Other values are checked where the worker is made.
    """
    _check_functions(load_data, build_model, loss, metrics)
    for mod in mods or []:
        if ".secure_aggregation." in f"{getattr(mod, '__module__', '')}.":
            raise ValueError(
                f"mods must leave each worker's model readable, because the server keeps one per worker; got "
                f"{getattr(mod, '__name__', mod)}, which reveals only sums to the server"
            )
    options = {
        "device": device,
        "fleet": fleet,
        "objective": (loss, metrics, reduction, precision),
        "optimizer": (optimizer, optimizer_state, max_grad_norm),
        "is_over": is_over,
        "merges": bool(batched),
    }
    find = partial(_worker, uuid.uuid4().hex, load_data, build_model, options)
    # Mods expect the model as in Flower's own clients: as named arrays.
    batches = bool(batched) and not mods
    return WorkerApp(
        partial(_answer, find, packs=not mods),
        mods=mods,
        persistent=persistent,
        train_batch=TrainBatch(partial(_found, find), batched) if batches else None,
        # One process trains its workers one after the other where real time measures them: a round would wait.
        bundled=batched if batches and fleet is not None else False,
    )


def _found(find: "Callable[[Context], Worker]", context: Context) -> "tuple[Worker, int]":
    return find(context), rank_of(context)


def _answer(
    find: "Callable[[Context], Worker]", message_type: str, content: RecordDict, context: Context, *, packs: bool
) -> RecordDict:
    worker, rank = find(context), rank_of(context)
    unpacked = unpack(content)
    if message_type == "train":
        reply = worker.train(rank, unpacked)
        return pack(reply) if PACKED in content else reply
    if message_type == "evaluate":
        return worker.evaluate(rank, unpacked)
    return worker.roster(rank, unpacked.config_records[CONFIG], packs)


def rank_of(context: Context) -> int:
    """Return the worker's rank: ``rank`` or Flower's ``partition-id`` in its node configuration.

    Raises
    ------
    KeyError
        If the node has neither.
    """
    for name in ("rank", "partition-id"):
        if name in context.node_config:
            return int(context.node_config[name])
    raise KeyError("node-config must give rank (or partition-id): start the SuperNode with --node-config 'rank=0 ...'")


def _worker(
    key: str,
    load_data: Callable[..., Any],
    build_model: "Callable[[], nn.Module]",
    options: dict[str, Any],
    context: Context,
) -> "Worker":
    """Return this process's worker for the app ``key``, with the node's data; it replaces that of another app."""
    if key not in _workers:
        from .objectives import Objective
        from .optimizers import Optimizer
        from .worker import Worker

        made = {"objective": Objective(*options["objective"]), "optimizer": Optimizer(*options["optimizer"])}
        _workers.clear()
        _workers[key] = Worker(build_model, **{**options, **made, **_of_node(context)})

    def load() -> Any:
        if _takes_context(load_data):
            with naming("load_data(context)"):
                return load_data(context)
        if "num-partitions" not in context.node_config:
            raise KeyError(
                "node-config must give num-partitions, the number of workers, to a load_data(rank, num_workers): start "
                "the SuperNode with --node-config 'rank=0 num-partitions=3 ...'"
            )
        with naming("load_data(rank, num_workers)"):
            return load_data(rank_of(context), int(context.node_config["num-partitions"]))

    _workers[key].hold(rank_of(context), load)
    return _workers[key]


def _check_functions(load_data: Any, build_model: Any, loss: Any, metrics: Any) -> None:
    if callable(load_data) and _takes_context(load_data):
        check_takes(load_data, "load_data", "context")
    else:
        check_takes(load_data, "load_data", "rank", "num_workers")
    check_takes(build_model, "build_model")
    for name, function in (("loss", loss), ("metrics", metrics)):
        if function is not None:
            check_takes(function, name, "model", "batch")


def _takes_context(load_data: Callable[..., Any]) -> bool:
    names = list(inspect.signature(load_data).parameters)
    return len(names) == 1 or names[:1] == ["context"]


def _of_node(context: Context) -> dict[str, Any]:
    """Return the options set by the node's own configuration: device and speed limit."""
    options: dict[str, Any] = {}
    if "device" in context.node_config:
        options["device"] = str(context.node_config["device"])
    if "samples-per-second" in context.node_config:
        options["speed_limit"] = float(context.node_config["samples-per-second"])
    return options

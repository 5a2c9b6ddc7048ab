"""An app for the trainer processes of these tests: reports its pid and number of calls, and fails on request."""

import os
import signal
import time
from itertools import count
from pathlib import Path

from flwr.app import ConfigRecord, Context, MetricRecord, RecordDict

from clients import WorkerApp

_calls = count(1)


def _answer(message_type: str, content: RecordDict, context: Context) -> RecordDict:
    wish = str(content.config_records.get("config", ConfigRecord()).get("wish", ""))
    if wish == "raise":
        raise ValueError("no such sample")
    if wish == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if wish == "sleep":
        time.sleep(600)
    while wish.startswith("/") and not Path(wish).exists():
        time.sleep(0.05)
    reply = RecordDict({"metrics": MetricRecord({"pid": os.getpid(), "calls": next(_calls)})})
    reply["request"] = ConfigRecord({"type": message_type, "rank": context.node_config["rank"]})
    for name, record in content.array_records.items():
        reply[name] = record
    return reply


app = WorkerApp(_answer, persistent="persistent_app:app")

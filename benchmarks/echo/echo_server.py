"""Sends arrays of several sizes to a node and waits for them to come back, as one record and as one array in turns."""

import json
import os
import time
from pathlib import Path
from statistics import median

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from echelon.protocol.packing import pack
from echelon.server.transport import make_transport

MEGABYTES = (0.25, 1, 4, 8, 16, 32)
FORMS = {"record": 1 << 40, "array": -1}

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Write a line per size and form to the file ``out``: seconds, and CPU seconds of the process ``superlink``."""
    while not (nodes := list(grid.get_node_ids())):
        time.sleep(0.2)
    superlink, messages = int(str(context.run_config["superlink"])), int(str(context.run_config["messages"]))
    echo(grid, nodes[0], 0.1, FORMS["record"])  # starts the client
    with Path(str(context.run_config["out"])).open("w", encoding="utf-8") as file:
        for size in MEGABYTES:
            taken: dict[str, list[tuple[float, float]]] = {form: [] for form in FORMS}
            for _ in range(messages):
                for form, most in FORMS.items():
                    began, spent = time.monotonic(), cpu_seconds(superlink)
                    echo(grid, nodes[0], size, most)
                    taken[form].append((time.monotonic() - began, cpu_seconds(superlink) - spent))
            for form, pairs in taken.items():
                seconds, cpu = (median(values) for values in zip(*pairs, strict=True))
                file.write(json.dumps({"megabytes": size, "form": form, "seconds": seconds, "superlink": cpu}) + "\n")


def echo(grid: Grid, node: int, megabytes: float, most: int) -> None:
    """Send random numbers, and wait for them."""
    values = np.random.default_rng(time.monotonic_ns()).random(int(megabytes * 1e6 / 4), dtype=np.float32)
    content = RecordDict({"arrays": ArrayRecord({"x": Array(values)}), "config": ConfigRecord({"most": most})})
    ids = list(grid.push_messages([Message(pack(content, most), node, "train")]))
    transport = make_transport(grid)
    while not transport.pull(ids):
        time.sleep(0.02)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

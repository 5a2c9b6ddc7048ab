"""The example of docs/client.md, run as it stands there."""

import re
from typing import Any

from echelon.engines.inline import InlineGrid
from strategies import DPSGD, SGD
from tests.repository import ROOT


def test_the_example_trains() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/client.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:  # the checkout's own name for what an installation calls echelon.clients
        exec(block.replace("from echelon.clients", "from clients"), names)
    strategy = DPSGD("ring", sgd=SGD(learning_rate=0.05))
    result = strategy.start(InlineGrid(names["app"], 3), names["initial"], num_rounds=5)
    losses: list[Any] = [metrics["train_loss"] for metrics in result.train_metrics_clientapp.values()]
    assert losses[-1] < losses[0]
    assert set(result.arrays or ()) == set(names["initial"])

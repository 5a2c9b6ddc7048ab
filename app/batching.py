"""Whether the workers of a process are trained in one batched computation."""

from typing import Literal

from conf import Config, groups


def batched(config: Config) -> bool | Literal["auto"]:
    """Return ``engine.batched``; False where the engine or the strategy trains by the loop.

    Asynchronous strategies send their messages one by one, but in a resumed run several at first: trained together,
    these would differ in their last bits from those of a run that was not stopped. On Ray, a worker that real time
    measures does not wait for others of its process.
    """
    engine = config.engine
    if not isinstance(engine, groups.Batching) or isinstance(config.strategy, groups.Asynchronous):
        return False
    return False if isinstance(engine, groups.Ray) and config.clock == "wall" else engine.batched

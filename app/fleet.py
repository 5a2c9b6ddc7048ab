"""The simulated devices that a configuration asks for."""

from pathlib import Path

from clients.fleet import Fleet, Jitter, read_trace, repeated
from conf import Config, groups


def make_fleet(config: Config) -> Fleet:
    """Return the simulated devices of a configuration.

    Raises
    ------
    ValueError
        If a trace cannot be read.
    """
    fleet = config.fleet
    if isinstance(fleet, groups.Trace):
        devices = read_trace(Path(fleet.path), config.workers)
    elif isinstance(fleet, groups.Pattern):
        bandwidth = fleet.bandwidth_bits_per_second / 8
        devices = repeated(tuple(fleet.speeds), fleet.samples_per_second, fleet.latency_seconds, bandwidth)
    else:
        raise TypeError(f"fleet={fleet.name} is no known kind of fleet")
    jitter = fleet.jitter
    return Fleet(
        devices,
        Jitter(jitter.kind, jitter.scale, jitter.probability, jitter.factor),
        fleet.churn.leave_probability,
        fleet.churn.return_probability,
    )

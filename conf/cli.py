"""The command line: overrides, sweeps and help; an invalid configuration gives a one-line error and exit status 2."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from conf.errors import ConfigError
from conf.loading import compose, recompose, saved, to_yaml
from conf.overrides import expand, resumed
from conf.preflight import preflight
from conf.reference import explain
from conf.schema import Config
from echelon.core.printable import fitted, printable

_USAGE = "python run_sim.py [group=choice ...] [key=value ...] [--multirun] [--cfg job] [--help]"
_RUN_ID = "TORCHELASTIC_RUN_ID"  # set by torchrun
_INTERRUPTED = (130, 143)  # by Ctrl-C, by SIGTERM: stopping one run of a sweep stops the sweep
_EXAMPLES = """Examples:
  python run_sim.py                                             the default run
  python run_sim.py strategy=matcha strategy.communication_budget=0.3 rounds=50
  python run_sim.py task=cifar10 task.root=data model=resnet18 topology=ring workers=4
  python run_sim.py fleet=two_speed partitioner.ratios=fleet proportional_batches=true
  python run_sim.py --multirun strategy=d_psgd,matcha,al_dsgd seed=0,1,2
  python run_sim.py strategy=matcha --cfg job                   print the configuration, run nothing
  python run_sim.py strategy=matcha --help                      explain the keys of these choices
  python run_sim.py resume=runs/2025-01-31/12-00-00 rounds=200  continue an earlier run"""


def main(
    run: Callable[[Config], int | None],
    argv: Sequence[str] | None = None,
    check: Callable[[Config], None] | None = None,
) -> int:
    """Parse the command line and run it.

    Parameters
    ----------
    run : callable
        Executes one run, whose ``run_dir`` is set, and returns its exit status; None means 0.
    argv : sequence of str, optional
        Arguments; ``sys.argv[1:]`` by default.
    check : callable, optional
        Called for every run of a sweep before the first one starts, to check it against the data; a single run
        performs this check itself.

    Returns
    -------
    int
        Exit status: 2 if the configuration is invalid or ``run`` raises :class:`ConfigError`, with one line on
        standard error; otherwise the highest status of the runs.
    """
    try:
        options = _parser().parse_intermixed_args(argv)
        if options.help:
            print(f"usage: {_USAGE}\n\n{explain(options.overrides)}\n\n{_EXAMPLES}")
            return 0
        if options.multirun and _RUN_ID in os.environ:
            raise ConfigError("--multirun must be left out under torchrun, which starts the processes of one run")
        sweep = expand(options.overrides) if options.multirun else [options.overrides]
        configs = [_compose(overrides) for overrides in sweep]
        if options.cfg:
            print("---\n".join(to_yaml(config) for config in configs), end="")
            return 0
        for config in configs:
            preflight(config)
            if check is not None and options.multirun:
                check(config)
        return _run_all(run, sweep, _with_run_dirs(configs, datetime.now(), options.multirun))
    except ConfigError as error:
        if not _is_copy():
            print(fitted(f"error: {printable(str(error))}", sys.stderr), file=sys.stderr)
        return 2


def _is_copy() -> bool:
    """Return whether torchrun has started the same command on this machine, which says the same."""
    return _RUN_ID in os.environ and os.environ.get("LOCAL_RANK") != "0"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (usage: {_USAGE})")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job"])
    return parser


def _compose(overrides: Sequence[str]) -> Config:
    folder = resumed(overrides)
    # The saved run_dir names the folder as it was when the run began; it may have been moved.
    return compose(overrides) if folder is None else recompose(saved(folder), ["run_dir=null", *overrides])


def _with_run_dirs(configs: Sequence[Config], now: datetime, multirun: bool) -> list[Config]:
    """Return the configurations, each with its run folder set."""
    moment = f"{now:%Y-%m-%d}/{now:%H-%M-%S}"
    if not multirun:
        config = configs[0]
        return [replace(config, run_dir=config.resume or config.run_dir or _free(Path("runs", moment)))]
    default = _free(Path("multirun", moment))
    return [
        replace(config, run_dir=config.resume or str(Path(config.run_dir or default, str(number))))
        for number, config in enumerate(configs)
    ]


def _free(path: Path) -> str:
    """Return ``path``, with a number appended if a run of the same second has taken it."""
    number = 1
    free = path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return str(free)


def _run_all(run: Callable[[Config], int | None], sweep: Sequence[Sequence[str]], configs: Sequence[Config]) -> int:
    status = 0
    for number, (overrides, config) in enumerate(zip(sweep, configs, strict=True), start=1):
        if len(configs) > 1:
            print(f"run {number} of {len(configs)}: {printable(' '.join(overrides))}", flush=True)
        status = max(status, run(config) or 0)
        if status in _INTERRUPTED:
            break
    return status

"""The records of a run as pandas frames: one row per round, or one per round and worker.

pandas is an optional extra: ``pip install 'flwr-echelon[pandas]'``.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from echelon.reports import series
from echelon.reports.records import BY_RANK
from echelon.reports.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd


def rounds(run: RunFolder | str | Path) -> "pd.DataFrame":
    """Return the numbers of a run by round.

    Parameters
    ----------
    run : RunFolder, str or Path
        Finished or not.

    Returns
    -------
    pandas.DataFrame
        One row per round, indexed by ``round``; one column per field of ``metrics.jsonl`` that is a number, in its
        unit, and ``present``, the number of workers present. NaN where a round has no value.

    Raises
    ------
    RunFolderError
        If the run cannot be read.
    ModuleNotFoundError
        If pandas is not installed.
    """
    pandas = _pandas()
    rows = [
        {key: value for key, value in record.items() if isinstance(value, int | float) or value is None}
        | {"present": len(record.get("present", ()))}
        for record in _opened(run).metrics
    ]
    frame: pd.DataFrame = pandas.DataFrame(rows).astype({"round": int}) if rows else pandas.DataFrame({"round": []})
    return frame.set_index("round")


def workers(run: RunFolder | str | Path) -> "pd.DataFrame":
    """Return the numbers of a run by round and worker.

    Parameters
    ----------
    run : RunFolder, str or Path
        Finished or not.

    Returns
    -------
    pandas.DataFrame
        One row per round and worker, indexed by ``round`` and ``rank``, so that ``frame.loc[3]`` has one row per worker
        of round 3; one column per field of ``metrics.jsonl`` that is a list by rank, in its unit, and ``present``,
        whether the worker's reply was used. NaN where a worker has no value.

    Raises
    ------
    RunFolderError
        If the run cannot be read.
    ModuleNotFoundError
        If pandas is not installed.
    """
    pandas = _pandas()
    records = _opened(run).metrics
    size = series.worker_count(records) if records else 0
    keys = [key for key in BY_RANK if any(key in record for record in records)]
    index = pandas.MultiIndex.from_product(
        [[record["round"] for record in records], range(size)], names=("round", "rank")
    )
    columns = {key: series.by_rank(records, key, size).ravel() for key in keys}
    present = [set(record.get("present", ())) for record in records]
    frame: pd.DataFrame = pandas.DataFrame(columns, index=index)
    return frame.assign(present=[rank in those for those in present for rank in range(size)])


def _opened(run: RunFolder | str | Path) -> RunFolder:
    return run if isinstance(run, RunFolder) else RunFolder.open(run)


def _pandas() -> Any:
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"frames need an extra: pip install 'flwr-echelon[pandas]' ({error})") from None
    return pandas

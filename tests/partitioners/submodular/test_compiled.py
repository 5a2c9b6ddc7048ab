import numba
import numba.core.caching
import pytest

from partitioners.submodular.compiled import compiled


def next_number(number: int) -> int:
    return number + 1


def test_code_is_compiled_where_it_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])  # no folder can be written
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(next_number)

    assert compiled(next_number)(41) == 42

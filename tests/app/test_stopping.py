"""Conditions that end a run early."""

import pytest

from app.checks import check
from conf import ConfigError, compose
from echelon.reports.stopping import METRICS, StopAt


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        ("consensus_accuracy>=0.9", 0.9, True),
        ("consensus_accuracy>0.9", 0.9, False),
        ("train_loss<0.5", 0.4, True),
        ("train_loss <= 5e-1", 0.5, True),
        ("virtual_seconds>10", 9.0, False),
        ("consensus_loss<1", float("nan"), False),
    ],
)
def test_is_met(text: str, value: float, met: bool) -> None:
    condition = StopAt.parse(text)
    assert condition.is_met({condition.metric: value}) is met
    assert not condition.is_met({})
    assert not condition.is_met({condition.metric: None})


@pytest.mark.parametrize(
    "text", ["", "0.9", "accuracy>=0.9", "train_loss=0.5", "train_loss<", "train_loss<low", "a>b>1"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="stop_at must compare one of consensus_accuracy, .*; got " + text):
        StopAt.parse(text)


@pytest.mark.parametrize("written", ["stop_at=train_loss<0.5", "stop_at='train_loss<0.5'", 'stop_at="train_loss<0.5"'])
def test_as_an_override_with_and_without_quotation_marks(written: str) -> None:
    assert compose([written]).stop_at == "train_loss<0.5"


def test_a_wrong_one_ends_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=f"stop_at must compare one of {', '.join(METRICS)} with a number"):
        check(compose(["stop_at=loss<0.5", "engine=inline"]))

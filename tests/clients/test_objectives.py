"""Losses and metrics of any form, and one line for those that cannot be used."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clients.errors import UserCodeError
from clients.objectives import Objective, cross_entropy, cross_entropy_and_accuracy
from tests import tiny

X, Y = (tensor[:12] for tensor in tiny.data())


def mean_loss(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


class TestDefault:
    @pytest.mark.parametrize("labels", [Y, Y.int(), Y.to(torch.uint8), functional.one_hot(Y, 3).float()])
    def test_any_type_of_labels(self, labels: Tensor) -> None:
        model = tiny.linear()
        wanted = functional.cross_entropy(model(X), Y, reduction="sum")
        torch.testing.assert_close(cross_entropy(model, (X, labels)), wanted)
        found = cross_entropy_and_accuracy(model, (X, labels))
        torch.testing.assert_close(found["loss"], wanted)
        assert found["accuracy"] == (model(X).argmax(1) == Y).sum()

    def test_as_many_samples_as_classes(self) -> None:
        model, soft = tiny.linear(), functional.one_hot(Y[:3], 3).float()
        found = cross_entropy_and_accuracy(model, (X[:3], soft))
        assert found["accuracy"] == (model(X[:3]).argmax(1) == Y[:3]).sum()

    def test_one_label_per_position(self) -> None:
        logits, labels = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 7).long()
        found = cross_entropy_and_accuracy(nn.Identity(), (logits, labels))
        assert float(found["accuracy"]) == pytest.approx((logits.argmax(1) == 0).float().mean(1).sum().item())
        assert 0 <= found["accuracy"] <= 2

    @pytest.mark.parametrize(
        ("batch", "kind"), [({"img": X, "label": Y}, "a dict with img, label"), (X, "Tensor"), ((X, X, Y), "tuple")]
    )
    def test_other_minibatches(self, batch: Any, kind: str) -> None:
        with pytest.raises(
            UserCodeError, match=rf"another kind than \(inputs, labels\): {kind}. Pass make_client_app a loss"
        ):
            cross_entropy(tiny.linear(), batch)


class TestReduction:
    def test_a_mean_counts_its_samples(self) -> None:
        model = tiny.linear()
        total = Objective(mean_loss, reduction="mean").total(model, (X, Y), 12, "cpu")
        torch.testing.assert_close(total, cross_entropy(model, (X, Y)))

    def test_metrics_too(self) -> None:
        objective = Objective(mean_loss, lambda model, batch: {"half": 0.5}, reduction="mean")
        found = objective.measure(tiny.linear(), (X, Y), 12, "cpu")
        assert found["half"] == 6
        assert found["loss"] == pytest.approx(cross_entropy(tiny.linear(), (X, Y)).item(), rel=1e-6)

    def test_own_loss_without_metrics_reports_the_loss_alone(self) -> None:
        assert list(Objective(mean_loss, reduction="mean").measure(tiny.linear(), (X, Y), 12, "cpu")) == ["loss"]


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda model, batch: model(batch[0]), r"a tensor of shape \(12, 3\)"),
        (lambda model, batch: torch.zeros(()), r"a tensor of shape \(\) without a gradient"),
        (lambda model, batch: 0.5, "a float"),
        (lambda model, batch: None, "a NoneType"),
    ],
)
def test_losses_that_cannot_be_used(loss: Any, said: str) -> None:
    with pytest.raises(
        ValueError, match=f"loss must return one number that depends on the model's parameters; got {said}"
    ):
        Objective(loss).total(tiny.linear(), (X, Y), 12, "cpu")


def test_metrics_that_are_no_numbers() -> None:
    with pytest.raises(ValueError, match=r"metrics must return one number for each; got a tensor of shape \(12, 3\)"):
        Objective(metrics=lambda model, batch: {"each": model(batch[0])}).measure(tiny.linear(), (X, Y), 12, "cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": "max"}, "reduction must be sum or mean; got max"),
        ({"precision": "fp16"}, "precision must be fp32 or bf16; got fp16"),
        ({"reduction": "mean"}, "reduction=mean needs a loss: the default cross-entropy is a sum"),
    ],
)
def test_what_is_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(**options)

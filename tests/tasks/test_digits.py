import pytest
import torch

from tasks import build_model, evaluate, load


def test_is_scikit_learns_copy() -> None:
    task = load("digits")
    assert (len(task.train), len(task.test)) == (1442, 355)
    assert int(task.train.x.sum()) + int(task.test.x.sum()) == 561_718
    assert task.train.x[0, 2].flatten().tolist() == [0, 3, 15, 2, 0, 11, 8, 0]


def test_every_fifth_of_a_class_is_for_testing() -> None:
    task = load("digits")
    assert torch.bincount(task.test.y).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert torch.bincount(task.train.y).tolist() == [143, 146, 142, 147, 145, 146, 145, 144, 140, 144]


def test_needs_no_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert len(load("digits", tmp_path_factory.mktemp("empty") / "nowhere").train) == 1442


def test_a_few_epochs_learn_it() -> None:
    task = load("digits")
    model = build_model(task.default_model, task, seed=1)
    assert evaluate(model, task.test)[1] < 0.3
    for epoch in range(4):
        order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(epoch))
        for indices in torch.split(order, 16):
            x, y = task.train.batch(indices)
            model.zero_grad()
            torch.autograd.backward(torch.nn.functional.cross_entropy(model(x), y))
            with torch.no_grad():
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(parameter.grad, alpha=0.1)
    loss, accuracy = evaluate(model, task.test)
    assert loss < 0.25
    assert accuracy > 0.94

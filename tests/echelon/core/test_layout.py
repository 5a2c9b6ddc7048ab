"""Places of a model's values: mixed parameters, personal ones, buffers, and what lies beside the row."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from echelon.core.layout import Layout, ModelParts

MODEL: dict[str, NDArray[Any]] = {
    "steps": np.array(2**53 + 1),
    "weight": np.arange(4, dtype=np.float32).reshape(2, 2),
    "mean": np.full(2, 0.5, np.float32),
    "head": np.array([7.0], np.float32),
    "precise": np.array([1 / 3]),
    "mask": np.array([0.0, -np.inf], np.float32),
    "again": np.arange(4, dtype=np.float32).reshape(2, 2),
    "base": np.ones(3, np.float16),
}
PARTS = ModelParts(("head", "weight"), ("mean", "steps", "precise", "mask"), {"again": "weight"}, "digest")


@pytest.fixture
def layout() -> Layout:
    return Layout(MODEL, PARTS, personal=["head"])


def changed(**values: Any) -> dict[str, NDArray[Any]]:
    return {**MODEL, **values}


class TestPlaces:
    def test_of_a_row(self, layout: Layout) -> None:
        assert layout.pack(MODEL).tolist() == [0, 1, 2, 3, 7, 0.5, 0.5]
        assert (layout.num_mixed, layout.num_parameters, layout.size) == (4, 5, 7)
        assert layout.mixed == slice(4)

    def test_beside_it(self, layout: Layout) -> None:
        assert layout.exact_size == 8 + 8 + 8
        exact = layout.pack_exact(MODEL)
        back = layout.model(layout.pack(MODEL), exact)
        assert list(back) == list(MODEL)
        for name, value in MODEL.items():
            assert back[name].dtype == value.dtype
            np.testing.assert_array_equal(back[name], value)

    def test_tied_values_follow(self, layout: Layout) -> None:
        back = layout.model(layout.pack(changed(weight=MODEL["weight"] * 2)), layout.pack_exact(MODEL))
        np.testing.assert_array_equal(back["again"], MODEL["weight"] * 2)

    def test_what_travels(self, layout: Layout) -> None:
        sent = layout.travelling(layout.pack(MODEL), layout.pack_exact(MODEL))
        assert set(sent) == {*PARTS.trainable, *PARTS.buffers}
        assert layout.num_bytes == sum(value.nbytes for value in sent.values())
        layout.check_names(sent)

    def test_parameters_alone(self, layout: Layout) -> None:
        vector = layout.pack_parameters({name: MODEL[name] for name in PARTS.trainable})
        assert vector.tolist() == [0, 1, 2, 3, 7]
        np.testing.assert_array_equal(layout.unpack_parameters(vector)["head"], MODEL["head"])


class TestConsensus:
    def test_of_what_lies_beside(self, layout: Layout) -> None:
        others = changed(steps=np.array(4), precise=np.array([1.0]), mask=np.array([np.inf, 0], np.float32))
        exact = np.stack([layout.pack_exact(MODEL), layout.pack_exact(others)])
        mean = layout.model(layout.pack(MODEL), layout.consensus_exact(exact))
        assert mean["precise"] == pytest.approx(2 / 3, rel=1e-15)
        assert mean["steps"] == 2**53 + 1
        np.testing.assert_array_equal(mean["mask"], MODEL["mask"])


class TestGuess:
    def test_by_names_and_types(self) -> None:
        model = {name: MODEL[name] for name in ("weight", "steps")} | {"norm.running_mean": MODEL["mean"]}
        parts = ModelParts.guess(model)
        assert (parts.trainable, parts.buffers) == (("weight",), ("steps", "norm.running_mean"))
        assert Layout(model).pack(model).tolist() == [0, 1, 2, 3, 0.5, 0.5]


class TestErrors:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"weight": MODEL["mean"]}, r"array weight must be float32 \(2, 2\); got float32 \(2,\)"),
            ({"weight": MODEL["weight"].astype(np.float64)}, r"array weight must be float32 \(2, 2\); got float64"),
            ({"mean": np.array([np.nan, 0], np.float32)}, "array mean holds values that are not finite"),
            ({"precise": np.array([np.inf])}, "array precise holds values that are not finite"),
            ({"steps": np.array(1.0)}, r"array steps must be int64 \(\); got float64 \(\)"),
        ],
    )
    def test_of_values(self, layout: Layout, values: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            (layout.pack(changed(**values)), layout.pack_exact(changed(**values)))

    def test_of_names(self, layout: Layout) -> None:
        with pytest.raises(ValueError, match="array again is unknown"):
            layout.check_names(["again", *PARTS.trainable, *PARTS.buffers])
        with pytest.raises(ValueError, match="array head is missing"):
            layout.check_names(["weight", *PARTS.buffers])
        with pytest.raises(ValueError, match="array weight is missing"):
            layout.pack({})
        with pytest.raises(ValueError, match="the arrays are not named as the model's parameters"):
            layout.pack_parameters(MODEL)

    def test_of_the_initial_arrays(self) -> None:
        with pytest.raises(ValueError, match="the initial arrays lack head, which the workers' model has"):
            Layout({"weight": MODEL["weight"]}, ModelParts(("weight", "head")))
        with pytest.raises(ValueError, match="parameters must be floats; steps is int64"):
            Layout({"steps": MODEL["steps"]}, ModelParts(("steps",)))
        with pytest.raises(ValueError, match=r"buffers must name trainable parameters or buffers .*; got nothing"):
            Layout(MODEL, PARTS, personal=["nothing"])

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (ModelParts(("weight",)), "lacks head among its trainable values"),
            (ModelParts(("head", "weight"), ("mean", "more")), "has more among its buffers values"),
            (ModelParts(("head", "weight"), ("mean",), frozen="x"), "has other tied or frozen parameters"),
        ],
    )
    def test_of_another_model(self, other: ModelParts, message: str) -> None:
        assert message in other.difference(ModelParts(("head", "weight"), ("mean",)))


class TestOptimizer:
    layout = Layout(MODEL, ModelParts(("head", "weight"), vectors=("slow", "fast"), numbers=("step",)))

    def test_round_trip(self) -> None:
        row = np.arange(11, dtype=np.float32)
        named = self.layout.unpack_optimizer(row)
        assert {name: value.shape for name, value in named.items()} == {"slow": (5,), "fast": (5,), "step": ()}
        np.testing.assert_array_equal(self.layout.pack_optimizer(named), row)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"slow": np.zeros(4, np.float32)}, "the optimiser's slow must be 5 finite float32; got 4 float32"),
            ({"fast": np.full(5, np.nan, np.float32)}, "the optimiser's fast must be 5 finite float32"),
            ({"step": np.array(1.0)}, "the optimiser's step must be 1 finite float32; got 1 float64"),
            ({"more": np.zeros(5, np.float32)}, "the state of the optimiser must be slow, fast, step"),
        ],
    )
    def test_what_is_refused(self, change: Any, message: str) -> None:
        sound = self.layout.unpack_optimizer(np.zeros(11, np.float32))
        with pytest.raises(ValueError, match=message):
            self.layout.pack_optimizer({**sound, **change})

import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("flwr_datasets", reason="needs the extra datasets")

from datasets import Array2D, Dataset, Features, Image, Value
from flwr_datasets.partitioner import Partitioner

from partitioners import StratifiedPartitioner, SubmodularPartitioner
from partitioners.flwr_datasets_adapter import FlowerDatasetsPartitioner

NAMES = ["cat", "dog", "ant"]


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(60, 4, 4), dtype=np.uint8)


@pytest.fixture
def dataset(pictures: np.ndarray) -> Dataset:
    return Dataset.from_dict(
        {"img": pictures, "kind": [NAMES[i % 3] for i in range(60)], "row": range(60)},
        features=Features({"img": Array2D((4, 4), "uint8"), "kind": Value("string"), "row": Value("int64")}),
    )


def test_partitions_are_those_of_our_partitioner(dataset: Dataset, pictures: np.ndarray) -> None:
    partitioner = FlowerDatasetsPartitioner(SubmodularPartitioner(), [1, 2], partition_by="kind", features_from="img")
    assert isinstance(partitioner, Partitioner)

    partitioner.dataset = dataset

    labels = np.array([(1, 2, 0)[i % 3] for i in range(60)])  # alphabetical
    expected = SubmodularPartitioner()(labels, [1, 2], np.random.default_rng(42), pictures)
    assert partitioner.num_partitions == 2
    assert [partitioner.load_partition(i)["row"][:] for i in range(2)] == [part.tolist() for part in expected]


def test_encoded_images_are_decoded(pictures: np.ndarray) -> None:
    images = Dataset.from_dict(
        {"img": [PIL.Image.fromarray(picture) for picture in pictures], "label": [0, 1] * 30},
        features=Features({"img": Image(), "label": Value("int64")}),
    )
    partitioner = FlowerDatasetsPartitioner(SubmodularPartitioner(), [1, 1], partition_by="label", features_from="img")

    partitioner.dataset = images

    expected = SubmodularPartitioner()(np.array([0, 1] * 30), [1, 1], np.random.default_rng(42), pictures)
    np.testing.assert_array_equal(
        np.array([np.array(image) for image in partitioner.load_partition(1)["img"]]), pictures[expected[1]]
    )


def test_random_partitioners_follow_the_seed(dataset: Dataset) -> None:
    def rows(seed: int) -> list[int]:
        partitioner = FlowerDatasetsPartitioner(StratifiedPartitioner(), [1, 3], partition_by="kind", seed=seed)
        partitioner.dataset = dataset
        return list(partitioner.load_partition(0)["row"])

    assert rows(1) == rows(1) != rows(2)
    assert len(rows(1)) == 15


def test_errors(dataset: Dataset) -> None:
    partitioner = FlowerDatasetsPartitioner(StratifiedPartitioner(), [1, 3], partition_by="label")
    partitioner.dataset = dataset

    with pytest.raises(ValueError, match=r"partition_id must lie in \[0, 2\); got 2"):
        partitioner.load_partition(2)
    with pytest.raises(ValueError, match=r"the dataset must have a column 'label'; it has img, kind, row"):
        partitioner.load_partition(0)


def test_the_base_package_needs_neither_flower_nor_the_heavy_libraries() -> None:
    code = (
        "import sys, partitioners, numpy as np;"
        "partitioners.StratifiedPartitioner()([0, 1], (1, 1), np.random.default_rng(0));"
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'flwr', 'flwr_datasets', 'datasets', 'torch', 'numba', 'sklearn', 'matplotlib'}))"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

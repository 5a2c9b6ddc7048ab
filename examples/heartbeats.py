"""Classify heartbeats of patients whose data stay apart: python examples/heartbeats.py data/mitbih.npz.

Four-level wavelet denoising, a convolutional network and an LSTM trained over unequal devices, each of which holds the
records of its own patients, beside classical learners on the features of all patients in one place. The layout of the
file is in docs/tasks.md, results are in docs/heartbeats.md. Needs flwr-echelon[examples].
"""

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pywt
import torch
from flwr.app import ArrayRecord
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor, nn

from echelon.clients import Device, Fleet, make_client_app
from echelon.engines.inline import InlineGrid
from echelon.partitioners import ByGroupPartitioner
from echelon.strategies import ALDSGD, DPSGD, SGD, AllReduce, FlowerStrategy, FullBatch, NonBlocking
from echelon.tasks import Task, load

WAVELET, LEVELS = "db4", 4
# Beats per second of training: of four devices, one has half the speed of the others and one a quarter.
FLEET = Fleet((Device(400.0), Device(400.0), Device(200.0), Device(100.0)))
STEPS, BATCH, LEARNING_RATE = 4, 16, 0.002  # of a round: steps of AdamW, and samples of each
Beats = NDArray[np.float32]
Labels = NDArray[np.int64]


def denoise(beats: Beats) -> Beats:
    """Shrink the wavelet coefficients of each beat below the noise level that its finest details show.

    Parameters
    ----------
    beats : (n, length) array
        In mV.

    Returns
    -------
    (n, length) float32 array
        Reconstructed after soft thresholding at sigma sqrt(2 ln length), sigma = median |finest details| / 0.6745
        (Donoho & Johnstone, Biometrika 81(3), 1994).
    """
    length = beats.shape[1]
    approximation, *details = pywt.wavedec(beats, WAVELET, level=LEVELS)
    sigma = np.median(np.abs(details[-1]), axis=1, keepdims=True) / 0.6745
    threshold = sigma * np.sqrt(2 * np.log(length))
    shrunk = [np.sign(band) * np.maximum(np.abs(band) - threshold, 0) for band in details]
    restored: Beats = pywt.waverec([approximation, *shrunk], WAVELET)[:, :length].astype(np.float32)
    return restored


def features(beats: Beats) -> NDArray[np.float64]:
    """Return features for the classical learners: statistics of each of the five bands, and the coarsest band.

    Returns
    -------
    (n, d) array
        Mean, standard deviation, greatest magnitude and log energy of a band, then the coefficients of the coarsest.
    """
    bands = pywt.wavedec(beats, WAVELET, level=LEVELS)
    statistics = [
        np.stack([band.mean(1), band.std(1), np.abs(band).max(1), np.log(np.square(band).sum(1) + 1e-9)], axis=1)
        for band in bands
    ]
    return np.concatenate([*statistics, bands[0]], axis=1).astype(np.float64)


def cnn(classes: int) -> nn.Module:
    """Return a network of seven layers with weights: five convolutions and two linear ones."""
    widths = ((1, 16, 7), (16, 16, 5), (16, 32, 5), (32, 32, 3), (32, 64, 3))
    layers: list[nn.Module] = []
    for position, (before, after, size) in enumerate(widths):
        layers += [nn.Conv1d(before, after, size, padding=size // 2), nn.ReLU()]
        if position % 2 == 0:
            layers.append(nn.MaxPool1d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, classes))


class Lstm(nn.Module):
    """An LSTM that reads eight samples of a beat at a time, and a linear layer on its last state."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(8, 64, batch_first=True)
        self.head = nn.Linear(64, classes)

    def forward(self, beats: Tensor) -> Tensor:
        """Return logits (b, classes) of beats (b, 1, length)."""
        states, _ = self.recurrent(beats.unflatten(2, (-1, 8)).squeeze(1))
        logits: Tensor = self.head(states[:, -1])
        return logits


NETWORKS: dict[str, Callable[[int], nn.Module]] = {"7-layer CNN": cnn, "LSTM": Lstm}


@dataclass(frozen=True)
class Data:
    """Denoised beats, with the groups (patients) of those for training."""

    train: Beats
    train_labels: Labels
    patients: Labels
    test: Beats
    test_labels: Labels
    classes: int

    @classmethod
    def of(cls, task: Task) -> "Data":
        """Return a task's beats, denoised."""
        train, test = (denoise(split.x[..., 0].numpy()) for split in (task.train, task.test))
        assert task.groups is not None
        return cls(train, task.train.y.numpy(), task.groups.numpy(), test, task.test.y.numpy(), task.num_classes)


def scores(data: Data, predicted: Labels) -> dict[str, float]:
    """Return accuracy and macro F1 (the mean over the classes, however rare) on the test patients, in percent."""
    accuracy = accuracy_score(data.test_labels, predicted)
    f1 = f1_score(data.test_labels, predicted, average="macro", zero_division=0.0)
    return {"accuracy": 100 * float(accuracy), "macro_f1": 100 * float(f1)}


def classical(data: Data) -> Iterator[tuple[str, dict[str, float]]]:
    """Fit each learner to the features of all training patients, and yield its name and scores."""
    learners = {
        "naive Bayes": GaussianNB(),
        "k-NN, k = 5": KNeighborsClassifier(5),
        "SVM, RBF kernel": SVC(C=10),
    }
    train, test = features(data.train), features(data.test)
    for name, learner in learners.items():
        fitted = make_pipeline(StandardScaler(), learner).fit(train, data.train_labels)
        yield name, scores(data, fitted.predict(test))


def strategies(seed: int) -> dict[str, FlowerStrategy]:
    """Return what is compared, by name."""
    blocking = FullBatch(local_steps=STEPS, batch_size=BATCH, minibatch_size=BATCH)
    partial = NonBlocking(local_steps=STEPS, batch_size=BATCH, minibatch_size=BATCH)
    sgd = SGD(learning_rate=LEARNING_RATE)
    return {
        "all-reduce, blocking": AllReduce(work=blocking, sgd=sgd, seed=seed),
        "all-reduce, non-blocking": AllReduce(work=partial, sgd=sgd, seed=seed),
        "D-PSGD on a ring, non-blocking": DPSGD("ring", work=partial, sgd=sgd, seed=seed),
        "AL-DSGD on a ring, non-blocking": ALDSGD("ring", work=partial, sgd=sgd, seed=seed),
    }


def train(
    data: Data, build: Callable[[int], nn.Module], strategy: FlowerStrategy, workers: int, rounds: int
) -> dict[str, float]:
    """Train with whole patients at each worker; return the scores of the consensus model, and the virtual seconds."""
    parts = ByGroupPartitioner(data.patients)(data.train_labels, [1] * workers, np.random.default_rng(0))
    beats, labels, test = (torch.from_numpy(values) for values in (data.train, data.train_labels, data.test))

    def load_data(rank: int, num_workers: int) -> tuple[Tensor, Tensor]:
        return beats[parts[rank], None], labels[parts[rank]]

    def build_model() -> nn.Module:
        torch.manual_seed(strategy.seed)
        model = build(data.classes)
        model(beats[:1, None])  # a lazy layer learns its size
        return model

    app = make_client_app(load_data, build_model, optimizer="adamw", optimizer_state="worker", fleet=FLEET)
    model = build_model()
    initial = ArrayRecord(model.state_dict())
    result = strategy.start(InlineGrid(app, workers), initial, rounds, evaluate_fn=lambda *_: None)
    assert result.arrays is not None
    model.load_state_dict(result.arrays.to_torch_state_dict())
    model.eval()
    with torch.no_grad():
        predicted = torch.cat([model(batch).argmax(1) for batch in test[:, None].split(1000)])
    return {**scores(data, predicted.numpy()), "virtual_seconds": strategy.state.virtual_seconds}


def compare(data: Data, workers: int, rounds: int, seeds: list[int]) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """Yield a row at a time: its name, and what each seed gave (the classical learners draw nothing)."""
    for name, found in classical(data):
        yield f"{name}, all patients together", [found]
    for network, build in NETWORKS.items():
        # One worker that takes as many samples as all workers do, in as many steps of the same size.
        pooled = [train(data, build, strategies(seed)["all-reduce, blocking"], 1, workers * rounds) for seed in seeds]
        yield f"{network}, all patients together", pooled
        for way in strategies(0):
            yield f"{network}, {way}", [train(data, build, strategies(seed)[way], workers, rounds) for seed in seeds]


def summary(found: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return the mean of each measure over the seeds and, of several seeds, the standard deviation; to one decimal."""
    values = {measure: [row[measure] for row in found] for measure in found[0]}
    return {
        measure: [round(float(np.mean(of)), 1), *([round(float(np.std(of, ddof=1)), 1)] if len(of) > 1 else [])]
        for measure, of in values.items()
    }


def line(name: str, row: dict[str, list[float]]) -> str:
    """Return a row of the table, in Markdown."""
    cells = (" ± ".join(map(str, row.get(measure, []))) for measure in ("accuracy", "macro_f1", "virtual_seconds"))
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Compare, print a table, and write what it shows."""
    parser = argparse.ArgumentParser(description="Classify heartbeats of patients whose data stay apart.")
    parser.add_argument("data", type=Path, help="mitbih.npz, as docs/tasks.md describes it")
    parser.add_argument("--workers", type=int, default=11, help="devices; each holds whole patients")
    parser.add_argument("--rounds", type=int, default=60, help="of training, per row of the table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="write the table to this JSON file")
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    data = Data.of(load("mitbih", options.data))
    print("| learner | accuracy, % | macro F1, % | virtual seconds |\n|---|---|---|---|", flush=True)
    settings = {"workers": options.workers, "rounds": options.rounds, "seeds": options.seeds}
    rows: dict[str, dict[str, list[float]]] = {}
    for name, found in compare(data, options.workers, options.rounds, options.seeds):
        rows[name] = summary(found)
        print(line(name, rows[name]), flush=True)
        if options.out:  # after every row, so that an interrupted run leaves what it has
            options.out.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

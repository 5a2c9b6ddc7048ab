"""What submodular selection gains on small parts: ``python -m benchmarks.experiments.selection --root data --seeds 6``.

Parts of equal size, drawn at random in every class (``stratified``) or chosen by facility location, for 16 workers on a
ring under D-PSGD. Every seed draws a pool of its own from Fashion-MNIST. Accuracies over the evaluations
of the last third of the rounds; with a single round, of the final models.
"""

from argparse import Namespace
from pathlib import Path

import numpy as np

import tasks
from benchmarks.experiments.paired import CONSENSUS, WORKERS, Case, compare
from benchmarks.experiments.runner import arguments, keep

RESULTS = Path(__file__).parents[1] / "results" / "selection.json"
WORKERS_COUNT = 16
COMMON = [
    *("task=fashion_mnist", "model=mlp", f"workers={WORKERS_COUNT}", "fleet=uniform", "work=full_batch"),
    *("strategy=d_psgd", "topology=ring", "batch_size=16", "minibatch_size=16", "evaluate_workers=all"),
    *("learning_rate=0.02", "momentum=0.9", "weight_decay=0.0001", "engine.batched=true"),
]
PARTITIONERS = {
    "random": ["partitioner=stratified"],
    "facility location": ["partitioner=submodular", "partitioner.objective=facility_location"],
}
# Samples per worker, and overrides.
SITUATIONS = {
    "80 samples, mixing every 50 steps": (80, ["local_steps=50", "rounds=20", "eval_every=2"]),
    "80 samples, never mixing": (80, ["local_steps=1000", "rounds=1", "eval_every=1"]),
    "20 samples, mixing every 20 steps": (20, ["local_steps=20", "rounds=12", "eval_every=2"]),
}


def main() -> None:
    """Run the sweep, print its tables and keep their numbers."""
    options = arguments(__doc__ or "")
    found = {}
    for situation, (samples, keys) in SITUATIONS.items():
        root = pools(options, WORKERS_COUNT * samples)
        common = [*COMMON, *keys, f"task.root={root}"]
        cases: dict[Case, list[str]] = {(name,): [*common, *own] for name, own in PARTITIONERS.items()}
        accuracies = {**CONSENSUS, **WORKERS}
        found[situation] = compare(f"selection/{situation}", ("parts",), cases, options, accuracies=accuracies)
    keep(RESULTS, options, found)


def pools(options: Namespace, samples: int) -> str:
    """Write a pool per seed, as many samples of each class; return where they lie, ``{seed}`` to be filled in."""
    place = options.out / "selection" / "pools" / str(samples)
    place.mkdir(parents=True, exist_ok=True)
    task = tasks.load("fashion_mnist", options.root)
    labels = task.train.y.numpy()
    for seed in range(options.seeds):
        draw = np.random.default_rng(seed)
        each = samples // len(task.class_names)
        chosen = np.sort(
            np.concatenate([draw.choice(np.flatnonzero(labels == c), each, replace=False) for c in np.unique(labels)])
        )
        np.savez(
            place / f"{seed}.npz",
            x_train=task.train.x[chosen].numpy(),
            y_train=labels[chosen],
            x_test=task.test.x[:2000].numpy(),
            y_test=task.test.y[:2000].numpy(),
            classes=np.array(task.class_names),
        )
    return f"{place.resolve()}/{{seed}}.npz"


if __name__ == "__main__":
    main()

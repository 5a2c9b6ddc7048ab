"""Effect of the three parts of RCD-SGD: ``python -m benchmarks.experiments.rcd --root data``.

Random and submodular partitions on a fleet of which half the workers run at half speed, under D-PSGD and MATCHA
(communication budget 0.5): sizes and batches in proportion to speed, two local steps, and submodular selection are
added step by step. Fashion-MNIST, 20,000 training samples.
"""

from benchmarks.experiments import measures
from benchmarks.experiments.runner import arguments, print_table, spread, sweep

COMMON = [
    *("task=fashion_mnist", "model=mlp", "task.train_limit=20000", "fleet=two_speed", "work=full_batch"),
    *("topology=g0", "rounds=150", "eval_every=50", "batch_size=64", "minibatch_size=32", "task.test_limit=2000"),
    *("learning_rate=0.05", "momentum=0.9", "weight_decay=0.0001"),
]
MIXINGS = {"d_psgd": ["strategy=d_psgd"], "matcha": ["strategy=matcha", "strategy.communication_budget=0.5"]}
IN_PROPORTION = ["partitioner.ratios=fleet", "proportional_batches=true"]
PARTITIONS = {
    "random, equal sizes, F=1": ["partitioner=stratified", "local_steps=1"],
    "random, equal sizes, F=2": ["partitioner=stratified", "local_steps=2"],
    "random, sizes like speeds, F=1": ["partitioner=stratified", *IN_PROPORTION, "local_steps=1"],
    "random, sizes like speeds, F=2": ["partitioner=stratified", *IN_PROPORTION, "local_steps=2"],
    "facility location, F=2": ["partitioner=submodular", *IN_PROPORTION, "local_steps=2"],
    "graph cut, F=2": [
        *("partitioner=submodular", "partitioner.objective=graph_cut", *IN_PROPORTION, "local_steps=2"),
    ],
}


def main() -> None:
    """Run the sweep and print one table per mixing rule."""
    options = arguments(__doc__ or "")
    for mixing, keys in MIXINGS.items():
        places = {
            name: f"rcd/{mixing}/{name.replace(', ', '-').replace(' ', '_').replace('=', '')}" for name in PARTITIONS
        }
        variants = {
            place: [*COMMON, f"task.root={options.root}", *keys, *PARTITIONS[name]] for name, place in places.items()
        }
        runs = sweep(variants, options)
        levels = [measures.common_loss(own) for own in zip(*runs.values(), strict=True)]
        print(f"\n### {mixing}\n")
        rows = []
        base = [measures.seconds_to(run, level) for run, level in zip(next(iter(runs.values())), levels, strict=True)]
        for name, place in places.items():
            times = [measures.seconds_to(run, level) for run, level in zip(runs[place], levels, strict=True)]
            saved = [time / first - 1 for time, first in zip(times, base, strict=True)]
            accuracy = [measures.final(run, "consensus_accuracy") for run in runs[place]]
            worst = [measures.final(run, "worker_accuracy_min") for run in runs[place]]
            rows.append(
                [name, spread(times, 2), spread(saved, 1, 100), spread(accuracy, 1, 100), spread(worst, 1, 100)]
            )
        print_table(("partition", "s to the common loss", "time, %", "final accuracy %", "worst worker %"), rows)


if __name__ == "__main__":
    main()

"""What the runs of all claims have in common, by setting, and in what each run differs."""

COMMON = [
    *("workers=8", "batch_size=64", "learning_rate=0.05", "momentum=0.9", "weight_decay=0.0001"),
    *("fleet=stragglers", "topology=g0", "partitioner=stratified", "work=full_batch", "strategy=d_psgd"),
    *("evaluate_workers=all", "report=none"),
]
# The two last are for a GPU: 100 epochs of all data, with the learning rate divided by ten twice.
_GPU = [
    *("task=cifar10", "task.augment=true", "minibatch_size=16", "device=cuda", "precision=bf16"),
    *("rounds=9800", "lr_milestones=[4900,7350]", "eval_every=196"),
]
SETTINGS = {
    "quick": ["task=digits", "model=mlp", "minibatch_size=8", "rounds=120", "eval_every=5"],
    "cifar10": [
        *("task=cifar10", "model=cnn", "task.train_limit=20000", "task.test_limit=2000", "minibatch_size=16"),
        *("rounds=600", "eval_every=20", "device=auto", "engine.batched=auto"),
    ],
    "resnet18": [*_GPU, "model=resnet18"],
    "vgg16": [*_GPU, "model=vgg16"],
}

_MATCHA = ["strategy=matcha", "strategy.communication_budget=0.5"]
_LEADERS = ["strategy=al_dsgd", "strategy.signal=train_loss"]
_RANDOM = ["strategy=al_dsgd", "strategy.signal=random"]
_ON_MATCHA = ["strategy.base=matcha", "strategy.communication_budget=0.5"]
_ROTATING = ["topology=g0_rotating"]
_NON_BLOCKING = ["work=non_blocking"]
_SIZES = ["partitioner.ratios=fleet", "proportional_batches=true"]
_SUBMODULAR = ["partitioner=submodular", "partitioner.objective=facility_location", *_SIZES]
_HALF = ["fleet=two_speed"]

VARIANTS = {
    "d_psgd": [],
    "d_psgd, non-blocking": _NON_BLOCKING,
    "matcha": _MATCHA,
    "matcha, non-blocking": [*_MATCHA, *_NON_BLOCKING],
    "d_psgd, half the devices slow": _HALF,
    "d_psgd, half slow, random parts like speeds": [*_HALF, *_SIZES],
    "d_psgd, half slow, rcd": [*_HALF, *_SUBMODULAR],
    "matcha, half the devices slow": [*_MATCHA, *_HALF],
    "matcha, half slow, rcd": [*_MATCHA, *_HALF, *_SUBMODULAR],
    "d_psgd, rotating": _ROTATING,
    "al_dsgd, rotating": [*_LEADERS, *_ROTATING],
    "al_dsgd, rotating, random leaders": [*_RANDOM, *_ROTATING],
    "al_dsgd on matcha": [*_LEADERS, *_ON_MATCHA],
    "al_dsgd on matcha, random leaders": [*_RANDOM, *_ON_MATCHA],
    "d_psgd, alternating matchings": ["topology.schedule=legacy_alternating"],
    "d_psgd, rcd": _SUBMODULAR,
    "all three": [*_LEADERS, *_ROTATING, *_SUBMODULAR, *_NON_BLOCKING],
}


def place(setting: str, variant: str) -> str:
    """Return the folder of a variant's runs, below that of all experiments."""
    return f"claims/{setting}/{variant.replace(', ', '-').replace(' ', '_')}"

"""Every combination of choices and values that does not go together ends in one line before anything starts."""

import pytest

from app.checks import check
from conf import ConfigError, compose

VALUES = {
    "strategy.c1=0.6 strategy.c2=0.4": "strategy.c1 + strategy.c2 must be below 1; got 0.6 + 0.4",
    "strategy.p1=0.6 strategy.p2=0.4": "strategy.p1 + strategy.p2 must be below 1; got 0.6 + 0.4",
    "strategy.order=combine_then_adapt local_steps=2": "strategy.order=combine_then_adapt needs local_steps=1; got 2",
    "minibatch_size=65": "minibatch_size must be at most batch_size=64; got 65",
    "work.target=rest local_steps=2": "work.target=rest needs local_steps=1; got 2",
    "work.trigger=deadline": "work.trigger=deadline needs work.deadline, in seconds; got null",
    "strategy=over_selection work.fold_late=true": (
        "work.fold_late must be false with strategy=over_selection, which drops late replies; got true"
    ),
    "nodes=[3,4]": "nodes must be empty in a simulation, whose nodes have random ids; got [3, 4]",
    "strategy.gate=true strategy.signal=ema": "strategy.gate=true needs strategy.signal=held_out; got ema",
    "strategy.robust=true strategy.force=in_step": (
        "strategy.force must be after_mixing with strategy.robust=true; got in_step"
    ),
    "strategy.robust=true strategy.signal=ema": ("strategy.signal must be held_out with strategy.robust=true; got ema"),
    "optimizer.name=adamw work.estimator=finished": (
        "work.estimator=finished needs optimizer.name=sgd, whose step is as large as the gradient; got adamw"
    ),
    "optimizer.state=worker": (
        "optimizer.state=worker needs workers that stay in their processes, which those of engine=ray do not; "
        "use engine=inline or optimizer.state=server"
    ),
    "strategy=fedbuff strategy.robust=true": (
        "strategy.robust must be false with FedBuff, which has no robust rule; got true"
    ),
    "strategy=over_selection strategy.robust=true": (
        "strategy.robust must be false with OverSelection, which has no robust rule; got true"
    ),
    "strategy=fedbuff strategy.max_update_norm=auto": (
        "strategy.max_update_norm must be a number or null with FedBuff, which has no rounds of all workers; got auto"
    ),
    "partitioner.ratios=[1,2]": "partitioner.ratios must hold one number per worker (8); got 2",
    "partitioner.features=model": (
        "partitioner.features=model needs partitioner.model_path, the run that trained the model; got null"
    ),
    "partitioner=by_group": "partitioner=by_group needs a task with groups; digits has none",
    "fleet.speeds=[]": "fleet.speeds must hold at least one number; got []",
    "engine=inline engine.batched=true strategy=fedbuff": (
        "engine.batched=true needs a strategy that waits for its workers, which strategy=fedbuff does not; use "
        "engine.batched=auto"
    ),
    "engine=ray engine.batched=true clock=wall": (
        "engine.batched=true needs a simulated clock under engine=ray, and not clock=wall; use engine.batched=auto"
    ),
    "engine=torch strategy=fedbuff": "engine=torch cannot run strategy=fedbuff: updates are buffered at the server",
    "engine=torch strategy=over_selection": (
        "engine=torch cannot run strategy=over_selection: the first replies are selected by the server"
    ),
    "engine=torch strategy.robust=true": (
        "engine=torch cannot run strategy=al_dsgd: strategy.max_update_norm and strategy.robust bound the updates that "
        "reach a server"
    ),
    "engine=torch engine.processes=9": "engine.processes must be at most workers=8; got 9",
    "engine=torch engine.processes=2 clock=wall": (
        "engine.processes must be workers=8 with clock=wall, so that all workers compute at once; got 2"
    ),
    "engine=torch strategy=fedcompass work=full_batch": (
        "engine=torch cannot run strategy=fedcompass: updates are buffered at the server"
    ),
}
GRAPHS = {
    "topology=g0_rotating workers=4": "topology=g0_rotating needs workers=8; got 4 (try topology=ring)",
    "topology=g0 workers=9": "topology=g0 needs workers=8; got 9 (try topology=ring)",
    "topology=g0_rotating topology.schedule=static": (
        "topology.schedule must be rotation for topology=g0_rotating; got static "
        "(try topology=g0 topology.schedule=static)"
    ),
    "topology.rotate=5": (
        "topology.rotate must be 3 for topology=g0_rotating, the papers' copies; got 5 "
        "(try topology=g0 topology.schedule=rotation topology.rotate=5)"
    ),
    "topology=regular topology.degree=8": "topology.degree must be below workers=8; got 8",
    "topology=regular workers=7": "topology.degree x workers must be even; got 3 x 7",
    "topology=edges topology.edges=[[0,8]]": "topology.edges must be pairs of different ranks in 0..7; got [0, 8]",
    "topology=edges topology.edges=[[1,1]]": "topology.edges must be pairs of different ranks in 0..7; got [1, 1]",
    "topology=edges topology.edges=[[0,1],[2,3]] workers=4": (
        "topology=edges: the union of the graphs of one period must be connected; "
        "got 2 components: [0, 1], [2, 3]; add edges between them"
    ),
    "topology=edges topology.edges=[[0,1],[2,3]] workers=4 topology.schedule=rotation topology.rotate=9 "
    "strategy.base=matcha": (
        "topology=edges: MATCHA's graph of every round must be connected; "
        "got 2 components: [0, 1], [2, 3]; add edges between them"
    ),
    "strategy=matcha topology=g0 topology.schedule=random_matching": (
        "topology.schedule must be static or rotation for MATCHA, which draws matchings itself; got random_matching"
    ),
    "strategy=d_psgd strategy.momentum_mixing=mixed optimizer.name=adamw": (
        "strategy.momentum_mixing=mixed needs optimizer.name=sgd; got adamw"
    ),
    "strategy=all_reduce strategy.momentum_mixing=quasi_global optimizer.name=adamw": (
        "strategy.momentum_mixing=quasi_global needs optimizer.name=sgd; got adamw"
    ),
    "work.estimator=memory optimizer.state=reset": "work.estimator=memory needs optimizer.state=server; got reset",
    "strategy=d_psgd strategy.correction=tracking optimizer.state=reset": (
        "strategy.correction=tracking needs optimizer.state=server; got reset"
    ),
    "strategy.correction=tracking strategy.max_update_norm=2": (
        "strategy.max_update_norm must be null with strategy.correction=tracking, which computes gradients from whole "
        "updates; got 2.0"
    ),
    "strategy=over_selection strategy.momentum_mixing=local": (
        "strategy.momentum_mixing must be mixed or quasi_global with OverSelection; got local"
    ),
    "strategy=matcha strategy.momentum_mixing=mixed topology=ring optimizer.state=worker engine=inline": (
        "strategy.momentum_mixing=mixed needs optimizer.state=server; got worker"
    ),
    "strategy.base=matcha topology=ring topology.schedule=one_peer": (
        "topology.schedule must be static or rotation for MATCHA, which draws matchings itself; got one_peer"
    ),
    "strategy.base=matcha topology=ring topology.schedule=legacy_alternating": (
        "topology=ring: MATCHA's graph of every round must be connected; got 4 components: [0, 1], [2, 3], [4, 5], "
        "[6, 7]; add edges between them"
    ),
}


@pytest.mark.parametrize(("overrides", "message"), [*VALUES.items(), *GRAPHS.items()])
def test_message(overrides: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose(overrides.split()))
    assert str(caught.value) == message


def test_another_launcher_would_start_every_process_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    check(compose(["engine=inline"]))
    with pytest.raises(
        ConfigError, match=r"^engine=torch starts its processes itself, unless torchrun does, .* got LOC"
    ):
        check(compose(["engine=torch"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["workers=3"], "^workers must be at least the 4 processes of torchrun; got 3$"),
        (["clock=wall"], "^workers must be the 4 processes of torchrun with clock=wall, .*; got 8$"),
        (["engine.processes=2"], "^engine.processes must be null or the 4 processes of torchrun; got 2$"),
    ],
)
def test_processes_of_torchrun(overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RUN_ID": "none", "USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    for name, value in {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    check(compose(["engine=torch", "engine.processes=4"]))
    with pytest.raises(ConfigError, match=message):
        check(compose(["engine=torch", *overrides]))


@pytest.mark.parametrize("overrides", [[], ["strategy=all_reduce", "workers=3"], ["strategy=fedbuff", "workers=5"]])
def test_what_goes_together_passes(overrides: list[str]) -> None:
    check(compose(overrides))

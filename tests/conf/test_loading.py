import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any

import pytest

import conf
from conf import (
    Config,
    ConfigError,
    compose,
    config_hash,
    from_yaml,
    of_run_config,
    parse_overrides,
    recompose,
    to_yaml,
)
from conf.groups import ALDSGD, Matcha, NonBlocking, Pattern
from conf.presets import NAMES
from conf.schema import CHOICES, ROOT

NEEDED = {
    "partitioner=file": ["partitioner.path=x"],
    "partitioner=by_group": ["task=mitbih"],
    "topology=edges": ["topology.edges=[[0,1]]"],
    "fleet=trace": ["fleet.path=x"],
}
PRESETS = {f"preset={name}" for name in NAMES}
EVERY_CHOICE = {f"{group}={choice}" for group, choices in CHOICES.items() for choice in choices}


def covering() -> list[list[str]]:
    """Return a few sets of choices that together contain every choice."""
    lists = [[f"{group}={choice}" for choice in choices] for group, choices in CHOICES.items()]
    return [[names[k % len(names)] for names in lists] for k in range(max(map(len, lists)))]


class TestCompose:
    def test_default_is_the_design(self) -> None:
        config = compose()
        choices = {group: getattr(config, group).name for group in CHOICES}
        assert choices == {
            "task": "digits",
            "model": "mlp",
            "partitioner": "submodular",
            "work": "non_blocking",
            "strategy": "al_dsgd",
            "topology": "auto",
            "fleet": "stragglers",
            "engine": "ray",
        }
        assert config.workers == 8
        assert isinstance(config.strategy, ALDSGD)
        assert (config.strategy.c1, config.strategy.c2, config.strategy.p1, config.strategy.p2) == (
            0.3,
            None,
            0.1,
            None,
        )

    def test_fleets_are_those_of_the_design(self) -> None:
        stragglers, two_speed = (compose([f"fleet={name}"]).fleet for name in ("stragglers", "two_speed"))
        assert isinstance(stragglers, Pattern)
        assert isinstance(two_speed, Pattern)
        assert stragglers.speeds == [1, 1, 1, 1, 1, 1, 0.5, 0.25]
        assert (stragglers.jitter.kind, stragglers.jitter.probability, stragglers.jitter.factor) == (
            "slowdown",
            0.05,
            3.0,
        )
        assert (stragglers.latency_seconds, stragglers.bandwidth_bits_per_second) == (0.01, 1e9)
        assert sorted(two_speed.speeds) == [0.5, 1]

    def test_overrides_reach_their_keys(self) -> None:
        config = compose(["strategy=matcha", "strategy.communication_budget=0.3", "lr_milestones=[3,5]", "run_dir=a b"])
        assert isinstance(config.strategy, Matcha)
        assert config.strategy.communication_budget == 0.3
        assert config.lr_milestones == [3, 5]
        assert config.run_dir == "a b"

    def test_ratios_are_a_word_or_numbers(self) -> None:
        assert compose(["partitioner.ratios=fleet"]).partitioner.ratios == "fleet"
        assert compose(["workers=2", "topology=ring", "partitioner.ratios=[1,2.5]"]).partitioner.ratios == [1, 2.5]

    def test_later_override_wins(self) -> None:
        assert compose(["rounds=5", "rounds=6"]).rounds == 6

    @pytest.mark.parametrize("choices", covering())
    def test_every_choice_composes_and_survives_yaml(self, choices: list[str]) -> None:
        overrides = choices + [extra for choice in choices for extra in NEEDED.get(choice, [])]
        expected = dict(pair for override in overrides if (pair := override.split("="))[0] in CHOICES)
        config = compose(overrides)
        assert {group: getattr(config, group).name for group in CHOICES} == expected
        assert all(value != "???" for value in _leaves(config))
        assert from_yaml(to_yaml(config)) == config

    def test_each_is_a_fresh_object(self) -> None:
        compose().lr_milestones.append(1)
        assert compose().lr_milestones == []

    def test_takes_well_under_a_second(self) -> None:
        compose()
        start = process_time()
        compose(["strategy=matcha", "seed=3"])
        assert process_time() - start < 1

    def test_yaml_files_are_the_choices(self) -> None:
        assert {f"{path.parent.name}={path.stem}" for path in ROOT.glob("*/*.yaml")} - PRESETS == EVERY_CHOICE

    def test_import_needs_neither_torch_nor_flwr(self) -> None:
        code = "import sys, conf; print(*sorted({'torch', 'flwr', 'networkx', 'scipy', 'numpy'} & set(sys.modules)))"
        ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == ""


class TestParseOverrides:
    def test_splits_like_a_shell(self) -> None:
        text = "strategy=al_dsgd  'run_dir=a b' partitioner.ratios=[1,2]"
        assert parse_overrides(text) == ["strategy=al_dsgd", "run_dir=a b", "partitioner.ratios=[1,2]"]

    def test_a_backslash_is_kept(self) -> None:
        config = compose(parse_overrides(r"task.root=C:\data\new run_dir='D:\my runs\a'"))
        assert (config.task.root, config.run_dir) == (r"C:\data\new", r"D:\my runs\a")

    @pytest.mark.parametrize("value", ["2025_01", "1.10", "1e3", "0.50", "007", "true", "v1.10", "runs/1.10"])
    def test_text_that_looks_like_a_number_is_kept(self, value: str) -> None:
        config = compose([f"run_dir={value}", f"task.root={value}"])
        assert (config.run_dir, config.task.root) == (value, value)
        again = recompose(config, ["run_dir=null", f"task.root={value}"])
        assert (again.run_dir, again.task.root) == (None, value)

    def test_empty_string_is_the_default(self) -> None:
        assert parse_overrides("") == []

    def test_open_quotation(self) -> None:
        with pytest.raises(
            ConfigError, match=r"^overrides must be key=value pairs with closed quotation marks; got a='b$"
        ):
            parse_overrides("a='b")

    def test_the_keys_of_flwr_run_are_keys_of_the_configuration(self) -> None:
        keys = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
        assert of_run_config(keys) == []
        assert keys.keys() - {field.name for field in fields(Config)} == {"overrides"}

    def test_a_run_config(self) -> None:
        config = compose(of_run_config({"strategy": "d_psgd", "topology": "ring", "rounds": 5, "learning_rate": 0.5}))
        assert (type(config.strategy).__name__, config.rounds, config.learning_rate) == ("DPSGD", 5, 0.5)
        assert of_run_config({"task.download": True, "rounds": 5, "overrides": "rounds=6"}) == [
            "task.download=true",
            "rounds=6",
        ]
        with pytest.raises(ConfigError, match=r"^rounds must be an integer; got many"):
            compose(of_run_config({"rounds": "many"}))


BOMB = "a: &a [x,x,x]\n" + "".join(f"{a}: &{a} [*{b},*{b},*{b}]\n" for b, a in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    "text", [BOMB, "a: !!python/object/apply:os.getcwd []", "{a: " * 400 + "1" + "}" * 400, "7", "\x00"]
)
def test_a_hostile_saved_configuration_ends_in_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^config\.yaml is not a valid run configuration: ") as caught:
        from_yaml(text)
    assert "\n" not in str(caught.value)
    (tmp_path / "config.yaml").write_text(text + " " * (1 << 20))
    with pytest.raises(
        ConfigError, match=r"config\.yaml is not a valid run configuration: it must have at most 1048576"
    ):
        conf.saved(str(tmp_path))


class TestOptimizer:
    def test_its_name_is_a_key(self) -> None:
        assert compose(["optimizer.name=adamw"]).optimizer.name == "adamw"
        with pytest.raises(ConfigError, match=r"^optimizer\.name must be one of sgd, adamw, .*; got lbfgs$"):
            compose(["optimizer.name=lbfgs"])

    @pytest.mark.parametrize("override", ["optimizer.name=adamw", "optimizer.state=reset"])
    def test_it_stays_in_a_resumed_run(self, override: str) -> None:
        with pytest.raises(ConfigError, match=rf"^{override.split('=')[0]} must stay .* in a resumed run"):
            recompose(compose(), [override])
        assert recompose(compose(), ["optimizer.max_grad_norm=2"]).optimizer.max_grad_norm == 2


class TestSavedByAnEarlierVersion:
    def test_new_keys_get_their_defaults(self) -> None:
        config = compose(["strategy=al_dsgd", "strategy.c1=0.2", "fleet=trace", "fleet.path=devices.csv"])
        lines = to_yaml(config).splitlines(keepends=True)
        keys = "nodes precision wire robust gate timeout max_empty_rounds adapt_grace roster_timeout"
        new = keys.split()
        old = "".join(line for line in lines if line.split(":")[0].strip() not in new)
        assert len(old) < len("".join(lines))
        assert from_yaml(old) == config

    def test_a_choice_that_there_is_no_more(self) -> None:
        with pytest.raises(ConfigError, match=r"config\.yaml is not a valid run configuration: .*strategy=gossip"):
            from_yaml(to_yaml(compose()).replace("name: al_dsgd", "name: gossip"))


class TestHash:
    def test_ignores_where_and_how_a_run_is_kept(self) -> None:
        config = compose()
        other = compose(
            ["run_dir=x", "progress=none", "checkpoint_every=1", "task.root=y", "deployment.persistent_workers=false"]
        )
        assert config_hash(other) == config_hash(config)
        assert len(config_hash(config)) == 16

    @pytest.mark.parametrize(
        "override", ["seed=1", "strategy.c1=0.2", "fleet=uniform", "task.augment=true", "engine=inline"]
    )
    def test_tells_runs_apart(self, override: str) -> None:
        assert config_hash(compose([override])) != config_hash(compose())

    def test_does_not_depend_on_the_process(self) -> None:
        code = "import conf; print(conf.config_hash(conf.compose()))"
        ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == config_hash(compose())


class TestRecompose:
    saved = compose(["strategy=matcha", "topology=ring", "rounds=5", "run_dir=there"])

    def test_keeps_what_is_not_overridden(self) -> None:
        config = recompose(self.saved, ["rounds=7", "resume=there", "strategy=matcha"])
        assert config == replace(self.saved, rounds=7, resume="there")

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("strategy=d_psgd", "strategy must stay matcha in a resumed run; got d_psgd"),
            ("strategy.c1=0.3", "unknown key strategy.c1 of strategy=matcha; it belongs to strategy=al_dsgd"),
            ("rounds=x", "rounds must be an integer; got x"),
            ("rounds=0", "rounds must be at least 1; got 0"),
            ("seed=7", "seed must stay 0 in a resumed run; got 7"),
            ("workers=16", "workers must stay 8 in a resumed run; got 16"),
            ("task.train_limit=50", "task.train_limit must stay null in a resumed run; got 50"),
            ("partitioner.jobs=1", "partitioner.jobs must stay null in a resumed run; got 1"),
        ],
    )
    def test_message(self, override: str, message: str) -> None:
        with pytest.raises(ConfigError) as caught:
            recompose(self.saved, override.split())
        assert str(caught.value) == message

    def test_the_held_out_samples_stay(self) -> None:
        with pytest.raises(ConfigError, match=r"^strategy.signal must stay train_loss in a resumed run; got held_out$"):
            recompose(compose(["strategy.signal=train_loss"]), ["strategy.signal=held_out"])
        assert recompose(compose(["strategy.signal=train_loss"]), ["strategy.signal=ema"]).strategy.signal == "ema"  # type: ignore[attr-defined]

    def test_data_may_be_moved(self) -> None:
        assert recompose(self.saved, ["task.root=elsewhere"]).task.root == "elsewhere"


class TestFromYaml:
    @pytest.mark.parametrize("text", ["", "a: [", "3", "strategy: 3", "strategy:\n  name: foo", "seed: 1"])
    def test_foreign_text(self, text: str) -> None:
        with pytest.raises(ConfigError, match=r"^config\.yaml is not a valid run configuration: .+$"):
            from_yaml(text)

    def test_unknown_key(self) -> None:
        with pytest.raises(ConfigError, match=r"^config\.yaml is not a valid run configuration: .*colour"):
            from_yaml(to_yaml(compose()) + "colour: red\n")

    def test_a_name_with_a_nul_character(self) -> None:
        with pytest.raises(ConfigError, match=r"^run_dir must not contain a NUL character; got 'a\\x00b'$"):
            from_yaml(to_yaml(compose()).replace("run_dir: null", 'run_dir: "a\\0b"'))

    def test_value_out_of_range(self) -> None:
        with pytest.raises(ConfigError, match=r"^rounds must be at least 1; got 0$"):
            from_yaml(to_yaml(compose()).replace("rounds: 100", "rounds: 0"))


def _leaves(node: Any) -> Iterator[Any]:
    for declared in fields(node):
        value = getattr(node, declared.name)
        if is_dataclass(value):
            yield from _leaves(value)
        else:
            yield value


def test_public_names() -> None:
    assert all(hasattr(conf, name) for name in conf.__all__)
    assert Path(conf.__file__).parent == ROOT
    assert isinstance(compose().work, NonBlocking)
    assert isinstance(compose(), Config)

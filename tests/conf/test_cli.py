import re
from dataclasses import replace
from pathlib import Path

import pytest

from conf import Config, ConfigError, compose, from_yaml, to_yaml
from conf.cli import main
from conf.schema import CHOICES


class Recorder:
    """A fake run that records the configurations it is called with."""

    def __init__(self, statuses: tuple[int | None, ...] = (None,)) -> None:
        self.configs: list[Config] = []
        self.statuses = statuses

    def __call__(self, config: Config) -> int | None:
        self.configs.append(config)
        return self.statuses[(len(self.configs) - 1) % len(self.statuses)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.chdir(tmp_path)
    return Recorder()


class TestOneRun:
    def test_gets_the_configuration_and_a_folder(self, run: Recorder) -> None:
        assert main(run, ["strategy=matcha", "seed=3"]) == 0
        assert re.fullmatch(r"runs/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d", str(run.configs[0].run_dir))
        assert replace(run.configs[0], run_dir=None) == compose(["strategy=matcha", "seed=3"])

    def test_keeps_a_given_folder(self, run: Recorder) -> None:
        main(run, ["run_dir=here"])
        assert run.configs[0].run_dir == "here"

    def test_two_in_one_second_get_two_folders(self, run: Recorder) -> None:
        for _ in range(3):
            main(run, [])
            Path(str(run.configs[-1].run_dir)).mkdir(parents=True)
        assert len({config.run_dir for config in run.configs}) == 3

    def test_writes_nothing_itself(self, run: Recorder, tmp_path: Path) -> None:
        main(run, [])
        assert list(tmp_path.iterdir()) == []

    def test_status_is_that_of_the_run(self, run: Recorder) -> None:
        assert main(Recorder((3,)), []) == 3

    def test_arguments_are_those_of_the_process(self, run: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.argv", ["run_sim.py", "seed=4"])
        main(run)
        assert run.configs[0].seed == 4


class TestSweep:
    def test_runs_every_combination_in_order(self, run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(run, ["strategy=d_psgd,matcha", "--multirun", "seed=range(0,2)", "run_dir=out"]) == 0
        assert [(config.strategy.name, config.seed, config.run_dir) for config in run.configs] == [
            ("d_psgd", 0, "out/0"),
            ("d_psgd", 1, "out/1"),
            ("matcha", 0, "out/2"),
            ("matcha", 1, "out/3"),
        ]
        assert "run 3 of 4: strategy=matcha seed=0 run_dir=out" in capsys.readouterr().out

    def test_default_folder(self, run: Recorder) -> None:
        main(run, ["-m", "seed=0,1"])
        assert [re.sub(r"\d\d", "x", str(config.run_dir)) for config in run.configs] == [
            "multirun/xx-x-x/x-x-x/0",
            "multirun/xx-x-x/x-x-x/1",
        ]

    def test_lists_are_values(self, run: Recorder) -> None:
        main(run, ["-m", "lr_milestones=[1,2],[3]"])
        assert [config.lr_milestones for config in run.configs] == [[1, 2], [3]]

    def test_nothing_starts_if_one_is_wrong(self, run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(run, ["-m", "strategy=al_dsgd", "strategy.c1=0.1,7"]) == 2
        assert capsys.readouterr().err == "error: strategy.c1 must lie in [0, 1); got 7.0\n"
        assert run.configs == []

    def test_nothing_starts_if_a_file_is_missing(self, run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(run, ["-m", "seed=0,1", "partitioner=file", "partitioner.path=p.npz"]) == 2
        assert capsys.readouterr().err == "error: partitioner.path: no such file or directory: p.npz\n"
        assert run.configs == []

    @pytest.mark.parametrize("sweep", ["seed=interval(0,1)", "strategy=glob(*)"])
    def test_values_must_be_listed(self, run: Recorder, sweep: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(run, ["-m", sweep]) == 2
        key = sweep.split("=")[0]
        assert capsys.readouterr().err == f"error: {key} must be swept over listed values; got {sweep}\n"

    def test_status_is_the_highest(self, run: Recorder) -> None:
        several = Recorder((0, 3, None))
        assert main(several, ["-m", "seed=0,1,2"]) == 3
        assert len(several.configs) == 3

    def test_all_are_checked_before_the_first_one_starts(
        self, run: Recorder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def check(config: Config) -> None:
            if config.seed == 2:
                raise ConfigError("no data for seed 2")

        assert main(run, ["-m", "seed=0,1,2"], check) == 2
        assert capsys.readouterr().err == "error: no data for seed 2\n"
        assert run.configs == []

    def test_an_interrupt_ends_all_of_it(self, run: Recorder) -> None:
        several = Recorder((1, 130, None))
        assert main(several, ["-m", "seed=0,1,2"]) == 130
        assert len(several.configs) == 2


class TestUnderTorchrun:
    """It starts the command several times on every machine."""

    @pytest.mark.parametrize("rank", [0, 1])
    def test_one_of_them_speaks(
        self, run: Recorder, rank: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert main(run, ["seed=0,1", "--multirun"]) == 2
        line = "error: --multirun must be left out under torchrun, which starts the processes of one run\n"
        assert capsys.readouterr().err == ("" if rank else line)
        assert not run.configs


class TestResume:
    @pytest.fixture
    def earlier(self, tmp_path: Path) -> str:
        folder = tmp_path / "earlier"
        folder.mkdir()
        (folder / "config.yaml").write_text(to_yaml(compose(["strategy=matcha", "rounds=5", "run_dir=elsewhere"])))
        return str(folder)

    def test_takes_the_earlier_configuration(self, run: Recorder, earlier: str) -> None:
        assert main(run, [f"resume={earlier}", "rounds=9"]) == 0
        assert run.configs == [compose(["strategy=matcha", "rounds=9", f"resume={earlier}", f"run_dir={earlier}"])]

    def test_folder_without_a_run(self, run: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(run, [f"resume={tmp_path}"]) == 2
        message = f"error: resume: no such file or directory: {tmp_path}/config.yaml\n"
        assert capsys.readouterr().err == message


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["rounds=0"], "rounds must be at least 1; got 0"),
            (["seed=0,1"], "seed must have one value; got 0,1 (write a list as [1,2]; use --multirun for a sweep)"),
            (["--cfg", "hydra"], "argument --cfg/-c: invalid choice: 'hydra' (choose from "),
            (["--colour"], "unrecognized arguments: --colour (usage: "),
        ],
    )
    def test_one_line_and_status_2(
        self, run: Recorder, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(run, arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(f"error: {message}")
        assert captured.err.count("\n") == 1
        assert captured.out == ""
        assert run.configs == []

    def test_of_the_run_too(self, run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
        def refuse(config: Config) -> None:
            raise ConfigError("workers must be at most 2; got 8")

        assert main(refuse, []) == 2
        assert capsys.readouterr().err == "error: workers must be at most 2; got 8\n"


class TestInformation:
    def test_cfg_prints_what_would_run(self, run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(run, ["strategy=matcha", "--cfg", "job"]) == 0
        assert from_yaml(capsys.readouterr().out) == compose(["strategy=matcha"])
        assert run.configs == []

    def test_help_explains_groups_choices_keys_and_examples(
        self, run: Recorder, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(run, ["--help"]) == 0
        text = capsys.readouterr().out
        for group, choices in CHOICES.items():
            assert f"\n  {group}: " in text
            for choice in choices:
                assert re.search(rf"[\s\[]{choice}[\s\]]", text)
        assert "strategy.c1=0.3\n      weight of the neighbour with the lowest loss (a number in [0, 1))" in text
        assert "--multirun strategy=d_psgd,matcha,al_dsgd seed=0,1,2" in text
        assert max(map(len, text.splitlines())) <= 100
        assert run.configs == []

    def test_help_follows_the_choices(self, run: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
        main(run, ["topology=er", "-h"])
        assert "\n  topology.p=0.5\n" in capsys.readouterr().out

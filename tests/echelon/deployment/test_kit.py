"""A deployment kit: what is in each folder, and whether it can be used."""

import configparser
import os
import shutil
import stat
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from packaging.requirements import Requirement

from echelon.deployment.kit.__main__ import main
from tests.repository import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # flwr reads .gitignore

NODES = [f"node-{rank}" for rank in range(3)]
SERVICES = ["superlink", *NODES]
OPTIONS = ["--nodes", "3", "--host", "lab.example.org", "--host", "192.0.2.10"]


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kit") / "out"
    assert main(["--app", str(ROOT), *OPTIONS, "--out", str(out), "--data", "/srv/data/{rank}"]) == 0
    return out


def _files(kit: Path) -> list[Path]:
    return [file for file in sorted(kit.rglob("*")) if file.is_file() and kit / "operator" / "app" not in file.parents]


def test_a_folder_for_each_machine(kit: Path) -> None:
    names = {path.name for path in kit.iterdir()}
    assert names == {*SERVICES, "operator", "README.txt", "supernodes.sbatch"}
    common = {"ca.crt", "environment.sh", "install.sh", "constraints.txt", "requirements.txt", "wheels"}
    service = common | {"start.sh", "service.sh", "compose.sh", "compose.yaml", "Dockerfile", ".dockerignore"}
    for name in SERVICES:
        own = {"server.pem", "server.key"} if name == "superlink" else {"node.key", "node-config"}
        assert {path.name for path in (kit / name).iterdir()} == service | own | {f"echelon-{name}.service"}
    operator = common | {"config.toml", "keys", "register.sh", "run.sh", "app"}
    assert {path.name for path in (kit / "operator").iterdir()} == operator
    assert (kit / "node-2" / "node-config").read_text() == 'rank=2 num-partitions=3 data="/srv/data/2"\n'


def test_a_private_key_is_where_it_is_needed_and_nowhere_else(kit: Path) -> None:
    private = {str(file.relative_to(kit)) for file in _files(kit) if b"PRIVATE KEY" in file.read_bytes()}
    assert private == {"superlink/server.key", *(f"{name}/node.key" for name in NODES)}
    assert {stat.S_IMODE((kit / name).stat().st_mode) for name in private} == {0o600}
    folders = [kit, *(kit / name for name in (*SERVICES, "operator"))]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


def test_keys_and_certificates_belong_together(kit: Path) -> None:
    assert [path.name for path in sorted((kit / "operator" / "keys").iterdir())] == [f"{name}.pub" for name in NODES]
    for name in NODES:
        key = serialization.load_ssh_private_key((kit / name / "node.key").read_bytes(), None)
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        assert (kit / "operator" / "keys" / f"{name}.pub").read_bytes().strip() == public
    authorities = {(kit / name / "ca.crt").read_bytes() for name in (*SERVICES, "operator")}
    assert len(authorities) == 1
    authority = x509.load_pem_x509_certificate(authorities.pop())
    server = x509.load_pem_x509_certificate((kit / "superlink" / "server.pem").read_bytes())
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["lab.example.org"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["192.0.2.10"]


def test_every_file_can_be_parsed(kit: Path) -> None:
    for file in _files(kit):
        if file.suffix in (".sh", ".sbatch"):
            shells = ["bash"] if file.suffix == ".sbatch" else ["sh", "bash"]
            for shell in shells:
                subprocess.run([shell, "-n", file], check=True)
        if file.suffix != ".whl":
            assert not [word for word in file.read_text().split() if word.count("@") == 2], file
    connection = tomllib.loads((kit / "operator" / "config.toml").read_text())["superlink"]
    assert connection["default"] == "kit"
    assert connection["kit"]["address"] == "lab.example.org:8210"
    assert Path(connection["kit"]["root-certificates"]) == kit / "operator" / "ca.crt"


@pytest.mark.parametrize("name", SERVICES)
def test_a_unit_starts_the_folder(kit: Path, name: str) -> None:
    file = kit / name / f"echelon-{name}.service"
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[method-assign, assignment]
    unit.read(file)
    assert unit["Service"]["UMask"] == "0077"
    assert unit["Service"]["ExecStart"] == f"/bin/sh /srv/echelon/{name}/start.sh"
    assert unit["Service"]["WorkingDirectory"] == f"/srv/echelon/{name}"
    assert f"/srv/echelon/{name}/{file.name}" in (kit / name / "service.sh").read_text()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
def test_systemd_knows_every_key_of_a_unit(kit: Path) -> None:
    units = [str(kit / name / f"echelon-{name}.service") for name in SERVICES]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert not [line for line in done.stderr.splitlines() if "Unknown" in line or "Failed to parse" in line]


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_runs_the_same_start_script(kit: Path, name: str) -> None:
    (service,) = yaml.safe_load((kit / name / "compose.yaml").read_text())["services"].values()
    assert service["entrypoint"] == ["sh", "start.sh"]
    assert service["working_dir"] == "/kit"
    data = [] if name == "superlink" else [f"/srv/data/{name[-1]}:/srv/data/{name[-1]}:ro"]
    assert service["volumes"] == [".:/kit", *data]
    assert service.get("ports") == (["8210:8210"] if name == "superlink" else None)
    image = next(line for line in (kit / name / "Dockerfile").read_text().splitlines() if line.startswith("FROM"))
    kind, python = name.split("-")[0].replace("node", "supernode"), f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert image == f"FROM flwr/{kind}:{version('flwr')}-py{python}-ubuntu24.04"


def test_the_image_recipe_installs_echelon(kit: Path, tmp_path: Path) -> None:
    """Its commands for pip, the first against what is installed here; only files that enter the image are there."""
    context = tmp_path / "context"
    context.mkdir()
    ignored = (kit / "node-0" / ".dockerignore").read_text().splitlines()
    for name in [line[1:] for line in ignored if line.startswith("!")]:
        source = kit / "node-0" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, context / name)
    recipe = (kit / "node-0" / "Dockerfile").read_text().replace("\\\n", "")
    (run,) = [line.removeprefix("RUN ") for line in recipe.splitlines() if line.startswith("RUN ")]
    dependencies, own = (command.split(maxsplit=2)[2] for command in run.split("&&"))
    target = tmp_path / "site"
    pip = f"{sys.executable} -m"
    here = {**os.environ, "PIP_NO_INDEX": "1", "PIP_NO_COMPILE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    for command in (f"{dependencies} --dry-run", f"{own} --target {target}"):
        done = subprocess.run(
            f"{pip} {command}", shell=True, cwd=context, env=here, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    program = "import sys; sys.path.insert(0, sys.argv[1]); from echelon import strategies; print(strategies.__file__)"
    python = [sys.executable, "-c", program, str(target)]
    done = subprocess.run(python, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(target / "echelon" / "strategies" / "__init__.py")


def test_a_machine_installs_into_its_own_environment(kit: Path, tmp_path: Path) -> None:
    """And not into the one whose Python the shell found first, which lacks Echelon."""
    machine, other = tmp_path / "machine", tmp_path / "bin" / "python"
    shutil.copytree(kit / "node-0", machine)
    (machine / "requirements.txt").write_text("")
    other.parent.mkdir()
    other.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexit 1\n')
    other.chmod(0o755)
    variables = {"PATH": f"{other.parent}:/usr/bin:/bin", "PYTHON": sys.executable, "PIP_NO_COMPILE": "1"}
    done = subprocess.run(
        ["sh", str(machine / "install.sh")], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "calls").read_text() == "-c import echelon, flwr\n"
    assert (machine / ".venv/bin/echelon").exists()


def test_the_versions_in_use_here_are_fixed(kit: Path) -> None:
    required = [Requirement(line) for line in (kit / "node-0" / "requirements.txt").read_text().splitlines()]
    fixed = dict(line.split("==") for line in (kit / "node-0" / "constraints.txt").read_text().splitlines())
    assert {each.name for each in required} >= {"flwr", "torch", "numpy"}
    assert {each.name for each in required} <= fixed.keys()
    assert fixed["flwr"] == version("flwr")
    assert "sympy" in fixed, "what torch requires"
    assert not {"ray", "pytest", "flwr-echelon"} & fixed.keys()


def test_the_bundle_of_the_operator_is_the_app(kit: Path) -> None:
    app = kit / "operator" / "app"
    assert (app / "server_app.py").read_bytes() == (ROOT / "server_app.py").read_bytes()
    assert (app / "conf" / "config.yaml").exists()
    assert not (app / "tests").exists()
    assert 'overrides=\\"workers=3 $(tail -n 1 nodes.txt) $*\\"' in (kit / "operator" / "run.sh").read_text()


def test_slurm_starts_each_node_once(kit: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    for name in NODES:
        (shared / name).mkdir(parents=True)
        (shared / name / "install.sh").write_text('echo "installs into $ECHELON_ENV"\n')
        (shared / name / "start.sh").write_text(f'echo "{name} in $ECHELON_ENV"\n')
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text('#!/bin/sh\nfor task in 0 1 2; do SLURM_PROCID=$task "$@"; done\n')
    srun.chmod(0o755)
    path = f"{srun.parent}{os.pathsep}{os.environ['PATH']}"
    variables = {"PATH": path, "SLURM_SUBMIT_DIR": str(shared)}
    script = ["bash", str(kit / "supernodes.sbatch")]
    done = subprocess.run(script, env=variables, cwd=tmp_path, capture_output=True, text=True, check=True)
    where = shared / "node-0" / ".venv"
    assert done.stdout.splitlines() == [f"installs into {where}", *(f"{name} in {where}" for name in NODES)]
    assert "#SBATCH --ntasks=3\n" in (kit / "supernodes.sbatch").read_text()


def test_another_app_runs_with_flowers_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = tmp_path / "app"
    shutil.copytree(ROOT / "examples" / "flower_app", app)
    project = (app / "pyproject.toml").read_text().replace('"flwr-echelon"', '"flwr-echelon", "not-there-yet>=1"')
    (app / "pyproject.toml").write_text(project)
    assert main(["--app", str(app), *OPTIONS, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert said.err == "Not installed here, so machines install any version: not-there-yet\n"
    assert "A deployment of digits-app: a SuperLink at lab.example.org:8210 and 3 SuperNodes." in said.out
    assert (tmp_path / "out/operator/run.sh").read_text().endswith('exec flwr run app kit --stream "$@"\n')
    assert "not-there-yet>=1\n" in (tmp_path / "out/node-0/requirements.txt").read_text()
    assert (tmp_path / "out/operator/app/digits_app/client_app.py").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "0"], "--nodes must lie in 1..1000; got 0"),
        (["--host", "lab; reboot"], "--host must be a host name or an address, without port; got 'lab; reboot'"),
        (["--port", "0"], "--port must lie in 1..65535; got 0"),
        (["--place", "srv"], "--place must be an absolute path of letters, digits and ._-/; got 'srv'"),
        (["--data", '/"'], "--data must be an absolute path of letters, digits and ._-/{}; got '/\"'"),
        (["--app", "FOLDER"], "--app FOLDER is no Flower app: FOLDER/pyproject.toml cannot be read: "),
        (["--out", "FOLDER"], "--out FOLDER exists: its keys may be in use; name another folder, or remove it"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (tmp_path / "file").touch()
    given = [argument.replace("FOLDER", str(tmp_path)) for argument in arguments]
    assert main(["--app", str(ROOT), *OPTIONS, "--out", str(tmp_path / "out"), *given], "kit") == 2
    said = capsys.readouterr().err
    assert said.startswith("kit: " + message.replace("FOLDER", str(tmp_path)))
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()

"""The folders of a kit: files from ``templates/`` with the values of this deployment, certificates and keys."""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from echelon.deployment.credentials import LIFETIME, make_certificates, make_node_key
from echelon.deployment.kit import software

# What starts a SuperNode: takes the options of flower-supernode.
NODE_COMMAND = "echelon node"
FIRST_NODE_PORT = 9210  # of a SuperNode's own server, on its machine only: one per SuperNode

_TEMPLATES = Path(__file__).parent / "templates"
_SOFTWARE = ("environment.sh", "install.sh")
_SERVICE = (
    *("service.sh", "compose.sh", "compose.yaml", "Dockerfile"),
    *(("unit.service", "echelon-@NAME@.service"), ("dockerignore", ".dockerignore")),
)


@dataclass(frozen=True)
class Deployment:
    """What a kit is made for.

    Attributes
    ----------
    app : Path
        Folder of the Flower app.
    hosts : tuple of str
        Names and addresses of the SuperLink's machine; SuperNodes use the first.
    nodes : int
        Number of SuperNodes.
    port : int
        Port of the SuperLink.
    place : str
        Folder of the machines for what runs as a service.
    data : str, optional
        Folder or file of each SuperNode's data, absolute; ``{rank}`` is replaced by the rank.
    """

    app: Path
    hosts: tuple[str, ...]
    nodes: int
    port: int = 8210
    place: str = "/srv/echelon"
    data: str | None = None

    @property
    def address(self) -> str:
        """Host and port of the SuperLink."""
        host = self.hosts[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def write_kit(deployment: Deployment, out: Path) -> list[str]:
    """Write the folders ``superlink``, ``node-0`` ..., ``operator`` and the commands to use them.

    Parameters
    ----------
    deployment : Deployment
        What the kit is made for.
    out : Path
        Folder to create; must not exist, or be empty.

    Returns
    -------
    list of str
        Distributions that the app requires but that are not installed here, so that their versions are not fixed.

    Raises
    ------
    ValueError
        If the folder is not empty, or the app is none.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists: its keys may be in use; name another folder, or remove it")
    project = software.read_project(deployment.app)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    values = _values(deployment, project, out.resolve())
    required = software.requirements(project)
    used = software.versions(required)
    base = {
        "requirements.txt": "".join(f"{each}\n" for each in required),
        "constraints.txt": "".join(f"{name}=={version}\n" for name, version in sorted(used.items()) if version),
    }
    names = [f"node-{rank}" for rank in range(deployment.nodes)]
    for name in ("superlink", *names, "operator"):
        _write_software(out / name, base, values)
    wheel = software.write_wheel(out / "superlink" / "wheels")
    for name in (*names, "operator"):
        shutil.copy(wheel, out / name / "wheels")
    _write_superlink(out / "superlink", deployment, values)
    for rank, name in enumerate(names):
        _write_node(out, name, rank, deployment, values)
    _write_operator(out / "operator", deployment, values)
    for name in ("README.txt", "supernodes.sbatch"):
        _fill(out / name, name, values)
    return [name for name, version in used.items() if version is None]


def _values(deployment: Deployment, project: Mapping[str, Any], out: Path) -> dict[str, str]:
    run = _RUN_OVERRIDES if "overrides" in project["tool"]["flwr"]["app"].get("config", {}) else _RUN
    return {
        "APP": project["project"]["name"],
        "ADDRESS": deployment.address,
        "PORT": str(deployment.port),
        "NODES": str(deployment.nodes),
        "PLACE": deployment.place,
        "FLOWER": distribution("flwr").version,
        "PYTHON": f"{sys.version_info.major}.{sys.version_info.minor}",
        "NODE_COMMAND": NODE_COMMAND,
        "OPERATOR": str(out / "operator"),
        "RUN": run.command.replace("@NODES@", str(deployment.nodes)),
        "USAGE": run.usage,
        "COMMANDS": _commands(deployment),
        "EXAMPLE": run.example,
        "UNTIL": f"{datetime.now(UTC) + LIFETIME:%Y-%m-%d}",
    }


@dataclass(frozen=True)
class _Run:
    """How an app is run: the lines of ``run.sh``, its usage, and arguments for a first run."""

    command: str
    usage: str
    example: str


_RUN = _Run(
    'exec flwr run app kit --stream "$@"',
    "sh run.sh [options of flwr run, such as --run-config 'num-server-rounds=20']",
    "",
)
# Which device may have which rank follows from the keys: see docs/security.md.
_RUN_OVERRIDES = _Run(
    'exec flwr run app kit --stream --run-config "overrides=\\"workers=@NODES@ $(tail -n 1 nodes.txt) $*\\""',
    "sh run.sh [overrides, such as rounds=50 strategy=d_psgd]",
    " rounds=20",
)


def _commands(deployment: Deployment) -> str:
    machines = {"superlink": deployment.hosts[0]}
    machines |= {f"node-{rank}": f"DEVICE-{rank}" for rank in range(deployment.nodes)}
    lines = [f"    scp -r {name} {machine}: && ssh {machine} sh {name}/start.sh" for name, machine in machines.items()]
    return "\n".join(lines)


def _write_software(folder: Path, base: Mapping[str, str], values: Mapping[str, str]) -> None:
    folder.mkdir(mode=0o700)
    (folder / "wheels").mkdir()
    for name, text in base.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in _SOFTWARE:
        _fill(folder / name, name, values)


def _write_superlink(folder: Path, deployment: Deployment, values: Mapping[str, str]) -> None:
    make_certificates(folder, list(deployment.hosts))
    more = f'    ports: ["{deployment.port}:{deployment.port}"]\n'
    _write_service(folder, "superlink.sh", {**values, "NAME": "superlink", "IMAGE": "superlink", "MORE": more})


def _write_node(out: Path, name: str, rank: int, deployment: Deployment, values: Mapping[str, str]) -> None:
    folder = out / name
    (out / "operator" / "keys").mkdir(exist_ok=True)
    make_node_key(folder / "node.key").rename(out / "operator" / "keys" / f"{name}.pub")
    shutil.copy(out / "superlink" / "ca.crt", folder / "ca.crt")
    data = (deployment.data or "").replace("{rank}", str(rank))
    config = f"rank={rank} num-partitions={deployment.nodes}" + (f' data="{data}"' if data else "")
    (folder / "node-config").write_text(f"{config}\n", encoding="utf-8")
    more = f"      - {data}:{data}:ro\n" if data else ""
    own = {"NAME": name, "IMAGE": "supernode", "MORE": more, "NODE_PORT": str(FIRST_NODE_PORT + rank)}
    _write_service(folder, "node.sh", {**values, **own})


def _write_service(folder: Path, start: str, values: Mapping[str, str]) -> None:
    _fill(folder / "start.sh", start, values)
    for item in _SERVICE:
        template, name = item if isinstance(item, tuple) else (item, item)
        _fill(folder / name.replace("@NAME@", values["NAME"]), template, values)


def _write_operator(folder: Path, deployment: Deployment, values: Mapping[str, str]) -> None:
    shutil.copy(folder.parent / "superlink" / "ca.crt", folder / "ca.crt")
    for name in ("config.toml", "register.sh", "run.sh"):
        _fill(folder / name, name, values)
    for path, content in software.app_files(deployment.app).items():
        file = folder / "app" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _fill(file: Path, template: str, values: Mapping[str, str]) -> None:
    text = (_TEMPLATES / template).read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    file.write_text(text, encoding="utf-8")

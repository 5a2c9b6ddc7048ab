"""What of Flower's SuperNode the node uses that is private: checked by signature, because any release may change it."""

import importlib
import inspect
import re
from collections.abc import Mapping

_START = "flwr.supernode.start_client_internal"
_OBJECTS = "flwr.supercore.inflatable"

# Function -> its parameters, in order.
USED: Mapping[str, str] = {
    f"{_START}:_init_connection": (
        "server_address insecure root_certificates authentication_keys max_retries max_wait_time"
    ),
    f"{_START}:_verify_fab": "fab trusted_entities",
    "flwr.supernode.cli.flower_supernode:_parse_supernode_lifespan_config": "",
    "flwr.common.config:get_fused_config_from_fab": "fab_file run",
    "flwr.supercore.exit:register_signal_handlers": "event_type exit_message grpc_servers bckg_threads exit_handlers",
    f"{_OBJECTS}.inflatable_utils:pull_objects": (
        "object_ids pull_object_fn max_concurrent_pulls max_time max_tries_per_object initial_backoff backoff_cap"
    ),
    f"{_OBJECTS}.inflatable_utils:push_object_contents_from_iterable": (
        "object_contents push_object_fn max_concurrent_pushes"
    ),
    f"{_OBJECTS}.inflatable_utils:inflate_object_from_contents": (
        "object_id object_contents keep_object_contents objects"
    ),
    f"{_OBJECTS}.inflatable_object:get_all_nested_objects": "obj",
    f"{_OBJECTS}.inflatable_object:get_object_tree": "obj",
    f"{_OBJECTS}.inflatable_object:iterate_object_tree": "tree",
    "flwr.clientapp.utils:get_load_client_app_fn": "default_app_ref app_path multi_app",
    "flwr.cli.install:install_from_fab": "fab_file install_dir skip_prompt",
    "flwr.supercore.grpc_health:run_health_server_grpc_no_tls": "address",
    "flwr.supercore.task_identity:TaskIdentity": "",
}

# What a connection consists of: the node's id, and functions with these arguments.
CONNECTION = (
    "int",
    "Callable[[], tuple[Message, ObjectTree] | None]",
    "Callable[[Message, ObjectTree, float], tuple[set[str], str]]",
    "Callable[[int], Run]",
    "Callable[[str, int], Fab]",
    "Callable[[int, str], bytes]",
    "Callable[[int, str, str, bytes], None]",
    "Callable[[int, str], None]",
)

CONFIG = (
    *("server_address", "root_certificates", "insecure", "authentication_keys", "max_retries", "max_wait_time"),
    *("node_config", "isolation", "health_server_address", "trusted_entities", "runtime_dependency_install"),
)


def difference() -> str | None:
    """Return what of the installed Flower differs from what the node uses; None if nothing does."""
    for place, parameters in USED.items():
        found = _parameters(place)
        if found != parameters.split():
            return f"{place}({', '.join(parameters.split())}) is {_shown(found)}"
    from flwr.supernode.cli.flower_supernode import SuperNodeLifespanConfig
    from flwr.supernode.start_client_internal import _init_connection

    yielded = _plain(str(inspect.signature(_init_connection).return_annotation))
    if yielded != _plain(f"Iterator[tuple[{', '.join(CONNECTION)}]]"):
        return f"a connection has other functions: {yielded}"
    missing = set(CONFIG) - set(SuperNodeLifespanConfig.__dataclass_fields__)
    return f"flower-supernode has no option for {', '.join(sorted(missing))}" if missing else None


def _parameters(place: str) -> list[str] | None:
    module, _, name = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None
    return list(inspect.signature(found).parameters)


def _shown(parameters: list[str] | None) -> str:
    return "missing" if parameters is None else f"({', '.join(parameters)})"


def _plain(annotation: str) -> str:
    """Return an annotation without the modules of its names: only the last part of each is compared."""
    return re.sub(r"(?:\w+\.)+(\w+)", r"\1", annotation).replace(" ", "")

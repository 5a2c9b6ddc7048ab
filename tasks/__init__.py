"""Data sets and models, in memory and without flwr: `load`, `build_model`, `evaluate`."""

from tasks.base import DataNotFound, Shape, Split, Task
from tasks.evaluation import evaluate
from tasks.models import MODELS, build_model
from tasks.registry import TASKS, load

__all__ = ["MODELS", "TASKS", "DataNotFound", "Shape", "Split", "Task", "build_model", "evaluate", "load"]

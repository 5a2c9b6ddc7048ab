"""In-memory data sets and models, independent of flwr: `load`, `build_model`, `evaluate`."""

from .base import DataNotFound, Shape, Split, Task
from .evaluation import evaluate
from .models import MODELS, build_model
from .registry import REGISTRY, load

__all__ = ["MODELS", "REGISTRY", "DataNotFound", "Shape", "Split", "Task", "build_model", "evaluate", "load"]

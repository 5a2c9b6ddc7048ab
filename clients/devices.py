"""Compute devices by torch's names."""

import torch

_ACCELERATORS = {"cuda": "a CUDA device", "xpu": "an Intel GPU", "mps": "an Apple GPU"}


def is_available(device: str) -> bool:
    """Return whether this machine has a device that torch can use."""
    match device:
        case "cuda":
            return torch.cuda.is_available()
        case "xpu":
            return torch.xpu.is_available()
        case "mps":
            return torch.backends.mps.is_available()
    return device == "cpu"


def resolve(device: str) -> str:
    """Return the device to compute on; ``auto`` is the first accelerator that is there, or the CPU.

    Raises
    ------
    ValueError
        If the device is unknown or not there.
    """
    if device == "auto":
        device = next((name for name in _ACCELERATORS if is_available(name)), "cpu")
    if device != "cpu" and device not in _ACCELERATORS:
        raise ValueError(f"device must be auto, cpu, {', '.join(_ACCELERATORS)}; got {device}")
    if not is_available(device):
        raise ValueError(
            f"device={device} needs {_ACCELERATORS[device]}; none is visible here, use device=cpu or device=auto"
        )
    if device == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    return device

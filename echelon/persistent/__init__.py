"""The trainer process that outlives a message: torch, data and model stay loaded on a real device."""

"""The published claims, each checked by one command: ``python -m benchmarks.claims --root data``."""

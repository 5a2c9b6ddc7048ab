"""A run on a Flower server: one model row per worker, checked replies, and checkpoints."""

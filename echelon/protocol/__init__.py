"""The protocol between server and workers: contents of Flower messages."""

"""Experiments on real data: each module is a command that runs a sweep and prints the table of its docs page."""

"""Experiments on real data: each module runs a sweep and prints the tables of its documentation page."""

"""Run folders, live progress, figures and comparisons of runs."""

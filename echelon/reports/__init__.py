"""Run folders, live progress, figures and comparisons: everything that is written about a run and read from it."""

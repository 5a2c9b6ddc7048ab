"""The mathematics of Echelon: pure functions with explicit state and seeds (numpy, scipy and networkx only)."""

"""From the configuration to objects: the strategy, the partition and the evaluation of a run."""

"""From the configuration to objects: the strategy, the partition plan and the evaluation of a run."""

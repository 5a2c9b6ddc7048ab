"""A soak: random faults against every engine, each followed by a check of what was promised."""

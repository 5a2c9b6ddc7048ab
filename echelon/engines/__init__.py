"""Engines: where the two apps run. ``inline`` is one process; ``ray`` is Flower's simulation engine."""

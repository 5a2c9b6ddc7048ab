"""Engines that run the two apps: ``inline`` in one process, ``ray`` in Flower's simulation engine."""

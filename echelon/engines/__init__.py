"""Engines: ``inline`` (in one process) and ``ray`` (Flower's) run the two apps, ``torch`` a run without a server."""

"""A deployment kit: one folder per machine with all that it needs, and the commands to start it."""

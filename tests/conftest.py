"""Settings of all tests."""

from hypothesis import settings

# Time says nothing on a busy machine: a slow example is no failure.
settings.register_profile("echelon", deadline=None)
settings.load_profile("echelon")

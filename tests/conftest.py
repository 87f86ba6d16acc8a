"""Settings of all tests."""

from hypothesis import settings

# A machine that is slow, or busy, or compiling, is not wrong.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

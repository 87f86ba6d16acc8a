"""The version of the distribution, and of both its packages."""

__version__ = "0.1.0"

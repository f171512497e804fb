"""The package's version, in one place: the build reads it, NEGO announces it."""

__version__ = "0.1.0"

"""The package's version, apart from `__init__` so that every layer can read it."""

__version__ = "0.1.0"

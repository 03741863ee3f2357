"""The version of smoothtool, for reports, caches and the command line."""

__version__ = "0.1.0"

"""The version, in the one place that can be read without importing PyTorch."""

__version__ = "0.2.0"

"""edgecnn: from a small CNN to the fastest correct artifact for a device."""

__version__ = "0.1.0"

"""The device side: standard library, numpy and one engine; Python 3.8 and later."""

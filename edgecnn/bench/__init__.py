"""Interleaved latency measurement and its statistics."""

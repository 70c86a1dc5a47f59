"""Tables and comparisons for people."""

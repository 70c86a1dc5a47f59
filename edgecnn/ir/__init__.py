"""The graph: one small intermediate representation between the net and the file."""

"""Rewrites of the graph, one file each: `def name(graph) -> tuple[Graph, list[Note]]`, value-preserving unless said."""

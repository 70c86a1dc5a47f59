"""Filter pruning on the graph: which channels live and die together, what each is worth, which go, what is left."""

"""The straight line: net, graph, rewrites, ranges, codes, file, proof; and what is done with the file afterwards."""

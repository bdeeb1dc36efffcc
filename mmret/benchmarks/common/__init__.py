"""What the benchmarks share: reading, pictures and their vectors, ranking, protocols, reports."""

"""What is stale and why: what every partition would be computed from now, compared with what it was computed from."""

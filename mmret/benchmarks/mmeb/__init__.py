"""MMEB: 36 sets of ranking tasks, and the metrics of its second version."""

"""A Ray cluster that executes the graph: one step, of one shard and stage, is one Ray job. Needs the extra `cluster`."""

"""``mmret run``: the whole graph in this process, stage after stage."""

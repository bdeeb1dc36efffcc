"""The lineage graph in Dagster: one file a group of stages, each asset a few lines around one function of :mod:`mmret`."""

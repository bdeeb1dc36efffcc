"""The lineage graph: one file a stage, each asset a few lines around one function of :mod:`mmret`."""

"""Dagster resources: which lake, which settings, and the models of a run, loaded when first needed and freed at its end."""

"""What is declared in this checkout: a folder with a ``defs.yaml`` for each source and each recipe (docs/dagster.md)."""

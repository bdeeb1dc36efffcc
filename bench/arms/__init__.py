"""Arms of a comparison as data (``*.yaml``), their runs in one process, and what came out. See bench/ingredients.py."""

"""Component types: a source and a training run, each declared in a ``defs.yaml`` of a few lines below ``assets/defs``.

Dagster finds them through the entry point ``dagster_dg_cli.registry_modules`` in pyproject.toml; `dg list components` shows them.
"""

from assets.components.recipe import Recipe
from assets.components.source import Source

__all__ = ["Recipe", "Source"]

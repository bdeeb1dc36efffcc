"""Asset checks: what must hold between stages, one file a stage."""

from itertools import groupby

import dagster as dg

from assets.checks import annotation, conservation, corpus, mining, training
from assets.checks.sql import Check, combine_checks

MODULES = [corpus, conservation, mining, annotation, training]


def load() -> list[dg.AssetChecksDefinition]:
    """Every check of the modules: those written as a question run as one step per asset, the others as they are."""
    asked = [c for module in MODULES for c in vars(module).values() if isinstance(c, Check)]
    asked.sort(key=lambda c: (c.asset, c.name))
    return [
        *(combine_checks(asset, checks) for asset, checks in groupby(asked, key=lambda c: c.asset)),
        *dg.load_asset_checks_from_modules(MODULES),
    ]

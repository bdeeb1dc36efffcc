"""DuckDB over the lake, for checks and for SQL in assets. It is in memory and has views only, so it needs no lock or refresh."""

from typing import Any

import dagster as dg

from mmret.lake import Lake


class Warehouse(dg.ConfigurableResource):
    """Fresh connections with one view per table of a lake, the one that the step works on."""

    def connect(self, lake: Lake) -> Any:
        from mmret.warehouse import connect

        return connect(lake)

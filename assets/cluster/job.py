"""The graph as a node of the cluster builds it anew for a step: the stages, without checks and jobs. Costs their imports."""

import dagster as dg

from assets.definitions import defs as whole
from assets.definitions import executor

defs = dg.Definitions(assets=whole.assets, resources=whole.resources, executor=executor)

"""The code location: every asset, resource and job. Load it as the module ``assets.definitions`` (see workspace.yaml).

``defs`` is the graph of the stages, which is all that `mmret run` needs; ``code_location`` adds what is declared below
``assets/defs``, and is what Dagster loads. Importing this reads no environment variable and no lake.
"""

import warnings
from pathlib import Path

import dagster as dg

warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

from assets import annotation, checks, corpus, embeddings, mining, training  # noqa: E402
from assets.automation import jobs, schedules, sensors  # noqa: E402
from assets.executor import executor  # noqa: E402
from resources.annotator import AnnotatorResource  # noqa: E402
from resources.declared import Declarations  # noqa: E402
from resources.encoders import Encoders  # noqa: E402
from resources.lake import LakeResource, ProfileResource  # noqa: E402
from resources.warehouse import Warehouse  # noqa: E402

STAGES = [corpus, embeddings, mining, annotation, training]

defs = dg.Definitions(
    assets=dg.load_assets_from_modules(STAGES),
    asset_checks=checks.load(),
    jobs=jobs.JOBS,
    schedules=schedules.SCHEDULES,
    sensors=sensors.SENSORS,
    resources={
        "lake": LakeResource(),
        "profile": ProfileResource(),
        "warehouse": Warehouse(lake=LakeResource()),
        "encoders": Encoders(),
        "annotator": AnnotatorResource(),
        "declared": Declarations(),
    },
    executor=executor,
)


@dg.definitions
def code_location() -> dg.Definitions:
    """The graph with the sources and recipes that ``defs.yaml`` files declare."""
    from assets.components.code_location import with_declared

    return with_declared(defs, dg.ComponentTree.for_project(Path(__file__)))

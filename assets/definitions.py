"""The code location: every asset, resource and job. Load it as the module ``assets.definitions`` (see workspace.yaml)."""

import warnings

import dagster as dg

warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

from assets import annotation, checks, corpus, embeddings, jobs, mining, training  # noqa: E402
from resources.annotator import AnnotatorResource  # noqa: E402
from resources.encoders import Encoders  # noqa: E402
from resources.lake import LakeResource, ProfileResource  # noqa: E402
from resources.warehouse import Warehouse  # noqa: E402

STAGES = [corpus, embeddings, mining, annotation, training]

defs = dg.Definitions(
    assets=dg.load_assets_from_modules(STAGES),
    asset_checks=dg.load_asset_checks_from_modules(checks.MODULES),
    jobs=jobs.JOBS,
    sensors=[jobs.automation],
    resources={
        "lake": LakeResource(),
        "profile": ProfileResource(),
        "warehouse": Warehouse(lake=LakeResource()),
        "encoders": Encoders(),
        "annotator": AnnotatorResource(),
    },
    executor=dg.multiprocess_executor.configured({
        "max_concurrent": 2,
        "start_method": {"forkserver": {"preload_modules": ["assets.definitions", "torch", "lancedb", "polars"]}},
    }),
)

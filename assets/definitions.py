"""The code location: every asset, resource and job. Load it as the module ``assets.definitions`` (see workspace.yaml)."""

import os
import warnings

import dagster as dg

warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

from assets import annotation, checks, corpus, embeddings, mining, training  # noqa: E402
from assets.automation import jobs, schedules, sensors  # noqa: E402
from resources.annotator import AnnotatorResource  # noqa: E402
from resources.encoders import Encoders  # noqa: E402
from resources.lake import LakeResource, ProfileResource  # noqa: E402
from resources.warehouse import Warehouse  # noqa: E402

STAGES = [corpus, embeddings, mining, annotation, training]

EXECUTORS = {
    # one process a run: models are loaded once for all its steps, a step costs 0.2 s, and all memory is freed with the run
    "in_process": dg.in_process_executor,
    # one process a step: for machines on which two stages of a run may work side by side
    "multiprocess": dg.multiprocess_executor.configured(
        {
            "max_concurrent": 2,
            "start_method": {"forkserver": {"preload_modules": ["assets.definitions", "torch", "lancedb", "polars"]}},
        }
    ),
}

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
    },
    executor=EXECUTORS[os.environ.get("MMRET_EXECUTOR", "in_process")],
)

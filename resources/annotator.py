"""The annotator of a run (captions, an OpenAI-compatible server, vLLM in process), loaded when first needed."""

from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from mmret.settings import AnnotateSettings
from resources.models import free, model


class AnnotatorResource(dg.ConfigurableResource):
    """Builds the back-end that the settings name, once a run."""

    _loaded: dict[str, Any] = PrivateAttr(default_factory=dict)

    def get(self, settings: AnnotateSettings) -> Any:
        from mmret.annotate.backends.load import load_annotator

        return model(self._loaded, f"annotator:{settings.model_dump_json()}", lambda: load_annotator(settings))

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        free(self._loaded)

"""The annotator of a run (captions, an OpenAI-compatible server, vLLM in process), loaded when first needed."""

from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from mmret.annotate.kinds import AnnotationTable, backend_of
from mmret.settings import AnnotateSettings, CaptioningSettings
from resources.models import free, model


class AnnotatorResource(dg.ConfigurableResource):
    """Builds the back-ends that the settings name, each once a run."""

    _loaded: dict[str, Any] = PrivateAttr(default_factory=dict)

    def get(self, settings: AnnotateSettings, table: AnnotationTable) -> Any:
        from mmret.annotate.backends.load import load_annotator

        name = backend_of(table, settings)  # both steps share one that both have: a model is loaded once
        return model(self._loaded, f"annotator:{name}:{settings.model_dump_json()}", lambda: load_annotator(settings, table))

    def captioner(self, settings: CaptioningSettings) -> Any:
        """The back-end that writes captions; never another's, even if their model is the same."""
        from mmret.captions.captioner import load_captioner

        return model(self._loaded, f"captioner:{settings.model_dump_json()}", lambda: load_captioner(settings))

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        free(self._loaded)

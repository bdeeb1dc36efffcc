"""The annotator of a run (captions, an OpenAI-compatible server, vLLM in process), loaded when first needed."""

from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from mmret.settings import AnnotateSettings


class AnnotatorResource(dg.ConfigurableResource):
    """Builds the back-end that the settings name, once a run."""

    _loaded: Any = PrivateAttr(default=None)

    def get(self, settings: AnnotateSettings) -> Any:
        from mmret.annotate.backends import load_annotator

        if self._loaded is None:
            self._loaded = load_annotator(settings)
        return self._loaded

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        self._loaded = None

"""Similarity models, loaded when a step first needs one, shared by the steps of an in-process run, freed at its end."""

from typing import Any

import dagster as dg
from pydantic import PrivateAttr

from mmret.settings import EncoderSettings
from mmret.storage import Storage
from resources.models import free, model


class Encoders(dg.ConfigurableResource):
    """Cache of loaded encoders by their settings. They load on first use, because a run sets up the resources of all its steps."""

    _loaded: dict[str, Any] = PrivateAttr(default_factory=dict)

    def get(self, settings: EncoderSettings, signal: str, lake: Storage) -> Any:
        """The encoder of ``signal``; raises UserError where its weights cannot be found."""
        from mmret.encode.protocol import load_encoder

        return model(
            self._loaded, f"{signal}:{lake.address}:{settings.model_dump_json()}", lambda: load_encoder(settings, signal, lake)
        )

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        free(self._loaded)

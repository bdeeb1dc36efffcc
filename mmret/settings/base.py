"""What all settings share: they are immutable, and an unknown key is an error. Costs nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Signal = Literal["clip_image", "dino_image", "caption"]


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

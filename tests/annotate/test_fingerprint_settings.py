"""Pins of what a stage's fingerprint is made of: a change redoes what it changes, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from mmret.annotate.backends.load import fingerprint_settings
from mmret.settings import AnnotateSettings, EngineSettings


def _settings(engine: dict[str, Any] | None = None, **changes: Any) -> AnnotateSettings:
    return AnnotateSettings(backend="openai", vision=EngineSettings(**{"model": "m", **(engine or {})}), **changes)


def _changed(settings: AnnotateSettings) -> set[str]:
    return {
        t for t in ("descriptions", "instructions") if fingerprint_settings(settings, t) != fingerprint_settings(_settings(), t)
    }


@pytest.mark.parametrize(
    "settings, tables",
    [
        (_settings({"urls": ("http://x/v1",), "concurrency": 1, "price_in": 3, "tries": 2}), set()),
        (_settings({"temperature": 0.0}), {"descriptions", "instructions"}),
        (_settings(language="French"), {"descriptions", "instructions"}),
        (_settings(instructions_per_pair=4), {"instructions"}),
        (_settings(wordings="varied"), set()),
        (_settings(demonstrations=3), {"instructions"}),
        (_settings(judge=True), {"instructions"}),
        (_settings(judge_minimum=4), set()),
        (_settings(language_model=EngineSettings(model="l")), {"instructions"}),
        (_settings(one_step=True), {"descriptions", "instructions"}),
    ],
)
def test_a_changed_setting_touches_the_tables_it_decides(settings: AnnotateSettings, tables: set[str]) -> None:
    assert _changed(settings) == tables


def test_the_embedded_back_end_depends_on_its_rules_seed_and_count() -> None:
    plain = AnnotateSettings()
    assert fingerprint_settings(plain, "descriptions") == fingerprint_settings(
        AnnotateSettings(instructions_per_pair=5, words=(10, 20)), "descriptions"
    )
    assert fingerprint_settings(plain, "instructions") != fingerprint_settings(
        AnnotateSettings(instructions_per_pair=5), "instructions"
    )


def test_varied_wordings_touch_the_instructions_of_rules_alone() -> None:
    plain, varied = AnnotateSettings(), AnnotateSettings(wordings="varied")
    assert fingerprint_settings(plain, "descriptions") == fingerprint_settings(varied, "descriptions")
    assert fingerprint_settings(plain, "instructions") != fingerprint_settings(varied, "instructions")

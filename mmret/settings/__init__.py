"""Every setting there is, validated, one file per subject; loading a profile takes a few milliseconds.

A profile is a YAML file in ``resources/profiles/``. Defaults below are the paper's values wherever the paper gives one
(arXiv 2412.14475); a field whose value the paper does not publish says so. Every stage takes its own object, never the whole.
"""

from mmret.settings.alarms import AlarmSettings, EmailSettings
from mmret.settings.annotation import AnnotateSettings, BackEnd, EngineSettings, QualitySettings
from mmret.settings.base import Settings, Signal
from mmret.settings.captions import CaptioningSettings, CaptionSettings, PoorCaptions, captioning
from mmret.settings.corpus import CorpusSettings, DownloadSettings, HistorySettings, IngestSettings, LeakSettings, LicenceSettings
from mmret.settings.mining import BandSettings, DuplicateSettings, IndexSettings, MineSettings
from mmret.settings.profile import PROFILES, AutomationSettings, Profile, load_profile, parse_override, profile_names
from mmret.settings.scoring import ScorerSettings
from mmret.settings.similarity import EncoderSettings, TowerSettings
from mmret.settings.studies import StudySettings
from mmret.settings.training import RECIPE_RUNTIME_FIELDS, EvaluateSettings, LoraSettings, Recipe, RerankerSettings

__all__ = [
    "AlarmSettings",
    "AnnotateSettings",
    "BackEnd",
    "AutomationSettings",
    "BandSettings",
    "CaptionSettings",
    "CaptioningSettings",
    "CorpusSettings",
    "DownloadSettings",
    "DuplicateSettings",
    "EmailSettings",
    "EncoderSettings",
    "EngineSettings",
    "EvaluateSettings",
    "RECIPE_RUNTIME_FIELDS",
    "HistorySettings",
    "IndexSettings",
    "IngestSettings",
    "LeakSettings",
    "LicenceSettings",
    "LoraSettings",
    "MineSettings",
    "PROFILES",
    "PoorCaptions",
    "Profile",
    "QualitySettings",
    "Recipe",
    "RerankerSettings",
    "ScorerSettings",
    "Settings",
    "Signal",
    "StudySettings",
    "TowerSettings",
    "captioning",
    "load_profile",
    "parse_override",
    "profile_names",
]

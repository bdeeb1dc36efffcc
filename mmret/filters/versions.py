"""Versions of the filters: another one gives other verdicts, and recipes that heed them are trained again. Costs nothing."""

from __future__ import annotations

VERSIONS = {"consistency": 2, "false_negatives": 1, "judge": 1}
"""Raised with every change of what a filter says."""

"""The demo's own similarity models: tiny CLIP and DINOv2 towers, trained on the corpus itself."""

TOWERS_VERSION = "1"
"""Raised when the code changes what towers are trained to; part of what stage `towers` is computed from."""

"""The demo's own similarity models: tiny CLIP and DINOv2 towers and the weights of words, from the corpus itself."""

TOWERS_VERSION = "2"
"""Version of stage `towers`. Raise it when a change of code gives other models: every lake then trains its towers again."""

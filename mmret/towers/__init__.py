"""The demo's own similarity models, trained on the corpus itself."""

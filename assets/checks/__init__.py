"""Asset checks: what must hold between stages, one file a stage."""

from assets.checks import annotation, corpus, mining

MODULES = [corpus, mining, annotation]

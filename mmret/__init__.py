"""MegaPairs as a declarative lakehouse: mining, synthesis, training and evaluation of composed-image retrievers."""

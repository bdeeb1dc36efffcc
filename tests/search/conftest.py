"""The retriever's tiny CLIP folder and pictures, for the tests of search."""

from tests.retriever.conftest import clip_folder, load, pictures  # noqa: F401

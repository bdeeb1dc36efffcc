"""The retriever's tiny CLIP folder and pictures, for the tests of search."""

from tests.retriever.conftest import clip_folder, load, one_thread, pictures  # noqa: F401

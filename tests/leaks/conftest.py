"""Leak tests look for the pictures of the benchmark tests, and encode with the encoders of the encoder tests."""

from tests.benchmarks.conftest import photos
from tests.encode.conftest import clip_folder, make_lake, one_thread

__all__ = ["clip_folder", "make_lake", "one_thread", "photos"]

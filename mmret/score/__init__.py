"""Scores of pictures: quality or safety by a head on stored vectors, by a classifier's folder, or measured from the pixels."""

"""Search of a lake's corpus by image, text or both: one code for the command, the page and a server.

``search`` answers a query: it picks the checkpoint (``models``), has the vectors of every picture, which the lake stores
(``corpus_vectors``), and ranks them (:mod:`mmret.ranking`). ``names`` finds a picture by its path or id,
``reasons`` the training triplets that led a checkpoint to a picture.
"""

"""Search of a lake's corpus by image, text or both: one code for the command, the page and a server.

``rank`` (pure numpy) <- ``corpus_vectors`` (every picture's vector, kept in the lake) <- ``models`` (which checkpoint) <-
``search``. Above ``retriever``, below ``benchmarks``, ``web`` and ``cli``.
"""

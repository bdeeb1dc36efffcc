"""Descriptions and instructions of mined pairs (paper, section 3.2).

``stage`` runs both steps on a lake: ``describe`` and ``instruct``, which share ``rows``. A back-end of ``backends`` answers
requests (``protocol``); ``answers`` asks only what ``store`` does not hold, ``parse`` reads what came back. ``estimate`` says
beforehand what it would cost, ``quality`` afterwards how good the texts are.
"""

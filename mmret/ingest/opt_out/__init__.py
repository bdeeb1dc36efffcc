"""Opt-out lists: pictures that must not be used, by id, hash, address or path; honoured whenever they are listed, also afterwards.

``lists`` reads the files, ``entries`` matches rows, ``pictures`` says which pictures of a lake are out, ``imported`` takes them out
of released triplets. The rows become rejects (:mod:`mmret.ingest.selection`); `mmret compact --forget-opted-out` drops the bytes
that history still holds (:mod:`mmret.forget`).
"""

"""Search of a lake over HTTP, for programs: FastAPI routes over the same search that the command and the page use.

``server`` starts and stops it; ``app`` has the routes, ``requests`` and ``answers`` what goes in and out, ``desk`` what lies
between a request and the search. ``guard`` and ``connections`` are what a stranger meets first: token, hosts, limits, time.
``public`` keeps the server's paths out of answers. :mod:`docs/serving.md` has it for users.
"""

"""Who may ask: everybody on this machine by default; a token for any other address the server listens on.

The token is read from a file or the environment, never from the command line, where other users of the machine would see it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from mmret.errors import UserError

VARIABLE = "MMRET_TOKEN"
SHORTEST = 16
"""Characters that a token has at least."""
_MAKE_ONE = '`python -c "import secrets; print(secrets.token_urlsafe(32))"` makes one'
OWN_NAMES = ("127.0.0.1", "localhost", "[::1]")
"""Host names under which a server on the loopback address is asked."""


@dataclass(frozen=True)
class Access:
    """``hosts``: names that requests may be for, any where empty. ``origins``: web sites whose pages may ask, as browsers write
    them (``https://example.org``). ``fetch``: hosts, with or without a port, that pictures may be fetched from.
    """

    token: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    fetch: tuple[str, ...] = ()

    def admits(self, authorization: bytes) -> bool:
        """Whether a request with this header ``Authorization`` may pass; takes the same time for every wrong token."""
        if self.token is None:
            return True
        scheme, _, given = authorization.partition(b" ")
        right = hmac.compare_digest(hashlib.sha256(given.strip()).digest(), hashlib.sha256(self.token.encode()).digest())
        return right and scheme.lower() == b"bearer"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on ``host``. A name other than localhost is never trusted to."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_token(file: Path | None) -> str | None:
    """The token of ``file``, else of the environment variable :data:`VARIABLE`, else None.

    The variable is taken out of the environment, so that no program started later has it. Raises UserError for a file that cannot
    be read and for a token that is too short or has other characters than a header can carry.
    """
    in_environment = os.environ.pop(VARIABLE, None)
    if file is not None:
        try:
            token, where = file.read_text(encoding="utf-8").strip(), f"--token-file {file}"
        except (OSError, UnicodeError) as error:
            raise UserError(f"--token-file {file} cannot be read: {getattr(error, 'strerror', None) or 'no text'}") from None
    elif in_environment is not None:
        token, where = in_environment.strip(), VARIABLE
    else:
        return None
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"{where}: a token has at least {SHORTEST} ASCII letters, digits or signs and no space; {_MAKE_ONE}")
    return token


def require_token(host: str, token: str | None) -> None:
    """Raise UserError where ``host`` lets other machines in and there is no token."""
    if token is None and not is_loopback(host):
        raise UserError(
            f"--host {host} lets other machines in: give --token-file FILE or set {VARIABLE} ({_MAKE_ONE}), "
            "and have a proxy with TLS before it"
        )

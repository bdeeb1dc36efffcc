"""The address a server listens on: bound before anything is loaded, so that whoever asks early waits instead of being refused."""

from __future__ import annotations

import socket

from mmret.errors import UserError


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """A socket that listens on ``host`` and ``port`` (0: any that is free), and its address as a browser takes it.

    Raises UserError where the port is taken or the host is not one of this machine.
    """
    plain = host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in plain else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((plain, port))
        listener.listen(512)
    except (OSError, UnicodeError) as error:
        listener.close()
        said = getattr(error, "strerror", None) or "no such host"
        raise UserError(f"cannot listen on {host}:{port} ({said}); give another --port, or 0 for any") from None
    written = f"[{plain}]" if ":" in plain else plain
    return listener, f"http://{written}:{listener.getsockname()[1]}"

"""A Postgres of the machine's own, in a folder, for one test."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.assets.server import free_port


def _programs() -> tuple[str, str] | None:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    folders = [*os.environ.get("PATH", "").split(os.pathsep), *map(str, installed)]
    for folder in folders:
        found = [os.path.join(os.path.realpath(folder), name) for name in ("initdb", "postgres")]
        if all(map(shutil.which, found)):
            return os.path.realpath(found[0]), os.path.realpath(found[1])
    return None


@contextmanager
def running(address: str = "127.0.0.1", inside: Callable[[Sequence[str]], list[str]] = list) -> Iterator[dict[str, str]]:
    """The environment by which dagster.prod.yaml finds it; skips the test where no Postgres is installed.

    ``address``: where it listens, open to whoever reaches it; ``inside``: makes of a command one that runs it elsewhere on this
    machine, in a network namespace.
    """
    programs = _programs()
    if programs is None:
        pytest.skip("no Postgres on this machine (initdb and postgres, on the PATH or below /usr/lib/postgresql)")
    # it refuses to run as root, and a test's own folder is closed to others
    user = next((n for n in ("postgres", "nobody") if n in {p.pw_name for p in pwd.getpwall()}), None) if os.getuid() == 0 else None
    folder, port = Path(tempfile.mkdtemp(prefix="mmret-pg-")), free_port()
    if user:
        shutil.chown(folder, user)
    try:
        subprocess.run(
            [programs[0], "-D", str(folder / "data"), "-U", "mmret", "--auth=trust", "--no-sync"],
            user=user,
            check=True,
            capture_output=True,
            timeout=120,
            cwd=folder,
        )
        if address != "127.0.0.1":
            with (folder / "data" / "pg_hba.conf").open("a") as access:
                access.write("host all all 0.0.0.0/0 trust\n")
        options = ["-D", str(folder / "data"), "-p", str(port), "-k", str(folder)]
        options += ["-c", "fsync=off", "-c", f"listen_addresses={address}"]
        as_user = ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups"] if user else []
        server = subprocess.Popen(
            inside([*as_user, programs[1], *options]),
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=(folder / "log").open("w"),
        )
        try:
            yield {
                "DAGSTER_PG_HOST": address,
                "DAGSTER_PG_PORT": str(port),
                "DAGSTER_PG_USER": "mmret",
                "DAGSTER_PG_PASSWORD": "unused",
                "DAGSTER_PG_DB": "postgres",
            }
        finally:
            server.terminate()
            server.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

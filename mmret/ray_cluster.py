"""Which Ray cluster, and how one is let in: what ``--on ray[:ADDRESS]`` and Ray's own variables name.

Nobody joins a cluster that was not named: left to itself Ray takes whichever runs on this machine, another user's too. Ray is
imported inside functions, so that nobody else pays for it.
"""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mmret.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

TIMEOUT_S = (10.0, 120.0)
"""To connect, and to answer: Ray's own client waits for ever where a cable is cut."""
_WHICH = "which Ray cluster? Set RAY_ADDRESS to its head, as in RAY_ADDRESS=http://head:8265, or name it: --on ray:http://head:8265"


class ClusterUnreachable(UserError):
    """No cluster, or no database of its history, can be reached as things are set: nothing is wrong with the lake."""


def address_in(on: str) -> str | None:
    """The address in ``--on ray:ADDRESS``; None for ``ray`` alone. Raises UserError for another word.

    >>> address_in("ray:http://head:8265")
    'http://head:8265'
    """
    name, _, address = on.partition(":")
    if name != "ray":
        raise UserError(f"--on {on}: `ray`, or `ray:` and the address of the cluster's head, as in ray:http://head:8265")
    return address or None


def require(*modules: str) -> None:
    """Raises UserError where one of ``modules``, of the extra `cluster`, is not installed."""
    for module in modules:
        if find_spec(module) is None:
            raise UserError(f"a Ray cluster needs the extra `cluster` ({module} is not installed): uv pip install -e '.[cluster]'")


def address_to_join(address: str | None) -> str:
    """The cluster whose nodes are to train: ``address``, else that of the environment, which is a job's own inside one.

    Raises ClusterUnreachable where none is named.
    """
    if named := address or os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_API_SERVER_ADDRESS"):
        return named
    raise ClusterUnreachable(f"{_WHICH}; on one of its nodes also --on ray:auto, and ray:local begins one of this machine alone")


def is_dashboard(address: str) -> bool:
    """Whether ``address`` takes jobs from anywhere, instead of letting a node of the cluster in."""
    return address.startswith(("http://", "https://"))


def jobs_at(address: str | None) -> JobSubmissionClient:
    """A client of the jobs of the cluster at ``address``, None: that of the environment. Raises ClusterUnreachable where none is
    named or none answers, and where it does not let one in."""
    import ray.exceptions
    from ray.job_submission import JobSubmissionClient

    class Patient(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **more: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": TIMEOUT_S, **more})

    named = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not named:
        raise ClusterUnreachable(_WHICH)
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        return Patient(named)
    except ray.exceptions.AuthenticationError:
        raise ClusterUnreachable(
            f"the Ray cluster at {named} wants a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to that of the cluster "
            "(`ray get-auth-token` on its head)"
        ) from None
    except Exception as error:  # ConnectionError, RuntimeError, ValueError: by what is wrong with the address
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ClusterUnreachable(
            f"no Ray cluster answers at {named} ({said}): name the address of its head's dashboard, as in http://head:8265"
        ) from None

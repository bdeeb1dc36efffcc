"""How an object store is reached: the usual environment variables, or options per address in ``storage.yaml``.

::

    s3://my-bucket:                       # holds for every address that begins so; the longest that fits wins
      endpoint: http://10.0.0.5:8333      # of a server that is not the cloud's own
      region: us-east-1
      access_key_id: ...                  # or from the variables below
      secret_access_key: ...

The file is the one that ``MMRET_STORAGE`` names, else ``storage.yaml`` in the user's configuration folder for ``mmret``. What it
does not say comes from AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, GOOGLE_* and
AZURE_*. Costs reading one small file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from mmret.errors import UserError
from mmret.storage.addresses import ObjectAddress

_VARIABLES = {
    "s3": {
        "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
        "access_key_id": ("AWS_ACCESS_KEY_ID",),
        "secret_access_key": ("AWS_SECRET_ACCESS_KEY",),
        "session_token": ("AWS_SESSION_TOKEN",),
    },
    "gs": {"service_account": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT")},
    "az": {
        "account_name": ("AZURE_STORAGE_ACCOUNT_NAME",),
        "account_key": ("AZURE_STORAGE_ACCOUNT_KEY",),
        "endpoint": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
    },
}
PATIENCE_S = 120
"""So long a server that does not answer is asked again."""
_PREFIX = {"s3": "aws_", "gs": "google_", "az": "azure_storage_"}


def store_options(address: ObjectAddress) -> dict[str, str]:
    """Options for ``address`` by obstore's names without prefix (``endpoint``, ``region``, ...).

    Raises UserError where the file is damaged or has an option of another type.
    """
    found = {
        option: value
        for option, names in _VARIABLES[address.scheme].items()
        if (value := next((os.environ[name] for name in names if os.environ.get(name)), None))
    }
    found |= _of_file(address)
    if address.scheme == "s3":
        found.setdefault("region", "us-east-1")
    return found


def lance_options(address: ObjectAddress) -> dict[str, str]:
    """The same as Lance takes them."""
    found = {f"{_PREFIX[address.scheme]}{name}": value for name, value in store_options(address).items()}
    # ten by default, which a server that starts anew outlasts
    found |= {"client_max_retries": "1000", "client_retry_timeout": str(PATIENCE_S)}
    if allows_http(store_options(address)):
        found["allow_http"] = "true"
    return found


def allows_http(options: dict[str, str]) -> bool:
    """Whether the endpoint is one without encryption, as of a server in one's own network."""
    return options.get("endpoint", "").startswith("http://")


def options_file() -> Path:
    """Where ``storage.yaml`` is looked for."""
    if named := os.environ.get("MMRET_STORAGE"):
        return Path(named).expanduser()
    from platformdirs import user_config_path

    return user_config_path("mmret") / "storage.yaml"


def _of_file(address: ObjectAddress) -> dict[str, str]:
    path = options_file()
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        if "MMRET_STORAGE" in os.environ:
            raise UserError(f"MMRET_STORAGE names {path}, which does not exist") from None
        return {}
    except (yaml.YAMLError, UnicodeError) as error:
        raise UserError(f"{path} is no YAML: {error}") from None
    if not isinstance(listed, dict) or not all(isinstance(of, dict) for of in listed.values()):
        raise UserError(
            f"{path}: write the options below the beginning of an address, as `s3://bucket:` and, indented, `region: ...`"
        )
    fitting = [
        start for start in listed if str(address) == (begun := str(start).rstrip("/")) or str(address).startswith(f"{begun}/")
    ]
    return _strings(path, listed[max(fitting, key=len)]) if fitting else {}


def _strings(path: Path, options: dict[str, Any]) -> dict[str, str]:
    if wrong := [name for name, value in options.items() if not isinstance(value, str | int | bool)]:
        raise UserError(f"{path}: {wrong[0]} is to be a text")
    return {str(name): str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}

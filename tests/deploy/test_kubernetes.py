"""`deploy/kubernetes`: what can be told of the chart by its files alone; with Helm and Kubernetes' schemas (`pytest -m cluster`),
what is installed; and its Ray nodes as processes, by the chart's own commands and probes, in network namespaces."""

import json
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
import yaml

from tests.assets.server import until
from tests.cluster.namespaces import hosts
from tests.deploy.charts import CHART, EXAMPLES, VALUES, Helm, containers, of_kind, pods
from tests.deploy.commands import parse
from tests.deploy.files import DEPLOY, copied, last

TEMPLATES = {path.name: path.read_text() for path in (CHART / "templates").iterdir()}
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
LAKE = "lake.address=s3://bucket/lake"
COMBINATIONS = [
    *[[example] for example in EXAMPLES],
    [LAKE, "postgres.host=elsewhere", "networkPolicy=false"],
    [LAKE, "ray.workers.cpu.replicas=0", "logs.claim=logs", "pictures[0].claim=p", "pictures[0].path=/pictures"],
    [LAKE, "vllm.one.model=m", "vllm.one.replicas=3", "run.enabled=true", "run.arguments={--profile,paper}"],
]


def settings(values: Any, at: str = "") -> set[str]:
    """Dotted names of all values; of those that people name themselves only the place."""
    if not isinstance(values, dict) or not values or at in ("ray.workers", "vllm", "environment", "lake.environment"):
        return {at}
    return {name for key, value in values.items() for name in settings(value, f"{at}.{key}" if at else key)}


def merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both = dict(values)
    for key, value in more.items():
        both[key] = merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def test_every_value_is_used_and_every_used_one_is_there():
    text = "\n".join(TEMPLATES.values())
    used = set(re.findall(r"\.Values\.([\w.]+)", text))
    used |= {f"image.{which}" for which in re.findall(r'"which" "(\w+)"', text)} | {"webserver.resources", "daemon.resources"}
    known = settings(VALUES)
    parts = {name.rsplit(".", n)[0] for name in known for n in range(name.count(".") + 1)}
    optional = {f"{of}.{key}" for of in ("webserver", "daemon") for key in ("nodeSelector", "tolerations")}
    assert used - optional <= parts | known, used - parts
    assert not [name for name in known if not any(name == u or name.startswith(u + ".") for u in used)]


@pytest.mark.parametrize("values", [LAKE, *EXAMPLES], ids=str)
def test_values_keep_to_their_schema(values):
    pytest.importorskip("check_jsonschema", reason="check-jsonschema, which brings jsonschema, is not installed (the extra dev)")
    from jsonschema import Draft202012Validator

    given = {"lake": {"address": "s3://bucket/lake"}} if isinstance(values, str) else yaml.safe_load(values.read_text())
    check = Draft202012Validator(SCHEMA)
    assert [error.message for error in check.iter_errors(merged(VALUES, given))] == []
    for wrong in (
        {"lake": {"address": "/somewhere"}},
        {"lake": {"adress": "s3://b"}},
        {"ray": {"workers": {"cpu": {"memory": "32G"}}}},
        {"image": {"code": {"tag": "latest"}}},
    ):
        assert not check.is_valid(merged(merged(VALUES, given), wrong)), wrong
    assert not check.is_valid(VALUES), "a lake has to be named"


def test_values_for_other_charts_say_that_they_were_not_rendered():
    files = list((DEPLOY / "kubernetes" / "values").glob("*.yaml"))
    assert files and all("Not rendered here" in path.read_text() and yaml.safe_load(path.read_text()) for path in files)


def test_the_home_of_the_pods_is_in_the_images_and_steps_go_to_ray_by_it():
    (home,) = set(re.findall(r"DAGSTER_HOME, value: ([\w/-]+)", "\n".join(TEMPLATES.values())))
    assert copied()[f"{home}/dagster.yaml"] == "dagster_home/dagster.ray.yaml"
    assert f"mountPath: {home}/executor.yaml" in TEMPLATES["code.yaml"]
    assert f"mountPath: {home}/storage" in TEMPLATES["dagster.yaml"]
    rendered = TEMPLATES["configuration.yaml"].split("executor.yaml: |")[1].replace("{{", "").replace("}}", "")
    known = yaml.safe_load((DEPLOY.parent / "dagster_home" / "executor.ray.yaml").read_text())
    assert yaml.safe_load(rendered.replace('include "mmret.rayAddress" .', "http://head:8265")).keys() == known.keys()


def test_images_are_of_a_user_that_the_pods_name_and_no_password_is_a_value():
    default = re.search(r"ARG UID=(\d+)", (DEPLOY / "Dockerfile").read_text())[1]
    users = re.findall(r'include "mmret\.podSecurity" (\d+)', "\n".join(TEMPLATES.values()))
    assert set(users) == {default, "999"} and last("code", "USER") == "${UID}"
    assert not [name for name in settings(VALUES) if re.search(r"password|token|key$", name, re.I)]
    assert not re.search(r"randAlpha|lookup", "\n".join(TEMPLATES.values())), "each rendering would make another one"


@pytest.fixture(scope="module")
def helm(tmp_path_factory) -> Helm:
    return Helm(tmp_path_factory.mktemp("helm"))


@pytest.mark.cluster
@pytest.mark.parametrize("values", COMBINATIONS, ids=lambda v: str(v[0] if len(v) == 1 else v[1:]))
class TestRendered:
    @pytest.fixture
    def installed(self, helm, values) -> list[dict[str, Any]]:
        return helm.render(*values)

    def test_helm_lints_it_and_kubernetes_takes_every_field(self, helm, values, installed):
        check = pytest.importorskip("kubernetes_validate", reason="the package kubernetes-validate is not installed")
        words = [word for v in values for word in (("--set", v) if isinstance(v, str) else ("-f", v))]
        done = helm("lint", "--strict", CHART, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        for document in installed:
            for version in (check.latest_version(), "1.30.0"):
                check.validate(document, version, strict=True)
        document = of_kind(installed, "Deployment")[0]
        document["spec"]["template"]["spec"]["containers"][0]["comand"] = ["a typing error"]
        with pytest.raises(check.ValidationError, match="comand"):
            check.validate(document, check.latest_version(), strict=True)

    def test_pods_keep_to_the_restricted_standard_and_say_what_they_need(self, installed):
        for name, template in pods(installed):
            pod = template["spec"]["securityContext"]
            assert pod["runAsNonRoot"] and pod["runAsUser"] > 0 and pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
            assert template["spec"]["automountServiceAccountToken"] is False
            for container in containers(template):
                own = container["securityContext"]
                assert own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]}, name
                assert container["resources"]["limits"] and ":" in container["image"], name

    def test_what_runs_for_long_is_watched_and_what_listens_has_a_name(self, installed):
        running = [(n, t) for n, t in pods(of_kind(installed, "Deployment", "StatefulSet"))]
        for name, template in running:
            (container,) = containers(template, started_first=False)
            assert "livenessProbe" in container, name
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
                asked = container.get(probe, {})
                port = (asked.get("httpGet") or asked.get("tcpSocket") or {}).get("port")
                assert port is None or port in ports, (name, probe)
        for service in of_kind(installed, "Service"):
            chosen = service["spec"]["selector"].items()
            (template,) = [t for _, t in running if chosen <= t["metadata"]["labels"].items()]
            ports = {port["name"] for port in containers(template, started_first=False)[0]["ports"]}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports

    def test_hosts_volumes_and_configuration_that_are_named_exist(self, installed):
        services = {s["metadata"]["name"] for s in of_kind(installed, "Service")}
        text = json.dumps(installed)
        assert set(re.findall(r"lake-(?:code|postgres|ray-head|webserver)(?=[:\"])", text)) - services <= {
            d["metadata"]["name"] for d in installed
        }
        (configuration,) = of_kind(installed, "ConfigMap")
        for name, template in pods(installed):
            volumes = {v["name"]: v for v in template["spec"].get("volumes", [])}
            volumes |= dict.fromkeys(["data"], {}) if name.endswith("postgres") else {}
            for container in containers(template):
                for mount in container.get("volumeMounts", []):
                    assert mount["name"] in volumes, (name, mount)
                    if "subPath" in mount:
                        assert mount["subPath"] in configuration["data"], (name, mount)
        location = yaml.safe_load(configuration["data"]["workspace.yaml"])["load_from"][0]["grpc_server"]
        assert location["host"] in services and location["location_name"] == "mmret"

    def test_every_command_is_one_that_the_images_have(self, installed):
        pytest.importorskip("ray", reason="the extra `cluster` is not installed")
        for name, template in pods(installed):
            for container in containers(template):
                if container["image"].startswith(("postgres:", "vllm/")):
                    continue
                words = [*container.get("command", []), *container.get("args", [])]
                lines = [line.split() for line in words[2].split("&&")] if words[:2] == ["sh", "-c"] else [words]
                for line in lines:
                    line = line[1:] if line[0] == "exec" else line
                    if line[:2] == ["python", "-c"]:
                        compile(line[2], name, "exec")
                    elif line[:2] == ["python", "-m"]:
                        assert find_spec(line[2])
                    elif line[0] == "python":
                        assert (DEPLOY.parent / line[1]).is_file()
                    else:
                        line = [str(DEPLOY / "workspace.yaml") if word == "/dagster/workspace.yaml" else word for word in line]
                        assert parse(line), name

    def test_every_ray_node_has_what_a_step_needs(self, installed):
        nodes = {n: t for n, t in pods(installed) if "-ray-" in n}
        code = next(t for n, t in pods(installed) if n.endswith("-code"))
        wanted = {v["name"]: v for v in containers(code, started_first=False)[0]["env"]}
        assert {"DAGSTER_HOME", "DAGSTER_PG_PASSWORD", "MMRET_LAKE", "RAY_AUTH_TOKEN", "RAY_API_SERVER_ADDRESS"} <= wanted.keys()
        for name, template in nodes.items():
            (node,) = containers(template)
            assert {v["name"]: v for v in node["env"]} == wanted and node.get("envFrom") == containers(code)[-1].get("envFrom"), (
                name
            )
            assert node["image"] == containers(code)[-1]["image"], (
                "head, workers and who asks them need the same Ray and the same code"
            )


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("lake.address=lakes/demo", "lake/address"),
        ("lake.address=/lake/demo", "lake/claim"),
        ("ray.workers.cpu.gpu=1", "additional properties 'gpu' not allowed"),
        ("vllmImage=vllm/vllm-openai:latest", "vllmImage"),
    ],
)
def test_helm_refuses_a_wrong_value_by_its_name(helm, wrong, words):
    done = helm("template", "lake", CHART, "--set", LAKE, "--set", wrong)
    assert done.returncode != 0 and words in done.stderr, done.stderr


def start(template: dict[str, Any], host: Any, head: str, folder: Path, log: Path) -> subprocess.Popen:
    """The container's command on ``host``, with its environment but for secrets, and ``folder`` for what it has as /scratch."""
    (container,) = containers(template)
    told = {"$(POD_IP)": host.address, "lake-ray-head": head, "/scratch": str(folder)}
    line = [re.sub("|".join(map(re.escape, told)), lambda m: told[m[0]], word) for word in container["command"]]
    given = {v["name"]: v.get("value", "0" * 32) for v in container["env"]}
    return host.start(line, log, {k: v for k, v in given.items() if k.startswith("RAY_")})


def is_well(template: dict[str, Any], host: Any, probe: str) -> bool:
    """What the kubelet would be told."""
    (container,) = containers(template)
    asked = container[probe]["httpGet"]
    port = next(p["containerPort"] for p in container["ports"] if p["name"] == asked["port"])
    try:
        return httpx.get(f"http://{host.address}:{port}{asked['path']}", timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_head_and_worker_find_each_other_by_the_charts_own_commands_and_answer_its_probes(helm, tmp_path):
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    templates = dict(pods(helm.render(LAKE, "ray.workers.cpu.cpu=1")))
    head, worker = templates["lake-ray-head"], templates["lake-ray-cpu"]
    # a short path: sockets lie in it
    with hosts("depk", 2, "10.79.0") as (first, second), TemporaryDirectory(prefix="mmk-", dir="/tmp") as short:
        logs = tmp_path / "head.log", tmp_path / "worker.log"
        start(head, first, first.address, Path(short, "1"), logs[0])
        until(f"the head is well: {logs[0]}", lambda: is_well(head, first, "startupProbe"), 120)
        process = start(worker, second, first.address, Path(short, "2"), logs[1])
        until(f"the worker is well: {logs[1]}", lambda: is_well(worker, second, "startupProbe"), 120)
        assert is_well(head, first, "livenessProbe") and is_well(worker, second, "livenessProbe")
        first.end_all()
        assert process.wait(240), "a worker without its head has to end, so that it is started again and finds the next one"

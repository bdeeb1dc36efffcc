"""The border of a source's folder: what lies in it is read, also through links, and nothing else is."""

from pathlib import Path

import pytest

from mmret.ingest.folders.folder import Folder
from mmret.ingest.pictures.decode import Unreadable
from tests.ingest.files import png, write


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write(tmp_path / "photos-private", {"secret.png": png(1), "inner/secret.png": png(2)})
    return write(tmp_path / "photos", {"own.png": png(0), "inner/own.png": png(3)})


@pytest.mark.parametrize("target", ["../photos-private/secret.png", "../photos-private/inner/secret.png"])
def test_a_link_into_a_sibling_whose_name_begins_alike_is_refused(photos: Path, target: str):
    (photos / "link.png").symlink_to(target)
    with pytest.raises(Unreadable, match="unsafe_path|outside the folder"):
        Folder(photos).locate("link.png")


@pytest.mark.parametrize("path", ["linked/secret.png", "linked/inner/secret.png"])
def test_a_linked_directory_of_a_sibling_whose_name_begins_alike_is_refused(photos: Path, path: str):
    (photos / "linked").symlink_to("../photos-private")
    with pytest.raises(Unreadable, match="unsafe_path|outside the folder"):
        Folder(photos).locate(path)


def test_links_to_files_and_directories_of_the_folder_itself_are_followed(photos: Path):
    (photos / "link.png").symlink_to("inner/own.png")
    (photos / "linked").symlink_to("inner")
    folder = Folder(photos)
    assert folder.locate("link.png")[0] == folder.locate("linked/own.png")[0] == str((photos / "inner/own.png").resolve())
    file, size = folder.open("own.png")
    with file:
        assert file.read() == png(0) and size == len(png(0))

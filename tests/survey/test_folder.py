"""Names of files, and what is left of files that were being written."""

import pytest

from spectral.errors import FileContentError, OptionError
from spectral.survey.folder import Folder, discard, file_name


def test_names_of_files_differ_where_names_do():
    names = ["a.png", "été 1.png", "x/y", "x%2Fy", ".hidden", "..", "a:b", "a\\b"]
    files = [file_name(name) for name in names]
    assert files[:2] == names[:2] and len(set(files)) == len(names)
    assert not any(set(file) & set('/\\:*?"<>|') or file.startswith(".") for file in files)
    with pytest.raises(OptionError, match="too long"):
        file_name("x" * 201)
    with pytest.raises(OptionError, match="is no text"):
        file_name("\udcff.png")  # as Python has bytes of names that are not UTF-8


def test_layout(tmp_path):
    folder = Folder(tmp_path)
    folder.make([0.1, 1e-5])
    assert folder.result("a", 0.1) == tmp_path / "sigma-0.1" / "a.safetensors"
    for sigma in (0.1, 1e-5):
        folder.result("a", sigma).write_text("")
    assert folder.results() == [folder.result("a", 1e-5), folder.result("a", 0.1)]
    with pytest.raises(FileContentError, match="no survey in"):
        folder.read(folder.request)


def test_leftovers_are_known_by_their_result(tmp_path):
    folder = Folder(tmp_path)
    folder.make([0.1])
    left = tmp_path / "sigma-0.1" / ".a.b.png.safetensors.x1_y2z34.partial"
    left.mkdir()
    (left / "a.b.png.safetensors").write_text("")
    assert folder.leftovers(0.1) == [("a.b.png.safetensors", left)] and folder.results() == []
    discard(left)
    assert not left.exists()

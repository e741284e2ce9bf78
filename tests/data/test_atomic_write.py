"""Files that are written atomically: whole, or as they were, and an error names them."""

import errno

import pytest

from recursivemix.data.atomic_write import atomic_write, write_text


def test_an_error_leaves_the_file_and_no_other(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old")
    with pytest.raises(TypeError), atomic_write(path) as part:
        part.write_text(3)
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_a_full_disk_is_named(tmp_path):
    """Writing to an open file names none."""
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.txt'"), atomic_write(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match=r"'other'$"), atomic_write(path):
        raise OSError(errno.ENOSPC, "No space left on device", "other")

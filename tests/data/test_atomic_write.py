"""Files that are written atomically: whole, or as they were, and an error names them."""

import errno
import json

import pytest

from recursivemix.data.atomic_write import atomic_write, json_text, write_text


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


@pytest.mark.parametrize(
    "value",
    [
        "[\n  1\n]",
        ["[\n  1,\n  2\n]", 1],
        [1, -2.5e-7, 1e300, 12345678901234567890],
        [[], [1], [2, [3.0]], [None, 1], [True, 2], {}],
        {"[\n 1 \n]": [2, 1]},
    ],
)
def test_json_is_read_as_it_was(value):
    assert json.loads(json_text({"value": value})) == {"value": value}


def test_numbers_that_json_does_not_have_are_null():
    text = json_text({"loss": float("nan"), "rows": [{"seconds": float("inf")}, (1.5, -float("inf"))]})
    expected = {"loss": None, "rows": [{"seconds": None}, [1.5, None]]}
    assert json.loads(text, parse_constant=pytest.fail) == expected


def test_a_list_of_numbers_is_one_line():
    lines = json_text({"seconds": [1, -2.5e-7], "names": ["a", "b"]}).splitlines()
    assert lines[1] == '  "seconds": [1, -2.5e-07],'
    assert len(lines) == 7

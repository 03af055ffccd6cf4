import pytest

from shards.errors import ConfigError, RowError, ShardsError, first_line, joined_lines, shorten


def test_a_row_error_has_the_row_and_the_rest_of_its_line():
    error = RowError(7, "has no label")
    assert (str(error), error.row, error.problem) == ("row 7 has no label", 7, "has no label")


@pytest.mark.parametrize("kind", [ShardsError, ConfigError])
def test_errors_for_the_user_are_value_errors(kind):
    with pytest.raises(ValueError, match="the list"):  # as callers of shards.assemble catch them
        raise kind("the list")


def test_the_first_line_of_a_message():
    assert first_line(ValueError("\nwrong magic bytes.\nin block 7\n")) == "wrong magic bytes"
    assert first_line(FileNotFoundError(2, "No such file", "a.tar")) == "[Errno 2] No such file: 'a.tar'"


def test_all_lines_of_a_message():
    assert joined_lines(ValueError("404\n  not found:\thttps://a.")) == "404 not found: https://a"
    assert len(joined_lines(ValueError("long " * 100))) == 200


@pytest.mark.parametrize("message", ["", " \n"])
@pytest.mark.parametrize("describe", [first_line, joined_lines])
def test_an_error_without_a_message_is_named(message, describe):
    assert describe(AssertionError(message)) == "AssertionError"


def test_a_long_list_of_names_is_cut():
    assert shorten([*"abcde"]) == "a, b, c, d, e"
    assert shorten([*"abcdef"]) == "a, b, c, d, e, and 1 more"
    assert shorten(["a"] * 2006) == "a, a, a, a, a, and 2,001 more"
    assert shorten([]) == ""

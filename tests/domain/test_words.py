"""What a text is found by."""

from hypothesis import given
from hypothesis import strategies as st

from palyra_actors.domain.words import index_line, scoped, stem, term, words


def test_words_are_lower_case_without_accents_and_names_come_in_parts_too() -> None:
    assert words("Café TimeDelta, HTTPServer's x86_64!") == [
        "cafe", "timedelta", "time", "delta", "httpserver", "http", "server", "s", "x86", "64",
    ]  # fmt: skip


def test_where_words_are_not_parted_two_characters_are_one() -> None:
    assert words("日本語 と") == ["日本", "本語", "と"]


def test_a_plural_is_found_by_its_singular() -> None:
    assert [stem(word) for word in ("queries", "fields", "classes", "pass", "bus", "is")] == [
        "query", "field", "classe", "pass", "bus", "is",
    ]  # fmt: skip
    assert term(7, "fields") == term(7, "field") != term(7, "fiel")


def test_the_same_word_is_another_term_in_another_scope() -> None:
    one, other = index_line(1, "alpha beta")[0].split(), index_line(2, "alpha beta")[0].split()
    assert not set(one) & set(other)
    assert len(one) == len(other) == 2


def test_a_word_that_comes_twice_is_marked_and_all_are_counted() -> None:
    line, count = index_line(7, "tea and tea and more tea")
    assert count == 6
    assert scoped(7, term(7, "tea"), often=True) in line.split()
    assert scoped(7, term(7, "more"), often=True) not in line.split()


@given(st.text())
def test_the_index_of_any_text_holds_letters_digits_and_spaces_alone(text: str) -> None:
    line, count = index_line(255, text)
    assert all(one.isascii() and one.isalnum() for one in line.split())
    assert len(line.split()) <= 2 * count
    assert index_line(255, text) == (line, count)


@given(st.text())
def test_nothing_of_a_word_can_be_read_in_the_index(text: str) -> None:
    line, _ = index_line(1, text)
    assert not any(len(word) > 13 and word in line for word in words(text))

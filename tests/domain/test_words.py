"""What a text is found by."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from palyra_actors.domain import words as module
from palyra_actors.domain.words import index_line, scoped, stem, term, words


def test_words_are_lower_case_without_accents_and_names_come_in_parts_too() -> None:
    assert words("Café TimeDelta, HTTPServer's x86_64!") == [
        "cafe", "timedelta", "time", "delta", "httpserver", "http", "server", "s", "x86", "64",
    ]  # fmt: skip


def as_they_are_found(text: str) -> list[str]:
    """The rule, word by word: letters and digits, cut off, in lower case, a name's parts behind."""
    found = []
    for raw in re.findall(r"[A-Za-z0-9]+", text):
        found.append(raw[:64].lower())
        if raw.lower() != raw and not raw.istitle() and not raw.isupper():
            parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", raw[:64])
            found += [part.lower() for part in parts if len(parts) > 1]
    return found


@given(st.text(alphabet="aBcD1_ -\x00\n", max_size=200))
@example("x" * 65 + " Ab1cd A1 aB API Api APi 1a 1A")
def test_a_plain_text_has_the_same_words_as_one_that_is_looked_through(text: str) -> None:
    assert words(text) == as_they_are_found(text)


def test_what_is_remembered_of_terms_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TERMS_KEPT_MAX", 10)
    line = index_line(7, " ".join(f"word{n}" for n in range(100)))
    assert sum(map(len, module._kept.values())) <= 11
    assert index_line(7, " ".join(f"word{n}" for n in range(100))) == line


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

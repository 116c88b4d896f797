"""The default provider: deterministic, and every dimension is used."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palyra_actors.embedding import hashing
from palyra_actors.embedding.hashing import HashMemoryEmbeddingProvider
from palyra_actors.embedding.provider import apart

ONE = HashMemoryEmbeddingProvider()


def cosine(one: str, other: str, dimensions: int = 64) -> float:
    made = HashMemoryEmbeddingProvider(dimensions).embed([one, other])
    return float(made[0] @ made[1])


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=5))
def test_any_text_has_a_vector_of_length_one_whatever_stands_beside_it(texts: list[str]) -> None:
    made = ONE.embed(texts)
    assert np.isfinite(made).all()
    assert np.allclose(np.linalg.norm(made, axis=1), 1.0, atol=1e-5)
    alone = np.concatenate([ONE.embed([text]) for text in texts])
    assert np.allclose(made, alone, atol=1e-6)


def test_the_vector_of_a_text_is_the_same_for_ever() -> None:
    made = ONE.embed(["The quick brown fox, twice: the quick brown fox."])[0]
    digest = hashlib.sha256(np.round(made, 4).astype("<f4").tobytes()).hexdigest()
    assert digest.startswith("30479702bf7136b8"), digest


@pytest.mark.parametrize("dimensions", [64, 1536])
def test_every_dimension_is_used_with_both_signs(dimensions: int) -> None:
    """The first byte of a digest alone would reach 256 places, and 128 with either sign."""
    made = HashMemoryEmbeddingProvider(dimensions).embed([f"word{n}" for n in range(20_000)])
    assert (made > 0).any(axis=0).all()
    assert (made < 0).any(axis=0).all()


def test_texts_with_words_in_common_are_near_and_others_are_not() -> None:
    text = "the build takes four minutes"
    assert cosine(text, "how long does the build take in minutes?") > 0.5
    assert cosine(text, "Alice likes green tea") < 0.3


def test_forms_of_a_word_are_near() -> None:
    assert cosine("tokenizer", "tokenizers", 512) > 0.7
    assert cosine("serialize", "serializing", 512) > 0.2
    assert abs(cosine("serialize", "banana", 512)) < 0.2


def test_what_is_kept_of_runs_is_bounded_and_changes_no_vector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hashing, "DIGESTS_KEPT_MAX", 32)
    small = HashMemoryEmbeddingProvider()
    for n in range(50):
        text = f"marmalade{n} quetzal{n}"
        made = small.embed([text])
        assert len(small._digests) <= 32 + len(text) * 3
        assert np.array_equal(made, HashMemoryEmbeddingProvider().embed([text]))


def test_a_full_cache_changes_no_vector() -> None:
    small = HashMemoryEmbeddingProvider()
    small._rows_max = 8
    texts = [f"alpha beta gamma {n} delta epsilon {n + 1}" for n in range(50)]
    assert np.allclose(small.embed(texts), ONE.embed(texts), atol=1e-6)
    long = " ".join(f"w{n}" for n in range(100))
    assert np.allclose(small.embed([long]), ONE.embed([long]), atol=1e-6)


def test_one_that_is_had_apart_makes_the_same_vectors_and_has_learnt_nothing() -> None:
    known = HashMemoryEmbeddingProvider()
    made = known.embed(["a word that somebody uses"])
    other = apart(known)
    assert isinstance(other, HashMemoryEmbeddingProvider)
    assert other is not known
    assert not other._rows
    assert (other.embed(["a word that somebody uses"]) == made).all()

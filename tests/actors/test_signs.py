"""Codes of vectors: what they take, and how well they tell about the cosine."""

import numpy as np
import pytest

from palyra_actors.actors.signs import AT_ONCE, AXES_FROM, BITS_OF_FEW, Signs
from palyra_actors.embedding.provider import Matrix

DRAWN = np.random.default_rng(5)


def unit(count: int, dimensions: int) -> Matrix:
    made = DRAWN.standard_normal((count, dimensions)).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


@pytest.mark.parametrize("dimensions", [1, 3, 64, 255, 256, 300, 384, 768, 1_536])
def test_a_code_is_a_bit_for_a_direction(dimensions: int) -> None:
    signs = Signs(dimensions)
    codes = signs.codes(unit(7, dimensions))
    assert codes.shape == (7, signs.words)
    assert signs.bits == (BITS_OF_FEW if dimensions < AXES_FROM else -(-dimensions // 64) * 64)
    assert signs.codes(unit(0, dimensions)).shape == (0, signs.words)


@pytest.mark.parametrize("dimensions", [16, 64, 256, 300, 768])
def test_how_many_bits_differ_tells_about_the_cosine(dimensions: int) -> None:
    signs = Signs(dimensions)
    asked = unit(1, dimensions)[0]
    made = unit(400, dimensions)
    made += asked * np.linspace(0, 6, 400, dtype=np.float32)[:, None]
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    told = signs.likeness(signs.codes(made), asked)
    assert np.abs(told - np.maximum(made @ asked, 0)).max() < 0.3
    assert np.corrcoef(told, made @ asked)[0, 1] > 0.97


@pytest.mark.parametrize("dimensions", [64, 300])
def test_a_vector_is_most_like_itself_and_not_at_all_like_its_opposite(dimensions: int) -> None:
    signs = Signs(dimensions)
    made = unit(3, dimensions)
    codes = signs.codes(np.concatenate([made, -made]))
    assert signs.likeness(codes, made[1])[1] == pytest.approx(1)
    assert signs.likeness(codes, made[1])[4] == pytest.approx(0, abs=1e-6)


def test_more_than_are_compared_at_once_are_compared_alike() -> None:
    signs = Signs(64)
    made = unit(AT_ONCE + 5, 64)
    codes = signs.codes(made)
    whole = signs.likeness(codes, made[0])
    parts = [signs.likeness(signs.codes(one), made[0]) for one in np.array_split(made, 7)]
    assert np.array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("dimensions", [64, 384])
def test_the_nearest_stand_among_the_first(dimensions: int) -> None:
    signs = Signs(dimensions)
    topics = unit(40, dimensions)
    made = unit(4_000, dimensions) * np.float32(0.7) + topics[np.arange(4_000) % 40]
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    codes, met = signs.codes(made), 0
    for asked in made[:50]:
        nearest = np.argsort(-(made @ asked))[:10]
        first = np.argsort(-signs.likeness(codes, asked), kind="stable")[:100]
        met += len(np.intersect1d(nearest, first))
    assert met >= 0.9 * 500

"""The best scores of a block, of equal ones the newest: as sorting all of it would find them."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from palyra_actors.actors.search import RUN, _best

Scores = NDArray[np.float32]


def by_sorting(total: Scores, mask: NDArray[np.bool_], wanted: int, min_score: float) -> list[int]:
    floor = np.float32(max(min_score, 0.0))
    at = [place for place in range(len(total)) if mask[place] and total[place] >= floor]
    return sorted(at, key=lambda place: (-total[place], -place))[:wanted]


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(0, 40 * RUN),
    kinds=st.sampled_from([1, 2, 5, 50, 10_000]),
    passing=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    wanted=st.integers(1, 80),
    min_score=st.sampled_from([-0.5, 0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_best_are_those_that_sorting_finds(
    *, size: int, kinds: int, passing: float, wanted: int, min_score: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    total = (rng.integers(0, kinds, size) / kinds).astype(np.float32)
    total[rng.random(size) < 0.1] *= np.float32(-0.0)
    mask = rng.random(size) < passing
    expected = by_sorting(total, mask, wanted, min_score)
    assert _best(total.copy(), mask, wanted, min_score).tolist() == expected


@pytest.mark.parametrize(
    "scores",
    [
        lambda size: np.ones(size, np.float32),
        lambda size: np.zeros(size, np.float32),
        lambda size: np.where(np.arange(size) % 100 == 0, 0.5, 0).astype(np.float32),
        lambda size: np.random.default_rng(1).random(size, np.float32),
    ],
)
def test_of_a_large_block_few_scores_are_put_in_order(
    scores: Callable[[int], Scores], monkeypatch: pytest.MonkeyPatch
) -> None:
    size, sorted_sizes = 4096 * RUN, list[int]()
    for name in ("partition", "sort", "lexsort"):
        real = getattr(np, name)

        def noted(
            values: NDArray[np.generic], *rest: int, real: Callable[..., object] = real
        ) -> object:
            sorted_sizes.append(np.asarray(values).shape[-1])
            return real(values, *rest)

        monkeypatch.setattr(np, name, noted)
    total = scores(size)
    found = _best(total, total >= 0, 80, 0.0)
    assert len(found) == 80
    assert max(sorted_sizes) <= max(size // RUN, 80 * RUN)

"""The table of defects fits the code: `python -m tests.defects` can put each of them in."""

import pytest

from tests.defects import ROOT
from tests.defects_table import DEFECTS, Defect
from tests.promises import rows


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: f"{defect.promise}: {defect.says}")
def test_a_defect_can_be_put_in_at_one_place_and_names_a_test_that_there_is(
    defect: Defect,
) -> None:
    assert (ROOT / defect.file).read_text().count(defect.old) == 1
    assert defect.old != defect.new
    file, _, test = defect.test.partition("::")
    assert f"def {test.partition('[')[0]}(" in (ROOT / file).read_text()


def test_every_promise_has_a_defect() -> None:
    assert {each.promise for each in DEFECTS} == {each.number for each in rows()}

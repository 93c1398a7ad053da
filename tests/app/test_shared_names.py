"""An address that was written by hand may have the names of choices in place of their words."""

from pathlib import Path

from tests.app.conftest import Shown


def test_names_and_words_choose_the_same(shown: Shown, whole: Path) -> None:
    for metric, over in (("stable_rank", "null"), ("srank", "over its null")):
        test = shown(whole, "layers", metric=metric, over=over)
        assert (test.selectbox(key="metric").value, test.selectbox(key="over").value) == ("stable_rank", "null")


def test_a_name_that_there_is_not_chooses_nothing(shown: Shown, whole: Path) -> None:
    assert shown(whole, "layers", metric="no_such").selectbox(key="metric").value == "energy_rank_90"

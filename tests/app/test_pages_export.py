"""The page Export: every figure and table, and an archive that leaves the study as it was."""

from pathlib import Path

from rank_lab.study import Study
from rank_lab.study_export import TABLE_FORMATS, study_data, study_latex
from tests.app.complete import report
from tests.app.conftest import Shown
from tests.app.texts import calm, figures, said
from tests.subspace_studies import made

FIGURES = (
    "Layers by kind", "By kind of module", "Rank along depth", "One run against another", "Rank along training",
    "Spectrum of a matrix", "All spectra of a run", "Noise and coverage", "Ranks of a plan",
    "Kept energy against parameters", "Memorization and generalization", "Gates by layer and kind",
    "Gates along the stages", "Learning and forgetting", "Learning along training", "Forgetting along training",
    "Rank and forgetting",
)  # fmt: skip


def test_every_figure_of_a_whole_study_is_on_offer(shown: Shown, whole: Path) -> None:
    offered = shown(whole, "export").selectbox(key="figure").options
    assert set(offered) == {*FIGURES, "Correlation of rank and forgetting"}


def test_every_figure_with_its_caption(shown: Shown, whole: Path) -> None:
    test = shown(whole, "export", columns="two columns (6.75 in)")
    captions = set()
    for title in FIGURES:
        test.selectbox(key="figure").set_value(title).run()
        calm(test)
        assert len(figures(test)) == 1
        captions |= {each.value for each in test.code if "n = " in each.value}
    assert len(captions) == len(FIGURES)


def test_a_figure_that_cannot_be_drawn_says_why(shown: Shown, whole: Path) -> None:
    test = shown(whole, "export", figure="Correlation of rank and forgetting")
    (warning,) = test.warning
    assert "8 at least are needed" in warning.value


def test_each_latex_table(shown: Shown, whole: Path) -> None:
    test = shown(whole, "export", export="a table (LaTeX)")
    tables = study_latex(Study(whole))
    assert set(test.selectbox(key="table").options) == set(tables)
    for label, table in tables.items():
        test.selectbox(key="table").set_value(label).run()
        assert table.tex().strip() in [each.value.strip() for each in test.code]
    calm(test)


def test_each_table_of_data(shown: Shown, whole: Path) -> None:
    test = shown(whole, "export", export="a table (data)")
    tables = study_data(Study(whole))
    assert set(test.selectbox(key="data_table").options) == set(tables)
    for name, table in tables.items():
        test.selectbox(key="data_table").set_value(name).run()
        assert list(test.dataframe[0].value.columns) == list(table.columns)
        assert len(test.dataframe[0].value) == len(table)
    calm(test)


def test_the_command_of_everything(shown: Shown, whole: Path) -> None:
    test = shown(whole, "export", export="everything", formats=["csv", "latex"])
    assert f"rank-lab export {whole} -o export -f csv -f latex" in said(test)


def test_only_what_is_there_is_on_offer(shown: Shown, tmp_path: Path) -> None:
    assert "This study is empty" in said(shown(tmp_path, "export"))
    report("full").save(tmp_path / "full.rank")
    offered = shown(tmp_path, "export").selectbox(key="figure").options
    assert set(offered) == set(FIGURES[:10])


def test_subspaces_are_on_offer_too(shown: Shown, tmp_path: Path) -> None:
    test = shown(made(tmp_path), "export")
    titles = [title for title in test.selectbox(key="figure").options if title not in FIGURES]
    assert len(titles) == 4
    for title in titles:
        test.selectbox(key="figure").set_value(title).run()
        calm(test)
        assert len(figures(test)) == 1


def test_the_archive_may_hold_figures(shown: Shown, whole: Path) -> None:
    test = shown(whole, "export", export="everything")
    assert test.multiselect(key="formats").value == list(TABLE_FORMATS)
    assert "html" in test.multiselect(key="formats").options

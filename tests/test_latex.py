"""LaTeX: digits that intervals allow, names of anybody, tables that compile."""

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from rank_lab.export_readme import CAPTIONS_FILE, README_FILE, export_readme
from rank_lab.exported import Exported
from rank_lab.latex_export import export_latex
from rank_lab.latex_numbers import setting, shown, significant
from rank_lab.latex_outcomes import outcome_tables
from rank_lab.latex_ranks import coverage_table, modules_table, ranks_table
from rank_lab.latex_symbols import COUNTS, SYMBOLS
from rank_lab.latex_table import Column, LatexTable, Missing, tables_document
from rank_lab.latex_text import latex_text
from rank_lab.metrics import METRICS
from rank_lab.outcomes import Outcomes, outcomes
from rank_lab.report import RankReport
from rank_lab.schema import UPDATES
from rank_lab.score_table import ScoreTable
from rank_lab.study_parts import StudyParts
from tests.outcome_studies import BASE, MODULES, matrix, report, scores, training

HOSTILE = (
    '50%_of {run} & #1 $x$ ~^ \\input{/etc/passwd} [a] *b* `c\' "d" <e>|f --g ?` \x1b[2J \u4e2d \u03c3 caf\xe9 \u202e'
)


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (0.123456, 0.1, 0.15, ("0.123", "0.100", "0.150")),  # half-width 0.025: three decimals
        (0.123456, 0.0, 0.199, ("0.12", "0.00", "0.20")),  # 0.0995 rounds to 0.10 with a carry
        (97.34, 95.1, 100.6, ("97.3", "95.1", "100.6")),
        (12345.678, 12000, 12700, ("12350", "12000", "12700")),
        (-0.004, -0.11, 0.09, ("0.00", "-0.11", "0.09")),  # no minus before zero
        (2.5e-8, 1e-8, 4e-8, ("2.5e-8", "1.0e-8", "4.0e-8")),
        (12.34567, 12.34567 - 1e-14, 12.34567 + 1e-14, ("12.3", "12.3", "12.3")),  # of the arithmetic, not of the data
        (100.0, 100.0, 100.0, ("100", "100", "100")),  # no width, no information: the default digits
        (0.5, None, 0.9, ("0.500", "", "")),  # half an interval is none
        (float("nan"), 0.0, 1.0, ("", "", "")),
        (float("inf"), None, None, ("", "", "")),
        (pd.NA, None, None, ("", "", "")),
    ],
)
def test_digits_come_from_the_interval(value: float, low: float, high: float, expected: tuple[str, str, str]) -> None:
    found = shown(value, low, high)
    assert (found.value, found.low, found.high) == expected


def test_counts_are_whole_and_settings_are_as_given() -> None:
    assert (shown(12.4, 9.1, 14.6, whole=True).value, shown(123456, whole=True).value) == ("12", "123456")
    assert shown(1234, 1100.4, 1399.6, whole=True).low == "1100"
    assert (significant(0.0), significant(123456.0), significant(0.00123456)) == ("0", "123000", "0.00123")
    assert [setting(value) for value in (1e-5, 2e-4, 0.05, 1.0, None)] == ["1e-5", "2e-4", "0.05", "1", ""]


def test_names_are_escaped() -> None:
    text = latex_text(HOSTILE)
    assert text.isascii()
    assert not re.search(r"(?<!\\)[%&#$]", re.sub(r"\\ensuremath\{\\mathdollar\}|\$\\[a-z]+\$", "", text))
    assert r"\textbackslash{}input\{/etc/passwd\}" in text
    assert r"\textbackslash{}x1b" in text  # the escape itself is shown, not obeyed
    assert "{[}U+4E2D{]}" in text
    assert r"caf\'{e}" in text
    assert "-{}-g" in text
    assert latex_text("model.layers.0.q_proj") == r"model.layers.0.q\_proj"
    assert latex_text("\u00ef \u010d \u00df \ud800") == r"\"{\i} \v{c} \ss{} \textbackslash{}ud800"


def test_every_quantity_has_a_symbol() -> None:
    assert set(METRICS) <= set(SYMBOLS)
    whole = {field.name for field in UPDATES if field.name in METRICS and str(field.type) == "int64"}
    assert whole == COUNTS


def test_a_missing_cell_says_why_and_columns_fit_their_numbers() -> None:
    columns = (Column("a"), Column("b", "number"), Column("c", "interval"))
    rows = (("x_1", shown(-1.25e-9), shown(0.5, 0.4, 0.6)), ("y", Missing("not 100 % measured"), Missing()))
    text = LatexTable("t", "C.", columns, rows).tex()
    assert "\\begin{tabular}{lS[table-format=-1.2e-1]S[table-format=1.2]@{\\,}l}" in text
    assert "x\\_1 & -1.25e-9 & 0.50 & [\\num{0.40}, \\num{0.60}] \\\\" in text
    assert "y & {--\\textsuperscript{1}} & {--} & \\\\" in text
    assert "\\textsuperscript{1}~not 100 \\% measured." in text


@pytest.fixture
def reports() -> list[RankReport]:
    clean = {"energy_rank_90_denoised": 11.3, "energy_rank_90_denoised_low": 9.1, "energy_rank_90_denoised_high": 14.2}
    found = []
    for run, kind in (("full_1", "full"), (HOSTILE, "lora")):
        shape = {"out_features": 64, "in_features": 48, "rank_bound": 48, "method": kind, "update_kind": "dense"}
        rows = [
            matrix(run, 20, module, 10, **shape, **clean, rank_above_rounding=9, noise_regime="resolved")
            for module in MODULES
        ]
        rows.append(matrix(run, 20, "h.0.o_proj", 7, **shape | {"kind": "o"}))
        rows.append(matrix(run, 20, "h.1.o_proj", 8, **shape | {"kind": "o"}))
        lost = dict.fromkeys(METRICS) | {"frobenius_norm": None, "warning": "2 NaN in it", "noise_regime": None}
        rows.append(matrix(run, 20, "h.2.v_proj", 0, **shape | {"kind": "v"} | lost))
        rows.append(matrix(run, 10, "h.0.o_proj", 99, **shape | {"kind": "o"}))  # not the last step
        found.append(report(run, rows, training(kind, 1e-4, 0)))
    return found


def test_ranks_stand_beside_their_nulls(reports: list[RankReport]) -> None:
    text = ranks_table(reports[:1]).tex()
    assert r"full\_1 & 20 & q & 1 & resolved & 0.100 & 11.3 & 50 & {--" in text
    assert r"full\_1 & 20 & o & 2 & exact & 0.100 & 7.5 & 50 & 7.5 & 50.0 & 7.5 & 50.0 & 7.5 & 48 \\" in text
    assert "99" not in text.split("\\midrule")[1]
    assert "2 NaN in it." in text
    assert METRICS["stable_rank"].formula in text
    assert r"\caption{" in text
    assert r"\label{tab:ranks}" in text


def test_modules_have_intervals_and_keep_the_order(reports: list[RankReport]) -> None:
    text = modules_table(reports[:1]).tex()
    assert r"\begin{longtable}" in text
    assert r"model.layers.0.q\_proj & 64$\times$48 & resolved & 1.00 & 0.100 & 11 & [\num{9}, \num{14}] & 50 &" in text
    assert text.index("h.0.o") < text.index("h.1.o") < text.index("model.layers")


def test_coverage_counts_every_tensor() -> None:
    coverage = pd.DataFrame(
        [
            {"run": "a", "step": 5, "tensor": f"t{place}", "status": status, "failed": place == 3, "change_share": 0.25}
            for place, status in enumerate(("analysed", "analysed", "vector", "skipped"))
        ]
    )
    one = report("a", [matrix("a", 5, "t0", 1)])
    whole = RankReport(one.updates, one.spectra, coverage.reindex(columns=one.coverage.columns), one.provenance)
    assert r"a & 5 & 4 & 2 & 1 & 0 & 0 & 1 & 1 & 25.0 \\" in coverage_table([whole]).tex()


@pytest.fixture
def learned(reports: list[RankReport]) -> Outcomes:
    rows = [*BASE, *scores("full_1", 20, 0.3, 0.1)]
    return outcomes(reports, ScoreTable.of(rows))


def test_outcomes_have_intervals_and_reasons(learned: Outcomes) -> None:
    first, *others = outcome_tables(learned)
    text = first.tex()
    # 1.96 sqrt(0.01^2 + 0.01^2) = 0.0277: two digits of it are three decimals
    assert r"full\_1 & full & 20 & 1e-4" in text
    assert r"0.300 & [\num{0.272}, \num{0.328}] & 0.100 & [\num{0.072}, \num{0.128}]" in text
    assert "no scores: none of this run" in text
    assert [table.label for table in others] == ["equal-learning"]


def test_every_file_is_told_in_the_readme(reports: list[RankReport], tmp_path: Path) -> None:
    command = "rank-lab export 'my study' -o out -f latex"
    written = export_latex(StudyParts(reports), tmp_path, command=command)
    about = export_readme(written, tmp_path, Path("my study"), StudyParts(reports))
    text = (tmp_path / README_FILE).read_text(encoding="utf-8")
    assert [file.name for file in about] == [README_FILE, CAPTIONS_FILE]
    assert {each.file.name for each in written} == {file.name for file in tmp_path.iterdir()} - {
        README_FILE,
        CAPTIONS_FILE,
    }
    assert all(f"| `{each.file.name}` |" in text for each in written)
    assert text.count(f"`{command}`") == len(written)
    assert "rank-lab verify 'my study'" in text
    assert "\x1b" not in text
    assert not re.search(r"(?<!\\)<", re.sub(r"`[^`]*`", "", text))
    captions = (tmp_path / CAPTIONS_FILE).read_text(encoding="utf-8")
    assert all(each.caption in captions for each in written)
    assert "not written by this export" not in text
    (again,) = export_readme(
        [Exported(tmp_path / "x.csv", "x", "y")], tmp_path, Path("s"), StudyParts()
    )  # nothing has a caption
    assert "not written by this export: `references.bib`, `table_coverage.tex`" in again.read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on PATH")
def test_all_of_it_compiles(reports: list[RankReport], learned: Outcomes, tmp_path: Path) -> None:
    if not all(
        subprocess.run(["kpsewhich", f"{name}.sty"], capture_output=True, check=False).stdout
        for name in ("siunitx", "booktabs", "longtable")
    ):
        pytest.skip("this TeX lacks siunitx, booktabs or longtable")
    export_latex(StudyParts(reports, learned), tmp_path, command="c")
    call = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "tables.tex"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "tables.pdf").stat().st_size > 20_000


def test_a_document_without_tables_is_one() -> None:
    assert r"\begin{document}" in tables_document([])
    assert "bibliography" not in tables_document([])

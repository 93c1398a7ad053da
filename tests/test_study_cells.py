"""Studies are worked off in cells: gone on with, shared by processes, never mixed with another configuration."""

import fcntl
import json
from pathlib import Path

import pandas as pd
import pytest

from analyses.kept_results import keep, kept, told_origin
from analyses.study_cells import Cell, open_study, rows_of, seconds_of, work_off
from rank_lab.errors import RankLabError

CELLS = [Cell(f"rank{rank}", {"rank": rank}) for rank in (1, 2, 4)]


def squares(cell: Cell, scratch: Path) -> list[dict[str, int]]:
    count = scratch / "count"
    count.write_text(count.read_text() + "x" if count.is_file() else "x")
    return [{"square": cell.settings["rank"] ** 2}]


def test_a_study_that_was_stopped_goes_on_with_what_is_not_done(tmp_path: Path) -> None:
    def fails(cell: Cell, scratch: Path) -> list[dict[str, int]]:
        if cell.name == "rank2":
            raise KeyboardInterrupt
        return squares(cell, scratch)

    open_study(tmp_path, {"steps": 3})
    with pytest.raises(KeyboardInterrupt):
        work_off(tmp_path, CELLS, fails)
    with pytest.raises(RankLabError, match="2 of 3 cells are not done, the first is rank2; run the command again"):
        rows_of(tmp_path, CELLS)
    work_off(tmp_path, CELLS, squares)
    found = rows_of(tmp_path, CELLS)
    assert found.to_dict("list") == {"rank": [1, 2, 4], "square": [1, 4, 16]}
    assert (tmp_path / "work" / "rank1" / "count").read_text() == "x"  # once only
    assert seconds_of(tmp_path, CELLS) >= 0


def test_a_cell_that_another_process_holds_is_left_to_it(tmp_path: Path) -> None:
    open_study(tmp_path, {})
    with (tmp_path / "cells" / ".rank2.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        work_off(tmp_path, CELLS, squares)
    assert not (tmp_path / "cells" / "rank2.json").exists()
    work_off(tmp_path, CELLS, squares)
    assert (tmp_path / "cells" / "rank2.json").exists()


def test_another_configuration_is_refused_and_named(tmp_path: Path) -> None:
    open_study(tmp_path, {"steps": 3, "seeds": (0, 1)})
    open_study(tmp_path, {"steps": 3, "seeds": (0, 1)})
    with pytest.raises(RankLabError, match=r"of another configuration \(seeds, steps differ\); give another with"):
        open_study(tmp_path, {"steps": 4, "seeds": [0]})
    work_off(tmp_path, CELLS, squares)
    with pytest.raises(RankLabError, match=r"rank1.json: of another configuration \(rank differ\); remove this file"):
        rows_of(tmp_path, [Cell("rank1", {"rank": 8})])


def test_kept_results_are_read_again_and_not_overwritten_by_others(tmp_path: Path) -> None:
    table = pd.DataFrame({"rank": [1, 2], "loss": [0.5, 0.25]})
    keep(tmp_path, {"seeds": (0, 1)}, {"rows": table}, 90.0)
    found = kept(tmp_path)
    assert found.tables["rows"].equals(table)
    assert found.about["settings"] == {"seeds": [0, 1]}
    assert json.loads((tmp_path / "about.json").read_text())["machine"]["versions"]["torch"]
    assert "2 minutes of one process" in told_origin(found.about)
    with pytest.raises(RankLabError, match=r"another configuration \(seeds differ\); give another with --out"):
        keep(tmp_path, {"seeds": (0,)}, {"rows": table}, 90.0)


def test_the_command_that_is_told_has_no_folders_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = "analyses/some_study.py --study /here/s --quick --workers 1 --data=/there --seeds 0 1 --as-far"
    monkeypatch.setattr("sys.argv", typed.split())
    keep(tmp_path, {}, {}, 0.0)
    assert kept(tmp_path).about["command"] == "python -m analyses.some_study --quick --seeds 0 1"


def test_results_that_are_not_there_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(RankLabError, match="no results are kept here"):
        kept(tmp_path)

"""A study that holds nothing to look at yet."""

import pandas as pd

from rank_lab.study import Study

from .missing import say_missing

__all__ = ["ranks_of"]


def ranks_of(study: Study) -> pd.DataFrame | None:
    """Rows of the study's reports; None, and what to do instead, where there are none."""
    updates = study.updates()
    if not updates.empty:
        return updates
    command = f"rank-lab analyze TUNED --base BASE -o {study.name}"
    if study.reports():
        say_missing(
            "No matrix of this study has ranks: its reports analysed none. The coverage on the page Overview says why.",
            f"rank-lab show {study.name}",
        )
    elif study.problems():
        say_missing("No report of this study can be read; what is wrong with each stands above.", command)
    else:
        say_missing(
            "This study is empty. A report of ranks appears here by itself once this command, or training with"
            " 'rank-lab finetune', has written one:",
            command,
        )
    return None

"""What a page says, as a test reads it."""

import re
from typing import Any

import pandas as pd
from streamlit.testing.v1 import AppTest


def said(test: AppTest) -> str:
    """All text of a page, without the marks that keep it from being Markdown."""
    kinds = (test.title, test.subheader, test.markdown, test.caption, test.error, test.warning, test.info, test.code)
    return "\n".join(element.value for kind in kinds for element in kind).replace("\\", "")


def is_literal(test: AppTest, hostile: str) -> bool:
    """Whether the parts of a page that Markdown is read in hold no tag that is not escaped."""
    kinds = (test.title, test.subheader, test.markdown, test.caption, test.error, test.warning, test.info)
    text = "\n".join(element.value for kind in kinds for element in kind)
    return hostile in text.replace("\\", "") and not re.search(r"(?<!\\)<", text)


def table(test: AppTest, *columns: str) -> pd.DataFrame:
    """The one table with these columns."""
    (found,) = [each.value for each in test.dataframe if set(columns) <= set(each.value.columns)]
    return found


def figures(test: AppTest) -> list[Any]:
    return list(test.get("plotly_chart"))


def calm(test: AppTest) -> None:
    """Nothing is wrong on the page."""
    assert not test.error, [each.value for each in test.error]
    assert not test.warning, [each.value for each in test.warning]

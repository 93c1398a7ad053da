"""Tables in the terminal whose cells are shown as they are: a name in brackets is no markup."""

from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rank_lab.plain_text import plain

__all__ = ["PlainTable"]


class PlainTable(Table):
    r"""A rich table that obeys no text: not ``[red]``, not ``:boom:``, no control characters.

    Examples
    --------
    >>> from rich.console import Console
    >>> table = PlainTable("run", box=None)
    >>> table.add_row("[/] \x1b[2J :boom:")
    >>> Console(width=40).print(table)  # doctest: +NORMALIZE_WHITESPACE
    run
    [/] \x1b[2J :boom:
    """

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row, each text as it is.

        Parameters
        ----------
        cells
            A text, or what has its own style.
        options
            As rich's table takes them.
        """
        super().add_row(*(Text(plain(cell)) if isinstance(cell, str) else cell for cell in cells), **options)

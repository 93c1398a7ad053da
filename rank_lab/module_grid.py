"""Where modules stand in a map: kinds of module down, layers across."""

from collections.abc import Callable

import pandas as pd

from rank_lab.names import KINDS, Identity, identify

__all__ = ["NO_LAYER", "Places", "on_grid", "row_labels"]

NO_LAYER = "none"
"""Column of matrices outside of the layers, such as embeddings."""

Places = tuple[tuple[str, ...], tuple[str, ...]]
"""Rows and columns in the order in which they are shown."""

_READ: dict[str, Callable[[Identity], object]] = {
    "kind": lambda found: found.kind,
    "layer": lambda found: found.layer,
    "stack": lambda found: found.stack,
    "expert": lambda found: found.expert,
}


def on_grid(frame: pd.DataFrame) -> tuple[pd.DataFrame, Places]:
    """A table of modules with ``row`` (kind) and ``column`` (layer, as text) of each.

    Parameters
    ----------
    frame
        With the column ``module``; ``kind``, ``layer``, ``stack`` and ``expert`` are read from its name where they are
        no columns.

    Returns
    -------
    tuple
        The table with two columns more, and the order of rows and columns.

    Examples
    --------
    >>> names = ["model.layers.10.self_attn.q_proj", "model.layers.2.mlp.up_proj", "model.embed_tokens"]
    >>> placed, places = on_grid(pd.DataFrame({"module": names}))
    >>> places
    (('q', 'up', 'embed'), ('none', '2', '10'))
    >>> placed["column"].tolist()
    ['10', '2', 'none']
    """
    about = pd.DataFrame({"module": frame["module"].astype(str)}, index=frame.index)
    named = set(_READ) <= set(frame.columns)
    identities = {} if named else {name: identify(name) for name in about["module"].unique()}
    for name, read in _READ.items():
        if name in frame.columns:
            about[name] = frame[name]
        else:
            about[name] = pd.Series([read(identities[module]) for module in about["module"]], index=about.index)
    placed = frame.assign(row=row_labels(about), column=[_column(layer) for layer in about["layer"]])
    kinds = dict(zip(placed["row"], about["kind"], strict=True))
    rows = sorted(kinds, key=lambda row: (_place(str(kinds[row])), row))
    columns = sorted(set(placed["column"]), key=lambda name: -1 if name == NO_LAYER else int(name))
    return placed, (tuple(rows), tuple(columns))


def row_labels(about: pd.DataFrame) -> list[str]:
    """Kind, with the stack where there are several, and with the module's own name where a layer holds it twice.

    Parameters
    ----------
    about
        With ``module``, ``kind``, ``stack``, ``layer`` and ``expert``; a module may be there several times.
    """
    stacks = about["stack"].fillna("").astype(str)
    several = stacks[stacks != ""].nunique() > 1
    prefix = [f"{stack}: " if several and stack else "" for stack in stacks]
    plain = pd.Series(
        [f"{before}{kind}" for before, kind in zip(prefix, about["kind"], strict=True)], index=about.index
    )
    place = pd.DataFrame(
        {"label": plain, "layer": about["layer"], "expert": about["expert"], "module": about["module"]}
    ).drop_duplicates()
    twice = set(place.loc[place.duplicated(["label", "layer", "expert"], keep=False), "label"])
    names = [str(module).rsplit(".", 1)[-1] for module in about["module"]]
    return [f"{label} ({name})" if label in twice else label for label, name in zip(plain, names, strict=True)]


def _column(layer: object) -> str:
    return NO_LAYER if pd.isna(layer) else str(int(layer))  # type: ignore[call-overload]


def _place(kind: str) -> int:
    """Of a kind in the usual order; one that a newer version knows stands last."""
    return KINDS.index(kind) if kind in KINDS else len(KINDS)

"""Functional ranks as figures show them: along depth, run beside run; and beside the rank of the weight."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.functional_metrics import FUNCTIONAL_RANKS
from rank_lab.functional_report import FunctionalReport, ProbeOrigin
from rank_lab.scores import nearest

__all__ = [
    "FunctionalDepth",
    "FunctionalWeights",
    "functional_depth",
    "functional_rows",
    "functional_weights",
    "not_comparable",
    "probes_in_words",
]

_PLACE = ["run", "method", "step", "scope", "module"]
_SHARES = ["relative_change", "mean_share", "linear_share", "linear_share_centered"]
_ORIGIN = ["tokens", "texts", "probe", *ProbeOrigin._fields]


@dataclass(frozen=True, eq=False)
class FunctionalDepth:
    """One functional rank of each layer, run beside run.

    Parameters
    ----------
    metric, scope, kind
        Of what; of the scope ``layer`` the kind is ``layer``.
    runs
        In order.
    points
        A row a run and layer: ``run``, ``method``, ``step``, ``layer``, ``module``, ``value``, ``low``, ``high``,
        ``open_above``, ``null``, ``bound``, ``weight``, the shares of the change, and which probe and base.
    probes
        Each probe set that was used with its runs, see :func:`probes_in_words`.
    warnings
        From :func:`not_comparable`.
    """

    metric: str
    scope: str
    kind: str
    runs: tuple[str, ...]
    points: pd.DataFrame
    probes: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class FunctionalWeights:
    """Functional rank of each module against the rank of its weight's change.

    Parameters
    ----------
    metric
        Of both.
    runs
        In order.
    points
        A row a run and module, columns as of :class:`FunctionalDepth` and ``kind``.
    without
        Modules that changed and have no weight update.
    probes, warnings
        As of :class:`FunctionalDepth`.
    """

    metric: str
    runs: tuple[str, ...]
    points: pd.DataFrame
    without: int
    probes: str
    warnings: tuple[str, ...]


def functional_rows(reports: Iterable[FunctionalReport]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ranks and changes of several reports, of each run its last step; of changes also which probe and base.

    Parameters
    ----------
    reports
        One at least.
    """
    ranks, changes = [], []
    for report in reports:
        own, last = report.ranks, report.ranks["step"].max()
        moved = report.changes.assign(probe=report.probe, **report.origin._asdict())
        moved["context"] = moved["context"].astype("Int64")
        here = [own["step"].isna() if pd.isna(last) else own["step"] == last]
        there = moved["step"].isna() if pd.isna(last) else moved["step"] == last
        ranks.append(own[here[0].fillna(value=False)])
        changes.append(moved[there.fillna(value=False)])
    return pd.concat(ranks, ignore_index=True), pd.concat(changes, ignore_index=True)


def functional_depth(
    ranks: pd.DataFrame, changes: pd.DataFrame, metric: str, *, scope: str = "layer", kind: str = ""
) -> FunctionalDepth:
    """One rank along depth.

    Parameters
    ----------
    ranks, changes
        From :func:`functional_rows`.
    metric
        One of :data:`rank_lab.functional_metrics.FUNCTIONAL_RANKS`.
    scope
        One of :data:`rank_lab.functional_metrics.SCOPES`.
    kind
        Of modules; empty for the first that there is.

    Raises
    ------
    RankLabError
        If there is no such metric, or no row of this scope and kind.
    """
    own = _joined(_of_metric(ranks, metric), changes)
    own = own[own["scope"] == scope]
    if own.empty:
        raise RankLabError(f"no functional ranks of scope {scope!r} in this study; measure them with --scope.")
    kinds = [str(each) for each in own["kind"].unique()]
    chosen = kind or kinds[0]
    if chosen not in kinds:
        raise RankLabError(f"no functional ranks of modules {chosen!r}; nearest: {nearest(chosen, kinds)}.")
    points = own[(own["kind"] == chosen) & own["layer"].notna()].sort_values(["run", "layer"], kind="stable")
    points = points.reset_index(drop=True)
    return FunctionalDepth(metric, scope, chosen, _runs(points), points, _probes(points), _warnings(points))


def functional_weights(ranks: pd.DataFrame, changes: pd.DataFrame, metric: str) -> FunctionalWeights:
    r"""Rank of :math:`\Delta W C^{1/2}` against that of :math:`\Delta W`.

    Parameters
    ----------
    ranks, changes, metric
        As of :func:`functional_depth`.

    Raises
    ------
    RankLabError
        If no module has both.
    """
    own = _joined(_of_metric(ranks, metric), changes)
    points = own[(own["scope"] == "weighted") & own["weight"].notna()].reset_index(drop=True)
    if points.empty:
        raise RankLabError("no module of these runs has a weight update whose functional rank was measured.")
    without = int(((own["scope"] == "module") & (own["form"] == "function")).sum())
    return FunctionalWeights(metric, _runs(points), points, without, _probes(points), _warnings(points))


def not_comparable(origins: Iterable[ProbeOrigin]) -> tuple[str, ...]:
    """Why values of runs do not compare, a sentence each without its full stop; empty where they do.

    Parameters
    ----------
    origins
        Of each run; one at least.

    Examples
    --------
    >>> short, long = ProbeOrigin("texts", "a", 108, "base"), ProbeOrigin("texts", "b", 128, "base")
    >>> not_comparable([long, long])
    ()
    >>> not_comparable([long, short])[0].partition(": ")[2]
    'their values compare once all are measured with --max-length 108'
    """
    texts, probes, contexts, bases = (set(each) for each in zip(*origins, strict=True))
    lengths = sorted(each for each in contexts if each is not None)
    told = []
    if len(texts) > 1:
        told.append("Runs were measured on different texts: their values do not compare")
    elif len(probes) > 1 and len(lengths) > 1:
        cut = " and ".join(map(str, lengths))
        told.append(
            f"Runs got the same texts in inputs of at most {cut} tokens: their values compare once all are measured"
            f" with --max-length {lengths[0]}"
        )
    elif len(probes) > 1:
        told.append("Runs were measured on different tokens of the same texts: their values do not compare")
    if len(bases) > 1:
        told.append("Runs were measured against different bases: their values do not compare")
    return tuple(told)


def probes_in_words(probes: Iterable[tuple[str, str]]) -> str:
    """The probe of all runs; where there are several, each with its runs.

    Parameters
    ----------
    probes
        Run, and :attr:`rank_lab.functional_report.FunctionalReport.probe`.

    Examples
    --------
    >>> probes_in_words([("a", "p.txt (1 text)"), ("b", "p.txt (1 text)")])
    'probe p.txt (1 text)'
    >>> probes_in_words([("a", "p.txt (1 text)"), ("b", "q.txt (2 texts)")])
    'probe of a: p.txt (1 text); of b: q.txt (2 texts)'
    """
    runs: dict[str, list[str]] = {}
    for run, probe in probes:
        runs.setdefault(probe, []).append(run)
    if len(runs) < 2:
        return f"probe {next(iter(runs), 'not known')}"
    return "probe " + "; ".join(f"of {', '.join(own)}: {probe}" for probe, own in runs.items())


def _of_metric(ranks: pd.DataFrame, metric: str) -> pd.DataFrame:
    if metric not in FUNCTIONAL_RANKS:
        known = list(FUNCTIONAL_RANKS)
        raise RankLabError(f"{metric!r} is no functional rank. Nearest: {nearest(metric, known)}.")
    return ranks[ranks["metric"] == metric]


def _joined(ranks: pd.DataFrame, changes: pd.DataFrame) -> pd.DataFrame:
    found = ranks.merge(changes[[*_PLACE, *_SHARES, *_ORIGIN]], on=_PLACE, how="left")
    numbers = ["value", "low", "high", "null", "weight", *_SHARES]
    found[numbers] = found[numbers].astype("float64")
    return found.assign(open_above=found["open_above"].fillna(value=False).astype(bool))


def _runs(points: pd.DataFrame) -> tuple[str, ...]:
    return tuple(str(each) for each in points["run"].unique())


def _probes(points: pd.DataFrame) -> str:
    pairs = points[["run", "probe"]].dropna().drop_duplicates()
    return probes_in_words((str(run), str(probe)) for run, probe in pairs.itertuples(index=False))


def _warnings(points: pd.DataFrame) -> tuple[str, ...]:
    origins = points[list(ProbeOrigin._fields)].drop_duplicates().itertuples(index=False, name=None)
    return not_comparable(
        ProbeOrigin(str(texts), str(probe), None if pd.isna(context) else int(context), str(base))
        for texts, probe, context, base in origins
    )

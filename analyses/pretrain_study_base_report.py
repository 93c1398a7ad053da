"""Words, tables and picture of :mod:`analyses.pretrain_study_base`, from its kept tables."""

import math

import pandas as pd
import plotly.graph_objects as go

from analyses.kept_results import Kept, told_origin
from analyses.machine import table

__all__ = ["picture", "report"]

_COLORS = ("#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7")  # Okabe-Ito


def report(found: Kept) -> str:
    """The page that is kept.

    Parameters
    ----------
    found
        Results of the study.
    """
    held_out, curve, facts = (found.tables[name] for name in ("held_out", "curve", "facts"))
    size, fact = found.about["settings"]["size"], facts.iloc[0]
    last = curve.iloc[-1]
    parts = [
        "# The base that the studies adapt",
        (
            f"A Llama of {fact['parameters']:,} parameters ({size['layers']} layers, width {size['hidden']}, a BPE of"
            f" {size['vocabulary']:,} tokens of its own, context {size['context']}) that has read"
            f" {int(last['tokens']):,} tokens of English prose, {last['tokens'] / fact['training_tokens']:.1f} times"
            f" over {fact['training_tokens']:,}: novels and poems, Shakespeare, articles of Wikipedia, and the language"
            " reference of Python, whose examples are all the Python that it has seen. It has seen no word problems of"
            f" mathematics. Training took {last['seconds']:,.0f} seconds of one process."
        ),
        "## How well it has learned",
        (
            "Perplexity per token, and bits per byte, of text that was not read in training. Beside it interpolated"
            " Kneser-Ney n-grams of the same tokens, and xz, all of which have read the same prose; xz goes on learning"
            " from the held-out text itself, the others do not. The base sees at most one window of context, which"
            " begins anew at its edge. Python and maths are what the studies adapt it to."
        ),
        _losses(held_out),
        _said(held_out),
        "![Losses along the training](curve.png)",
        (
            f"Model sha256 {fact['model_sha256'][:16]}, tokenizer {fact['tokenizer_sha256'][:16]}, Python"
            f" {fact['python']}. Float32 sums depend on the processor, so that another machine gives a model that is as"
            " good but not the same to the bit."
        ),
        told_origin(found.about),
    ]
    return "\n\n".join(parts) + "\n"


def _losses(held_out: pd.DataFrame) -> str:
    predictors = list(dict.fromkeys(held_out["predictor"]))
    rows = []
    for text, own in held_out.groupby("text", sort=False):
        by = own.set_index("predictor")
        told = [_cell(by.loc[predictor]) for predictor in predictors]
        rows.append((text, f"{int(own['bytes'].iloc[0]) / 1000:,.0f} kB", *told))
    return table(("held-out text", "size", *(f"{name}: perplexity, bits/byte" for name in predictors)), rows)


def _cell(row: "pd.Series[float]") -> str:
    bits = f"{row['bits_per_byte']:.2f}"
    return bits if pd.isna(row["nats_per_token"]) else f"{math.exp(row['nats_per_token']):.1f}, {bits}"


def _said(held_out: pd.DataFrame) -> str:
    """Which baselines the base tells the prose better than, text by text."""
    prose = held_out[held_out["role"] == "held out"]
    lines = []
    for text, own in prose.groupby("text", sort=False):
        bits = own.set_index("predictor")["bits_per_byte"].sort_values()
        better, worse = (list(bits[bits > bits["base"]].index), list(bits[bits < bits["base"]].index))
        than_best = bits["base"] / bits.drop("base").min() - 1
        told = f"better than {', '.join(better) or 'none'}; worse than {', '.join(worse) or 'none'}"
        lines.append(f"- {text}: {told}; {than_best:+.0%} bits against the best of them.")
    beaten = prose.pivot(index="text", columns="predictor", values="bits_per_byte")
    whole = [str(name) for name in beaten if name != "base" and (beaten["base"] < beaten[name]).all()]
    summary = (
        f"On all of its prose the base is better than {', '.join(whole) or 'no baseline'}: it has learned more than"
        " that, and no more may be said of it. What studies find with it they find of a base that is far from done with"
        " learning; with more time at hand, --steps makes a better one."
    )
    return "\n".join(["Which tell it better:", "", *lines, "", summary])


def picture(found: Kept) -> go.Figure:
    """Losses along the training.

    Parameters
    ----------
    found
        Results of the study.
    """
    curve = found.tables["curve"]
    figure = go.Figure()
    names = [name for name in curve.columns if name not in ("step", "tokens", "seconds")]
    for name, color in zip(names, _COLORS, strict=True):
        title = "training text" if name == "training" else f"held out: {name}"
        look = {"color": color, "dash": "dot" if name == "training" else "solid"}
        figure.add_trace(go.Scatter(x=curve["tokens"] / 1e6, y=curve[name], mode="lines", name=title, line=look))
    figure.update_xaxes(title="million tokens read")
    figure.update_yaxes(title="nats a token")
    figure.update_layout(template="simple_white", width=800, height=420, font_size=13, margin={"t": 20, "r": 20})
    return figure

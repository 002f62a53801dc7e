"""What is said about a pretraining run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from berger.errors import BergerError
from berger.reports import pretraining_figures as figures
from berger.reports.blocks import (
    Block,
    Figure,
    Number,
    Section,
    Table,
    Text,
    counted,
    enumeration,
    topic,
)
from berger.reports.folders import Part, Run, aligns, mapping, model_name, restores
from berger.reports.training import feature_blocks, measures_features, training_blocks

DRAWN = ("masked input", "untrained network", "restored")
MOST_SIGNALS, EXAMPLE_SECONDS = 6, 10.0
MAPPED = ("Pz", "Cz", "Oz", "O1", "P3", "C3")
"""Electrode of the time-frequency maps: the first of these that there is."""


def pretraining_section(part: Part) -> Section:
    """Report a pretraining run, finished or not."""
    run = part.run
    record = run.record
    numbers: list[Number] = []
    lead = "" if record else "This run has not ended; what it has left so far is shown. "
    features = topic(f"Features of {watched(run)}", lambda: feature_blocks(run))
    if not restores(run.config):
        numbers = _training_numbers(run)
        topics = [
            topic("Training", lambda: training_blocks(run, watched(run))),
            features,
            topic("Features under other masks", lambda: _invariance(run)),
        ]
        return Section("Pretraining", part.name, lead + features_verdict(run), numbers, topics)
    try:
        errors = restoration_errors(run)
    except BergerError:
        lead += "How well it restores is not known yet."
    else:
        lead += verdict(errors, by_time(run))
        numbers = _restoration_numbers(errors)
    numbers += _training_numbers(run)
    topics = [
        topic("Pretext task", lambda: _pretext(run)),
        topic("Training", lambda: training_blocks(run, watched(run))),
        topic(f"Restoration error on {watched(run)}", lambda: _restoration(run)),
        *([features] if aligns(run.config) or measures_features(run) else []),
    ]
    return Section("Pretraining", part.name, lead, numbers, topics)


def by_time(run: Run) -> bool:
    """Return whether training was watched on the end of its own recordings."""
    return run.config.get("validation_by") == "time"


def watched(run: Run) -> str:
    """Say what training was watched on, that had no part in it."""
    return "later time of those trained on" if by_time(run) else "people not trained on"


def features_verdict(run: Run) -> str:
    """Say in a sentence what the last look at what was not trained on found of its features."""
    try:
        log = run.log()
    except BergerError:
        return "What it has learned is not known yet."
    rows = log[log["split"] == "validation"]
    last = rows.iloc[-1].dropna() if len(rows) else pd.Series(dtype=float)
    phrases = []
    if "anchor_unseen" in last:
        phrases.append(
            f"the error of features predicted for unseen time steps is {last['anchor_unseen']:.2f} "
            "of their variance (1 for the best constant)"
        )
    if "effective_rank" in last:
        dim = mapping(run.config, "model").get("embed_dim")
        of = f" of {dim}" if dim else ""
        phrases.append(f"the effective rank of the features is {last['effective_rank']:.1f}{of}")
    if not phrases:
        return "What it has learned is not known yet."
    return f"On {watched(run)}, at step {last['step']:,.0f}, {enumeration(phrases)}."


def restoration_errors(run: Run) -> pd.DataFrame:
    """Read the table of errors; raises BergerError if that is not possible."""
    return run.table("restoration.parquet", ("subject", "band", "signal", "error"))


def bands_below(errors: pd.DataFrame, reference: str | float) -> tuple[list[str], list[str]]:
    """Return the bands in which the restored signal's mean error over people is below, and not.

    Parameters
    ----------
    errors : DataFrame
        Columns ``subject, band, signal, error``.
    reference : str or float
        Another signal of the table, or a number. Bands without it are in neither list.
    """
    means = errors.groupby(["signal", "band"], sort=False)["error"].mean()
    below: list[str] = []
    not_below: list[str] = []
    for band in _bands(errors):
        restored = means.get(("restored", band), np.nan)
        other = means.get((reference, band), np.nan) if isinstance(reference, str) else reference
        if np.isfinite(restored) and np.isfinite(other):
            (below if restored < other else not_below).append(band)
    return below, not_below


def verdict(errors: pd.DataFrame, by_time: bool = False) -> str:
    """Say in a sentence where the restored signal is closer to the clean one than what else.

    Parameters
    ----------
    errors : DataFrame
        Columns ``subject, band, signal, error``.
    by_time : bool
        Whether they are of later time of the recordings that were trained on.
    """
    people = errors["subject"].nunique()
    phrases = []
    for reference, name in (
        ("masked input", "that of the masked input"),
        ("untrained network", "that of an untrained network"),
        (figures.SILENCE, "that of silence"),
    ):
        below, not_below = bands_below(errors, reference)
        if below and not_below:
            phrases.append(
                f"below {name} in {enumeration(below)}, but not in {enumeration(not_below)}"
            )
        elif below or not_below:
            phrases.append(f"below {name} in every band" if below else f"in no band below {name}")
    if not phrases:
        return "The table of errors has no restored signal to compare."
    who = counted(people, "person", "people")
    on = "later time of the {} trained on" if by_time else "{} not trained on"
    return f"On {on.format(who)}, the mean error of the restored signal is {'; '.join(phrases)}."


def _bands(errors: pd.DataFrame) -> dict[str, str]:
    """Return the bands of a table, from low to high, and their labels."""
    # imported here, because it loads torch, which drawing has no use for
    from berger.spectral import BANDS

    labels = {band: f"{band}\n{low:g}–{high:g} Hz" for band, (low, high) in BANDS.items()}
    found = list(dict.fromkeys(errors["band"]))
    known = [band for band in labels if band in found]
    return {band: labels.get(band, band) for band in dict.fromkeys([*known, *found])}


def _restoration_numbers(errors: pd.DataFrame) -> list[Number]:
    by_band = errors.groupby(["signal", "band"])["error"].mean().groupby("signal").mean()
    if "restored" not in by_band:
        return []
    others = [f"{name} {by_band[name]:.2f}" for name in DRAWN[:2] if name in by_band]
    below, not_below = bands_below(errors, "masked input")
    numbers = [
        Number(
            f"{by_band['restored']:.2f}",
            "restoration error",
            f"error power / clean power, mean of the bands; {', '.join([*others, 'silence 1'])}",
        )
    ]
    if below or not_below:
        numbers.append(
            Number(
                f"{len(below)} of {len(below) + len(not_below)}",
                "bands filled in",
                "in which the restored signal is closer to the clean one than the masked input",
            )
        )
    return numbers


def _training_numbers(run: Run) -> list[Number]:
    numbers = []
    record = run.record
    if parameters := record.get("n_parameters"):
        name = model_name(mapping(run.config, "model"))
        numbers.append(Number(f"{parameters:,}", "parameters", f"of {name}, all of them trained"))
    people = mapping(record, "subjects")
    if people and "steps" in record:
        hours = mapping(record, "corpus").get("hours")
        numbers.append(
            Number(
                f"{record['steps']:,}",
                "training steps",
                f"on {counted(len(people.get('train', ())), 'person', 'people')}"
                + (f" of a corpus of {hours:,.2f} h" if hours is not None else ""),
            )
        )
    return numbers


def _pretext(run: Run) -> Iterator[Block]:
    names = ("clean", "masked", "restored", "gain", "sfreq", "n_fft", "hop", "ch_names")
    example = run.arrays("example.npz", (*names, "subject", "recording", "start"))
    sfreq, start = float(example["sfreq"]), float(example["start"])
    ch_names = [str(name) for name in example["ch_names"]]
    clean, masked, restored = (
        example[name].astype(np.float64) for name in ("clean", "masked", "restored")
    )
    n_shown = min(round(EXAMPLE_SECONDS * sfreq), clean.shape[-1])
    chosen = np.linspace(0, len(ch_names) - 1, min(MOST_SIGNALS, len(ch_names))).round().astype(int)
    shown = [ch_names[index] for index in chosen]
    images = tuple(
        figures.overlay(clean[chosen, :n_shown], other[chosen, :n_shown], name, sfreq, start, shown)
        for other, name in ((masked, "masked input"), (restored, "restored"))
    )
    errors = ""
    if power := np.sum(clean**2):
        before, after = (np.sum((signal - clean) ** 2) / power for signal in (masked, restored))
        errors = (
            f"; its error power / clean power over all electrodes is {before:.2f} as masked and "
            f"{after:.2f} restored"
        )
    part = "" if n_shown == clean.shape[-1] else f" (its first {n_shown / sfreq:g} s)"
    yield Text(
        "The network sees a window in which a part of the time-frequency map is hidden, the same "
        "part for all electrodes, and has to restore the clean window. This window is of subject "
        f"{example['subject']}, who was not trained on{errors}."
    )
    yield Figure(
        images,
        f"Recording {example['recording']}, from {start:g} s{part}. Grey is the clean signal. Over "
        "it lies what the network was given (orange), and what it made of that (blue). The more of "
        "the grey is covered, the closer.",
    )
    electrode = next((name for name in MAPPED if name in ch_names), ch_names[len(ch_names) // 2])
    row = ch_names.index(electrode)
    n_fft, hop = int(example["n_fft"]), int(example["hop"])
    yield Figure(
        figures.maps(
            {"clean": clean[row], "masked input": masked[row], "restored": restored[row]},
            example["gain"].astype(np.float64),
            sfreq,
            n_fft,
            hop,
            electrode,
        ),
        f"Electrode {electrode} of the same window through a Hann window of {n_fft / sfreq:g} s. "
        "The three maps of power share one colour scale. The mask shows how much of each place is "
        "let through: white all, black nothing. What is dark in the masked input and bright in the "
        "clean map had to be filled in.",
    )


def _invariance(run: Run) -> Iterator[Block]:
    keys = ("network", "masks", "wanted")
    table = run.table("invariance.parquet", (*keys, "n_windows", "chance", *figures.INVARIANCE))
    means = table.groupby(list(keys), sort=False).mean()
    n_windows, chance = int(table["n_windows"].max()), float(table["chance"].mean())
    phrases = []
    for masks in dict.fromkeys(table["masks"]):
        least = table.loc[table["masks"] == masks, "wanted"].min()
        found = [
            f"{means['retrieval'][network, masks, least]:.2f} by the {network}"
            for network in dict.fromkeys(table["network"])
            if (network, masks, least) in means.index
        ]
        phrases.append(f"{enumeration(found)} ({masks})")
    yield Text(
        f"{counted(n_windows, 'window')} of {watched(run)} were each seen through two "
        "masks. With the least overlap of the electrodes seen, the share of windows whose features "
        "under one mask are nearest to their own under the other is "
        f"{'; '.join(phrases)}; by chance {chance:.3f}."
    )
    yield Figure(
        figures.invariance(table),
        "How far features stay the same when the mask changes, before and after training, over "
        "the overlap wanted of the electrodes that the two masks show (intersection over union). "
        "Left, higher is better: windows told from the others. Right: squared distance of a "
        "window's two features, scaled to length 1; lower is more alike, which is worth something "
        "only as long as windows are still told apart. Masks that show the same time steps share "
        "what differs between steps, by which a window can be found; masks with steps of their "
        "own ask for more.",
    )


def _restoration(run: Run) -> Iterator[Block]:
    errors = restoration_errors(run)
    bands = _bands(errors)
    present = set(errors["signal"])
    drawn = [signal for signal in DRAWN if signal in present] or sorted(present)
    yield Figure(
        (figures.errors_by_band(errors, bands, drawn),),
        f"{verdict(errors, by_time(run))} Each mark is a person, each bar the mean over people, "
        "with its value above. Lower is better: 0 is a perfect restoration, 1 (dashed) is what "
        "silence would get, and the masked input is what doing nothing would get.",
    )
    yield _table(errors, list(bands))


def _table(errors: pd.DataFrame, bands: list[str]) -> Table:
    wide = errors.pivot_table(index="subject", columns=["signal", "band"], values="error")
    signals = [s for s in dict.fromkeys((*DRAWN, *errors["signal"])) if s in set(errors["signal"])]
    rows = []
    for signal in signals:
        cells = []
        for band in bands:
            values = (
                wide[signal, band].dropna() if (signal, band) in wide else pd.Series(dtype=float)
            )
            cells.append(
                f"{values.mean():.2f} ({values.min():.2f}–{values.max():.2f})"
                if len(values)
                else "–"
            )
        rows.append((signal, *cells))
    if {"restored", "masked input"} <= set(signals):
        cells = []
        for band in bands:
            if ("restored", band) in wide and ("masked input", band) in wide:
                pair = wide[[("restored", band), ("masked input", band)]].dropna()
                lower = (pair["restored", band] < pair["masked input", band]).sum()
                cells.append(f"{lower} of {len(pair)}")
            else:
                cells.append("–")
        rows.append(("people whose restored error is below the masked input's", *cells))
    return Table(
        ("signal", *bands),
        rows,
        frozenset(bands),
        "Error power / clean power in each band: mean over people, and the lowest and highest.",
    )

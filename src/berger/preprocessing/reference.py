"""Change what electrodes are measured against: an average, other electrodes, each other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from berger.channels import electrodes_of, reference_of
from berger.preprocessing.admission import places_of, taken
from berger.preprocessing.bad_channels import kinds_of
from berger.preprocessing.config import PreprocessingConfig
from berger.recordings import KeptOut, Recording, RejectedError


def rereference(
    recording: Recording,
    interpolated: Collection[str],
    config: PreprocessingConfig,
    history: list[str],
) -> Recording:
    """Reference a recording, or make its bipolar channels, as the configuration says.

    Parameters
    ----------
    recording : Recording
        Without bad channels.
    interpolated : collection of str
        Electrodes that no reference is taken from.
    config, history
        As everywhere.

    Raises
    ------
    RejectedError
        If an electrode for it is missing or bad, or the electrodes were recorded against
        different references.
    """
    if config.bipolar is not None:
        return _bipolar(recording, config.bipolar_pairs, history)
    if config.reference == "average":
        return _to_average(recording, interpolated, history)
    if isinstance(config.reference, tuple):
        return _to_electrodes(recording, config.reference, interpolated, history)
    return recording


def _to_average(
    recording: Recording, interpolated: Collection[str], history: list[str]
) -> Recording:
    """Subtract from the electrodes on the scalp the mean of those that are well."""
    kinds = kinds_of(recording)
    # A lettered cap, or a rodent, has no electrode of the 10-5 system.
    kind = "scalp" if "scalp" in kinds else "name as given"
    group = [i for i, other in enumerate(kinds) if other == kind]
    well = [i for i in group if recording.ch_names[i] not in interpolated]
    if not group:
        raise RejectedError(
            f"{recording.path}: has no electrode to average, only {', '.join(sorted(set(kinds)))}; "
            "set reference to 'as recorded'."
        )
    if len(group) == 1:
        raise RejectedError(
            f"{recording.path}: has one channel, {recording.ch_names[group[0]]}, and would be "
            "silent against its own average; set reference to 'as recorded'."
        )
    return _referenced(recording, group, well, f"the average of {len(well)} channels", history)


def _to_electrodes(
    recording: Recording,
    electrodes: Sequence[str],
    interpolated: Collection[str],
    history: list[str],
) -> Recording:
    """Subtract the mean of named electrodes and keep these out."""
    found = _found(recording, electrodes, "reference")
    if estimated := [
        name for name in electrodes if recording.ch_names[found[name]] in interpolated
    ]:
        raise RejectedError(
            f"{recording.path}: {', '.join(estimated)} of `reference` is bad and would be "
            "interpolated from the others; choose another reference."
        )
    references = sorted(set(found.values()))
    kinds = kinds_of(recording)
    group = [i for i, kind in enumerate(kinds) if kind in ("scalp", "name as given", "reference")]
    group = sorted({*group, *references})
    what = " and ".join(electrodes)
    if len(electrodes) > 1:
        what = f"the mean of {what}"
    recording = _referenced(recording, group, references, what, history)
    kept = [i for i in range(len(recording.ch_names)) if i not in references]
    if not kept:
        raise RejectedError(f"{recording.path}: has no channel but its reference, {what}.")
    return taken(recording, kept, dict.fromkeys(references, "the others are referenced to it"))


def _referenced(
    recording: Recording, group: list[int], references: list[int], what: str, history: list[str]
) -> Recording:
    """Subtract the mean of some channels from a group."""
    _check_one_reference(recording, group)
    signal = recording.signal.copy()
    signal[group] -= recording.signal[references].mean(axis=0)
    others = [name for i, name in enumerate(recording.ch_names) if i not in group]
    history.append(
        f"Referenced to {what}" + (f"; {', '.join(others)} as recorded." if others else ".")
    )
    return replace(recording, signal=signal)


def _bipolar(
    recording: Recording, pairs: Sequence[tuple[str, str]], history: list[str]
) -> Recording:
    """Replace all channels by differences of two electrodes."""
    found = _found(recording, [name for pair in pairs for name in pair], "bipolar")
    first, second = ([found[pair[end]] for pair in pairs] for end in (0, 1))
    used = {*first, *second}
    _check_one_reference(recording, used)
    labels = recording.original_ch_names
    names = [[electrodes_of([name])[0] or name for name in pair] for pair in pairs]
    history.append(f"Made {len(pairs)} bipolar channels from {len(used)} electrodes.")
    return replace(
        recording,
        signal=recording.signal[first] - recording.signal[second],
        ch_names=tuple(f"{a}-{b}" for a, b in names),
        original_ch_names=tuple(
            f"{labels[a]} - {labels[b]}" for a, b in zip(first, second, strict=True)
        ),
        kinds=("bipolar",) * len(pairs),
        bads=(),
        kept_out=recording.kept_out
        + tuple(
            KeptOut(label, "part of bipolar channels" if i in used else "in no bipolar channel")
            for i, label in enumerate(labels)
        ),
    )


def _found(recording: Recording, electrodes: Iterable[str], field: str) -> dict[str, int]:
    """Return where electrodes are; raise RejectedError unless each is there once."""
    places = {name: places_of(recording, name) for name in electrodes}
    if missing := [name for name, there in places.items() if not there]:
        bad = {out.name: out.reason for out in recording.kept_out}
        reasons = [
            f" ({label}: {bad[label]})"
            for label, electrode in zip(bad, electrodes_of(list(bad)), strict=True)
            for name in missing
            if electrode is not None and electrode == electrodes_of([name])[0]
        ]
        raise RejectedError(
            f"{recording.path}: lacks {', '.join(missing)} of `{field}`{''.join(reasons)}; it has "
            f"{', '.join(recording.ch_names)}."
        )
    if several := [name for name, there in places.items() if len(there) > 1]:
        raise RejectedError(
            f"{recording.path}: has {', '.join(several)} of `{field}` more than once; write the "
            "channel's name as in the file."
        )
    return {name: there[0] for name, there in places.items()}


def _check_one_reference(recording: Recording, channels: Iterable[int]) -> None:
    """Raise RejectedError where names tell different references, whose difference would stay."""
    told = {reference_of(recording.original_ch_names[i]) for i in channels} - {None}
    if len(told) > 1:
        raise RejectedError(
            f"{recording.path}: its electrodes were recorded against different references "
            f"({', '.join(sorted(map(str, told)))}), which no subtraction makes one; choose those "
            "of one by `ch_names`, or leave them as recorded."
        )

"""The paragraphs for a paper, written from configurations and records alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from berger import __version__
from berger.errors import BergerError
from berger.reports.blocks import Copyable, Section, Text, Topic, counted, enumeration
from berger.reports.corpus_groups import SCALP, hours_text, listed, species_of, subjects_noun
from berger.reports.folders import (
    Part,
    Run,
    aligns,
    mapping,
    model_name,
    restores,
)
from berger.reports.methods_of_evaluation import Cite, adaptation_text, evaluation_text

SPECMOE = (
    "Darankoum D., Habermacher C., Volle J., Grudinin S. SpecMoE: Spectral Mixture-of-Experts "
    "Foundation Model for Cross-Species EEG Decoding. arXiv:2603.16739 (2026)."
)
DARE = (
    "DARE-EEG: A Foundation Model for Mining Dual-Aligned Representation of EEG. arXiv:2605.18298."
)
MNE = (
    "Gramfort A. et al. MEG and EEG data analysis with MNE-Python. Frontiers in Neuroscience 7, "
    "267 (2013). doi:10.3389/fnins.2013.00267."
)
PACKAGES = {
    "berger": "Berger",
    "python": "Python",
    "torch": "PyTorch",
    "mne": "MNE-Python",
    "numpy": "NumPy",
    "scipy": "SciPy",
    "scikit-learn": "scikit-learn",
    "lightning-fabric": "Lightning Fabric",
}


def methods_section(parts: Iterable[Part]) -> Section:
    """Write the methods of everything that the report is about."""
    references: list[str] = []

    def cite(reference: str) -> str:
        if reference not in references:
            references.append(reference)
        return f" [{references.index(reference) + 1}]"

    paragraphs = []
    described: Mapping[str, Any] = {}  # the preprocessing that has been told
    runs = []
    for part in parts:
        if part.kind == "corpus":
            try:
                paragraphs.append(_corpus(part, cite))
                described = part.corpus.manifest.preprocessing.model_dump(mode="json")
            except BergerError:  # its section says why it cannot be opened
                continue
        else:
            run = part.run
            runs.append(run)
            if not described and (preprocessing := mapping(run.contract, "preprocessing")):
                paragraphs.append(_preprocessing(preprocessing, cite))
                described = preprocessing
            if part.kind == "pretraining":
                paragraphs.append(_pretraining(run, cite))
            elif part.kind == "adaptation":
                paragraphs.append(adaptation_text(run, cite) + _other_preparation(run, described))
            else:
                paragraphs.append(evaluation_text(run, cite))
    paragraphs.append(_software(runs, cite))
    text = Copyable(tuple(p for p in paragraphs if p), tuple(references))
    lead = Text(
        "Written from the configuration and the record of what ran; what they do not say is left "
        "out. Check it against what you did before it goes into a paper."
    )
    return Section("Methods", topics=[Topic("", [lead, text])])


def _corpus(part: Part, cite: Cite) -> str:
    corpus = part.corpus
    counts = corpus.manifest.counts
    montages = corpus.manifest.montages
    sizes = sorted({len(montage.ch_names) for montage in montages})
    few = enumeration(map(str, sizes), "or") if len(sizes) < 6 else f"{sizes[0]} to {sizes[-1]}"
    ok = corpus.recordings[corpus.recordings["status"] == "ok"]
    scalp = all(set(listed(kinds, str)) <= {SCALP} for kinds in ok["kinds"])
    species = [name for name in species_of(ok) if name != "human"]
    of_species = f"{enumeration(species_of(ok))}; " if species else ""
    not_used = counts.failed + counts.rejected
    left_out = f"; {counted(not_used, 'file')} could not be used" if not_used else ""
    return (
        f"EEG of {counted(counts.subjects, *subjects_noun(ok))} "
        f"({of_species}{counted(counts.ok, 'recording')}, "
        f"{hours_text(counts.seconds_kept / 3600)} h usable, "
        f"{few} {'electrodes' if scalp else 'channels'}{left_out}) was used. "
        + _preprocessing(corpus.manifest.preprocessing.model_dump(mode="json"), cite)
        + _without(part)
    )


def _without(part: Part) -> str:
    """Say whose recordings were left out so that models can be tested on them."""
    table, text = part.corpus.recordings, ""
    rows = table[table["status"] == "rejected"]
    for exclusion in part.corpus.manifest.excluded:
        if not exclusion.people:
            text += (
                f" The people whom {exclusion.of} is tested on are not known; they were not left "
                "out."
            )
            continue
        theirs = rows[[subject in exclusion for subject in rows["subject"]]]
        text += (
            f" The {counted(len(exclusion.people), 'person', 'people')} whom {exclusion.of} is "
            f"tested on, known by {exclusion.how} (SHA-256 of the list {exclusion.sha256}), were "
            f"left out with all their recordings, {len(theirs):,} of "
            f"{counted(theirs['subject'].nunique(), 'person', 'people')} here."
        )
    return text


def _preprocessing(config: Mapping[str, Any], cite: Cite) -> str:
    steps = []
    high, low = config.get("highpass"), config.get("lowpass")
    if high and low:
        steps.append(f"band-pass filtered from {high:g} to {low:g} Hz (zero-phase FIR)")
    elif high or low:
        steps.append(
            f"{'high' if high else 'low'}-pass filtered at {high or low:g} Hz (zero-phase FIR)"
        )
    notch = config.get("notch")
    if notch == "auto":
        steps.append("notch filtered at 50 or 60 Hz and its harmonics where mains were found")
    elif notch:
        steps.append(f"notch filtered at {notch:g} Hz and its harmonics")
    if sfreq := config.get("sfreq"):
        steps.append(f"resampled to {sfreq:g} Hz")
    reference = config.get("reference")
    if config.get("bipolar"):
        steps.append("turned into differences of two electrodes")
    elif reference == "average":
        steps.append("referenced to the average of the electrodes")
    elif isinstance(reference, list):
        steps.append(f"referenced to {enumeration(reference)}")
    elif reference:
        steps.append("kept against the reference of the recording")
    arrays = "read as arrays of a declared layout and processed with"
    how = arrays if config.get("layout") else "read with"
    text = f"Recordings were {how} MNE-Python{cite(MNE)}" + (
        f", {enumeration(steps)}." if steps else "."
    )
    chosen = config.get("ch_names")
    text += (
        f" The channels {enumeration(chosen)} were used."
        if chosen
        else " Channels that are not named as an electrode of the 10–20 system or its extensions "
        "were left out."
    )
    if (start := config.get("cut_start") or 0) + (end := config.get("cut_end") or 0):
        text += f" The first {start:g} s and the last {end:g} s of each recording were cut."
    if amplitude := config.get("max_amplitude"):
        text += f" Stretches in which an electrode reached {amplitude:g} µV were left out."
    if shortest := config.get("min_duration"):
        text += f" Recordings shorter than {shortest:g} s were left out."
    return text


_RESTORES = {
    "correction": " The network put out what has to be added to the masked input.",
    "map": (
        " The network put out a gain for the masked input's short-time Fourier map and what has "
        "to be added to the result."
    ),
}


def _pretraining(run: Run, cite: Cite) -> str:
    record, config = run.record, run.config
    model, objective = mapping(config, "model"), mapping(config, "objective")
    name = model_name(model)
    if name == "SpecHi-Net":
        name += ", one expert of SpecMoE"
    size = f" ({record['n_parameters']:,} parameters)" if "n_parameters" in record else ""
    seconds = record.get("window_seconds", config.get("window_seconds"))
    windows = f"windows of {seconds:g} s" if seconds else "windows"
    paper = cite(DARE if name == "DARE-EEG" else SPECMOE)
    if not restores(config):
        text = f"{name}{paper}{size}, was pretrained without labels on {windows} of EEG."
        text += _views(mapping(objective, "views"), model) + _alignment(objective)
        return (
            text
            + _optimisation(record, mapping(config, "training"))
            + _watched(record, "measures of features")
        )
    text = f"{name}{paper}{size}, was pretrained without labels to restore {windows} of EEG"
    text += f" from a masked version. {_mask(mapping(objective, 'mask'), model.get('sfreq'))}"
    text += _RESTORES.get(model.get("restores", ""), "")
    if n_chans := objective.get("n_chans"):
        text += f" Every batch was reduced to {n_chans} electrodes drawn at random."
    if "spectral_weight" in objective:
        text += " The loss was the mean squared error"
        if emphasis := objective.get("pre_emphasis"):
            text += f" after a pre-emphasis of {emphasis:g}"
        if weight := objective["spectral_weight"]:
            text += (
                f" plus {weight:g} times the mean squared difference of short-time Fourier "
                "magnitudes"
            )
        if name != "DARE-EEG":
            text += ", summed over both branches"
        weights = objective.get("auxiliary_weights", ())
        text += (
            ", plus that of the two auxiliary outputs, weighted "
            f"{enumeration(f'{weight:g}' for weight in weights)}."
            if any(weights)
            else "."
        )
    if aligns(config):
        text += _beside(objective)
    part = mapping(record, "part")
    if part.get("experts", 1) > 1:
        text += (
            f" It is expert {part['expert'] + 1} of {part['experts']}, each trained on a part of "
            f"the shuffled training windows of its own ({record['training_windows']:,} windows)."
        )
    text += _optimisation(record, mapping(config, "training"))
    return text + _watched(record, "restoration errors")


def _watched(record: Mapping[str, Any], besides: str) -> str:
    return _started_from(record) + _people_watched(record, besides)


def _started_from(record: Mapping[str, Any]) -> str:
    """Tell of the weights that a run began with, if they were another's."""
    if "earlier" not in record:
        return ""
    earlier = mapping(record, "earlier")
    people = mapping(earlier, "subjects").get("train")
    name = mapping(earlier, "corpus").get("name")
    whose = (
        f"an earlier pretraining on {counted(len(people), 'person', 'people')}"
        + (f" of {name}" if name else "")
        if people is not None
        else "others, of which it is not known whom they have seen"
    )
    before = _started_from(earlier).replace(" The weights that it", " The weights that that one")
    return f" The weights that it began with were those of {whose}." + before


def _people_watched(record: Mapping[str, Any], besides: str) -> str:
    people = mapping(record, "subjects")
    if not people:
        return ""
    train, others = (len(people.get(part, ())) for part in ("train", "validation"))
    if record.get("validation_by") == "time":
        who = "One person was" if train == 1 else f"All {train} people were"
        return (
            f" {who} trained on; losses and {besides} are those of the end of each recording, "
            "which was not trained on and says nothing of others. The weights of the last step "
            "were kept."
        )
    return (
        f" Of {train + others} people, {train} were trained on; losses and {besides} are those "
        f"of the {others} others. The weights of the last step were kept."
    )


def _views(views: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    if not {"step_mask", "visible", "overlap"} <= set(views):
        return ""
    step = ""
    if {"patch_size", "sfreq"} <= set(model):
        step = f" of {model['patch_size'] / model['sfreq']:g} s"
    low, high = views["overlap"]
    steps = "the same steps" if views.get("same_steps", True) else "steps of its own"
    return (
        f" Each time step{step} was hidden wholly with probability {views['step_mask']:g}; in the "
        f"others {views['visible']} electrodes drawn at random were seen, at most half of them in "
        f"montages of fewer than 24. A second view saw {steps} and shared electrodes with the "
        f"first, for an intersection over union drawn from {low:g} to {high:g} for each batch."
    )


def _alignment(objective: Mapping[str, Any]) -> str:
    normalized = ", normalised," if objective.get("normalize_targets") else ""
    what = {
        "reconstruction": f"the mean squared error of hidden patches{normalized} restored from the "
        "first view",
        "anchor": "that of the features of all time steps, predicted from the first view, against "
        "the normalised ones that a momentum copy of the encoder had of the complete window",
        "mask_alignment": "a contrastive loss by which the two views of a window are told from "
        "those of the others of the batch",
        "activation": "the mean square of the features",
    }
    terms = [
        text + (f" (weight {objective[name]:g})" if objective[name] != 1 else "")
        for name, text in what.items()
        if objective.get(name)
    ]
    text = f" The loss was {', plus '.join(terms)}." if terms else ""
    if len(momentum := objective.get("momentum", ())) == 2:
        text += f" The copy's momentum went from {momentum[0]:g} to {momentum[1]:g}"
        text += "; it is the encoder that was saved." if objective.get("saves") == "target" else "."
    return text


def _beside(objective: Mapping[str, Any]) -> str:
    """Say what was aligned beside the restoration."""
    what = {
        "anchor": "the mean squared error of the encoder's tokens, through a linear layer, against "
        "the normalised ones that a momentum copy of the encoder had of the clean window",
        "mask_alignment": "a contrastive loss by which two masked views of a window are told from "
        "those of the others of the batch",
    }
    terms = [
        f"{text} (weight {objective[name]:g})" for name, text in what.items() if objective.get(name)
    ]
    if not terms:
        return ""
    text = f" To it were added {' and '.join(terms)}."
    momentum = objective.get("momentum", ())
    if objective.get("anchor") and len(momentum) == 2:
        text += f" The copy's momentum went from {momentum[0]:g} to {momentum[1]:g}."
    return text


def _mask(mask: Mapping[str, Any], sfreq: float | None) -> str:
    if "ratio" not in mask:
        return ""
    shape = "rectangular" if mask.get("hard") else "Gaussian"
    text = "The short-time Fourier transform"
    if sfreq and "n_fft" in mask and "hop" in mask:
        text += f" (Hann window of {mask['n_fft'] / sfreq:g} s, step {mask['hop'] / sfreq:g} s)"
    text += (
        f" was multiplied by {shape} masks, the same for all electrodes, until "
        f"{mask['ratio']:.0%} of it was hidden"
    )
    kinds = mapping(mask, "kinds")
    names = {
        "frequency": "bands of frequency",
        "time": "stretches of time",
        "time_frequency": "spots of time and frequency",
    }
    shares = [
        f"{names[kind]} {share:.0%}" for kind, share in kinds.items() if kind in names and share
    ]
    text += f" ({', '.join(shares)})" if shares else ""
    if bias := mask.get("band_bias"):
        text += f"; with probability {bias:g} a frequency was drawn inside an EEG band"
    return text + "."


def _optimisation(record: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    optimizer = mapping(training, "optimizer")
    facts = []
    if "lr" in optimizer:
        facts.append(f"learning rate {optimizer['lr']:g}")
        if "final_lr" in optimizer:
            facts[-1] += f" falling to {optimizer['final_lr']:g} along a cosine"
    if warmup := optimizer.get("warmup"):
        start = optimizer.get("start_lr")
        rise = "linear warm-up" if start is None else f"rising from {start:g} along a cosine"
        facts.append(f"{rise} over {warmup:.0%} of the steps")
    if "weight_decay" in optimizer:
        facts.append(f"weight decay {optimizer['weight_decay']:g}")
    if clip := optimizer.get("clip_norm"):
        facts.append(f"gradient norm clipped at {clip:g}")
    how = f" ({', '.join(facts)})" if facts else ""
    if "steps" in record and "batch_size" in record:
        seed = f", seed {record['seed']}" if "seed" in record else ""
        return (
            f" AdamW{how} took {record['steps']:,} steps of {record['batch_size']} windows{seed}."
        )
    return f" AdamW{how} was used." if how else ""


def _other_preparation(run: Run, described: Mapping[str, Any]) -> str:
    """Say how the labelled recordings were prepared otherwise than has been told."""
    own = mapping(mapping(run.record, "corpus"), "preprocessing")
    names = {"max_amplitude": "amplitude limit (µV)", "cut_start": "seconds cut at the start"}
    names |= {"cut_end": "seconds cut at the end", "min_duration": "shortest recording (s)"}
    other = [
        f"{names.get(field, field)} {'none' if value is None else value}"
        for field, value in own.items()
        if field in described and described[field] != value and field != "subject_pattern"
    ]
    if not other:
        return ""
    return f" The labelled recordings were prepared likewise, but for: {'; '.join(other)}."


def _software(runs: Iterable[Run], cite: Cite) -> str:
    versions: dict[str, str] = {}
    hardware: list[str] = []
    for run in runs:
        versions |= {str(k): str(v) for k, v in mapping(run.record, "versions").items()}
        machine = run.record.get("hardware")
        if machine and machine not in hardware:
            hardware.append(str(machine))
    versions.setdefault("berger", __version__)
    names = [f"{PACKAGES[key]} {versions[key]}" for key in PACKAGES if key in versions]
    text = f"Software: {', '.join(names)}."
    return f"{text} Hardware: {enumeration(hardware)}." if hardware else text

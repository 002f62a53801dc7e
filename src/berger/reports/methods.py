"""The paragraphs for a paper, written from configurations and records alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
    tested_people,
)
from berger.reports.scores import within_subject

SPECMOE = (
    "Darankoum D., Habermacher C., Volle J., Grudinin S. SpecMoE: Spectral Mixture-of-Experts "
    "Foundation Model for Cross-Species EEG Decoding. arXiv:2603.16739 (2026)."
)
DARE = (
    "DARE-EEG: A Foundation Model for Mining Dual-Aligned Representation of EEG. arXiv:2605.18298."
)
ALIGNMENT = (
    "He H., Wu D. Transfer Learning for Brain-Computer Interfaces: A Euclidean Space Data "
    "Alignment Approach. IEEE Transactions on Biomedical Engineering 67, 399-410 (2020). "
    "doi:10.1109/TBME.2019.2913914."
)
MNE = (
    "Gramfort A. et al. MEG and EEG data analysis with MNE-Python. Frontiers in Neuroscience 7, "
    "267 (2013). doi:10.3389/fnins.2013.00267."
)
HOLM = (
    "Holm S. A Simple Sequentially Rejective Multiple Test Procedure. Scandinavian Journal of "
    "Statistics 6, 65-70 (1979)."
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

Cite = Callable[[str], str]


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
                paragraphs.append(_adaptation(run, cite) + _other_preparation(run, described))
            else:
                paragraphs.append(_evaluation(run, cite))
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
    )


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


def _adaptation(run: Run, cite: Cite) -> str:
    record, config = run.record, run.config
    task, checkpoint = mapping(record, "task"), mapping(record, "checkpoint")
    if not task:
        return ""
    paper = f"{cite(str(task['paper']))}" if task.get("paper") else ""
    text = f"The task was “{str(task.get('title') or task.get('name')).rstrip('.')}”{paper}"
    if task.get("window_seconds"):
        text += f", in windows of {task['window_seconds']:g} s"
    if classes := task.get("classes"):
        text += f" of the classes {enumeration(map(str, classes))}"
    elif task.get("kind") == "regression":
        target = mapping(task, "target")
        text += f", to predict {target.get('name') or task.get('name')}"
    text += "."
    pooled = (
        "averaged over time, electrode by electrode"
        if config.get("pooling") == "electrodes"
        else "averaged over electrodes and time"
    )
    trained = checkpoint.get("trained_parameters")
    size = f" ({trained:,} parameters)" if trained else ""
    if config.get("strategy") in ("frozen probe", "ridge probe"):
        kind = "class-balanced logistic"
        if task.get("kind") == "regression":
            kind = "ridge"
        elif config["strategy"] == "ridge probe":
            kind = "class-balanced ridge"
        text += (
            f" The pretrained encoder was frozen and its features were {pooled}; a {kind} "
            f"regression{size} on standardised features was fitted to them."
        )
        if kind == "class-balanced ridge":
            text += " Its scores, times the number of classes, became probabilities by a softmax."
    elif config.get("strategy") == "fine-tuning" and mapping(config, "fine_tuning"):
        text += _fine_tuning(config, checkpoint.get("name") == "specmoe", pooled, size)
        text += _adapter(mapping(config, "adapter"))
    chosen = {
        "frozen probe": "The strength of the L2 penalty",
        "ridge probe": "The strength of the L2 penalty",
        "fine-tuning": "The epoch whose weights were used",
    }.get(str(config.get("strategy")), "What was left open")
    if aligned := record.get("euclidean_alignment"):
        text += (
            " Each recording was whitened beforehand by the mean covariance of its own windows, "
            f"without labels, to a standard deviation of {aligned['amplitude']:g} µV (Euclidean "
            f"alignment{cite(ALIGNMENT)})."
        )
    if folds := record.get("folds"):
        people = tested_people(record)
        of = "people"
        if within_subject(task):
            of = "recordings"
            text += (
                f" It was tested within subject, {counted(len(people), 'person', 'people')} each "
                f"alone, in {len(folds)} folds by recording: a recording was tested by what was "
                f"learned from others of the same person. {chosen} was chosen by one of them; the "
                "test recording was used once."
            )
        else:
            text += (
                f" It was tested in {len(folds)} folds by person ({len(people)} people), such that "
                "nobody was in more than one of the training, validation and test parts of a fold. "
                f"{chosen} was chosen by the validation people; the test people were used once."
            )
        if shots := record.get("shots"):
            kind = "in all" if task.get("kind") == "regression" else "of each class"
            text += (
                f" Few-shot: everything was fitted to and chosen by {shots} windows {kind} of the "
                f"training {of} and as many of the validation {of}."
            )
        seen = record.get("seen_in_pretraining") or ()
        text += f" Unlabelled recordings of {len(seen)} of them were in pretraining."
    regression = task.get("kind") == "regression"
    alone = within_subject(task) and len(tested_people(record)) == 1
    scores = "correlations and root mean squared errors" if regression else "balanced accuracies"
    text += (
        f" Results are {scores} over all folds together, with 95% percentile intervals of a "
        f"bootstrap over {'the recordings of the one person' if alone else 'people'}."
    )
    baselines = [str(name) for name in config.get("baselines") or () if name != "chance"]
    if regression:
        baselines = [name.replace("logistic", "ridge") for name in baselines]
    if baselines:
        text += f" The same protocol was applied to {enumeration(baselines)}."
    return text


_GATES = {
    "spectral": "a gate for every feature, read from the power spectrum of the window",
    "encoding": "a gate for every feature, read from a small encoding of the window",
    "softmax": "weights of the experts, read from the power spectrum of the window",
    "none": "no gate",
}


def _head(head: Mapping[str, Any], pooled: str) -> str:
    """How a new head reads features."""
    if head.get("name") == "steps":
        return (
            f"read time step by time step by a new linear layer of {head['width']} outputs "
            f"(dropout {head['dropout']:g}, weights of norm up to {head['max_norm']:g}), and those "
            f"of all steps by another (norm up to {head['max_norm_out']:g})"
        )
    if head.get("name") == "attention":
        return "averaged with weights from learned queries and read by a new linear layer"
    hidden = " and a hidden one below it" * (head.get("name") == "mlp")
    return f"{pooled} and read by a new linear layer{hidden}"


def _adapter(adapter: Mapping[str, Any]) -> str:
    """What was trained in front of an encoder, if anything."""
    parts = []
    if targets := adapter.get("targets"):
        layers = "a 1 × 1 convolution" if adapter["n_layers"] == 1 else "1 × 1 convolutions"
        parts.append(
            f"were projected onto {len(targets)} electrodes by {layers} across channels (weights "
            f"of norm up to {adapter['max_norm']:g})"
        )
    if adapter.get("resample"):
        parts.append(
            "were brought, where it differed, to the encoder's sampling rate by a fixed filter"
        )
    if size := adapter.get("kernel_size"):
        parts.append(f"passed a trained filter of {size} samples for each channel")
    return f" In front of the encoder signals {enumeration(parts)}." if parts else ""


_BALANCED = "weighted by the inverse frequency of its class, "
_WEIGHTED = {
    "balanced": _BALANCED,
    "sqrt": "weighted by the root of the inverse frequency of its class, ",
    "none": "",
    True: _BALANCED,  # in earlier runs
    False: "",
}


def _fine_tuning(config: Mapping[str, Any], is_mixture: bool, pooled: str, size: str) -> str:
    settings, mixture = mapping(config, "fine_tuning"), mapping(config, "mixture")
    text = f" The pretrained encoder's features were {_head(mapping(config, 'head'), pooled)}"
    if is_mixture:
        gate = _GATES.get(mixture.get("gate", ""), "a new gate")
        over = (mixture.get("pool_time", "mean"), mixture.get("pool_chans", "mean"))
        text = (
            f" The experts' features were joined by {gate}, pooled over time ({over[0]}) and "
            f"electrodes ({over[1]}), and read by a new hidden layer"
        )
    details = [f"learning rate {settings['lr']:g}"]
    if (decay := settings.get("layer_decay", 1)) < 1:
        details += [f"{decay:g} of it for each layer further from the head"]
    details += [f"batches of {settings['batch_size']}"]
    further = {
        "weight decay {:g}": settings.get("weight_decay"),
        "gradients clipped to a norm of {:g}": settings.get("clip_norm"),
        "labels smoothed by {:g}": settings.get("label_smoothing"),
    }
    details += [what.format(value) for what, value in further.items() if value]
    optimizer = {"adamw": "AdamW"}.get(settings.get("optimizer", "adam"), "Adam")
    text += (
        f"; the network{size} was trained for up to {settings['epochs']} epochs by {optimizer} "
        f"({', '.join(details)}) on the cross-entropy, {_WEIGHTED[settings['class_weights']]}"
        f"{_rates(settings)}."
    )
    if patience := settings.get("stop_after"):
        text += f" It ended after {patience} epochs without a lower validation loss."
    unfreeze = settings["unfreeze"]
    if unfreeze is None or unfreeze >= settings["epochs"]:
        text += " What was pretrained stayed frozen."
    elif unfreeze:
        text += f" What was pretrained was frozen before epoch {unfreeze + 1}."
    if every := settings.get("unfreeze_every"):
        text += (
            " From then on its depths were trained one after another, from the last to the first, "
            f"a further one every {counted(every, 'epoch')}."
        )
    if low_rank := mapping(config, "low_rank"):
        text += (
            " The encoder's own weights stayed as they were; beside its linear layers and "
            f"convolutions layers of rank {low_rank['rank']} were trained (LoRA, alpha "
            f"{low_rank['alpha']}), and added to them in the end."
        )
    return text


def _rates(settings: Mapping[str, Any]) -> str:
    """How the learning rate changes while a network is fine-tuned."""
    rise = f"for the first {settings.get('warmup', 0):.0%} of the steps, then falling"
    return {
        "one-cycle": f"the rate rising from half of it {rise} to a sixteenth (one cycle)",
        "cosine": f"the rate rising {rise} to 0 along a cosine",
    }.get(
        settings.get("schedule", "plateau"),
        f"halving the rate after {settings['patience']} epochs without a lower validation loss",
    )


def _evaluation(run: Run, cite: Cite) -> str:
    """Write what the configuration says of an evaluation, and how models were compared."""
    config, tasks = run.config, mapping(run.record, "tasks")
    models, methods, seeds = (config.get(key) or () for key in ("models", "adaptations", "seeds"))
    if not tasks or not seeds:
        return ""
    kinds = mapping(run.record, "models")
    named = enumeration(f"{name} ({kinds.get(name, 'model')})" for name in models)
    by = f", adapted by {enumeration(methods)}," if methods else ""
    compared = f"{named}{by} and " if models else ""
    shots = {name: mapping(tasks, name).get("shots") for name in tasks}
    few = [f"{number} on {name}" for name, number in shots.items() if number]
    learned = (
        f" Few-shot ({enumeration(few)}): every model and baseline was fitted to and chosen by so "
        "many windows of each class, or of a regression in all, of the training people and as "
        "many of the validation people."
    )
    within = [name for name in tasks if within_subject(mapping(tasks, name))]
    alone = (
        f" {enumeration(within)} {'was' if len(within) == 1 else 'were'} tested within subject: "
        "there a fold is a recording, tested by what was learned from others of the same person; "
        "intervals and swaps are over recordings where there is one person only."
    )
    baselines = [*config["baselines"], *(run.record.get("published_models") or ())]
    return (
        f"On {enumeration(tasks)}, {compared}the baselines {enumeration(baselines)} were "
        "tested on the same folds by person: choices were made on validation people, and test "
        f"people were read once in each fold, with {counted(len(seeds), 'seed')}. Scores are means "
        "over seeds with 95% bootstrap intervals over people; models were compared by swapping "
        f"them person by person, corrected for the number of comparisons{cite(HOLM)}."
        f"{alone if within else ''}{learned if few else ''}"
    )


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

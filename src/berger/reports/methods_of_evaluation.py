"""The paragraphs for a paper on how a model was adapted and tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from berger.errors import BergerError
from berger.reports.blocks import counted, enumeration
from berger.reports.folders import Run, fold_unit, mapping, tested_people
from berger.reports.scores import STRANGERS, tested_on

ALIGNMENT = (
    "He H., Wu D. Transfer Learning for Brain-Computer Interfaces: A Euclidean Space Data "
    "Alignment Approach. IEEE Transactions on Biomedical Engineering 67, 399-410 (2020). "
    "doi:10.1109/TBME.2019.2913914."
)
HOLM = (
    "Holm S. A Simple Sequentially Rejective Multiple Test Procedure. Scandinavian Journal of "
    "Statistics 6, 65-70 (1979)."
)

Cite = Callable[[str], str]
"""Takes a reference into the list and returns its mark in the text."""


def adaptation_text(run: Run, cite: Cite) -> str:
    """Say how a model was adapted and tested."""
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
        n_people = counted(len(tested_people(record)), "person", "people")
        unit, n_folds = fold_unit(record), counted(len(folds), "fold")
        of = "people" if unit == "person" else f"{unit}s"
        text += {
            STRANGERS: f" It was tested in {n_folds} by {unit} ({n_people}), such that nobody "
            + (
                "was in more than one of the training, validation and test parts of a fold."
                if unit == "person"
                else f"who was tested was in another part of a fold; different {of} of one person "
                "may be in its training and validation parts."
            ),
            "within subject": f" It was tested within subject, {n_people} each alone, in "
            f"{n_folds} by {unit}, by what was learned from other {of} of the same person.",
        }.get(
            tested_on(task),
            f" It was tested on people who were also learned from ({n_people}), in {n_folds} by "
            f"{unit}: no {unit} was in more than one of the training, validation and test parts, "
            "but people were, so that nothing follows for people whom a model does not know.",
        )
        text += f" {chosen} was chosen by the validation {of}; the test {of} were used once."
        if shots := record.get("shots"):
            kind = "in all" if task.get("kind") == "regression" else "of each class"
            text += (
                f" Few-shot: everything was fitted to and chosen by {shots} windows {kind} of the "
                f"training {of} and as many of the validation {of}."
            )
        seen = record.get("seen_in_pretraining") or ()
        text += f" Unlabelled recordings of {len(seen)} of them were in pretraining."
    regression = task.get("kind") == "regression"
    alone = tested_on(task) != STRANGERS and len(tested_people(record)) == 1
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


def evaluation_text(run: Run, cite: Cite) -> str:
    """Write what the configuration says of an evaluation, and how models were compared."""
    config, tasks = run.config, mapping(run.record, "tasks")
    models, methods, seeds = (config.get(key) or () for key in ("models", "adaptations", "seeds"))
    if not tasks or not seeds:
        return ""
    kinds = mapping(run.record, "models")
    baselines = [*config["baselines"], *(run.record.get("published_models") or ())]
    try:
        cells = run.table("cells.parquet", ("model", "status"))
    except BergerError:  # it has not ended
        pass
    else:  # of whom every cell failed was not tested
        worked = {*cells.loc[cells["status"] == "ok", "model"]}
        models, baselines = ([one for one in own if one in worked] for own in (models, baselines))
    named = enumeration(f"{name} ({kinds.get(name, 'model')})" for name in models)
    by = f", adapted by {enumeration(methods)}," if models else ""
    tested = [f"{named}{by}"] if models else []
    if baselines:
        tested.append(f"the baselines {enumeration(baselines)}")
    shots = {name: mapping(tasks, name).get("shots") for name in tasks}
    few = [f"{number} on {name}" for name, number in shots.items() if number]
    learned = (
        f" Few-shot ({enumeration(few)}): every model and baseline was fitted to and chosen by so "
        "many windows of each class, or of a regression in all, of the training part and as many "
        "of the validation part."
    )
    return (
        f"On {enumeration(tasks)}, {' and '.join(tested)} were tested on the same folds, with "
        f"{counted(len(seeds), 'seed')}: choices were made on the validation part of a fold, and "
        f"its test part was read once.{_divisions(config, tasks)} Scores are means over seeds with "
        "95% bootstrap intervals over people; models were compared by swapping them person by "
        f"person, corrected for the number of comparisons{cite(HOLM)}.{learned if few else ''}"
    )


_NO_STRANGERS = "nothing follows for people whom a model does not know"
_ONE_PERSON = "intervals and swaps are over recordings where there is one person only"
_SPLITS = {
    "k-fold": "Folds of {} are by person: nobody is in two parts of one.",
    "subject": "In each fold of {} one person was tested, and nobody is in two parts.",
    "site": "In each fold of {} one site was tested by what was learned at the others.",
    "fixed": "Whom to learn from and whom to test was given in advance for {}.",
    "file name": "Whom to learn from and whom to test was said by the names of the files of {}.",
    "file name, test separate": (
        "Whom to test was said by the names of the files of {}; the others may be learned from by "
        "some of their recordings and chosen by by others."
    ),
    "file name, shared": (
        "The people of {} who were tested were also learned from, by other recordings, as the "
        f"names of the files say; {_NO_STRANGERS}."
    ),
    "file name, each alone": (
        "Within subject, each person of {} was tested by what was learned from other recordings of "
        f"the same person, as the names of the files say; {_ONE_PERSON}."
    ),
    "trial, shared": (
        "The people of {} who were tested were also learned from, by other trials of the same "
        f"recordings; {_NO_STRANGERS}."
    ),
    "trial, each alone": (
        "Within subject, each person of {} was tested by what was learned from other trials of the "
        f"same recordings; {_ONE_PERSON}."
    ),
    "recording within subject": (
        "Within subject, a fold of {} is a recording, tested by what was learned from others of "
        f"the same person; {_ONE_PERSON}."
    ),
}


def _split_of(task: Mapping[str, Any]) -> str:
    split = mapping(task, "split")
    people = split.get("people", "separate")
    return str(split.get("by", "k-fold")) + (f", {people}" if people != "separate" else "")


def _divisions(config: Mapping[str, Any], tasks: Mapping[str, Any]) -> str:
    """Say who was tested by what was learned from whom."""
    pairs = [(str(one["train"]), str(one["test"])) for one in config.get("transfers") or ()]
    transfers = {f"{train} → {test}": (train, test) for train, test in pairs}
    text = ""
    for by, sentence in _SPLITS.items():
        named = [
            name
            for name in tasks
            if name not in transfers and _split_of(mapping(tasks, name)) == by
        ]
        if named:
            text += f" {sentence.format(enumeration(named))}"
    for name, (train, test) in transfers.items():
        if name in tasks:
            text += (
                f" In {name} the people of {train} were learned from and chosen by, and all people "
                f"of {test} tested."
            )
    return text

"""Turn weights that were published elsewhere into checkpoints; nothing in their files runs.

    file of weights ─► tensors by name ─► which kind? ─► names and shapes checked ─► checkpoint

A kind of published weights is one entry of `KINDS`.
"""

from __future__ import annotations

import mmap
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from berger.checkpoints import read_tensors
from berger.configuration import Config, load_config
from berger.errors import BergerError
from berger.files import sha256
from berger.models import (
    DareConfig,
    EEGModel,
    InputContract,
    SpecHiNetPublishedConfig,
    SpecMoE,
    SpecMoEConfig,
    dare,
)
from berger.models.encoders import build_encoder
from berger.models.spechinet import SpecHiNetEncoder
from berger.models.spechinet_published import name_here
from berger.preprocessing import PreprocessingConfig
from berger.training.log import run_record

PLACES = ("model_state", "state_dict", "model")
"""Where files keep their weights beside other things."""
MOST_NAMED = 3


@dataclass(frozen=True)
class PublishedKind:
    """One kind of published weights.

    Attributes
    ----------
    title : str
        What it is.
    names : str
        Regular expression of the names that such files hold.
    name_here : callable
        Published name → name here.
    config : callable
        Tensors by published name → the model's configuration.
    window_seconds : float or None
        Windows that it was trained on; None if that depends on the task.
    preparation : str
        Shipped configuration of the recordings that it reads; its electrodes are not asked for.
    taken : callable
        Tensors by published name → those of them that the model takes; the others are left on
        purpose.
    remark : str
        What must be known to use it, unless a ``scale`` is given.
    """

    title: str
    names: str
    name_here: Callable[[str], str]
    config: Callable[[Mapping[str, Tensor]], Config]
    window_seconds: float | None
    preparation: str
    taken: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    remark: str = ""

    def known(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that are of this kind."""
        return [name for name in names if re.match(self.names, name)]


def _mixture_name_here(published: str) -> str:
    place, _, rest = published.partition(".")
    if place == "experts":
        number, _, rest = rest.partition(".")
        return f"experts.{number}.{name_here(rest)}"
    if place == "classifier":
        return rest.replace("net.", "head.", 1)
    return f"gate.layers.{int(place.removeprefix('gate_LinearT_')) - 1}.{rest}"


def _mixture_config(tensors: Mapping[str, Tensor]) -> SpecMoEConfig:
    expert = SpecHiNetPublishedConfig()
    numbers = {name.split(".")[1] for name in tensors if name.startswith("experts.")}
    settings: dict[str, Any] = {"expert": expert, "n_experts": max(1, len(numbers))}
    # without these two the defaults stand, and the missing names are told
    if (last := tensors.get("classifier.net.4.weight")) is not None and last.ndim == 2:
        settings["n_outputs"] = len(last)
    if (gate := tensors.get("gate_LinearT_1.weight")) is not None and gate.ndim == 2:
        settings["segment_seconds"] = 2 * (gate.shape[1] - 1) / expert.sfreq
    return SpecMoEConfig.model_validate(settings)


def _dare_taken(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The momentum copy of the encoder, predictor and reconstructor, if this is DARE-EEG's."""
    left = r"loss_mc\.|(predictor|reconstructor)\.time_embed\.freqs$"  # a head and fixed values
    if any(name.startswith("target_encoder.") for name in tensors):
        left += r"|encoder\."
    if not _is_dare(tensors):
        left += r"|(predictor|reconstructor)\."
    taken = {name: tensor for name, tensor in tensors.items() if not re.match(left, name)}
    for name, tensor in taken.items():
        if name.endswith("patch_embed.proj.weight"):  # of a convolution (dim, 1, 1, patch_size)
            taken[name] = tensor.flatten(1)
    return taken


def _is_dare(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("loss_mc.") for name in tensors)


def _dare_name_here(published: str) -> str:
    part, _, rest = published.partition(".")
    if part in ("predictor", "reconstructor"):
        return dare.name_here(published)
    return dare.name_here(f"encoder.{rest if part.endswith('encoder') else published}")


def _dare_config(tensors: Mapping[str, Tensor]) -> DareConfig:
    """Read sizes off the shapes; where one is missing the default stands, which is told later."""
    taken = {_dare_name_here(name): tensor for name, tensor in _dare_taken(tensors).items()}
    settings: dict[str, Any] = {}
    if (embed := taken.get("encoder.embed.weight")) is not None and embed.ndim == 2:
        settings |= {"embed_dim": embed.shape[0], "patch_size": embed.shape[1]}
    if (summary := taken.get("encoder.summary_tokens")) is not None and summary.ndim == 3:
        settings["n_streams"] = summary.shape[1]
    for part in ("encoder", "predictor", "reconstructor"):
        begin = rf"{part}\.layers\.(\d+)\."
        numbers = {found[1] for name in taken if (found := re.match(begin, name))}
        settings[f"{part}_depth"] = max(1, len(numbers))
    width = settings.get("embed_dim", 0)
    frequencies = tensors.get("predictor.time_embed.freqs")
    if frequencies is not None and 4 * frequencies.numel() <= width:
        settings["n_heads"] = width // (4 * frequencies.numel())
    else:  # weights do not tell; this is so in every published size
        settings["n_heads"] = 8 if width >= 512 else 4
    settings["parts"] = "all" if _is_dare(tensors) else "encoder"
    return DareConfig.model_validate(settings)


EXPERT = PublishedKind(
    title="published SpecMoE expert",
    names=r"(Down|Up|Bottom|TransformerEnc)\d\.|aux_head_up\d\.",
    name_here=name_here,
    config=lambda tensors: SpecHiNetPublishedConfig(),
    window_seconds=30.0,
    preparation="specmoe",
)
MIXTURE = PublishedKind(
    title="published SpecMoE",
    names=r"experts\.\d+\.|gate_LinearT_\d+\.|classifier\.net\.",
    name_here=_mixture_name_here,
    config=_mixture_config,
    window_seconds=None,
    preparation="specmoe",
)
_ENCODER = r"((target_)?encoder\.)?(summary_token$|(patch_embed|chan_embed|blocks|norm)\.)"
EEGPT = PublishedKind(
    title="published EEGPT encoder",
    names=rf"{_ENCODER}|(predictor|reconstructor)\.",
    name_here=_dare_name_here,
    config=_dare_config,
    window_seconds=4.0,
    preparation="dare",
    taken=_dare_taken,
    remark=(
        "EEGPT's own program prepares signals in millivolts; import with --scale 1000 if these "
        "weights were trained so."
    ),
)
DARE = PublishedKind(
    title="published DARE-EEG",
    names=rf"{EEGPT.names}|loss_mc\.",  # so that the head of its loss tells it from EEGPT
    name_here=_dare_name_here,
    config=_dare_config,
    window_seconds=4.0,
    preparation="dare",
    taken=_dare_taken,
)
KINDS = (EXPERT, MIXTURE, EEGPT, DARE)


def import_weights(
    paths: Sequence[Path],
    out: Path,
    *,
    window_seconds: float | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> tuple[EEGModel, str]:
    """Write published weights as a checkpoint.

    Parameters
    ----------
    paths : sequence of Path
        A file of weights, of torch or safetensors; or several files of experts, which become one
        SpecMoE with a new gate and head.
    out : Path
        The checkpoint's folder.
    window_seconds : float, optional
        Windows that the model is used on; default: those it was pretrained on.
    settings : mapping, optional
        Fields of the model's configuration that weights do not tell, e.g. ``pool_time``.
    seed : int
        Of the new gate and head.

    Returns
    -------
    EEGModel, str
        The model in evaluation mode, and what was recognised.

    Raises
    ------
    BergerError
        If a file cannot be read as plain tensors, is of no known kind, or its weights do not fit.
    """
    if not paths:
        raise BergerError("import-weights: no file given; name one before --out.")
    if out.exists():
        raise BergerError(f"{out}: exists already; choose another folder.")
    settings = settings or {}
    found = [_recognise(path) for path in paths]
    kinds = [kind for kind, _ in found]
    if len(found) > 1 and (other := [kind for kind in kinds if kind is not EXPERT]):
        raise BergerError(
            f"{paths[kinds.index(other[0])]}: is a {other[0].title}, not an expert; give it alone."
        )
    models = [
        _build(path, *each, settings if len(paths) == 1 else {})
        for path, each in zip(paths, found, strict=True)
    ]
    seconds = window_seconds or kinds[0].window_seconds
    # the montage of the published corpus is not asked for: the paper adapts to any
    preprocessing = load_config(PreprocessingConfig, kinds[0].preparation, {"ch_names": None})
    model = models[0]
    if len(models) > 1:
        experts = [each for each in models if isinstance(each, SpecHiNetEncoder)]
        torch.manual_seed(seed)
        model = SpecMoE.from_experts(experts, **settings).eval()
    model.contract = InputContract(
        sfreq=preprocessing.sfreq, window_seconds=seconds, preprocessing=preprocessing
    )
    files = [
        {"file": path.name, "sha256": sha256(path), "recognised": kind.title}
        | {"left": sorted(tensors.keys() - kind.taken(tensors).keys())}
        | {"remark": "" if "scale" in settings else kind.remark}
        for path, (kind, tensors) in zip(paths, found, strict=True)
    ]
    model.provenance = run_record() | {"kind": "import", "imported": files, "seed": seed}
    model.save_checkpoint(out)
    times = f"{len(paths)} × " if len(paths) > 1 else ""
    return model, f"{times}{kinds[0].title}{_without(*found[0])}"


def _without(kind: PublishedKind, tensors: Mapping[str, Tensor]) -> str:
    """Name the parts of a file of which the model takes nothing."""
    every, taken = (
        {name.partition(".")[0] for name in some} for some in (tensors, kind.taken(tensors))
    )
    return f" (without {' and '.join(sorted(every - taken))})" if every - taken else ""


def _recognise(path: Path) -> tuple[PublishedKind, dict[str, Tensor]]:
    """Return what a file holds, and its tensors by published name."""
    tensors = read_published(path)
    names = list(tensors)
    kind = max(KINDS, key=lambda each: len(each.known(names)))
    if 2 * len(kind.known(names)) <= len(names):
        raise BergerError(
            f"{path}: holds no weights that Berger knows (its names begin with "
            f"{_some(names)}); it imports {' and '.join(each.title for each in KINDS)}."
        )
    return kind, tensors


def _build(
    path: Path, kind: PublishedKind, tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> EEGModel:
    """Build the model and give it the weights, if names and shapes are exactly its own."""
    try:
        config = kind.config(tensors)
    except ValidationError as error:
        reason = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise BergerError(
            f"{path}: looks like a {kind.title}, but of a size that none has ({reason}); give the "
            "file as it was published."
        ) from error
    if foreign := [name for name in settings if name not in type(config).model_fields]:
        raise BergerError(f"{path}: a {kind.title} has no {foreign[0]}; leave it out.")
    try:
        config = config.model_validate(config.model_dump() | dict(settings))
    except ValidationError as error:
        given = ", ".join(f"{name}: {value}" for name, value in settings.items())
        reason = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise BergerError(f"{path}: {given} does not fit these weights ({reason}).") from error
    with torch.device("meta"):  # a file may claim any size
        own = build_encoder(config).state_dict()
    tensors = kind.taken(tensors)
    named = {name: kind.name_here(name) for name in kind.known(tensors)}
    unknown = [name for name in tensors if named.get(name) not in own]
    # how many batches a batch norm has seen changes nothing, and is not always published
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    missing = sorted(set(needed) - set(named.values()))
    wrong = [
        f"{name} is {tuple(tensors[name].shape)} instead of {tuple(own[ours].shape)}"
        for name, ours in named.items()
        if ours in own and tensors[name].shape != own[ours].shape
    ]
    if faults := weight_faults(unknown, missing, wrong):
        raise BergerError(
            f"{path}: looks like a {kind.title}, but {faults}; give the file as it was published."
        )
    model = build_encoder(config)
    model.load_state_dict({ours: tensors[name] for name, ours in named.items()}, strict=False)
    return model.eval()


def read_published(path: Path) -> dict[str, Tensor]:
    """Read the weights in a file of torch or safetensors; nothing in the file runs.

    They may lie in ``model_state`` beside other things, which are left, and ``module.`` may stand
    before their names.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of str to Tensor
        On the CPU.

    Raises
    ------
    BergerError
        If there is no such file, it is damaged, would have to run something, or holds no tensors.
    """
    if not path.is_file():
        raise BergerError(f"{path}: no such file; give a file of weights.")
    content: Any = read_tensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    places = [content.get(place) for place in PLACES] if isinstance(content, Mapping) else []
    tensors = next((place for place in (*places, content) if _are_tensors(place)), None)
    if tensors is None:
        raise BergerError(
            f"{path}: holds no weights by name, neither at its top nor in {' or '.join(PLACES)}; "
            "give another file."
        )
    named = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if len(named) < len(tensors):
        raise BergerError(f"{path}: holds weights with and without module.; give another file.")
    if bad := [name for name, tensor in named.items() if not torch.isfinite(tensor).all()]:
        raise BergerError(f"{path}: holds values that are not finite in {_some(bad)}; copy again.")
    return named


def _are_tensors(place: object) -> bool:
    """Whether this is weights by name."""
    return (
        isinstance(place, Mapping)
        and bool(place)
        and all(isinstance(name, str) for name in place)
        and all(isinstance(tensor, Tensor) and _is_plain(tensor) for tensor in place.values())
    )


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has a stored value for each of its entries."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd files, which are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        if wants := re.search(r"GLOBAL (\S+)", str(error)):
            place = _place_of_weights(path)
            raise BergerError(
                f"{path}: holds more than tensors and plain values ({wants[1]}), which only "
                "running instructions in the file could load, and none was run; if you trust its "
                f"source, write the weights alone with torch.save({{'{place}': torch.load("
                f"'{path.name}', weights_only=False)['{place}']}}, 'weights.pt') and import "
                "weights.pt."
            ) from error
        raise _unreadable(path) from error
    except Exception as error:  # a damaged file makes torch's reader trip over almost anything
        raise _unreadable(path) from error


def _place_of_weights(path: Path) -> str:
    """Where a file that must not be loaded seems to keep its weights."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return next((place for place in PLACES if content.find(place.encode()) >= 0), PLACES[0])


def _unreadable(path: Path) -> BergerError:
    return BergerError(
        f"{path}: is damaged, or not a file that torch.save wrote; copy it again, or write its "
        "weights as .safetensors."
    )


def weight_faults(unknown: Sequence[str], missing: Sequence[str], wrong: Sequence[str]) -> str:
    """Say which weights of a file do not fit their network; nothing if all do."""
    return " and ".join(
        f"{len(names)} weights are {what} ({_some(names)})"
        for what, names in (("unknown", unknown), ("missing", missing), ("of another size", wrong))
        if names
    )


def _some(names: Sequence[str]) -> str:
    more = ", …" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more

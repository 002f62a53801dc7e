"""A checkpoint as one ONNX file, which runs without Berger and without torch.

    checkpoint ─► graph, with the contract as metadata ─► run beside the model ─► FILE.onnx

docs/decisions/0016-onnx.md says what such a file takes, gives and costs.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from berger import __version__
from berger.errors import BergerError
from berger.files import sha256, written_whole
from berger.models import (
    Classifier,
    DareEEG,
    EEGModel,
    Encoder,
    InputContract,
    SpecMoE,
    load_checkpoint,
)
from berger.models.spechinet_published import SpecHiNetPublishedEncoder

OPSET = 23
"""The first that has an operator for attention."""
TOLERANCE = 1e-3
"""Largest difference between file and model, as a share of the model's largest value: the head of a
probe can make more of single precision's than an encoder does."""
BATCHES = (1, 2, 3)
CHANS = (1, 4)
"""Sizes at which file and model are compared; of electrodes, where a file takes any number."""
PROBABILITIES = "probability of each class, in the order of the metadata's classes"
VALUES = "values of a regression: {}"
HEAD = "what the head puts out: values of a regression, or logits of classes without names"
SUMMARY = "features of each window: its tokens pooled"
SIGNAL = "microvolts, prepared as the contract says"
ALIGNED = (
    "then, outside this file, multiplied by {amplitude:g} R^(-1/2), R the mean of X X^T / n_times "
    "over the usable windows X of the same recording; eigenvalues of R below {tolerance:g} of the "
    "median electrode's variance have no share in R^(-1/2)"
)
TOKENS = "features of each token, all of the first {} first"

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Exported:
    """What an ONNX file takes and gives.

    Attributes
    ----------
    inputs, outputs : dict of str to tuple
        Name → shape; a size that is free has a name, e.g. ``("batch", 19, 800)``.
    difference : float
        Largest difference from the model that was found, as a share of its largest value.
    """

    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    difference: float

    def __str__(self) -> str:
        takes, gives = (
            ", ".join(f"{name} ({', '.join(map(str, shape))})" for name, shape in values.items())
            for values in (self.inputs, self.outputs)
        )
        return f"{takes} → {gives}, at most {self.difference:.0e} from the model"


def export(
    checkpoint: Path,
    out: Path,
    *,
    window_seconds: float | None = None,
    n_chans: int | None = None,
    ch_names: Sequence[str] | None = None,
    with_times: bool = False,
    seed: int = 0,
) -> Exported:
    """Write a checkpoint's model as ONNX, and check that the file computes the same.

    It takes ``signal`` (batch, n_chans, n_times), float32, in microvolts. A model with classes
    gives ``scores`` (batch, n_classes), their probabilities; one with a target ``values``
    (batch, 1). An encoder gives ``features``
    (batch, dim) and ``tokens`` (batch, n_tokens, dim); a mixture without classes also gives
    ``scores`` (batch, n_outputs), what its head puts out, unless the head is new.

    Parameters
    ----------
    checkpoint : Path
        Folder of a pretrained, adapted or imported model.
    out : Path
        File that ends in ``.onnx``; one that stands there is replaced.
    window_seconds : float, optional
        Length of the windows; default: the contract's.
    n_chans : int, optional
        Number of electrodes; default: the contract's, or any where the model takes any.
    ch_names : sequence of str, optional
        Electrodes that the file shall take, in this order, where the contract leaves them open; a
        model that finds its electrodes by name needs them.
    with_times : bool
        Let the file take ``times`` (batch, n_times), float32, as well: the position of each
        sample. Otherwise they are 0.1 to 1.1 over the window.
    seed : int
        Of the random signals on which file and model are compared.

    Raises
    ------
    BergerError
        If the model cannot be exported as asked, a package is missing, or the file does not
        compute what the model computes; then nothing is written.
    """
    onnx, _ = _packages()
    if out.suffix != ".onnx" or out.is_dir():
        raise BergerError(f"{out}: must be a file that ends in .onnx; choose another --out.")
    model = load_checkpoint(checkpoint)
    if with_times and isinstance(model, Classifier):
        raise BergerError(f"{checkpoint}: its linear head takes no times; leave --with-times out.")
    contract = model.contract = _with_names(model, checkpoint, ch_names)
    chans = _n_chans(model, checkpoint, n_chans)
    seconds = contract.window_seconds if window_seconds is None else window_seconds
    if seconds is None:
        raise BergerError(
            f"{checkpoint}: does not say how long its windows are; give --window-seconds."
        )
    n_times = round(seconds * contract.sfreq)
    if n_times < 2:
        raise BergerError(
            f"--window-seconds {seconds:g}: such windows are shorter than two samples; give longer."
        )
    model.contract = contract.model_copy(update={"window_seconds": seconds})

    def signals(batch: int, chans: int) -> dict[str, Tensor]:
        return _signals(batch, chans, n_times, with_times, seed)

    network = _Network(model)
    example = signals(BATCHES[1], chans or CHANS[1])
    with torch.no_grad():
        network(**example)  # refuses what the model refuses, before anything is traced
    proto = _traced(network, example, any_chans=chans is None)
    onnx.helper.set_model_props(proto, _properties(model, network.outputs, checkpoint))
    sizes = [(batch, n) for n in (CHANS if chans is None else (chans,)) for batch in BATCHES]
    with written_whole(out) as temporary:
        onnx.save(proto, temporary)
        onnx.checker.check_model(temporary, full_check=True)
        difference = _difference(network, temporary, [signals(*size) for size in sizes])
        if not difference <= TOLERANCE:  # also if it is not a number
            raise BergerError(
                f"{out}: not written, because what onnxruntime computes differs from the model by "
                f"{difference:.0e} of the largest output, more than {TOLERANCE:.0e}; check the "
                "weights, or install other versions of torch and onnxruntime."
            )
    return Exported(_shapes(proto.graph.input), _shapes(proto.graph.output), difference)


class _Network(nn.Module):
    """A model with the outputs that its file shall have.

    Attributes
    ----------
    outputs : dict of str to str
        Name of each output → what it is.
    """

    def __init__(self, model: EEGModel) -> None:
        super().__init__()
        self.model = model
        if model.classes:
            self.outputs = {"scores": PROBABILITIES}
        elif model.target:
            self.outputs = {"values": VALUES.format(model.target)}
        else:
            assert isinstance(model, Encoder)
            belongs = "electrode" if model.features_by_electrode else "time step"
            self.outputs = {"features": SUMMARY, "tokens": TOKENS.format(belongs)}
        if isinstance(model, SpecMoE) and not model.is_adapted and not _head_is_new(model):
            self.outputs["scores"] = HEAD

    def forward(self, signal: Tensor, times: Tensor | None = None) -> tuple[Tensor, ...]:
        model = self.model
        if model.is_adapted:
            answers: Tensor = model(signal) if times is None else model(signal, times)
            return (answers.softmax(-1) if model.classes else answers,)
        assert isinstance(model, Encoder)
        features = model.forward_features(signal, times=times)
        encoded = features.summary, features.tokens
        if isinstance(model, SpecMoE) and "scores" in self.outputs:
            return *encoded, model.head(features.summary)
        return encoded


def _head_is_new(model: EEGModel) -> bool:
    """Whether a mixture's head has random weights: it was joined from experts, and not adapted."""
    made_from = model.provenance
    return made_from.get("kind") == "assembly" or len(made_from.get("imported", ())) > 1


def _with_names(model: EEGModel, checkpoint: Path, ch_names: Sequence[str] | None) -> InputContract:
    """Return the model's contract, with the electrodes that were asked for."""
    contract = model.contract
    if ch_names is not None:
        if contract.ch_names not in (None, tuple(ch_names)):
            raise BergerError(
                f"{checkpoint}: was made for {' '.join(contract.ch_names or ())} in this order; "
                "leave --ch-names out."
            )
        model.check_montage(ch_names, checkpoint)
        contract = contract.model_copy(update={"ch_names": tuple(ch_names)})
    if contract.ch_names is None and any(isinstance(part, DareEEG) for part in model.modules()):
        raise BergerError(
            f"{checkpoint}: finds its electrodes by name; say by --ch-names which the file shall "
            "take, e.g. --ch-names C3,Cz,C4."
        )
    return contract


def _n_chans(model: EEGModel, checkpoint: Path, asked: int | None) -> int | None:
    """Return how many electrodes the file shall take, None for any number."""
    counted = model.config.n_chans if isinstance(model, Classifier) else None
    own = len(model.contract.ch_names) if model.contract.ch_names else counted
    if own and asked not in (None, own):
        raise BergerError(f"{checkpoint}: was made for {own} electrodes; leave --n-chans out.")
    if asked is not None and asked < 1:
        raise BergerError(f"--n-chans {asked}: there must be an electrode.")
    n_chans = own or asked
    in_a_row = any(isinstance(part, SpecHiNetPublishedEncoder) for part in model.modules())
    if in_a_row and n_chans is None:
        raise BergerError(
            f"{checkpoint}: lays its electrodes end to end, so a file of it has a fixed number of "
            "them; give --n-chans."
        )
    return n_chans


def _signals(
    batch: int, chans: int, n_times: int, with_times: bool, seed: int
) -> dict[str, Tensor]:
    """Inputs of noise, tens of microvolts strong."""
    generator = torch.Generator().manual_seed(seed)
    signals = {"signal": 20 * torch.randn(batch, chans, n_times, generator=generator)}
    if with_times:
        starts = 10 * torch.rand(batch, 1, generator=generator)
        signals["times"] = starts + torch.linspace(0.1, 1.1, n_times)
    return signals


def _traced(network: _Network, example: dict[str, Tensor], any_chans: bool) -> Any:
    """Return the network as a ModelProto; batch, and electrodes if any will do, are free."""
    batch = Dim("batch")
    shapes: dict[str, dict[int, Any]] = {name: {0: batch} for name in example}
    if any_chans:
        shapes["signal"][1] = Dim("n_chans")
    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            network,
            kwargs=example,
            dynamic_shapes=shapes,
            input_names=list(example),
            output_names=list(network.outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    graph = proto.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")  # lines of code and paths of this machine
    proto.producer_name, proto.producer_version = "berger", __version__
    return proto


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep from users what torch's exporter says about itself.

    It warns of its own deprecations, and logs that torchvision, of which nothing is needed, is
    missing. What it does is checked afterwards.
    """
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _properties(model: EEGModel, outputs: dict[str, str], checkpoint: Path) -> dict[str, str]:
    """What the file says about itself: JSON by name."""
    made_from = model.provenance
    provenance = {
        "kind": made_from.get("kind"),
        "corpus": made_from.get("corpus", {}).get("id"),
        "pretraining_corpus": made_from.get("checkpoint", {}).get("corpus_id"),
        "imported": made_from.get("imported"),
        "versions": made_from.get("versions"),
        "weights_sha256": sha256(checkpoint / "model.safetensors"),
        "exported_by": f"berger {__version__}, torch {torch.__version__}",
    }
    aligned = model.contract.euclidean_alignment
    signal = SIGNAL if aligned is None else f"{SIGNAL}, {ALIGNED.format(**aligned.model_dump())}"
    properties = {
        "contract": model.contract.model_dump(mode="json"),
        "signal": signal,
        "classes": model.classes,
        "target": model.target,
        "outputs": outputs,
        "model": model.config.model_dump(mode="json"),
        "provenance": {name: value for name, value in provenance.items() if value is not None},
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in properties.items()}


def _difference(network: _Network, file: Path, inputs: Sequence[dict[str, Tensor]]) -> float:
    """Return how far the file is from the network at most, as a share of the largest output."""
    _, onnxruntime = _packages()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    differences = []
    for signals in inputs:
        found = session.run(list(network.outputs), {name: x.numpy() for name, x in signals.items()})
        with torch.no_grad():
            wanted = network(**signals)
        for x, y in zip(found, wanted, strict=True):
            largest = y.abs().max().clamp_min(torch.finfo(y.dtype).tiny)
            differences.append((torch.from_numpy(x) - y).abs().max() / largest)
    return float(torch.stack(differences).max())  # unlike max(), not a number if one is not


def _shapes(values: Iterable[Any]) -> dict[str, Shape]:
    return {
        value.name: tuple(
            dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim
        )
        for value in values
    }


def _packages() -> tuple[Any, Any]:
    """Return the modules onnx and onnxruntime."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter imports it
    except ImportError as error:
        raise BergerError(
            f"export: the package {error.name} is not installed; install `berger[onnx]`."
        ) from error
    return onnx, onnxruntime

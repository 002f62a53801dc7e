"""Published networks with their published weights, fed as their authors fed them.

Architectures are braindecode's, an extra: ``pip install berger[braindecode]``; weights are a file
of the user's, of which nothing runs.

::

    signal (batch, n_chans, n_times) µV, 200 Hz
      │  Labram, CBraMod: ÷ 100
      │  BIOT: differences of electrodes, ÷ 95th percentile of each window's own amplitude
      ▼
    network, published weights ─► mean over tokens ─► logistic or ridge regression  (frozen probe)
                               └► head, new ─► outputs                              (fine-tuning)

docs/decisions/0029-published-models.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from berger.adaptation.finetuning import FineTuningConfig
from berger.adaptation.probe import embed_windows
from berger.channels import canonical_name
from berger.configuration import Config
from berger.corpus import WindowDataset
from berger.errors import BergerError
from berger.evaluation.baselines import learn_linear
from berger.evaluation.electrodes import common_electrodes, with_electrodes
from berger.evaluation.networks import common_rate, learn_by_training, require_braindecode
from berger.evaluation.protocol import Learn
from berger.evaluation.strategies import Question
from berger.files import sha256
from berger.importing import read_published
from berger.models import Encoder, Features, InputContract
from berger.preprocessing.config import BIPOLAR_SETS

Network = Literal["BIOT", "CBraMod", "Labram"]
How = Literal["frozen probe", "fine-tuning"]

SFREQ = 200.0
"""Hz at which all of them were trained."""
HEAD = "final_layer."
"""How the names of weights begin that answer another question than ours."""
MOST_NAMED = 3

BANANA = BIPOLAR_SETS["double banana"]
"""The 16 differences that BIOT was trained on, in its order."""
TUEG_ORDER = (
    *("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2"),
    *("F7", "F8", "T7", "T8", "P7", "P8", "Fz", "Cz", "Pz"),
)
"""Order of electrodes in CBraMod's pretraining; what stands beside what enters its features."""


@dataclass(frozen=True)
class Facts:
    """What is known of a published network.

    Attributes
    ----------
    source : str
        Where its weights stand, in braindecode's names.
    trained_on : str
        As its authors say.
    blocks : str
        Where its transformer's layers are.
    behind : tuple of str
        Parts behind these layers.
    embed_dim : int
    shortest, step : float
        Windows have `shortest` seconds, or more by a multiple of `step`.
    """

    source: str
    trained_on: str
    blocks: str
    behind: tuple[str, ...]
    embed_dim: int
    shortest: float
    step: float


PUBLISHED: Mapping[str, Facts] = {
    "BIOT": Facts(
        source="braindecode/biot-pretrained-prest-16chs, braindecode/biot-pretrained-shhs-prest-"
        "18chs or braindecode/biot-pretrained-six-datasets-18chs",
        trained_on="PREST; SHHS and PREST; or these with the training sets of TUAB, TUEV, CHB-MIT "
        "and IIIC (Yang et al., NeurIPS 2023)",
        blocks="encoder.transformer.layers.layers",
        behind=(),
        embed_dim=256,
        shortest=1.0,
        step=0.5,  # its spectra are of 1 s every 0.5 s, and what is left over is not looked at
    ),
    "CBraMod": Facts(
        source="braindecode/cbramod-pretrained",
        trained_on="the TUH EEG Corpus (Wang et al., ICLR 2025)",
        blocks="encoder.layers",
        behind=("proj_out",),
        embed_dim=200,
        shortest=1.0,
        step=1.0,
    ),
    "Labram": Facts(
        source="braindecode/labram-pretrained",
        trained_on="about 2,500 hours of around 20 data sets (Jiang et al., ICLR 2024)",
        blocks="blocks",
        behind=("norm", "fc_norm"),
        embed_dim=200,
        shortest=1.0,
        step=1.0,
    ),
}


class PublishedModel(Config):
    """A published network, and a file with its weights.

    Attributes
    ----------
    network : {"BIOT", "CBraMod", "Labram"}, optional
        Default: the name by which it stands in the evaluation.
    weights : Path
        Of safetensors or torch, with braindecode's names.
    adaptations : tuple of {"frozen probe", "fine-tuning"}
        Each is a row of the table. A probe reads the mean of the network's tokens, and its
        penalty is chosen as that of the baselines. Fine-tuning trains the network with a new head.
    training : FineTuningConfig, optional
        How it is fine-tuned; default: the evaluation's ``network_training``.
    """

    network: Network | None = None
    weights: Path
    adaptations: tuple[How, ...] = Field(("frozen probe", "fine-tuning"), min_length=1)
    training: FineTuningConfig | None = None

    @field_validator("adaptations")
    @classmethod
    def _each_once(cls, adaptations: tuple[How, ...]) -> tuple[How, ...]:
        if len({*adaptations}) < len(adaptations):
            raise ValueError("one is given twice; remove it")
        return adaptations


def network_of(name: str, model: PublishedModel) -> str:
    """Return which network stands under a name; raises ValueError if nothing says it."""
    found = model.network or name
    if found not in PUBLISHED:
        raise ValueError(
            f"published_models.{name}: no network is called {name}; give network: one of "
            f"{', '.join(get_args(Network))}"
        )
    return found


def published_title(name: str, how: str) -> str:
    """Return what a row is called in every table; nobody knows here whom its weights have seen."""
    return f"{name}, published weights, {how}"


class PublishedEncoder(Encoder):
    """A network without its head, behind what its authors do to a signal.

    Parameters
    ----------
    name : {"BIOT", "CBraMod", "Labram"}
    network : nn.Module
        Of braindecode; its head is taken away.
    config : PublishedModel
    ch_names : tuple of str
        Of the signal, as from `channels_for`.
    """

    def __init__(
        self, name: str, network: Any, config: PublishedModel, ch_names: tuple[str, ...]
    ) -> None:
        super().__init__(config, InputContract(sfreq=SFREQ, ch_names=ch_names))
        self.name = name
        self.network = network
        self.network.final_layer = nn.Identity()
        self.features_by_electrode = name != "BIOT"
        self.pairs: list[tuple[int, int]] = []
        if name == "BIOT" and ch_names != _bipolar_names():
            self.pairs = [(ch_names.index(a), ch_names.index(b)) for a, b in BANANA]

    @property
    def embed_dim(self) -> int:
        """Width of the features."""
        return PUBLISHED[self.name].embed_dim

    def n_steps(self, n_times: int, n_chans: int) -> int:
        """Return how many tokens each electrode has; BIOT has one for the window."""
        return round(n_times / SFREQ) if self.features_by_electrode else 1

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Return embeddings, then the transformer's layers, the last with what lies behind."""
        facts = PUBLISHED[self.name]
        own = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        layers = [
            [p for n, p in own.items() if n.startswith(f"{facts.blocks}.{number}.")]
            for number, _ in enumerate(self.network.get_submodule(facts.blocks).children())
        ]
        begins = tuple(f"{part}." for part in facts.behind)
        behind = [p for n, p in own.items() if n.startswith(begins)] if begins else []
        layers[-1] += behind
        rest = {*own.values()}.difference(*layers)
        return [[p for p in own.values() if p in rest], *layers]

    def prepared(self, signal: Tensor) -> Tensor:
        """Bring a signal (batch, n_chans, n_times) in µV into the channels and unit of training."""
        signal = self.as_input(signal)
        if self.name != "BIOT":
            return signal / 100
        if self.pairs:
            first, second = zip(*self.pairs, strict=True)
            signal = signal[:, list(first)] - signal[:, list(second)]
        return signal / (signal.abs().quantile(0.95, dim=-1, keepdim=True) + 1e-8)

    def hidden(self, signal: Tensor) -> Tensor:
        """Return what the head gets; its shape is the network's own."""
        hidden: Tensor = self._called(signal)
        return hidden

    def forward_features(
        self,
        signal: Tensor,
        ch_names: Sequence[str] | None = None,
        times: Tensor | None = None,
    ) -> Features:
        """Embed windows (batch, n_chans, n_times) in µV, of the electrodes it was made for."""
        self.check_names(signal, ch_names)
        tokens = self._called(signal, return_features=True)["features"]
        tokens = tokens.reshape(len(signal), -1, self.embed_dim)
        return Features(tokens, tokens.mean(1))

    def _called(self, signal: Tensor, **how: bool) -> Any:
        names = {"ch_names": list(self.contract.ch_names or ())} if self.name == "Labram" else {}
        with warnings.catch_warnings():  # BIOT's spectra are without a taper, as published
            warnings.filterwarnings("ignore", "A window was not provided", UserWarning)
            return self.network(self.prepared(signal), **how, **names)


class PublishedClassifier(nn.Module):
    """A published encoder and a new head, which braindecode makes for it."""

    def __init__(self, encoder: PublishedEncoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, signal: Tensor) -> Tensor:
        """Map a signal (batch, n_chans, n_times) in µV to outputs (batch, n_outputs)."""
        answers: Tensor = self.head(self.encoder.hidden(signal))
        return answers


def channels_for(name: str, windows: WindowDataset) -> tuple[str, ...]:
    """Return the channels that a network reads, of those that all recordings have.

    Raises
    ------
    BergerError
        If rate, length of windows or channels are not what the network was trained on.
    """
    facts, sfreq = PUBLISHED[name], common_rate(windows)
    if sfreq != SFREQ:
        raise BergerError(
            f"{name} was trained on {SFREQ:g} Hz, but the recordings have {sfreq:g} Hz; prepare "
            f"them with sfreq: {SFREQ:g}, or leave it out of published_models."
        )
    seconds = windows[0].signal.shape[1] / sfreq
    if seconds < facts.shortest or not (seconds / facts.step).is_integer():
        lengths = ", ".join(f"{facts.shortest + k * facts.step:g}" for k in range(3))
        raise BergerError(
            f"{name} reads windows of {lengths}, … s, but the task's have {seconds:g} s; give the "
            f"task such window_seconds, or leave {name} out of published_models."
        )
    common = common_electrodes(windows)
    if name == "BIOT":
        return _of_biot(common)
    if name == "Labram":
        known = {each.upper() for each in require_braindecode(name).labram.LABRAM_CHANNEL_ORDER}
        strange = [each for each in common if each.upper() not in known]
    else:
        strange = [each for each in common if canonical_name(each) is None]
    if strange:
        raise BergerError(
            f"{name} knows no electrode {strange[0]}, which the recordings have; prepare them "
            f"with ch_names: those that it knows, or leave {name} out of published_models."
        )
    if name == "Labram":
        return common
    first = [each for each in TUEG_ORDER if each in common]
    return (*first, *(each for each in common if each not in TUEG_ORDER))


def _bipolar_names() -> tuple[str, ...]:
    return tuple(f"{a}-{b}" for a, b in BANANA)


def _of_biot(common: tuple[str, ...]) -> tuple[str, ...]:
    if {*_bipolar_names()} <= {*common}:
        return _bipolar_names()
    needed = tuple(dict.fromkeys(each for pair in BANANA for each in pair))
    if lacking := [each for each in needed if each not in common]:
        raise BergerError(
            f"BIOT reads the differences Fp1-F7, F7-T7, … of the double banana, but not all "
            f"recordings have {lacking[0]}; prepare recordings that have {' '.join(needed)}, or "
            "leave BIOT out of published_models."
        )
    return needed


@dataclass(frozen=True, eq=False)
class Weights:
    """Published weights in memory, checked against their network.

    Attributes
    ----------
    name : {"BIOT", "CBraMod", "Labram"}
    model : PublishedModel
    tensors : dict of str to Tensor
        All that the network has but its head.
    ch_names : tuple of str
    n_times, n_outputs : int
    record : dict
        What the file is, and which parts of the network are not in it: its head is ``new``. What
        in the file was not taken is ``left`` or ``shortened``.
    """

    name: str
    model: PublishedModel
    tensors: dict[str, Tensor]
    ch_names: tuple[str, ...]
    n_times: int
    n_outputs: int
    record: dict[str, Any]

    def build(self) -> tuple[PublishedEncoder, nn.Module]:
        """Return a new encoder with these weights, and a head with random weights."""
        network = _new_network(self.name, self.tensors, self.ch_names, self.n_times, self.n_outputs)
        head = network.final_layer
        encoder = PublishedEncoder(self.name, network, self.model, self.ch_names)
        network.load_state_dict(self.tensors)  # strictly
        return encoder, head


def _new_network(
    name: str,
    tensors: Mapping[str, Tensor],
    ch_names: tuple[str, ...],
    n_times: int,
    n_outputs: int,
) -> Any:
    """Return braindecode's network of the size that the weights have, with random weights."""
    models = require_braindecode(name)
    shape = {"n_times": n_times, "sfreq": SFREQ, "n_outputs": n_outputs}
    if name == "CBraMod":
        return models.CBraMod(n_chans=len(ch_names), **shape)
    if name == "Labram":
        # its authors fine-tune with a norm behind the mean over tokens, and pretrain without
        return models.Labram(
            n_chans=len(ch_names), use_mean_pooling="fc_norm.weight" in tensors, **shape
        )
    # weights for 18 channels have the double banana's first, and read it alone as well
    rows = tensors.get("encoder.channel_tokens.weight")
    n_chans = 18 if rows is not None and len(rows) == 18 else len(BANANA)
    return models.BIOT(n_chans=n_chans, **shape)


def read_weights(
    name: str,
    model: PublishedModel,
    ch_names: tuple[str, ...],
    n_times: int,
    n_outputs: int,
) -> Weights:
    """Read a file of weights and check that it is the network's, whole.

    Parameters
    ----------
    name : {"BIOT", "CBraMod", "Labram"}
    model : PublishedModel
    ch_names : tuple of str
        From `channels_for`.
    n_times : int
        Length of windows in samples.
    n_outputs : int
        Of the new head.

    Raises
    ------
    BergerError
        If the file cannot be read as plain tensors, or lacks a weight, has one that the network
        does not know, or one of another size.
    """
    path = model.weights
    found = read_published(path)
    tensors = {each: tensor for each, tensor in found.items() if not each.startswith(HEAD)}
    own = _new_network(name, tensors, ch_names, n_times, n_outputs).state_dict()
    new = [each for each in own if each.startswith(HEAD)]
    shortened = {}
    times = tensors.get("temporal_embedding")
    if name == "Labram" and times is not None and times.ndim == 3:
        needed, has = own["temporal_embedding"].shape[1], times.shape[1]
        if has < needed:
            raise BergerError(
                f"{path}: these weights of Labram are for windows of up to {has - 1} s, but the "
                f"task's have {n_times / SFREQ:g} s; give the task shorter window_seconds."
            )
        if has > needed:
            tensors["temporal_embedding"] = times[:, :needed]
            shortened["temporal_embedding"] = f"the first {needed} of {has} seconds"
    missing = [each for each in own if each not in tensors and each not in new]
    unknown = [each for each in tensors if each not in own]
    wrong = [
        f"{each} is {tuple(tensor.shape)} instead of {tuple(own[each].shape)}"
        for each, tensor in tensors.items()
        if each in own and tensor.shape != own[each].shape
    ]
    faults = [
        f"{len(names)} weights are {what} ({_some(names)})"
        for what, names in (("missing", missing), ("unknown", unknown), ("of another size", wrong))
        if names
    ]
    if faults:
        raise BergerError(
            f"{path}: is not {name} as braindecode names it: {' and '.join(faults)}; give the file "
            f"of {PUBLISHED[name].source}, as it stands on the Hugging Face Hub."
        )
    record = {
        "network": name,
        "file": path.name,
        "sha256": sha256(path),
        "trained_on": PUBLISHED[name].trained_on,
        "new": new,
        "left": [each for each in found if each.startswith(HEAD)],
        "shortened": shortened,
        "ch_names": [*ch_names],
    }
    return Weights(name, model, tensors, ch_names, n_times, n_outputs, record)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def learn_published(
    name: str,
    model: PublishedModel,
    how: str,
    question: Question,
    *,
    penalties: Sequence[float],
    training: FineTuningConfig,
    seed: int,
    device: torch.device | str = "cpu",
    tell: Callable[[dict[str, Any]], None] = lambda line: None,
    quiet: bool = True,
) -> tuple[Learn, dict[str, Any]]:
    """Return a published model in the form that the protocol runs, and what was loaded.

    Parameters
    ----------
    name : {"BIOT", "CBraMod", "Labram"}
    model : PublishedModel
    how : {"frozen probe", "fine-tuning"}
    question : Question
    penalties : sequence of float
        From which the validation people choose a probe's.
    training : FineTuningConfig
        How it is fine-tuned, unless the model says so itself.
    seed : int
        Of the new head, dropout and the order of windows.
    device, tell, quiet
        As in `berger.evaluation.networks.learn_network`.

    Raises
    ------
    BergerError
        If the recordings are not such as the network reads, or the weights do not fit it.
    """
    ch_names = channels_for(name, question.windows)
    windows = with_electrodes(question.windows, ch_names)
    n_times = windows[0].signal.shape[1]
    weights = read_weights(name, model, ch_names, n_times, question.n_outputs)
    if how == "frozen probe":
        encoder, _ = weights.build()
        features = embed_windows(encoder.to(device), windows, "mean", quiet=quiet)
        return learn_linear(question, lambda train: features, penalties), weights.record

    asked = replace(question, windows=windows)
    learn = learn_by_training(
        lambda known: PublishedClassifier(*weights.build()),
        asked,
        model.training or training,
        seed=seed,
        device=device,
        tell=tell,
        quiet=quiet,
    )
    return learn, weights.record

"""What SpecMoE learns from 18 people's resting EEG and arithmetic, told by 6 whom it never saw.

    berger prepare eegmat --out corpus
    for S in 0 1 2: berger pretrain spechinet-small --corpus corpus --out full-$S --seed $S    etc.
    python benchmarks/specmoe_on_eegmat.py corpus PART RUN ...

PART says what is compared, the runs (several seeds of each kind, named KIND-SEED) with what:

restoration   error under the paper's masks over clean power, band by band, against the masked
              input as it is and against the other kinds of run
probe         frozen probe, each against the same network with random weights and band power;
              learned on the people of the pretraining, tested on those it did not see
gate          mixtures with frozen experts: each gate against none
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from people import (
    by_person,
    compare,
    config_of,
    held_out,
    interval,
    kind_of,
    probed,
    questions,
    split,
)
from torch import Tensor, nn

from berger.adaptation.finetuning import FineTuningConfig, fine_tune, outputs
from berger.adaptation.probe import embed_windows
from berger.configuration import load_config
from berger.corpus import Corpus, open_corpus
from berger.evaluation.baselines import band_power_features
from berger.models import SpecMoE, load_checkpoint
from berger.models.encoders import build_encoder
from berger.models.specmoe import MixtureConfig
from berger.objectives.restoration import Restoration
from berger.pretraining import PretrainingConfig, restoration_errors, window_errors

GATES = ("spectral", "encoding", "softmax", "none")


def restoration(corpus: Corpus, runs: list[Path]) -> None:
    masks = load_config(PretrainingConfig, "spechinet-small").objective.mask
    tables = []
    for run in runs:
        config = config_of(run)
        windows = corpus.windows(config.window_seconds, subjects=held_out(run))
        some = np.linspace(0, len(windows) - 1, 64).round().astype(int)
        objective = config.objective.model_copy(update={"mask": masks})
        config = config.model_copy(update={"objective": objective})
        model = load_checkpoint(run / "checkpoint")
        errors = restoration_errors(
            window_errors(Restoration(model, objective), windows.take(some), config)
        )
        errors = errors[errors["signal"].isin(["restored", "masked input"])]
        errors.loc[errors["signal"] == "restored", "signal"] = kind_of(run)
        tables.append(errors)
    everything = pd.concat(tables)
    people = everything.groupby(["band", "signal", "subject"], sort=False)["error"].mean()
    table = people.unstack("signal")
    bands = list(dict.fromkeys(everything["band"]))
    print(table.groupby("band").mean().loc[bands].round(3).to_string(), "\n")
    kinds = list(dict.fromkeys(map(kind_of, runs)))
    pairs = [(kind, "masked input") for kind in kinds]
    pairs += [(kind, other) for i, kind in enumerate(kinds) for other in kinds[i + 1 :]]
    for one, other in pairs:
        for band in bands:
            both = table.loc[band]
            difference = (both[one] - both[other]).to_numpy()
            share = f"{(difference < 0).sum()} of {len(difference)} people lower"
            print(f"{band:<6} {one} − {other}: {interval(difference, '+')}, {share}")


def probe(corpus: Corpus, runs: list[Path]) -> None:
    rows = []
    for run in runs:
        question, subject, test = questions(corpus, run)
        seed = config_of(run).seed
        encoder = load_checkpoint(run / "checkpoint")
        torch.manual_seed(seed)
        random = build_encoder(encoder.config)
        ch_names = question.windows.blocks[0].ch_names
        features = {
            kind_of(run): embed_windows(encoder, question.windows, "mean"),
            f"{kind_of(run)}, random weights": embed_windows(random, question.windows, "mean"),
            "band power": band_power_features(question.windows, ch_names),
        }
        rows += probed(features, question, subject, test, seed)
    compare(rows, lambda kind: [f"{kind.removesuffix(', random weights')}, random weights"])


class Remembered(nn.Module):
    """A frozen expert that embeds each window once."""

    def __init__(self, expert: nn.Module) -> None:
        super().__init__()
        self.expert = [expert]  # not a submodule: nothing of it is trained or copied
        self.known: dict[bytes, Tensor] = {}

    def channel_embedding(self, signal: Tensor, times: Tensor | None = None) -> Tensor:
        """Return the embedding pooled over time, (batch, n_chans, dim, 1)."""
        keys = [window[:, :16].numpy().tobytes() for window in signal]
        if new := [place for place, key in enumerate(keys) if key not in self.known]:
            with torch.inference_mode():
                embedded = self.expert[0].channel_embedding(signal[new])
            pooled = embedded.mean(-1, keepdim=True)
            self.known |= {keys[place]: own for place, own in zip(new, pooled, strict=True)}
        return torch.stack([self.known[key] for key in keys]).clone()


def gate(corpus: Corpus, runs: list[Path]) -> None:
    rows = []
    tuning = FineTuningConfig(epochs=60, unfreeze=None)
    for run in runs:
        question, subject, test = questions(corpus, run)
        seed = load_checkpoint(run / "checkpoint").provenance["seed"]
        train, validation, unseen = split(subject, test, seed)
        mixture = load_checkpoint(run / "checkpoint")
        experts = [Remembered(expert) for expert in mixture.experts]
        for name in GATES:
            torch.manual_seed(seed)
            settings = MixtureConfig(gate=name).model_dump()
            model = SpecMoE.from_experts([*mixture.experts], n_outputs=2, **settings)
            model.experts = nn.ModuleList(experts)
            fine_tune(model, question.some(train), question.some(validation), tuning, seed=seed)
            truth = question.labels[unseen]
            guess = outputs(model, question.some(unseen).windows).argmax(1).numpy()
            rows += [
                (f"gate {name}", *person)
                for person in by_person(guess == truth, truth, subject[unseen])
            ]
    compare(rows, lambda _: ["gate none"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("part", choices=["restoration", "probe", "gate"])
    parser.add_argument("runs", type=Path, nargs="+")
    given = parser.parse_args()
    parts = {"restoration": restoration, "probe": probe, "gate": gate}
    parts[given.part](open_corpus(given.corpus), given.runs)


if __name__ == "__main__":
    main()

"""What DARE-EEG learns from 18 people's resting EEG and arithmetic, told by 6 whom it never saw.

    berger prepare eegmat --config dare --out corpus
    for S in 0 1 2: berger pretrain dare-nano --corpus corpus --out full-$S --seed $S          and
        --out nomask-$S --objective.mask_alignment 0, noanchor-$S --objective.anchor 0    etc.
    python benchmarks/dare_on_eegmat.py corpus PART RUN ...

PART says what is compared, for runs named KIND-SEED, several seeds of each kind:

invariance    how far features stay the same under masks of falling overlap, among the windows of
              one person at a time, so that to know the person does not help; each kind against the
              same network with random weights, and against the runs named full-SEED
probe         frozen probe, against the same, band power, and band power averaged over electrodes,
              which is all that an average over electrodes can keep of it; learned on the people
              of the pretraining, tested on those it did not see
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from people import Rows, compare, config_of, held_out, kind_of, probed, questions

from berger.adaptation.probe import embed_windows
from berger.corpus import Corpus, open_corpus
from berger.evaluation.baselines import band_power_features
from berger.masking.views import ViewsConfig
from berger.models import Encoder, load_checkpoint
from berger.models.encoders import build_encoder
from berger.objectives.invariance import OWN_STEPS, SAME_STEPS, invariance

FULL, RANDOM, BAND_POWER = "full", ", random weights", "band power"
OVERLAP = 0.4
"""Wanted overlap at which kinds are compared person by person."""


def references(kind: str) -> list[str]:
    """What a kind is compared with; a kind that is not there is left out."""
    if kind.startswith(BAND_POWER):
        return []
    others = [] if kind.endswith(RANDOM) else [f"{kind}{RANDOM}", FULL]
    return [*others, BAND_POWER]


def encoders(run: Path) -> dict[str, Encoder]:
    """The pretrained encoder of a run and the same network before any training."""
    trained = load_checkpoint(run / "checkpoint")
    torch.manual_seed(config_of(run).seed)
    return {kind_of(run): trained, f"{kind_of(run)}{RANDOM}": build_encoder(trained.config)}


def invariance_part(corpus: Corpus, runs: list[Path]) -> None:
    tables = []
    for run in runs:
        config = config_of(run)
        for kind, encoder in encoders(run).items():
            for person in held_out(run):
                windows = corpus.windows(config.window_seconds, subjects=[person])
                # the paper's masks for everybody, whatever a run was trained on
                found = invariance(encoder, windows, ViewsConfig(), seed=config.seed + 1)
                tables.append(found.assign(kind=kind, person=person))
    everything = pd.concat(tables)
    for measure in ("retrieval", "alignment", "uniformity", "cosine_within", "cosine_between"):
        means = everything.groupby(["masks", "wanted", "kind"], sort=False)[measure].mean()
        print(f"{measure}\n{means.unstack('kind').round(3).to_string()}\n")
    print(f"by chance {everything['chance'].mean():.3f} would be found\n")
    for masks in (SAME_STEPS, OWN_STEPS):
        own = everything[(everything["masks"] == masks) & (everything["wanted"] == OVERLAP)]
        rows: Rows = list(own[["kind", "person", "retrieval"]].itertuples(index=False, name=None))
        compare(rows, references, f"{masks}, overlap {OVERLAP:g}: retrieval")


def probe_part(corpus: Corpus, runs: list[Path]) -> None:
    rows: Rows = []
    for run in runs:
        question, subject, test = questions(corpus, run)
        ch_names = question.windows.blocks[0].ch_names
        power = band_power_features(question.windows, ch_names)
        features = {
            kind: embed_windows(encoder, question.windows, "mean")
            for kind, encoder in encoders(run).items()
        }
        features |= {
            BAND_POWER: power,
            f"{BAND_POWER}, average of the electrodes": np.mean(
                power.reshape(len(power), len(ch_names), -1), axis=1
            ),
        }
        rows += probed(features, question, subject, test, config_of(run).seed)
    compare(rows, references)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("part", choices=["invariance", "probe"])
    parser.add_argument("runs", type=Path, nargs="+")
    given = parser.parse_args()
    parts = {"invariance": invariance_part, "probe": probe_part}
    parts[given.part](open_corpus(given.corpus), given.runs)


if __name__ == "__main__":
    main()

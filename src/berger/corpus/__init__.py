"""Write prepared recordings once, verify them, hand out windows, split by subject.

A corpus is a folder::

    manifest.json        configuration, hash of every other file, counts, montages; written last
    shard-00000.npy ...  int16; per recording one block (n_times, n_chans), time-major
    recordings.parquet   one row per source file, failed and rejected ones too
    windows.parquet      the usable stretches, from which windows of any length are cut
    prepare.jsonl        when which file was prepared: a log, no part of the corpus

`format` says what stands in these files; `writer` makes them (`staging` one file, `packing` all);
`reader` opens them; `windows` reads and batches; `split` divides subjects.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from berger.corpus.format import CorpusManifest
    from berger.corpus.reader import Corpus, open_corpus, verify_corpus
    from berger.corpus.split import split_subjects, subject_folds
    from berger.corpus.windows import Batch, Window, WindowDataset, WindowSampler, collate, join
    from berger.corpus.writer import PreparationSummary, prepare

__all__ = [
    "Batch",
    "Corpus",
    "CorpusManifest",
    "PreparationSummary",
    "Window",
    "WindowDataset",
    "WindowSampler",
    "collate",
    "join",
    "open_corpus",
    "prepare",
    "split_subjects",
    "subject_folds",
    "verify_corpus",
]

_MODULES = {
    "format": ("CorpusManifest",),
    "reader": ("Corpus", "open_corpus", "verify_corpus"),
    "split": ("split_subjects", "subject_folds"),
    "windows": ("Batch", "Window", "WindowDataset", "WindowSampler", "collate", "join"),
    "writer": ("PreparationSummary", "prepare"),
}


def __getattr__(name: str) -> Any:
    # Imported on first use: preparing needs no torch, and opening a corpus no worker pool.
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

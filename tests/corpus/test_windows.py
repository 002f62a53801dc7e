from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from berger.corpus import Corpus, WindowSampler, collate
from berger.errors import BergerError


def test_a_batch_holds_its_windows_in_microvolts(corpus: Corpus) -> None:
    windows = corpus.windows(2.0, subjects=["sub-0", "sub-1"])
    chosen = [windows[index] for index in (5, 0, 3)]
    batch = collate(chosen)
    signal = batch.signal()
    assert (batch.samples.dtype, batch.samples.shape) == (torch.int16, (3, 256, 3))
    assert (signal.dtype, signal.shape) == (torch.float32, (3, 3, 256))
    assert signal.is_contiguous()
    assert batch.signal("cpu").equal(signal)
    assert batch.n_windows == 3
    for index, window in enumerate(chosen):
        np.testing.assert_array_equal(signal[index].numpy(), window.signal)
    assert batch.subjects == tuple(window.subject for window in chosen)
    assert batch.recordings == tuple(window.recording for window in chosen)
    assert batch.starts.tolist() == [window.start for window in chosen]
    assert (batch.ch_names, batch.sfreq) == (("Fz", "Cz", "Pz"), 128.0)


def test_windows_of_two_montages_are_no_batch(corpus: Corpus) -> None:
    windows = corpus.windows(1.0, subjects=["sub-2"])
    with pytest.raises(BergerError, match="differ in channels or sampling rate"):
        collate([windows[0], windows[len(windows) - 1]])


# Newer Pythons warn of forking beside the thread that Arrow's memory allocator runs from import on.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_other_processes_read_the_same(corpus: Corpus, context: str) -> None:
    windows = corpus.windows(1.0, subjects=["sub-0"])
    here = collate([windows[index] for index in range(len(windows))])
    loader = DataLoader(
        windows,
        batch_size=4,
        num_workers=2 if context == "fork" else 1,
        collate_fn=collate,
        multiprocessing_context=context,
    )
    there = list(loader)
    assert torch.cat([batch.samples for batch in there]).equal(here.samples)
    assert torch.cat([batch.signal() for batch in there]).equal(here.signal())


def test_a_dataset_can_be_pickled(corpus: Corpus) -> None:
    windows = corpus.windows(1.0)
    again = pickle.loads(pickle.dumps(windows))  # noqa: S301
    assert len(again) == len(windows)
    np.testing.assert_array_equal(again[7].samples, windows[7].samples)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_an_epoch_hands_out_every_window_once_and_like_with_like(
    corpus: Corpus, batch_size: int, shuffle: bool
) -> None:
    windows = corpus.windows(1.0)
    sampler = WindowSampler(windows, batch_size, seed=3, shuffle=shuffle)
    epochs = []
    for epoch in range(2):
        steps = range(epoch * sampler.batches_per_epoch, (epoch + 1) * sampler.batches_per_epoch)
        batches = [sampler.batch(step) for step in steps]
        assert sorted(itertools.chain(*batches)) == list(range(len(windows)))
        for batch in batches:
            assert len(batch) <= batch_size
            assert len(collate([windows[index] for index in batch]).ch_names) in (2, 3)
        epochs.append(batches)
    assert (epochs[0] == epochs[1]) == (not shuffle)
    assert sampler.batches_per_epoch == {1: len(windows), 4: 14, 1000: 2}[batch_size]


def test_a_batch_is_a_function_of_seed_and_step_alone(corpus: Corpus) -> None:
    windows = corpus.windows(1.0)
    sampler = WindowSampler(windows, 4, seed=3)
    straight = list(itertools.islice(sampler.starting_at(0), 40))
    jumping = WindowSampler(windows, 4, seed=3)
    for step in np.random.default_rng(0).permutation(40):
        assert jumping.batch(int(step)) == straight[step]
    assert list(itertools.islice(jumping.starting_at(33), 7)) == straight[33:]
    assert WindowSampler(windows, 4, seed=4).batch(0) != straight[0]
    assert all(isinstance(index, int) for index in straight[0])


def test_without_shuffling_windows_come_in_order(corpus: Corpus) -> None:
    windows = corpus.windows(1.0, subjects=["sub-0", "sub-1"])
    sampler = WindowSampler(windows, 5, seed=0, shuffle=False)
    order = itertools.chain(*itertools.islice(sampler.starting_at(0), sampler.batches_per_epoch))
    assert list(order) == list(range(len(windows)))


def test_a_loader_continues_where_a_sampler_starts(corpus: Corpus) -> None:
    windows = corpus.windows(1.0)
    sampler = WindowSampler(windows, 4, seed=3)
    loader = DataLoader(windows, batch_sampler=sampler.starting_at(6), collate_fn=collate)
    for step, batch in zip(range(6, 9), loader, strict=False):
        wanted = collate([windows[index] for index in sampler.batch(step)])
        assert batch.samples.equal(wanted.samples)


def test_an_empty_batch_size_is_refused(corpus: Corpus) -> None:
    with pytest.raises(BergerError, match="batch_size = 0"):
        WindowSampler(corpus.windows(1.0), 0, seed=0)

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from berger.corpus import Corpus, WindowDataset, WindowSampler, collate, join
from berger.corpus.windows import Block
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


def test_a_gpu_scales_to_the_same_microvolts(corpus: Corpus) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    windows = corpus.windows(2.0, subjects=["sub-0"])
    batch = collate([windows[0], windows[1]])
    assert batch.signal("cuda").device.type == "cuda"
    assert batch.signal("cuda").cpu().equal(batch.signal())


def test_each_recording_has_its_own_spatial_filter(corpus: Corpus) -> None:
    windows = corpus.windows(2.0, subjects=["sub-0", "sub-1"])
    rng = np.random.default_rng(0)
    names = windows.table["recording"].unique()
    filters = {name: rng.normal(size=(3, 3)).astype(np.float32) for name in names}
    filtered = pickle.loads(pickle.dumps(windows.with_spatial_filters(filters)))  # noqa: S301
    order = rng.permutation(len(windows))
    for some in (filtered, filtered.take(np.arange(len(windows)))):
        batch = collate([some[int(index)] for index in order])
        assert batch.signal("cpu").shape == (len(windows), 3, 256)
        for row, index in zip(batch.signal(), order, strict=True):
            plain = windows[int(index)]
            wanted = filters[plain.recording] @ plain.signal
            np.testing.assert_allclose(some[int(index)].signal, wanted, rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(row, wanted, rtol=1e-4, atol=1e-3)
    with pytest.raises(KeyError):
        windows.with_spatial_filters({})
    with pytest.raises(AssertionError, match="some windows have a spatial filter and"):
        collate([windows[0], filtered[0]])


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


def windows_of(counts: dict[str, int], seconds: float = 1.0) -> WindowDataset:
    """Windows that nobody reads, of recordings of one channel each, by its name."""
    blocks = [
        Block(
            recording=f"r{number}",
            subject="s",
            ch_names=(name,),
            sfreq=100.0,
            n_times=100 * count,
            scale=np.ones(1, np.float32),
            shard="",
            content="",
            offset=0,
            progress=False,
        )
        for number, (name, count) in enumerate(counts.items())
    ]
    sizes = [*counts.values()]
    starts = np.concatenate([100 * np.arange(size) for size in sizes])
    return WindowDataset(blocks, np.repeat(np.arange(len(blocks)), sizes), starts, seconds)


montages = st.dictionaries(st.sampled_from("ABCD"), st.integers(1, 40), min_size=1)
samplers = st.fixed_dictionaries({"seed": st.integers(0, 99), "shuffle": st.booleans()})


@settings(max_examples=60, deadline=None)
@given(montages, samplers, st.integers(1, 5), st.integers(0, 20))
def test_ranks_share_out_the_same_batches(
    counts: dict[str, int], how: dict[str, int], world_size: int, larger: int
) -> None:
    windows = windows_of(counts)
    batch_size = world_size + larger
    alone = WindowSampler(windows, batch_size, **how)
    ranks = [
        WindowSampler(windows, batch_size, **how, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert {rank.batches_per_epoch for rank in ranks} == {alone.batches_per_epoch}
    value = np.random.default_rng(0).normal(size=len(windows))
    handed_out: list[int] = []
    for step in range(2 * alone.batches_per_epoch):
        whole = alone.batch(step)
        parts = [rank.batch(step) for rank in ranks]
        weights = [rank.weight(step) for rank in ranks]
        shares = [rank.share(step) for rank in ranks]
        if len(whole) < world_size or world_size == 1:  # too few: everybody has all
            assert shares == [None] * world_size
            assert parts == [whole] * world_size
            counted = parts[:1]
        else:
            assert [share.n_own for share in shares if share] == [*map(len, parts)]
            assert {share.n_windows for share in shares if share} == {len(whole)}
            counted = parts
        # disjoint, together the batch, of nearly equal size, and never nothing
        assert sorted(itertools.chain(*counted)) == sorted(whole)
        assert all(parts)
        assert max(map(len, counted)) - min(map(len, counted)) <= 1
        # like with like over all ranks
        assert len({int(windows.of_block[index]) for part in parts for index in part}) == 1
        means = [weight * value[part].mean() for part, weight in zip(parts, weights, strict=True)]
        np.testing.assert_allclose(np.mean(means), value[whole].mean(), rtol=1e-12, atol=1e-15)
        handed_out += itertools.chain(*counted)
    once = [*range(len(windows))]
    half = len(windows)
    assert sorted(handed_out[:half]) == sorted(handed_out[half:]) == once
    assert alone.weight(0) == 1


def test_another_number_of_ranks_continues_at_the_same_step() -> None:
    windows = windows_of({"A": 31, "B": 12})
    straight = [*itertools.islice(WindowSampler(windows, 6, seed=2).starting_at(0), 30)]
    for world_size in (1, 2, 3, 6):
        ranks = [
            WindowSampler(windows, 6, seed=2, rank=rank, world_size=world_size).starting_at(11)
            for rank in range(world_size)
        ]
        for step in range(11, 30):
            parts = [next(rank) for rank in ranks]
            assert set(itertools.chain(*parts)) == set(straight[step])


def test_one_corpus_and_one_rank_keep_their_order() -> None:
    """Runs that were begun by an earlier Berger go on with the windows they would have had."""
    sampler = WindowSampler(windows_of({"A": 7, "B": 4}), 3, seed=5)
    assert [sampler.batch(step) for step in range(sampler.batches_per_epoch + 2)] == [
        *([1, 4, 2], [3, 6, 5], [7, 10, 9], [0], [8]),
        *([4, 2, 0], [6, 5, 3]),
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rank": 2, "world_size": 2}, ValueError, "rank = 2 of 2"),
        ({"rank": -1}, ValueError, "rank = -1 of 1"),
        ({"world_size": 5}, BergerError, "batch_size = 4: must be at least 5"),
    ],
)
def test_ranks_that_cannot_be_are_refused(
    arguments: dict[str, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        WindowSampler(windows_of({"A": 9}), 4, 0, **arguments)  # type: ignore[arg-type]


def test_joined_windows_come_behind_each_other(corpus: Corpus) -> None:
    first, second = corpus.windows(1.0, subjects=["sub-2"]), corpus.windows(1.0)
    both = join([first, second])
    assert len(both) == len(first) + len(second)
    for index in (0, len(first) - 1):
        np.testing.assert_array_equal(both[index].samples, first[index].samples)
    for index in (0, 13, len(second) - 1):
        window = both[len(first) + index]
        np.testing.assert_array_equal(window.samples, second[index].samples)
        assert window[2:] == second[index][2:]
    assert both.corpora == (0, 0, 1, 1, 1, 1, 1, 1)
    assert both.weights is None
    sampler = WindowSampler(both, 4, seed=0)
    epoch = itertools.islice(sampler.starting_at(0), sampler.batches_per_epoch)
    assert sorted(itertools.chain(*epoch)) == list(range(len(both)))
    some = join([first, second], [1, 2]).take(np.array([0, len(both) - 1]))
    assert (some.corpora, some.weights, len(some)) == (both.corpora, (1, 2), 2)


corpora = st.lists(montages, min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.data(), corpora, st.integers(0, 99), st.integers(1, 20))
def test_weights_are_the_shares_of_an_epoch(
    data: st.DataObject, counts: list[dict[str, int]], seed: int, batch_size: int
) -> None:
    weights = data.draw(st.lists(st.floats(0.05, 20), min_size=len(counts), max_size=len(counts)))
    windows = join([windows_of(some) for some in counts], weights)
    sampler = WindowSampler(windows, batch_size, seed)
    corpus = np.array(windows.corpora)[windows.of_block]
    montage = np.array([block.ch_names[0] for block in windows.blocks])[windows.of_block]
    drawn: list[int] = []
    for epoch in range(3):
        steps = range(epoch * sampler.batches_per_epoch, (epoch + 1) * sampler.batches_per_epoch)
        batches = [sampler.batch(step) for step in steps]
        assert all(len(set(montage[batch])) == 1 for batch in batches)
        of_epoch = [*itertools.chain(*batches)]
        wanted = len(windows) * np.array(weights) / sum(weights)
        n_pools = np.array([len(some) for some in counts])
        realised = np.bincount(corpus[of_epoch], minlength=len(counts))
        assert (np.abs(realised - wanted) <= n_pools).all()
        drawn += of_epoch
    # round after round: no window of a montage of a corpus is ahead of another by more than one
    times = np.bincount(drawn, minlength=len(windows))
    for pair in {*zip(corpus.tolist(), montage.tolist(), strict=True)}:
        of_pair = times[(corpus == pair[0]) & (montage == pair[1])]
        assert of_pair.max() - of_pair.min() <= 1
    again = WindowSampler(windows, batch_size, seed)
    last = 3 * sampler.batches_per_epoch - 1
    assert again.batch(last) == sampler.batch(last)


def test_a_small_corpus_with_a_large_weight_comes_again_and_again() -> None:
    windows = join([windows_of({"A": 900}), windows_of({"A": 10})], [1, 1])
    sampler = WindowSampler(windows, 65, seed=0)
    assert sampler.batches_per_epoch == 14
    numbers = np.concatenate([sampler.batch(step) for step in range(14)])
    assert np.bincount(numbers)[900:].tolist() == pytest.approx([45.5] * 10, abs=0.5)
    assert len({*numbers[numbers < 900].tolist()}) == 455
    batch = numbers[:65]
    assert 0 < (batch < 900).sum() < 65  # both corpora in one batch
    other = np.concatenate([sampler.batch(step) for step in range(14, 28)])
    # the second epoch takes the windows of the large corpus that the first left
    assert len({*numbers[numbers < 900].tolist(), *other[other < 900].tolist()}) == 900


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "windows of no corpus cannot be joined"),
        (([windows_of({"A": 2}), windows_of({"A": 2}, 2.0)],), "windows of 1 s, 2 s cannot be"),
        (([windows_of({"A": 2})], [0.0]), r"weights \[0\.0\] do not fit 1 corpora"),
        (([windows_of({"A": 2})], [1, 1]), r"weights \[1, 1\] do not fit 1 corpora"),
        (([windows_of({"A": 2})], [float("nan")]), r"weights \[nan\] do not fit"),
        (([join([windows_of({"A": 2})] * 2), windows_of({"A": 2})],), "cannot be joined again"),
        (([join([windows_of({"A": 2})], [2])],), "cannot be joined again"),
    ],
)
def test_what_cannot_be_joined_is_refused(
    arguments: tuple[list[WindowDataset], ...], message: str
) -> None:
    with pytest.raises(BergerError, match=message):
        join(*arguments)  # type: ignore[arg-type]


def test_weights_need_shuffling() -> None:
    with pytest.raises(BergerError, match="only be drawn with shuffle = True"):
        WindowSampler(join([windows_of({"A": 2})] * 2, [1, 2]), 2, seed=0, shuffle=False)

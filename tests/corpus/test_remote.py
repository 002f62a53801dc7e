"""A corpus on a server is read as if it lay here; every server of these tests is a local one."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import berger.corpus
from berger import cli
from berger.corpus import Corpus, WindowSampler, collate, open_corpus, remote, verify_corpus
from berger.errors import BergerError
from berger.training.loop import fit
from berger.training.run import TrainingConfig

SHARD = "shard-00000.npy"


class Server(ThreadingHTTPServer):
    """Serves a folder; counts what is fetched, and can break off in the middle of a file."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.fetched: list[str] = []
        self.breaks_off = ""
        self.faults = 10**6  # how often it does
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.fetched.append(name := self.path.rpartition("/")[2])
        if name != self.server.breaks_off or not self.server.faults:
            return super().do_GET()
        self.server.faults -= 1
        self.break_off()

    def break_off(self) -> None:
        path = Path(self.translate_path(self.path))
        self.send_response(200)
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()
        self.wfile.write(path.read_bytes()[: path.stat().st_size // 2])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Keep copies in a folder of the test; forget shards that were opened before."""
    monkeypatch.setenv("BERGER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BERGER_CACHE_GB", raising=False)
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(remote.platformdirs, "user_cache_path", lambda _: tmp_path / "default")
    berger.corpus.windows._opened.cache_clear()
    yield tmp_path / "cache" / "corpora"
    berger.corpus.windows._opened.cache_clear()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Server]]:
    servers: list[Server] = []

    def start(folder: Path) -> Server:
        servers.append(Server(folder))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(corpus: Corpus, serve: Callable[[Path], Server]) -> Server:
    """Serve a corpus of six recordings, one shard, at ``url/corpus``."""
    return serve(Path(corpus.folder).parent)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


def copies(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def run(*arguments: object) -> None:
    cli.main([str(argument) for argument in arguments])


def test_a_corpus_is_read_as_if_it_lay_here(corpus: Corpus, server: Server, cache: Path) -> None:
    there = open_corpus(f"{server.url}/corpus/", progress=False)
    assert server.fetched == ["manifest.json", "recordings.parquet", "windows.parquet"]
    assert (there.manifest, there.name) == (corpus.manifest, "corpus")
    assert there.subjects == corpus.subjects
    assert repr(there).startswith(f"<Corpus {server.url}/corpus: 6 recordings")
    assert there.recordings.equals(corpus.recordings)
    assert there.stretches.equals(corpus.stretches)
    windows, wanted = there.windows(1.0), corpus.windows(1.0)
    assert len(windows) == len(wanted)
    for one, other in zip(windows, wanted, strict=True):
        np.testing.assert_array_equal(one.samples, other.samples)
        np.testing.assert_array_equal(one.signal, other.signal)
        assert one[2:] == other[2:]
    assert server.fetched[3:] == [SHARD]  # when first used, and once
    entries = (*corpus.manifest.tables, *corpus.manifest.shards)
    assert copies(cache) == sorted(entry.sha256 for entry in entries)


def test_a_server_of_another_kind(corpus: Corpus) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(corpus.folder), "/test_remote/corpus", recursive=True)
    try:
        there = open_corpus("memory://test_remote/corpus")
        assert verify_corpus("memory://test_remote/corpus") == []
        recording = there.recordings["recording"][0]
        np.testing.assert_array_equal(there.read(recording, 5, 100), corpus.read(recording, 5, 100))
    finally:
        memory.rm("/test_remote", recursive=True)


# Newer Pythons warn of forking beside the threads of Arrow, of fsspec and of the server.
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@forks
def test_processes_fetch_a_shard_once(corpus: Corpus, server: Server) -> None:
    windows = open_corpus(f"{server.url}/corpus", progress=False).windows(1.0)
    sampler = WindowSampler(windows, 4, seed=0)
    loader = DataLoader(
        windows,
        batch_sampler=list(itertools.islice(sampler.starting_at(0), 6)),
        collate_fn=collate,
        num_workers=2,
        multiprocessing_context="fork",
    )
    here = corpus.windows(1.0)
    for step, batch in enumerate(loader):
        wanted = collate([here[index] for index in sampler.batch(step)])
        assert torch.equal(batch.samples, wanted.samples)
    assert server.fetched.count(SHARD) == 1


def test_a_second_opening_asks_for_the_manifest_alone(
    corpus: Corpus, server: Server, serve: Callable[[Path], Server], tmp_path: Path
) -> None:
    row = corpus.recordings.iloc[0]
    opened = open_corpus(f"{server.url}/corpus")
    signal = opened.read(row["recording"], 0, 50)
    server.fetched.clear()
    berger.corpus.windows._opened.cache_clear()
    again = open_corpus(f"{server.url}/corpus")
    np.testing.assert_array_equal(again.read(row["recording"], 0, 50), signal)
    assert server.fetched == ["manifest.json"]

    # elsewhere, the same content is the same copy
    shutil.copytree(corpus.folder, tmp_path / "elsewhere" / "twin")
    other = serve(tmp_path / "elsewhere")
    berger.corpus.windows._opened.cache_clear()
    open_corpus(f"{other.url}/twin").read(row["recording"], 0, 50)
    assert other.fetched == ["manifest.json"]

    # what is open already needs no server, what is opened anew does
    server.stop()
    berger.corpus.windows._opened.cache_clear()
    np.testing.assert_array_equal(again.read(row["recording"], 0, 50), signal)
    with pytest.raises(BergerError, match=rf"^{server.url}/corpus/manifest\.json: cannot be fetch"):
        open_corpus(f"{server.url}/corpus")


def test_a_corpus_made_anew_is_not_mistaken_for_the_one_before(
    corpus: Corpus, server: Server
) -> None:
    recording = corpus.recordings["recording"][0]
    before = open_corpus(f"{server.url}/corpus").read(recording, 0, 50)
    folder = Path(corpus.folder)
    samples = np.load(folder / SHARD, allow_pickle=False)
    np.save(folder / SHARD, samples[::-1])
    content = json.loads((folder / "manifest.json").read_text())
    content["shards"][0]["sha256"] = remote.hashlib.sha256(
        (folder / SHARD).read_bytes()
    ).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(content))
    anew = open_corpus(f"{server.url}/corpus").read(recording, 0, 50)
    np.testing.assert_array_equal(anew, open_corpus(folder).read(recording, 0, 50))
    assert not np.array_equal(anew, before)


def test_a_flipped_byte_is_refused(corpus: Corpus, server: Server, cache: Path) -> None:
    flip(Path(corpus.folder) / SHARD)
    there = open_corpus(f"{server.url}/corpus")
    for _ in range(2):  # nothing of it is kept
        with pytest.raises(BergerError, match=r"^[^\n]*bytes have changed[^\n.]*\.$") as told:
            there.read(there.recordings["recording"][0], 0, 10)
        assert str(told.value).startswith(f"{server.url}/corpus/{SHARD}: ")
    assert set(copies(cache)) == {entry.sha256 for entry in corpus.manifest.tables}
    flip(Path(corpus.folder) / "windows.parquet")
    shutil.rmtree(cache)
    with pytest.raises(BergerError, match=r"windows\.parquet: is not as the manifest says"):
        open_corpus(f"{server.url}/corpus")


def test_a_server_that_goes_away_is_named(corpus: Corpus, server: Server, cache: Path) -> None:
    there = open_corpus(f"{server.url}/corpus")
    recording = there.recordings["recording"][0]
    server.breaks_off = SHARD
    with pytest.raises(BergerError, match=rf"^{server.url}/corpus/{SHARD}: cannot be fetched \("):
        there.read(recording, 0, 10)
    assert len(copies(cache)) == 2  # the tables; half a shard is no copy
    (Path(corpus.folder) / SHARD).unlink()
    server.breaks_off = ""
    with pytest.raises(BergerError, match=rf"^{server.url}/corpus/{SHARD}: is missing; restore"):
        there.read(recording, 0, 10)
    server.stop()
    with pytest.raises(BergerError, match=rf"{SHARD}: cannot be fetched .*server can be reached"):
        there.read(recording, 0, 10)


@pytest.mark.parametrize("file", [SHARD, "manifest.json"])
@pytest.mark.parametrize("answers", [True, False])
def test_a_connection_that_fails_a_few_times_is_tried_again(
    corpus: Corpus,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    answers: bool,
) -> None:
    if not answers:  # closes without a word
        monkeypatch.setattr(Handler, "break_off", lambda handler: handler.connection.close())
    monkeypatch.setattr(remote, "PIECE", 1000)  # some are yielded before it breaks off
    recording = corpus.recordings["recording"][0]
    server.breaks_off, server.faults = file, 2
    there = open_corpus(f"{server.url}/corpus", progress=False)
    np.testing.assert_array_equal(there.read(recording, 5, 100), corpus.read(recording, 5, 100))
    assert server.faults == 0
    server.faults = 2
    assert verify_corpus(f"{server.url}/corpus", progress=False) == []

    server.faults = 1000
    server.fetched.clear()
    with pytest.raises(BergerError, match=rf"{file}: cannot be fetched"):
        _ = [*remote.stream(f"{server.url}/corpus/{file}")]
    assert 4 <= server.fetched.count(file) <= 8  # aiohttp asks twice where no answer came


def test_what_a_server_answers_is_not_asked_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "break_off", lambda handler: handler.send_error(503))
    server.breaks_off = SHARD
    with pytest.raises(BergerError, match=rf"{SHARD}: cannot be fetched \(503"):
        _ = [*remote.stream(f"{server.url}/corpus/{SHARD}")]
    assert server.fetched == [SHARD]


@forks
@pytest.mark.parametrize("workers", [0, 1])
def test_training_that_loses_its_server_says_so(
    server: Server, tmp_path: Path, workers: int
) -> None:
    windows = open_corpus(f"{server.url}/corpus").windows(1.0)
    server.stop()
    objective, config = torch.nn.Linear(1, 1), TrainingConfig(steps=1, batch_size=2)
    with pytest.raises(
        BergerError, match=rf"^{server.url}/corpus/{SHARD}: cannot be .*\.$"
    ) as told:
        fit(objective, windows, config, tmp_path, seed=0, device="cpu", workers=workers, quiet=True)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{}/raw", r"/raw: is no corpus \(no manifest\.json there\); give the address"),
        ("{}/corpus?key=secret", r"/corpus: an address with a query .* FSSPEC_S3_KEY\.$"),
        ("http://127.0.0.1:9/c", r"manifest\.json: cannot be fetched \(Cannot connect to host"),
        ("nothing://here/c", r"cannot be fetched \(Protocol not known: nothing\)"),
    ],
)
def test_what_is_no_corpus_is_refused(server: Server, url: str, message: str) -> None:
    with pytest.raises(BergerError, match=message) as told:
        open_corpus(url.format(server.url))
    assert "secret" not in str(told.value)
    assert verify_corpus(url.format(server.url)) == [str(told.value)]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(remote.fsspec.core, "url_to_fs", missing)
    with pytest.raises(BergerError, match=r"^s3://a/manifest.json: Install s3fs .*berger\[remote"):
        open_corpus("s3://a")


def test_a_manifest_cannot_point_out_of_the_cache(corpus: Corpus, server: Server) -> None:
    path = Path(corpus.folder) / "manifest.json"
    content = json.loads(path.read_text())
    content["tables"][0]["sha256"] = "../../secret"
    path.write_text(json.dumps(content))
    with pytest.raises(BergerError, match="is damaged or from a newer Berger"):
        open_corpus(f"{server.url}/corpus")


def test_verification_reads_every_byte_of_the_server(
    corpus: Corpus, server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, folder = f"{server.url}/corpus", Path(corpus.folder)
    run("corpus", "verify", url)
    out, err = capsys.readouterr()
    assert out == f"{url}: every byte is as written.\n"
    assert SHARD in err  # a bar
    assert not cache.exists()
    open_corpus(url).read(corpus.recordings["recording"][0], 0, 10)  # the copy stays good
    flip(folder / SHARD)
    flip(folder / "windows.parquet")
    assert verify_corpus(url, progress=False) == [
        f"{url}/windows.parquet: is not as it was written, bytes have changed.",
        f"{url}/{SHARD}: is not as it was written, bytes have changed.",
    ]
    os.truncate(folder / SHARD, 1000)
    (folder / "windows.parquet").unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        run("corpus", "verify", url, "--quiet")
    out, err = capsys.readouterr()
    size = corpus.manifest.shards[0].bytes
    assert out == ""
    assert err.splitlines() == [
        f"berger: {url}/windows.parquet: is missing.",
        f"{url}/{SHARD}: has 1000 bytes instead of {size}.",
    ]
    server.breaks_off = SHARD
    with pytest.raises(BergerError, match=rf"{SHARD}: cannot be fetched"):
        verify_corpus(url, progress=False)


def test_a_bar_unless_quiet(
    corpus: Corpus, server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = corpus.recordings["recording"][0]
    for progress in (False, True):
        shutil.rmtree(cache, ignore_errors=True)
        open_corpus(f"{server.url}/corpus", progress=progress).read(recording, 0, 10)
        assert (SHARD in capsys.readouterr().err) == progress


def test_where_copies_are_kept(
    corpus: Corpus, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert remote.cache_folder() == tmp_path / "cache" / "corpora"
    monkeypatch.delenv("BERGER_CACHE")
    assert remote.cache_folder() == tmp_path / "default" / "corpora"


def test_what_a_killed_process_left_is_removed(server: Server, cache: Path) -> None:
    there = open_corpus(f"{server.url}/corpus")
    (entry,) = there.manifest.shards
    left = cache / f".{entry.sha256}.999999.part"
    left.write_bytes(b"half")
    there.read(there.recordings["recording"][0], 0, 10)
    assert not left.exists()


def test_a_damaged_copy_is_named(server: Server, cache: Path) -> None:
    there = open_corpus(f"{server.url}/corpus")
    (entry,) = there.manifest.shards
    row = there.recordings[there.recordings["shard"].notna()].iloc[-1]
    there.read(row["recording"], 0, 10)
    os.truncate(cache / entry.sha256, 10_000)
    with pytest.raises(BergerError, match=f"{entry.sha256}: ends early; remove this copy"):
        there.read(row["recording"], 0, row["n_times"])


def _keep(url: str, name: bytes) -> Path:
    with remote.local_file(f"{url}/{name.decode()}", sha_of(name)) as path:
        return path


def sha_of(content: bytes) -> str:
    return str(remote.hashlib.sha256(content).hexdigest())


def test_copies_not_used_for_longest_make_room(
    serve: Callable[[Path], Server], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [bytes([letter]) * 100 for letter in b"abcd"]
    for name in names:
        (tmp_path / name.decode()).write_bytes(name)
    server = serve(tmp_path)
    monkeypatch.setenv("BERGER_CACHE_GB", "250e-9")
    for name in names[:2]:
        path = _keep(server.url, name)
        os.utime(path, (1e9 + name[0], 1e9 + name[0]))
    _keep(server.url, names[0])  # used again, so that the second is the oldest
    _keep(server.url, names[2])
    assert copies(cache) == sorted(map(sha_of, (names[0], names[2])))

    # one that is being opened is left alone, and so is the one that was just fetched
    monkeypatch.setenv("BERGER_CACHE_GB", "1e-9")
    with remote.local_file(f"{server.url}/{names[0].decode()}", sha_of(names[0])):
        _keep(server.url, names[3])
        assert copies(cache) == sorted(map(sha_of, (names[0], names[3])))

    monkeypatch.setenv("BERGER_CACHE_GB", "much")
    with pytest.raises(BergerError, match="BERGER_CACHE_GB=much: is not a number"):
        _keep(server.url, names[1])


def _fetch_all(url: str, contents: list[bytes]) -> None:
    for content in contents:
        with remote.local_file(f"{url}/{content.decode()}", sha_of(content)) as path:
            assert path.read_bytes() == content


@forks
def test_processes_that_fetch_and_make_room_at_once(
    serve: Callable[[Path], Server], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [f"{number:0100}".encode() for number in range(8)]
    for content in contents:
        (tmp_path / content.decode()).write_bytes(content)
    server = serve(tmp_path)
    monkeypatch.setenv("BERGER_CACHE_GB", "350e-9")
    rng = np.random.default_rng(0)
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=_fetch_all, args=(server.url, rng.choice(contents, 40).tolist()))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(copies(cache)) <= 3 + len(processes)


def test_commands_take_an_address(
    tiny_corpus: Path,
    tiny_pretraining: Callable[..., Any],
    serve: Callable[[Path], Server],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = f"{serve(tiny_corpus.parent).url}/{tiny_corpus.name}"
    run("corpus", "info", tiny_corpus)
    here = capsys.readouterr().out
    run("corpus", "info", url)
    assert capsys.readouterr().out == here

    config = tmp_path / "config.yaml"
    content = tiny_pretraining(training__steps=2).model_dump(mode="json")
    config.write_text(json.dumps(content))
    common = ("--device", "cpu", "--quiet")
    run("pretrain", config, "--corpus", url, "--out", tmp_path / "run", *common)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["steps"] == 2
    corpus = open_corpus(tiny_corpus)
    assert record["corpus"]["id"] == corpus.manifest.id
    assert record["corpus"]["name"] == corpus.name == tiny_corpus.name

    task = tiny_corpus.parent / "task.yaml"
    arguments = ("--task", task, "--checkpoint", tmp_path / "run" / "checkpoint", *common)
    run("adapt", "probe", "--corpus", url, "--out", tmp_path / "adapted", *arguments)
    assert (tmp_path / "adapted" / "predictions.parquet").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ("prepare", "recordings", "--out", "s3://bucket/corpus"),
        ("prepare", "https://host/a.edf", "--out", "corpus"),
        ("report", "https://host/corpus"),
    ],
)
def test_an_address_is_no_path(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    message = (
        r"^berger: (out|paths|folder): (s3|https):/\S+ must be a path on this machine; .*\.\n$"
    )
    assert re.search(message, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []

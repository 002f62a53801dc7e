"""Data sets are fetched whole or not at all; every server of these tests is a local one."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from berger import cli, fetching
from berger.errors import BergerError
from berger.fetching import FetchSummary, fetch, place_of, transfer
from berger.files import held
from berger.tasks import TaskConfig, catalogue, load_task
from berger.tasks.downloads import ByHand, PhysioNet
from tests.fetching.server import Server

FILES = {
    "S001/S001R04.edf": b"left or right, " * 4000,
    "S001/S001R08.edf": b"once more, " * 7000,
    "S002/S002R04.edf": b"another person",
    "notes.txt": b"about all",
    "S001/S001R01.edf": b"not needed",
}
NEEDED = [*itertools.islice(FILES, 4)]
BIG = "S001/S001R04.edf"
DOWNLOAD = {
    "from": "physionet",
    "name": "made",
    "version": "1.0.0",
    "files": ["*R04.edf", "*R08.edf", "notes.txt"],
    "subject": r"(?P<subject>S\d{3})R",
}


def task_of(download: dict[str, object] | None = DOWNLOAD, **facts: object) -> TaskConfig:
    return TaskConfig.model_validate(
        {
            "name": "made",
            "labels": {"from": "annotations", "classes": {"a": "a", "b": "b"}},
            "window_seconds": 1,
            "licence": "CC0",
            "paper": "Nobody et al. 2020",
            "facts": facts | ({"download": download} if download else {}),
        }
    )


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(transfer, "PIECE", 1000)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    made.files = dict(FILES)
    made.list_sums("")
    yield made
    made.stop()


def run(server: Server, out: Path, task: TaskConfig | None = None, **how: object) -> FetchSummary:
    settings = {"mirror": server.url, "progress": False} | how
    return fetch(task or task_of(), out, **settings)  # type: ignore[arg-type]


def statuses(summary: FetchSummary) -> dict[str, str]:
    return {row.file: row.status for row in summary.rows}


def contents(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name not in (fetching.SUMS, fetching.LOG, fetching.LOCK)
    }


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_what_is_needed_is_fetched_and_what_is_here_is_kept(server: Server, tmp_path: Path) -> None:
    told: list[str] = []
    summary = run(server, tmp_path, tell=told.append)
    assert statuses(summary) == dict.fromkeys(sorted(NEEDED), "fetched")
    assert contents(tmp_path) == {name: FILES[name] for name in NEEDED}
    n_bytes = sum(len(FILES[name]) for name in NEEDED)
    assert told[0] == f"made: 4 files, {n_bytes / 1e6:.1f} MB, to fetch into {tmp_path}."
    assert "CC0" in told[1]
    assert "Nobody et al. 2020" in told[1]
    sums = dict(
        line.split("  ")[::-1] for line in (tmp_path / "SHA256SUMS").read_text().split("\n") if line
    )
    assert sums == {name: sha(FILES[name]) for name in NEEDED}
    assert {row.compared for row in summary.rows} == {"sha256"}

    before = server.got.copy()
    again = run(server, tmp_path)
    assert statuses(again) == dict.fromkeys(sorted(NEEDED), "kept")
    assert server.got - before == {"SHA256SUMS.txt": 1}
    lines = [json.loads(line) for line in (tmp_path / "fetch.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == ["fetched"] * 4 + ["kept"] * 4
    assert set(lines[0]) == {"file", "status", "bytes", "sha256", "compared", "reason", "at"}


def test_one_persons_files_and_those_of_nobody(server: Server, tmp_path: Path) -> None:
    summary = run(server, tmp_path, subjects=["S002"])
    assert set(statuses(summary)) == {"S002/S002R04.edf", "notes.txt"}
    with pytest.raises(BergerError, match="nobody called S009; people are called as S001, S002"):
        run(server, tmp_path, subjects=["S001", "S009"])


def test_a_dry_run_tells_the_size_and_fetches_nothing(server: Server, tmp_path: Path) -> None:
    told: list[str] = []
    run(server, tmp_path / "out", dry_run=True, tell=told.append)
    assert told[0].startswith("made: 4 files, 0.1 MB, would be fetched into ")
    assert not (tmp_path / "out").exists()
    assert set(server.got) == {"SHA256SUMS.txt"}


def test_a_broken_connection_is_continued(server: Server, tmp_path: Path) -> None:
    server.breaks_off[BIG] = 25_000  # of 60,000, of every answer
    summary = run(server, tmp_path)
    assert not summary.failed
    assert (tmp_path / BIG).read_bytes() == FILES[BIG]
    asked = [asked for name, asked in server.asked_for if name == BIG]
    assert asked == [None, "bytes=25000-", "bytes=50000-"]
    assert not list(tmp_path.rglob("*.part*"))


def test_a_later_run_continues_what_another_began(server: Server, tmp_path: Path) -> None:
    line = transfer.Line()
    received: list[int] = []

    def came(n_bytes: int) -> None:
        received.append(n_bytes)
        if sum(received) >= 5000:
            line.stop.set()

    file = transfer.RemoteFile(BIG, f"{server.url}/{BIG}")
    with pytest.raises(transfer.Stopped):
        line.fetch(file, tmp_path / BIG, came)
    line.close()
    assert not (tmp_path / BIG).exists()
    assert (tmp_path / f"{BIG}.part").stat().st_size == 5000
    server.asked_for.clear()
    told: list[str] = []
    assert not run(server, tmp_path, tell=told.append).failed
    assert "0.0 MB of it had come before" in told[0]
    assert (BIG, "bytes=5000-") in server.asked_for
    assert (tmp_path / BIG).read_bytes() == FILES[BIG]


@pytest.mark.parametrize("with_hash", [True, False])
@pytest.mark.parametrize("lacks", ["nothing", "looks_at_tags", "tags_parts", "tags"])
def test_a_file_that_changed_is_not_joined(
    server: Server, tmp_path: Path, lacks: str, with_hash: bool
) -> None:
    """Whatever the server says of versions, the rest of one is never put behind another's part."""
    setattr(server, lacks, False)
    old, new = b"old " * 5000, b"new " * 5000  # equally long
    server.files[BIG] = old
    target = tmp_path / "file"
    line = transfer.Line()

    def came(n_bytes: int) -> None:
        line.stop.set()

    hashes = [
        transfer.Hash("sha256", sha(content)) if with_hash else None for content in (old, new)
    ]
    with pytest.raises(transfer.Stopped):
        line.fetch(transfer.RemoteFile(BIG, f"{server.url}/{BIG}", hashes[0]), target, came)
    assert (tmp_path / "file.part").stat().st_size == 1000
    server.files[BIG] = new
    line.stop.clear()
    received: list[int] = [1000]
    digest = line.fetch(
        transfer.RemoteFile(BIG, f"{server.url}/{BIG}", hashes[1]), target, received.append
    )
    line.close()
    assert target.read_bytes() == new
    assert digest == sha(new)
    assert sum(received) == len(new)  # the bar ends where it should


def test_a_server_without_parts_begins_anew(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.breaks_off[BIG] = 25_000
    summary = run(server, tmp_path)
    (row,) = summary.failed
    assert (row.file, "broke off" in row.reason) == (BIG, True)
    assert statuses(summary)["S002/S002R04.edf"] == "fetched"  # the others go on
    server.breaks_off.clear()
    assert not run(server, tmp_path).failed
    assert (tmp_path / BIG).read_bytes() == FILES[BIG]


def test_a_wrong_hash_is_refused_after_a_second_try(server: Server, tmp_path: Path) -> None:
    server.list_sums("", **{BIG: "0" * 64})
    (row,) = run(server, tmp_path).failed
    assert f"has the SHA-256 {sha(FILES[BIG])}, but its source says {'0' * 64}" in row.reason
    assert server.got[BIG] == 2
    assert BIG not in contents(tmp_path)
    assert not list(tmp_path.rglob("*.part*"))
    assert BIG not in (tmp_path / "SHA256SUMS").read_text()


def test_a_missing_file_is_a_row_and_the_others_go_on(server: Server, tmp_path: Path) -> None:
    del server.files[BIG]
    summary = run(server, tmp_path)
    (row,) = summary.failed
    assert "the server answers 404 Not Found" in row.reason
    assert server.got[BIG] == 1  # it is not asked again and again
    assert statuses(summary) == dict.fromkeys(sorted(NEEDED), "fetched") | {BIG: "failed"}
    assert str(summary) == f"{tmp_path}: 3 fetched, 0 kept, 1 failed."


def test_a_passing_answer_is_waited_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    made = transfer.Line(1)
    monkeypatch.setattr(made.stop, "wait", lambda seconds: waits.append(seconds))
    server.answers[BIG] = [(503, {"Retry-After": "7"}), (429, {}), (500, {})]
    made.fetch(transfer.RemoteFile(BIG, f"{server.url}/{BIG}"), tmp_path / "file", lambda _: None)
    assert waits == [7.0, 0.0, 0.0]
    server.answers[BIG] = [(503, {"Retry-After": "86400"})]
    with pytest.raises(BergerError, match="the server answers 503 Service Unavailable; try again"):
        made.fetch(transfer.RemoteFile(BIG, f"{server.url}/{BIG}"), tmp_path / "b", lambda _: None)
    server.answers[BIG] = [(500, {})] * 9
    with pytest.raises(BergerError, match="500"):
        made.fetch(transfer.RemoteFile(BIG, f"{server.url}/{BIG}"), tmp_path / "b", lambda _: None)
    assert len(server.answers[BIG]) == 5  # asked four times
    made.close()


def test_a_server_that_is_not_there(tmp_path: Path, server: Server) -> None:
    server.stop()
    with pytest.raises(
        BergerError, match=r"SHA256SUMS\.txt: cannot be reached .*; try again later"
    ):
        run(server, tmp_path)


def test_a_file_of_ones_own_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    (tmp_path / "S001").mkdir()
    (tmp_path / BIG).write_bytes(b"mine")
    (tmp_path / "notes.txt").write_bytes(FILES["notes.txt"])
    summary = run(server, tmp_path)
    (row,) = summary.failed
    assert row.reason.endswith(
        "has another content than its source tells; move it away, and run again."
    )
    assert (tmp_path / BIG).read_bytes() == b"mine"
    assert statuses(summary)["notes.txt"] == "kept"


def test_a_disk_without_room_is_told_before(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(
        BergerError, match=r"0\.1 MB are to come, but the disk has room for 0\.1 MB"
    ):
        run(server, tmp_path)
    assert set(server.got) == {"SHA256SUMS.txt"}
    assert run(server, tmp_path, subjects=["S002"]).rows  # less has room


def test_a_disk_that_fills_up_ends_it_all(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = task_of()
    monkeypatch.setattr("berger.tasks.load_task", lambda _: task)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / BIG))

    monkeypatch.setattr(transfer.Line, "_receive", full)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["fetch", "made", "--out", str(tmp_path), "--mirror", server.url, "--quiet"])
    assert "No space left on device; free space, or choose another place" in capsys.readouterr().err


def test_files_without_hashes_have_theirs_written_down(server: Server, tmp_path: Path) -> None:
    task = task_of({"from": "files", "url": "https://example.org", "files": [BIG, "notes.txt"]})
    summary = run(server, tmp_path, task)
    assert {row.compared for row in summary.rows} == {"length"}
    assert "Of 2 the source tells no hash; they were compared by length" in str(summary)
    assert f"{sha(FILES[BIG])}  {BIG}\n" in (tmp_path / "SHA256SUMS").read_text()
    assert {row.compared for row in run(server, tmp_path, task).rows} == {"sha256 noted here"}
    (tmp_path / BIG).write_bytes(FILES[BIG].upper())  # as long
    assert [row.file for row in run(server, tmp_path, task).failed] == [BIG]


def test_a_web_page_in_the_place_of_a_file(server: Server, tmp_path: Path) -> None:
    server.kinds["notes.txt"] = "text/html; charset=utf-8"
    task = task_of({"from": "files", "url": "https://example.org", "files": ["notes.txt"]})
    (row,) = run(server, tmp_path, task).failed
    assert "is a web page and not the file" in row.reason


def test_a_server_that_does_not_say_lengths(server: Server, tmp_path: Path) -> None:
    server.tells_length = False
    told: list[str] = []
    summary = run(server, tmp_path, tell=told.append)
    assert not summary.failed
    assert told[0].startswith("made: 4 files, more than 0.0 MB, to fetch")
    assert contents(tmp_path) == {name: FILES[name] for name in NEEDED}


def test_what_nobody_could_tell_to_be_whole(server: Server, tmp_path: Path) -> None:
    server.tells_length = False
    server.breaks_off["notes.txt"] = 5  # looks as if it ended there
    task = task_of({"from": "files", "url": "https://example.org", "files": ["notes.txt"]})
    (row,) = run(server, tmp_path, task).failed
    assert "neither its hash nor its length is known" in row.reason


@pytest.mark.parametrize("path", ["../x.edf", "/etc/x.edf", "a/../../x.edf", "a\\x.edf", "c:x.edf"])
def test_a_list_cannot_lead_out_of_the_folder(server: Server, tmp_path: Path, path: str) -> None:
    server.files["SHA256SUMS.txt"] = f"{'0' * 64} {path}\n".encode()
    with pytest.raises(BergerError, match="is no path in a folder"):
        run(server, tmp_path, task_of(DOWNLOAD | {"files": ["*"]}))


@pytest.mark.parametrize("content", [b"<html>maintenance</html>", b"\xff\xfe"])
def test_what_is_no_list_is_told(server: Server, tmp_path: Path, content: bytes) -> None:
    server.files["SHA256SUMS.txt"] = content
    with pytest.raises(BergerError, match="did not answer with a list of files"):
        run(server, tmp_path)


def test_nothing_that_fits(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BergerError, match=r"has no files such as \*\.mat; the data set may have"):
        run(server, tmp_path, task_of(DOWNLOAD | {"files": ["*.mat"]}))


def test_openneuro_lists_in_pages_with_md5(server: Server, tmp_path: Path) -> None:
    def page(keys: list[str], more: str = "") -> bytes:
        entries = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(server.files[key])}</Size>"
            f"<ETag>&quot;{etag(key)}&quot;</ETag></Contents>"
            for key in keys
        )
        return (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"{entries}{more}</ListBucketResult>"
        ).encode()

    def etag(key: str) -> str:
        digest = hashlib.md5(server.files[key]).hexdigest()
        return f"{digest}-2" if key.endswith("eeg.edf") else digest  # sent in parts

    description = json.dumps({"DatasetDOI": "doi:10.18112/openneuro.ds000001.v1.0.2"}).encode()
    server.files = {
        "ds000001/dataset_description.json": description,
        "ds000001/sub-1/eeg/sub-1_eeg.edf": b"signal",
        "ds000001/sub-1/eeg/sub-1_events.tsv": b"onset",
    }
    first, *others = server.files
    token = "<NextContinuationToken>a/b+c</NextContinuationToken>"
    query = "?list-type=2&prefix=ds000001%2F"
    server.files[query] = page([first], token)
    server.files[f"{query}&continuation-token=a%2Fb%2Bc"] = page(others)
    download = {"from": "openneuro", "name": "ds000001", "version": "1.0.1", "files": ["*"]}
    summary = run(server, tmp_path, task_of(download))
    assert {row.file: row.compared for row in summary.rows} == {
        "dataset_description.json": "md5",
        "sub-1/eeg/sub-1_eeg.edf": "length",
        "sub-1/eeg/sub-1_events.tsv": "md5",
    }
    assert not summary.failed
    assert "calls its version doi:10.18112/openneuro.ds000001.v1.0.2, and the facts" in summary.then


def test_osf_is_walked_in_one_folder(server: Server, tmp_path: Path) -> None:
    def listing(*entries: dict[str, object], following: str | None = None) -> bytes:
        return json.dumps({"data": entries, "links": {"next": following}}).encode()

    def folder(name: str, place: str) -> dict[str, object]:
        href = {"links": {"related": {"href": f"{server.url}/{place}"}}}
        return {"attributes": {"kind": "folder", "name": name}, "relationships": {"files": href}}

    def file(name: str, place: str, **hashes: str) -> dict[str, object]:
        told = {"kind": "file", "name": name, "size": 6, "extra": {"hashes": hashes}}
        return {"attributes": told, "links": {"download": f"{server.url}/{place}"}}

    server.files = {
        "list/": listing(folder("Track#1", "no"), following=f"{server.url}/list2"),
        "list2": listing(folder("Track#3 Imagined speech", "three"), file("x.mat", "no")),
        "three": listing(folder("Training set", "train"), file("notes.pdf", "no")),
        "train": listing(
            file("Data_Sample01.mat", "d1", sha256=sha(b"first."), md5="0"),
            file("Data_Sample02.mat", "d2", md5=hashlib.md5(b"second").hexdigest()),
        ),
        "d1": b"first.",
        "d2": b"second",
    }
    download = load_task("bcic2020-3").facts.download
    assert download is not None
    told = {"then": "Unpack what is packed."}
    task = task_of(download.model_dump(mode="json", by_alias=True) | told)
    summary = run(server, tmp_path, task, mirror=f"{server.url}/list")
    assert {row.file: row.compared for row in summary.rows} == {
        "Training set/Data_Sample01.mat": "sha256",
        "Training set/Data_Sample02.mat": "md5",
    }
    assert "Unpack what is packed." in str(summary)
    assert "no" not in server.got


def test_an_interruption_leaves_what_can_be_continued(server: Server, tmp_path: Path) -> None:
    """As by Ctrl-C, in a process of its own."""
    server.files[BIG] = os.urandom(2_000_000)
    server.list_sums("")
    program = (
        "import time, sys\n"
        "from berger import cli, fetching\n"
        "from berger.fetching import transfer\n"
        "from tests.fetching.test_fetch import task_of\n"
        "import berger.tasks\n"
        "berger.tasks.load_task = lambda name: task_of()\n"
        "transfer.PIECE = 10_000\n"
        "write = transfer.Line._receive\n"
        "def slowly(self, file, part, came):\n"
        "    def shown(n):\n"
        "        came(n); time.sleep(0.02); print('came', flush=True)\n"
        "    write(self, file, part, shown)\n"
        "transfer.Line._receive = slowly\n"
        f"cli.main(['fetch', 'made', '--out', {str(tmp_path)!r}, '--mirror', {server.url!r}])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    part = tmp_path / f"{BIG}.part"
    for _ in process.stdout:
        if part.exists() and part.stat().st_size > 100_000:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the same command continues" in errors
    assert "Traceback" not in errors
    come = part.stat().st_size
    assert 100_000 < come < 2_000_000
    assert not (tmp_path / BIG).exists()
    server.asked_for.clear()
    assert not run(server, tmp_path).failed
    assert (BIG, f"bytes={come}-") in server.asked_for
    assert (tmp_path / BIG).read_bytes() == server.files[BIG]


def test_two_do_not_write_one_folder(server: Server, tmp_path: Path) -> None:
    with (
        held(tmp_path / fetching.LOCK, "it is held"),
        pytest.raises(BergerError, match="another fetch is writing"),
    ):
        run(server, tmp_path)


def test_where_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BERGER_DATA", str(tmp_path))
    assert place_of(task_of(), None) == tmp_path / "made"
    assert place_of(task_of(), tmp_path) == tmp_path
    monkeypatch.delenv("BERGER_DATA")
    with pytest.raises(BergerError, match="Give --out FOLDER, or set BERGER_DATA"):
        place_of(task_of(), None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "tuab",
            r"is given by agreement only, at https://isip\S+: the form on that page, signed and",
        ),
        (
            "seed-v",
            r"seed-v\.html: https://bcmi\.sjtu\.edu\.cn/home/seed/downloads\.html; give the folder",
        ),
        ("maco", "is private: SynapCell"),
        ("isruc", "cannot be fetched by Berger; fetch http://dataset"),
    ],
)
def test_what_cannot_be_fetched_says_where_to_ask(
    name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["fetch", name, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert re.search(words, said)
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_failure_ends_with_2_and_is_named(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("berger.tasks.load_task", lambda _: task_of())
    del server.files[BIG]
    command = [
        "fetch",
        "made",
        "--out",
        str(tmp_path),
        "--mirror",
        server.url,
        "--subjects",
        "S001",
    ]
    with pytest.raises(SystemExit, match="2"):
        cli.main(command)
    captured = capsys.readouterr()
    assert f"{BIG}: {server.url}/{BIG}: the server answers 404" in captured.err
    assert "1 of 3 files are missing; the same command tries again" in captured.err
    server.files[BIG] = FILES[BIG]
    cli.main(command)
    assert "1 fetched, 2 kept, 0 failed." in capsys.readouterr().out


def test_a_dry_run_says_nothing_of_what_was_not_done(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("berger.tasks.load_task", lambda _: task_of())
    cli.main(["fetch", "made", "--out", str(tmp_path / "out"), "--mirror", server.url, "--dry-run"])
    (line,) = capsys.readouterr().out.splitlines()
    assert "would be fetched" in line


def test_variants_with_other_recordings_are_fetched_with_them() -> None:
    download = load_task("physionet-mi+done").facts.download
    assert isinstance(download, PhysioNet)
    runs = {name[-7:] for name in load_task("physionet-mi+done").recordings}
    assert {name[-7:] for name in download.files} == runs
    for variant in ("chb-mit+biot", "chb-mit+chb24-listed", "siena+without-pn10"):
        plain = load_task(variant.partition("+")[0]).facts
        assert load_task(variant).facts.download == plain.download


@pytest.mark.parametrize("name", catalogue())
def test_every_shipped_data_set_can_be_fetched_or_says_how_to_get_it(name: str) -> None:
    """Addresses are only looked at, never opened."""
    facts = load_task(name).facts
    if facts.access != "open":
        assert facts.apply
        assert facts.download is None
        return
    assert facts.download is not None, "open, but nobody says how to fetch it"
    if isinstance(facts.download, ByHand):
        assert facts.download.how.endswith(".")
        return
    assert re.fullmatch(r"https://[a-z0-9.-]+/[A-Za-z0-9./~-]+", facts.download.address)
    assert facts.download.subject is not None

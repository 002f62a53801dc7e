from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import edfio
import mne
import numpy as np
import pytest
from mne_bids import BIDSPath, get_bids_path_from_fname, read_raw_bids, write_raw_bids

from berger import open_corpus
from berger.configuration import load_config
from berger.corpus import prepare
from berger.errors import BergerError
from berger.preprocessing import PreprocessingConfig
from berger.recordings import (
    Annotation,
    Gap,
    KeptOut,
    find_recordings,
    hash_of,
    read_recording,
    size_of,
    species_name,
)
from berger.tasks import TaskConfig, find_data, labelled_windows, preparation

SFREQ, SECONDS = 100, 32
NAMES = ("Fp1", "Cz", "Pz", "Aux")
BLOCKS = [(0.0, "eyes open"), (8.0, "eyes closed"), (16.0, "eyes open"), (24.0, "eyes closed")]
EDF = "sub-01/ses-1/eeg/sub-01_ses-1_task-eyes_run-01_eeg.edf"
VHDR = "sub-02/eeg/sub-02_task-eyes_eeg.vhdr"
PARTICIPANTS = (
    "participant_id\tage\tspecies\tsite\tnote\n"
    "sub-01\t31\tHomo sapiens\tJena\tn/a\n"
    "sub-02\t29\tn/a\tn/a\tleft-handed\n"
)
CONFIG = PreprocessingConfig(sfreq=SFREQ, highpass=1, lowpass=40, max_amplitude=None)


def noise(seed):
    return np.random.default_rng(seed).normal(0, 20, (4, SFREQ * SECONDS)).clip(-190, 190)


def write_edf(path, seed, marks=()):
    """Write the four channels, in data records of 1 s."""
    signals = [
        edfio.EdfSignal(
            samples, SFREQ, label=name, physical_dimension="uV", physical_range=(-200, 200)
        )
        for samples, name in zip(noise(seed), NAMES, strict=True)
    ]
    annotations = [edfio.EdfAnnotation(onset, 8.0, text) for onset, text in marks]
    edfio.Edf(signals, annotations=annotations or None, data_record_duration=1.0).write(path)
    return path


def write_brainvision(path, seed):
    channels = "\n".join(f"Ch{i}={name},,0.01,µV" for i, name in enumerate(NAMES, 1))
    markers = "\n".join(
        f"Mk{i}=Stimulus,S  {i % 2 + 1},{round(onset * SFREQ) + 1},800,0"
        for i, (onset, _) in enumerate(BLOCKS)
    )
    path.write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={path.stem}.eeg\nMarkerFile={path.stem}.vmrk\nDataFormat=BINARY\n"
        "DataOrientation=MULTIPLEXED\nNumberOfChannels=4\nSamplingInterval=10000\n\n"
        f"[Binary Infos]\nBinaryFormat=INT_16\n\n[Channel Infos]\n{channels}\n",
        encoding="utf-8",
    )
    path.with_suffix(".vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={path.stem}.eeg\n\n[Marker Infos]\n{markers}\n",
        encoding="utf-8",
    )
    path.with_suffix(".eeg").write_bytes(np.rint(noise(seed) / 0.01).T.astype("<i2").tobytes())
    return path


def rows(*cells):
    """Write a table's text, the first row the columns' names."""
    return "".join("\t".join(map(str, row)) + "\n" for row in cells)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A root that mne-bids wrote of an EDF and a BrainVision recording."""
    folder = tmp_path_factory.mktemp("bids")
    root = folder / "study"
    edf = mne.io.read_raw_edf(write_edf(folder / "a.edf", 1, BLOCKS), verbose="ERROR")
    edf.set_channel_types({"Aux": "eog"})
    edf.info["bads"] = ["Pz"]
    brainvision = mne.io.read_raw_brainvision(write_brainvision(folder / "b.vhdr", 2))
    brainvision.annotations.rename({"Stimulus/S  1": "eyes open", "Stimulus/S  2": "eyes closed"})
    first = BIDSPath(subject="01", session="1", task="eyes", run="01", datatype="eeg", root=root)
    second = BIDSPath(subject="02", task="eyes", datatype="eeg", root=root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about power lines and dates
        write_raw_bids(edf, first, verbose="ERROR")
        write_raw_bids(brainvision, second, verbose="ERROR")
    (root / "participants.tsv").write_text(PARTICIPANTS)
    return root


@pytest.fixture
def root(written, tmp_path):
    """A copy to change."""
    return Path(shutil.copytree(written, tmp_path / "study"))


def table_of(recording, suffix):
    """Return the table that lies beside a recording."""
    return recording.with_name(recording.stem.rpartition("_")[0] + f"_{suffix}.tsv")


# --- Finding -----------------------------------------------------------------------------


def test_recordings_are_those_of_the_subjects(root):
    for name in (
        "derivatives/clean/dataset_description.json",
        "derivatives/clean/sub-01/eeg/sub-01_task-eyes_desc-clean_eeg.edf",
        "sourcedata/sub-01/eeg/raw.edf",
        "stimuli/tone.edf",
        "sub-01/ses-1/beh/gaze.edf",
        "sub-03/ieeg/sub-03_task-rest_ieeg.edf",
        "sub-03/ieeg/sub-03_task-rest_run-2_ieeg.nwb",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "sub-03/ieeg/sub-03_task-sleep_ieeg.edf").symlink_to("never-fetched.edf")
    names = [
        EDF,
        VHDR,
        "sub-03/ieeg/sub-03_task-rest_ieeg.edf",
        "sub-03/ieeg/sub-03_task-rest_run-2_ieeg.nwb",
        "sub-03/ieeg/sub-03_task-sleep_ieeg.edf",
    ]
    assert [name for name, _ in find_recordings([root])] == [f"study/{name}" for name in names]
    # also where it is found in another folder, whose other files are recordings too
    (root.parent / "other.edf").touch()
    everything = [name for name, _ in find_recordings([root.parent])]
    assert everything == [
        f"{root.parent.name}/{name}" for name in ["other.edf", *(f"study/{n}" for n in names)]
    ]
    # and given itself, what is no raw data is a root or a folder like any other
    derived = "derivatives/sub-01/eeg/sub-01_task-eyes_desc-clean_eeg.edf"
    [(name, _)] = find_recordings([root / "derivatives"])
    assert name == derived.replace("derivatives", "derivatives/clean")
    assert [name for name, _ in find_recordings([root / "sourcedata"])] == [
        "sourcedata/sub-01/eeg/raw.edf"
    ]


def test_a_root_without_recordings_says_where_they_should_be(tmp_path):
    (tmp_path / "dataset_description.json").touch()
    (tmp_path / "rest.edf").touch()
    with pytest.raises(BergerError, match="no recording in its subjects' folders eeg and ieeg"):
        find_recordings([tmp_path])


# --- Reading -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [EDF, VHDR])
def test_signals_and_events_are_those_of_mne_bids(written, name):
    recording = read_recording(written / name, ch_names=NAMES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about columns of participants.tsv
        raw = read_raw_bids(get_bids_path_from_fname(written / name), verbose="ERROR")
    expected = raw.get_data() * 1e6
    assert recording.original_ch_names == tuple(raw.ch_names)
    np.testing.assert_allclose(recording.signal, expected, rtol=0, atol=1e-6 * expected.std())
    events = [(mark["onset"], mark["duration"], mark["description"]) for mark in raw.annotations]
    assert [(a.onset, a.duration, a.description) for a in recording.annotations] == events
    assert {mark.description for mark in recording.annotations} >= {"eyes open", "eyes closed"}


def test_who_and_what_was_recorded(written):
    first, second = read_recording(written / EDF), read_recording(written / VHDR)
    assert (first.subject, first.subject_source, first.session) == ("sub-01", "bids", "ses-1")
    assert (first.task, first.run) == ("eyes", "01")
    assert (first.species, first.site) == ("human", "Jena")
    assert first.participant == (
        ("age", "31"),
        ("species", "Homo sapiens"),
        ("site", "Jena"),
        ("note", "n/a"),
    )
    assert (second.subject, second.session, second.run) == ("sub-02", None, None)
    assert (second.species, second.site) == (None, None)
    assert first.ch_names == ("Fp1", "Cz", "Pz")
    assert (first.bads, second.bads) == (("Pz",), ())
    assert first.kept_out[0] == KeptOut("Aux", "EOG")
    assert f"{EDF.replace('_eeg.edf', '_channels.tsv')} marks Pz as bad." in first.notes


def test_channels_asked_for_are_taken_with_their_kinds(written):
    recording = read_recording(written / EDF, ch_names=["Aux", "Pz"])
    assert recording.ch_names == ("Pz", "Aux")
    assert recording.kinds == ("scalp", "EOG")
    assert recording.bads == ("Pz",)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("SEEG", "depth electrode"),
        ("ecog", "electrode on the cortex"),
        ("VEOG", "EOG"),
        ("EMG", "EMG"),
        ("GSR", "GSR"),
        ("n/a", None),
        ("EEG", None),
    ],
)
def test_types_become_kinds(root, kind, reason):
    cells = [("name", "type"), ("Fp1", "EEG"), ("Cz", kind), ("Pz", "EEG"), ("Aux", "MISC")]
    table_of(root / EDF, "channels").write_text(rows(*cells))
    recording = read_recording(root / EDF)
    kept_out = {channel.name: channel.reason for channel in recording.kept_out}
    assert kept_out.get("Cz") == reason
    assert kept_out["Aux"] == "not declared as EEG"
    wanted = read_recording(root / EDF, ch_names=["Cz"])
    assert wanted.kinds == (reason or "scalp",)


def test_a_pattern_of_the_users_goes_before_the_name(written):
    recording = read_recording(
        written / EDF, subject_pattern=r"/(?P<site>\w+)/sub-(?P<subject>\d+)"
    )
    assert (recording.subject, recording.subject_source) == ("01", "pattern")
    assert (recording.site, recording.task, recording.species) == ("study", "eyes", "human")


def test_participants_may_be_missing_in_part_or_all(root):
    (root / "participants.tsv").write_text("participant_id\tspecies\nsub-01\tmus musculus\n")
    assert read_recording(root / EDF).species == "mouse"
    second = read_recording(root / VHDR)
    assert (second.species, second.participant) == (None, ())
    assert "participants.tsv does not list sub-02." in second.notes
    (root / "participants.tsv").unlink()
    assert not any("participants" in note for note in read_recording(root / VHDR).notes)


def test_outside_of_a_root_a_name_is_a_name(root):
    (root / "dataset_description.json").unlink()
    recording = read_recording(root / EDF)
    assert (recording.subject_source, recording.task, recording.notes) == ("pattern", None, ())
    assert recording.ch_names == ("Fp1", "Cz", "Pz")


def test_species_names():
    assert species_name("Rattus  norvegicus") == "rat"
    assert species_name("Danio rerio") == "Danio rerio"


# --- Events ------------------------------------------------------------------------------


def test_events_are_described_by_trial_type_then_value(root):
    events = table_of(root / VHDR, "events")
    events.write_text(
        rows(
            ("onset", "duration", "trial_type", "value", "response_time"),
            (3.5, "n/a", "n/a", 7, 0.4),
            (1.0, 2, "left", 1, 0.3),
            ("n/a", 0, "right", 2, "n/a"),
            (9, 1.5, "n/a", "n/a", "n/a"),
            (-0.5, 0, "before", 1, "n/a"),
        )
    )
    recording = read_recording(root / VHDR)
    assert recording.annotations == (
        Annotation(-0.5, 0.0, "before"),
        Annotation(1.0, 2.0, "left"),
        Annotation(3.5, 0.0, "7"),
        Annotation(9.0, 1.5, "event"),
    )
    called = events.relative_to(root).as_posix()
    assert recording.notes == (
        f"Took 4 annotations from {called}.",
        f"Left out 1 events without an onset in {called}.",
        f"Did not take over response_time of {called}.",
        "Set aside the file's own 4 annotations ('Stimulus/S  1', 'Stimulus/S  2').",
    )


def test_without_a_table_the_files_own_annotations_stay(root):
    table_of(root / VHDR, "events").unlink()
    recording = read_recording(root / VHDR)
    assert [mark.description for mark in recording.annotations[:2]] == [
        "Stimulus/S  1",
        "Stimulus/S  2",
    ]
    assert recording.notes == ()


def test_tables_further_up_hold_for_recordings_with_the_same_parts(root):
    for recording in (EDF, VHDR):
        table_of(root / recording, "events").unlink()

    def descriptions(name):
        return [mark.description for mark in read_recording(root / name).annotations]

    header = ("onset", "duration", "trial_type")
    (root / "task-eyes_events.tsv").write_text(rows(header, (1, 1, "task")))
    (root / "task-rest_events.tsv").write_text(rows(header, (1, 1, "another task")))
    (root / "events.tsv").write_text(rows(header, (1, 1, "all")))
    assert descriptions(EDF) == descriptions(VHDR) == ["task"]
    beside = (root / VHDR).parent  # what macOS keeps of a file on disks of others
    (beside / f"._{Path(VHDR).stem.rpartition('_')[0]}_events.tsv").write_bytes(bytes(8))
    assert descriptions(VHDR) == ["task"]
    nearer = root / "sub-01" / "sub-01_events.tsv"
    nearer.write_text(rows(header, (1, 1, "subject")))
    assert descriptions(EDF) == ["subject"]
    # of another run, which the recording without runs is not
    other = (root / VHDR).with_name("sub-02_task-eyes_run-2_events.tsv")
    other.write_text(rows(header, (1, 1, "another run")))
    assert descriptions(VHDR) == ["task"]
    (root / "sub-01" / "sub-01_task-eyes_events.tsv").write_text(rows(header, (1, 1, "x")))
    (root / "sub-01" / "sub-01_run-01_events.tsv").write_text(rows(header, (1, 1, "y")))
    with pytest.raises(BergerError, match=r"run-01_events\.tsv and .* hold for it alike; remove"):
        descriptions(EDF)


def test_onsets_by_the_clock_become_seconds_recorded(root):
    """Records of 1 s at 0 … 9 and, after 5 s that are missing, at 15 … 36."""
    path = root / VHDR.replace(".vhdr", ".edf")
    for file in path.parent.glob("*_eeg.*"):
        file.unlink()
    write_edf(path, 3, [(0.0, "own")])
    content = bytearray(path.read_bytes())
    content[192:197] = b"EDF+D"
    for second in range(10, SECONDS):
        old, new = f"+{second}\x14\x14".encode(), f"+{second + 5}\x14\x14".encode()
        assert content.count(old) == 1
        place = content.index(old)
        content[place : place + len(old)] = b"\0" * len(old)
        content[place : place + len(new)] = new
        # a time that stands elsewhere must not be met again
        content[place : place + len(new)] = new.replace(b"+", b"#")
    path.write_bytes(content.replace(b"#", b"+"))
    table_of(root / VHDR, "events").write_text(rows(("onset", "duration"), (4, 1), (9, 8), (16, 2)))
    recording = read_recording(path)
    assert recording.gaps == (Gap(10 * SFREQ, 5.0),)
    assert [(mark.onset, mark.duration) for mark in recording.annotations] == [
        (4, 1),
        (9, 3),
        (11, 2),
    ]


# --- Bad input ---------------------------------------------------------------------------


def channels(*cells):
    return lambda root: table_of(root / EDF, "channels").write_text(rows(*cells))


def events(text):
    return lambda root: table_of(root / EDF, "events").write_bytes(text)


def participants(text):
    return lambda root: (root / "participants.tsv").write_text(text)


def dangling(root):
    table = table_of(root / EDF, "events")
    table.unlink()
    table.symlink_to("never-fetched.tsv")


def sidecar(text):
    return lambda root: (root / EDF).with_suffix(".json").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (channels(("name",), ("Fp1",), ("EEG Oz",)), "describes EEG Oz, which the file lacks; .* "
         "of which Cz, Pz, Aux, EDF Annotations are not described"),
        (channels(("type",), ("EEG",)), r"channels\.tsv lacks the column name"),
        (channels(("name", "units"), ("Fp1", "mV")), r"unit of Fp1 is uV, but mV in .*_channels"),
        (channels(("name", "units"), ("Cz", "nV")), "unit of Cz is uV, but nV in"),
        (channels(("name", "units"), ("Fp1", "mm")), r"unit of Fp1 is uV, but mm in"),
        (events(b"onset\tduration\n1\n"), r"row 1 has 1 cells for 2 columns\); correct or fetch"),
        (events(b"onset\tonset\n1\t1\n"), "two columns have one name"),
        (events(b""), r"cannot be read \(it is empty\)"),
        (events(b'onset\tduration\n1\t"2\n'), r"cannot be read \(unexpected end of data\)"),
        (events(b"time\tduration\n1\t1\n"), "lacks the column onset"),
        (events(b"onset\tduration\n1,5\t1\n"), "'1,5' as onset of an event, which is no time"),
        (events(b"onset\tduration\n1\t-1\n"), "'-1' as duration of an event"),
        (events(b"onset\tduration\ninf\t1\n"), "'inf' as onset of an event"),
        (dangling, r"_events\.tsv beside it cannot be read \(No such file"),
        (participants("participant_id\tage\nsub-01\n"), "participants.tsv beside it cannot be"),
        (participants("name\nsub-01\n"), "lacks the column participant_id"),
        (participants("participant_id\nsub-01\nsub-01\n"), "lists sub-01 2 times"),
        (sidecar('{"RecordingType": "epoched"}'), r"cut into trials by .*_eeg\.json"),
        (sidecar("{"), r"_eeg\.json beside it cannot be read"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used_are_refused(root, spoil, message):
    spoil(root)
    with pytest.raises(BergerError, match=message) as caught:
        read_recording(root / EDF)
    assert str(caught.value).startswith(f"{root / EDF}: ")
    if spoil is dangling:
        with pytest.raises(OSError, match=r"_events\.tsv"):
            size_of(root / EDF)
    else:
        assert size_of(root / EDF) >= (root / EDF).stat().st_size


@pytest.mark.parametrize("name", ["rest.edf", "sub-02_task-eyes_eeg.edf", "sub-01_task-eyes.edf",
                                  "sub-01_ses-1_task-a-b_eeg.edf"])  # fmt: skip
def test_names_that_are_none_of_bids_are_refused(root, name):
    path = (root / EDF).rename((root / EDF).with_name(name))
    assert path in [file for _, file in find_recordings([root])]
    with pytest.raises(BergerError, match=r"not named as BIDS wants it here, sub-01_ses-1_task-"):
        read_recording(path)
    assert size_of(path) == path.stat().st_size


@pytest.mark.parametrize("unit", ["µV", "μV", "uV", "microV", "n/a", ""])
def test_spellings_of_one_unit_do_not_contradict(root, unit):
    channels(("name", "units"), ("Fp1", unit))(root)
    recording = read_recording(root / EDF)
    assert any("does not describe Cz, Pz" in note for note in recording.notes)


def test_volts_in_the_table_of_a_file_in_microvolts_are_noted(root):
    """Older versions of mne-bids wrote them."""
    plain = read_recording(root / EDF)
    channels(("name", "units"), ("Fp1", "V"))(root)
    recording = read_recording(root / EDF)
    np.testing.assert_array_equal(recording.signal, plain.signal)
    assert any("says V of Fp1; the unit in the file, µV, was taken" in x for x in recording.notes)


def test_a_unit_that_is_given_goes_before_file_and_table(root):
    channels(("name", "units"), ("Fp1", "mV"))(root)
    in_mv = read_recording(root / EDF, unit="mV").signal
    in_uv = read_recording(root / EDF, unit="µV").signal
    np.testing.assert_allclose(in_mv, 1e3 * in_uv)


def test_tables_in_latin_1_are_read(root):
    text = rows(("name", "units"), ("Fp1", "µV"))
    table_of(root / EDF, "channels").write_bytes(text.encode("latin-1"))
    assert "Fp1" in read_recording(root / EDF).ch_names


def test_channels_of_one_name_are_described_in_their_order(root):
    path = root / EDF
    signals = [
        edfio.EdfSignal(row, SFREQ, label=label, physical_dimension="uV")
        for row, label in zip(noise(1), ("Cz", "Cz", "Pz", "Fz"), strict=True)
    ]
    edfio.Edf(signals).write(path)
    cells = [("name", "status"), ("Cz", "bad"), ("Cz", "good"), ("Pz", "good")]
    channels(*cells)(root)
    recording = read_recording(path, ch_names=["Fz", "Pz"])
    assert recording.ch_names == ("Pz", "Fz")
    assert any(note.endswith("_channels.tsv does not describe Fz.") for note in recording.notes)
    channels(*cells, ("Cz", "good"))(root)
    with pytest.raises(BergerError, match="describes Cz, which the file lacks"):
        read_recording(path, ch_names=["Fz", "Pz"])


def test_names_of_the_same_electrodes_are_matched_where_there_is_no_choice(tmp_path):
    """As mne-bids writes channels that were renamed in memory, of a file that it copies."""
    labels = ("EEG Fp1-REF", "EEG Cz", "Pz", "EEG A2-A1")
    signals = [
        edfio.EdfSignal(row, SFREQ, label=label, physical_dimension="uV")
        for row, label in zip(noise(1), labels, strict=True)
    ]
    edfio.Edf(signals).write(tmp_path / "a.edf")
    raw = mne.io.read_raw_edf(tmp_path / "a.edf", verbose="ERROR")
    raw.rename_channels({"EEG Fp1-REF": "Fp1", "EEG Cz": "Cz", "EEG A2-A1": "A2-A1"})
    raw.info["bads"] = ["Cz"]
    place = BIDSPath(subject="01", task="x", datatype="eeg", root=tmp_path / "root")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about power lines and dates
        path = write_raw_bids(raw, place, verbose="ERROR").fpath
    recording = read_recording(path)
    assert recording.original_ch_names == labels[:3]
    assert recording.bads == ("Cz",)
    [renamed] = [note for note in recording.notes if "other names" in note]
    assert renamed.endswith("file: Fp1 for EEG Fp1-REF, Cz for EEG Cz, A2-A1 for EEG A2-A1.")
    # no longer where two could be meant
    table = table_of(path, "channels")
    table.write_text(table.read_text().replace("A2-A1", "EEG Fp1"))
    with pytest.raises(BergerError, match=r"describes Fp1, EEG Fp1, which the file lacks"):
        read_recording(path)


# --- The road ----------------------------------------------------------------------------


def test_size_and_hash_notice_changed_tables(root):
    size, digest = size_of(root / EDF), hash_of(root / EDF)
    assert size > (root / EDF).stat().st_size
    participants = root / "participants.tsv"
    participants.write_text(PARTICIPANTS + "sub-03\t40\tn/a\tn/a\tn/a\n")
    assert (size_of(root / EDF), hash_of(root / EDF)) == (size, digest)  # another subject
    participants.write_text(PARTICIPANTS.replace("Jena", "Gera"))
    assert (size_of(root / EDF), hash_of(root / EDF) == digest) == (size, False)
    participants.write_text(PARTICIPANTS.replace("Jena", "Halle"))
    assert size_of(root / EDF) == size + 1
    for suffix in ("channels", "events"):
        table = table_of(root / EDF, suffix)
        table.write_text(table.read_text() + "\n")
    assert size_of(root / EDF) == size + 3


def test_from_root_to_corpus_to_labels(root, tmp_path):
    participants = root / "participants.tsv"
    third = root / "sub-03" / "eeg" / "sub-03_task-eyes_eeg.edf"
    third.parent.mkdir(parents=True)
    write_edf(third, 3)
    participants.write_text(PARTICIPANTS + "sub-03\t3\tmus musculus\tn/a\tn/a\n")
    fourth = root / "sub-04" / "eeg" / "sub-04_task-eyes_eeg.edf"
    fourth.parent.mkdir(parents=True)
    write_edf(fourth, 4)
    fourth.with_name("sub-04_events.tsv").write_text("onset\tduration\n1\n")
    config = CONFIG.model_copy(update={"species": "human"})
    out = tmp_path / "corpus"
    summary = prepare([root], out, config, progress=False)
    assert (summary.ok, summary.failed, summary.rejected, summary.unknown_people) == (2, 1, 1, 0)

    table = open_corpus(out).recordings.set_index("recording")
    first, second = table.loc[f"study/{EDF}"], table.loc[f"study/{VHDR}"]
    assert (first["subject"], first["subject_source"]) == ("sub-01", "bids")
    assert (first["task"], first["run"], first["site"]) == ("eyes", "01", "Jena")
    assert (first["species"], second["species"]) == ("human", "human")
    assert {"name": "age", "value": "31"} in first["participant"]
    assert first["history"][1].startswith("Took 4 annotations from sub-01/ses-1/eeg/")
    assert {"name": "Pz", "reason": "marked as bad"} in first["kept_out"]
    rejected = table.loc["study/sub-03/eeg/sub-03_task-eyes_eeg.edf"]
    assert rejected["status"] == "rejected"
    assert (
        "is of species 'mouse' by participants.tsv, but the configuration says"
        in (rejected["reason"])
    )
    failed = table.loc["study/sub-04/eeg/sub-04_task-eyes_eeg.edf"]
    assert "sub-04/eeg/sub-04_events.tsv beside it cannot be read" in failed["reason"]
    assert str(tmp_path) not in failed["reason"]

    # mended, it is tried again; a table of one that is in the corpus must not change
    fourth.with_name("sub-04_events.tsv").unlink()
    assert prepare([root], out, config, progress=False).ok == 3
    assert prepare([root], out, config, progress=False).prepared == 0
    table_of(root / EDF, "events").write_text(rows(("onset", "duration"), (1, 1)))
    with pytest.raises(BergerError, match=r"run-01_eeg\.edf: has changed since it was prepared"):
        prepare([root], out, config, progress=False)


@pytest.mark.parametrize("pattern", [".", "sub-*/**/*_eeg.[ev][dh]*"])
def test_events_label_the_windows_of_a_task(root, tmp_path, pattern):
    task = load_config(
        TaskConfig,
        None,
        {
            "name": "eyes",
            "recordings": (pattern,),
            "labels": {
                "from": "annotations",
                "classes": {"eyes open": "open", "eyes closed": "closed"},
            },
            "window_seconds": 4,
        },
    )
    data = find_data(task, tmp_path / "task.yaml", root)
    out = tmp_path / "corpus"
    prepare(data, out, preparation(task, CONFIG), root=root.parent, progress=False)
    windows = labelled_windows(task, open_corpus(out))
    assert windows.groupby(["subject", "label"]).size().to_dict() == {
        (subject, label): 4 for subject in ("sub-01", "sub-02") for label in ("closed", "open")
    }
    first = windows[windows["subject"] == "sub-01"]
    assert first["label"].tolist() == ["open", "open", "closed", "closed"] * 2
    assert first["start"].tolist() == list(range(0, SECONDS * SFREQ, 4 * SFREQ))

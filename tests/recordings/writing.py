"""Small files of every format, written byte by byte from the formats' descriptions.

All hold the same: WAVES of Fp1 and T3 in µV, 10 s at 100 Hz, and where the format has room for it
something marked at 2.5 s. `WRITERS` lists them, `EXPECTED` what a reader must find.
"""

from __future__ import annotations

import ctypes
import datetime
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import antio
import edfio
import mffpy
import mne
import numpy as np
import scipy.io

SFREQ = 100
T = np.arange(1000) / SFREQ
WAVES = np.array([50 * np.sin(2 * np.pi * 3 * T), 20 * np.cos(2 * np.pi * 5 * T), 900 * T])  # µV
NAMES = ("Fp1", "T3")


def counts(step: float = 0.01, dtype: str = "<i2", waves=WAVES[:2]) -> np.ndarray:
    """The waves in whole steps, within the range of the type."""
    limits = np.iinfo(dtype)
    return np.rint(waves / step).clip(limits.min, limits.max).astype(dtype)


# --- EDF, BDF, FIF -----------------------------------------------------------------------


def write_edf(path: Path) -> Path:
    bdf = path.suffix == ".bdf"
    make, signal = (edfio.Bdf, edfio.BdfSignal) if bdf else (edfio.Edf, edfio.EdfSignal)
    signals = [
        signal(wave, SFREQ, label=name, physical_dimension="uV", physical_range=(-100, 100))
        for name, wave in zip(NAMES, WAVES, strict=False)
    ]
    make(signals, annotations=[edfio.EdfAnnotation(2.5, None, "left")]).write(path)
    return path


def write_fif(path: Path, **options) -> Path:
    raw = mne.io.RawArray(
        WAVES[:2] * 1e-6, mne.create_info(list(NAMES), SFREQ, "eeg"), verbose="ERROR"
    )
    raw.set_annotations(mne.Annotations([2.5], [0.0], ["left"]))
    raw.save(path, verbose="ERROR", **options)
    return path


# --- BrainVision, EEGLAB -----------------------------------------------------------------


def write_brainvision(path: Path, n_points: str = "DataPoints=1000\n") -> Path:
    path.write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={path.stem}.eeg\nMarkerFile={path.stem}.vmrk\nDataFormat=BINARY\n"
        f"DataOrientation=MULTIPLEXED\nNumberOfChannels=3\n{n_points}SamplingInterval=10000\n\n"
        "[Binary Infos]\nBinaryFormat=INT_16\n\n"
        "[Channel Infos]\nCh1=Fp1,,0.01,µV\nCh2=T3,,0.00001,mV\nCh3=Temp,,1,C\n",
        encoding="utf-8",
    )
    path.with_suffix(".vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={path.stem}.eeg\n\n[Marker Infos]\nMk1=New Segment,,1,1,0\n"
        "Mk2=Stimulus,S  1,251,1,0\nMk3=New Segment,,601,1,0\n",
        encoding="utf-8",
    )
    path.with_suffix(".eeg").write_bytes(counts(waves=WAVES).T.tobytes())
    return path


def write_eeglab(path: Path, *, apart: bool = False, compressed: bool = False, **changes) -> Path:
    fields = ["labels", "theta", "radius", "X", "Y", "Z", "type"]
    chanlocs = np.zeros(3, dtype=[(field, object) for field in fields])
    for place, label in zip(chanlocs, (*NAMES, "HEOG"), strict=True):
        place["labels"], place["type"] = label, ""
        for field in fields[1:6]:
            place[field] = np.array([])
    events = np.zeros(1, dtype=[("type", object), ("latency", object), ("duration", object)])
    events[0] = ("left", 251.0, 150.0)
    data = WAVES.astype(np.float32)
    if apart:
        data.T.tofile(path.with_suffix(".fdt"))
        data = path.with_suffix(".fdt").name
    content = {
        "setname": "", "nbchan": 3, "pnts": 1000, "trials": 1, "srate": SFREQ, "xmin": 0.0,
        "xmax": 9.99, "data": data, "chanlocs": chanlocs, "event": events, "icawinv": [],
        "icaweights": [], "icasphere": [], "epoch": [], "ref": "common", "filename": path.name,
    }  # fmt: skip
    scipy.io.savemat(path, {"EEG": content | changes}, appendmat=False, do_compression=compressed)
    return path


# --- GDF ---------------------------------------------------------------------------------


def write_gdf(path: Path, labels=NAMES, codes=(4275, 4275), rates=None) -> Path:
    """Write GDF 2.20, one record a second of int32 in steps of 0.01 units."""
    n = len(labels)
    rates = rates or (SFREQ,) * n
    fixed = bytearray(256)
    fixed[:8] = b"GDF 2.20"
    fixed[8:11] = b"X X"
    struct.pack_into("<H", fixed, 184, n + 1)
    struct.pack_into("<qIIH", fixed, 236, 10, 1, 1, n)
    rows = b"".join(label.encode().ljust(16) for label in labels) + bytes(86 * n)
    rows += struct.pack(f"<{n}H", *codes)
    for limits in (-1000.0, 1000.0, -100000.0, 100000.0):
        rows += struct.pack(f"<{n}d", *[limits] * n)
    rows += bytes(68 * n + 12 * n)
    rows += struct.pack(f"<{n}i", *rates) + struct.pack(f"<{n}i", *[5] * n) + bytes(32 * n)
    events = struct.pack("<B3B", 1, 1, 0, 0) + struct.pack("<fIH", SFREQ, 251, 769)
    records = _gdf_records(counts(0.01, "<i4", WAVES[:n]), rates)
    path.write_bytes(bytes(fixed) + rows + records + events)
    return path


def write_gdf_1(path: Path, kind: int = 3, dtype: str = "<i2") -> Path:
    """Write GDF 1.25, one record of half a second, with an event that has a duration."""
    n = len(NAMES)
    fixed = bytearray(256)
    fixed[:8] = b"GDF 1.25"
    fixed[8:88] = b"X X".ljust(80)
    fixed[168:184] = b"2020010203040500"
    struct.pack_into("<q", fixed, 184, 256 * (n + 1))
    struct.pack_into("<qIII", fixed, 236, 20, 1, 2, n)
    rows = b"".join(name.encode().ljust(16) for name in NAMES) + bytes(80 * n)
    rows += b"uV".ljust(8) * n
    rows += struct.pack(f"<{2 * n}d", *[-100.0] * n, *[100.0] * n)
    rows += struct.pack(f"<{2 * n}q", *[-10000] * n, *[10000] * n)
    rows += b" " * 80 * n
    rows += struct.pack(f"<{2 * n}i", *[SFREQ // 2] * n, *[kind] * n) + bytes(32 * n)
    events = struct.pack("<B3BI", 3, SFREQ, 0, 0, 1) + struct.pack("<IHHI", 251, 769, 0, 150)
    records = _gdf_records(counts(0.01, dtype), (SFREQ // 2,) * n)
    path.write_bytes(bytes(fixed) + rows + records + events)
    return path


def _gdf_records(numbers: np.ndarray, rates) -> bytes:
    longest = max(rates)
    return b"".join(
        row[start:][:rate].tobytes()
        for start in range(0, 1000, longest)
        for row, rate in zip(numbers, rates, strict=True)
    )


# --- Neuroscan, ANT ----------------------------------------------------------------------


def write_neuroscan(
    path: Path, dtype: str = "<i2", names=NAMES, waves=WAVES[:2], sfreq: int = SFREQ
) -> Path:
    numbers = counts(0.01, dtype, waves)
    n, n_samples = numbers.shape
    width = numbers.dtype.itemsize
    end = 900 + 75 * n + numbers.nbytes
    setup = bytearray(900)
    setup[:11] = b"Version 3.0"
    setup[225:245] = b"01/02/20\0\0" + b"03:04:05\0\0"
    struct.pack_into("<H", setup, 370, n)
    struct.pack_into("<H", setup, 376, sfreq)
    struct.pack_into("<i", setup, 864, n_samples)
    struct.pack_into("<i", setup, 886, end)
    channels = b""
    for index, name in enumerate(names):
        channel = bytearray(75)
        channel[: len(name)] = name.encode()
        struct.pack_into("<ff", channel, 19, 0.3 * index + 0.1, 0.2)
        struct.pack_into("<h", channel, 47, 5)  # the baseline, which is taken off
        struct.pack_into("<f", channel, 59, 2.048)  # sensitivity
        struct.pack_into("<f", channel, 71, 1.0)
        channels += bytes(channel)
    offset = 900 + 75 * n + 251 * n * width
    table = struct.pack("<Bii", 1, 8, 0) + struct.pack("<HBci", 7, 0, b"\0", offset)
    path.write_bytes(bytes(setup) + channels + (numbers + 5).T.astype(dtype).tobytes() + table)
    return path


def write_ant(path: Path, *, wide: bool = False) -> Path:
    """Write by libeep, which comes with antio and can write as well."""
    library = ctypes.CDLL(str(Path(antio.__file__).parent / "libeep" / "libEep.so"))
    library.libeep_add_samples.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
    library.libeep_add_trigger.argtypes = [ctypes.c_int, ctypes.c_uint64, ctypes.c_char_p]
    library.libeep_init()
    channels = library.libeep_create_channel_info()
    for name in NAMES:
        library.libeep_add_channel(channels, name.encode(), b"ref", b"uV")
    handle = library.libeep_write_cnt(str(path).encode(), SFREQ, channels, int(wide))
    samples = np.ascontiguousarray(WAVES[:2].T, dtype=np.float32)
    library.libeep_add_samples(handle, samples.ctypes.data, len(samples))
    library.libeep_add_trigger(handle, 250, b"left")
    library.libeep_add_recording_info(handle, library.libeep_create_recinfo())
    library.libeep_close(handle)
    return path


# --- Nihon Kohden ------------------------------------------------------------------------

KOHDEN_STEP = (3199.902 + 3200) / 65535  # µV
_KOHDEN = b"EEG-1100A V01.00"


def write_nihon_kohden(path: Path, pieces=((0, 1000),)) -> Path:
    """Write the .EEG with its .PNT, .21E and .LOG, a data block for each piece of samples."""
    n = len(NAMES)
    main = bytearray(0x17FE)
    main[:16] = main[0x81:0x91] = _KOHDEN
    struct.pack_into("<BI", main, 0x91, 1, 0x400)
    main[0x400 + 17] = len(pieces)
    numbers = np.rint((WAVES[:2] + 3200) / KOHDEN_STEP).astype("<u2")
    for index, (start, stop) in enumerate(pieces):
        struct.pack_into("<I", main, 0x400 + 18 + 20 * index, len(main))
        block = bytearray(0x27 + 10 * n)
        block[0] = 1
        struct.pack_into("<HI", block, 0x1A, SFREQ | 0xC000, (stop - start) // 10)
        block[0x26] = n
        block[0x27], block[0x31] = 0, 12  # the electrodes' codes
        marks = np.zeros((1, stop - start), "<u2")
        main += block + np.vstack([numbers[:, start:stop], marks]).T.tobytes()
    path.write_bytes(bytes(main))
    path.with_suffix(".PNT").write_bytes(_KOHDEN.ljust(0x40, b"\0") + b"20200102030405")
    path.with_suffix(".21E").write_text("[ELECTRODE]\n0000=Fp1\n0012=T3\n[SD_DEF]\n")
    log = bytearray(0x92 + 44 * 20)
    log[:16] = _KOHDEN
    log[0x91] = 1
    for index, entry in ((0, b"000002" + b" " * 19), (22, b"    500000" + b" " * 15)):
        struct.pack_into("<I", log, 0x92 + 20 * index, len(log))
        text = b"left" if index == 0 else b""
        log += b"\0" + _KOHDEN + b"\0\1\0" + text.ljust(20, b"\0") + entry
    path.with_suffix(".LOG").write_bytes(bytes(log))
    return path


# --- Persyst -----------------------------------------------------------------------------


def write_persyst(path: Path, sample_times: str = "", dtype: str = "<i2") -> Path:
    path.write_text(
        f"[FileInfo]\nFile={path.stem}.dat\nFileType=Interleaved\nSamplingRate=100\n"
        f"HeaderLength=0\nCalibration=0.01\nWaveformCount=2\nDataType={7 if dtype == '<i4' else 0}"
        "\n[ChannelMap]\nFp1-Ref=1\nT3-Ref=2\n"
        "[Patient]\nID=K17\nFirst=Hans\nBirthDate=01-02-90\nSex=m\nHand=r\nTestDate=01/02/2020\n"
        f"TestTime=00:00:00\n[Comments]\n2.5,1.5,0,100,left\n{sample_times}"
    )
    path.with_suffix(".dat").write_bytes(counts(0.01, dtype).T.tobytes())
    return path


# --- EGI ---------------------------------------------------------------------------------


def write_egi(path: Path, version: int = 4, bits: int = 0, value_range: int = 0) -> Path:
    """Write a simple binary file: version 2 has int16, 4 and 6 have floats."""
    header = struct.pack(">i6hi5h", version, 2020, 1, 2, 3, 4, 5, 0, SFREQ, 2, 0, bits, value_range)
    header += struct.pack(">ih", 1000, 1) + b"left"
    step = value_range / 2**bits if bits else 1.0
    rows = np.vstack([WAVES[:2] / step, np.arange(1000) == 250])
    if version == 2:
        rows = np.rint(rows)
    path.write_bytes(header + rows.T.astype({2: ">i2", 4: ">f4", 6: ">f8"}[version]).tobytes())
    return path


_SENSOR = (
    "<sensor><name>{name}</name><number>{number}</number><type>0</type><x>{number}</x><y>1</y>"
)


def write_mff(path: Path, pieces=((0, 1000, None),)) -> Path:
    """Write EGI's folder; pieces are first and last sample and a pause before in µs."""
    start = datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    writer = mffpy.Writer(str(path))
    writer.addxml("fileInfo", recordTime=start)
    signal = mffpy.bin_writer.BinWriter(sampling_rate=SFREQ)
    for first, last, pause in pieces:
        signal.add_block(WAVES[:2, first:last].astype(np.float32), offset_us=pause)
    writer.addbin(signal)
    event = {
        "beginTime": start + datetime.timedelta(seconds=2.5),
        "duration": 0,
        "code": "left",
        "label": "left",
    }
    writer.addxml(
        "eventTrack", filename="Events_ECI.xml", name="ECI", trackType="EVNT", events=[event]
    )
    writer.write()
    sensors = "".join(
        _SENSOR.format(name=name, number=index + 1) + "<z>1</z></sensor>"
        for index, name in enumerate(NAMES)
    )
    (path / "sensorLayout.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<sensorLayout xmlns="http://www.egi.com/'
        f'sensorLayout_mff"><name>two</name><sensors>{sensors}</sensors></sensorLayout>'
    )
    (path / "coordinates.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<coordinates xmlns="http://www.egi.com/'
        'coordinates_mff"><acqTime>2020-01-02T03:04:05.000000+00:00</acqTime><acqMethod>By'
        f"</acqMethod><defaultSubject>1</defaultSubject><sensorLayout><name>two</name><sensors>"
        f"{sensors}</sensors></sensorLayout></coordinates>"
    )
    return path


# --- All ---------------------------------------------------------------------------------


class Expected(NamedTuple):
    """What a reader must find beside the waves."""

    step: float  # µV
    mark: str
    duration: float = 0.0
    names: tuple[str, ...] = ()  # where the file cannot name electrodes


WRITERS: Mapping[str, Callable[[Path], Path]] = {
    "x.edf": write_edf,
    "x.bdf": write_edf,
    "x_raw.fif": write_fif,
    "packed_raw.fif.gz": write_fif,
    "x.vhdr": write_brainvision,
    "unsized.vhdr": lambda path: write_brainvision(path, ""),
    "x.set": write_eeglab,
    "apart.set": lambda path: write_eeglab(path, apart=True),
    "packed.set": lambda path: write_eeglab(path, compressed=True),
    "x.gdf": write_gdf,
    "old.gdf": write_gdf_1,
    "x.cnt": write_neuroscan,
    "wide.cnt": lambda path: write_neuroscan(path, "<i4"),
    "ant.cnt": write_ant,
    "ant_wide.cnt": lambda path: write_ant(path, wide=True),
    "x.EEG": write_nihon_kohden,
    "x.lay": write_persyst,
    "wide.lay": lambda path: write_persyst(path, dtype="<i4"),
    "x.raw": write_egi,
    "short.raw": lambda path: write_egi(path, 2, 12, 410),
    "double.raw": lambda path: write_egi(path, 6),
    "x.mff": write_mff,
}

EXPECTED: Mapping[str, Expected] = {
    "x.edf": Expected(200 / 65535, "left"),
    "x.bdf": Expected(200 / (2**24 - 1), "left"),
    "x_raw.fif": Expected(1e-5, "left"),
    "packed_raw.fif.gz": Expected(1e-5, "left"),
    "x.vhdr": Expected(0.01, "Stimulus/S  1", 0.01),
    "unsized.vhdr": Expected(0.01, "Stimulus/S  1", 0.01),
    "x.set": Expected(1e-5, "left", 1.5),
    "apart.set": Expected(1e-5, "left", 1.5),
    "packed.set": Expected(1e-5, "left", 1.5),
    "x.gdf": Expected(0.01, "769", 0.01),
    "old.gdf": Expected(0.01, "769", 1.5),
    "x.cnt": Expected(0.01, "7"),
    "wide.cnt": Expected(0.01, "7"),
    "ant.cnt": Expected(2 / 128, "left"),  # libeep cuts rather than rounds
    "ant_wide.cnt": Expected(2 / 128, "left"),
    "x.EEG": Expected(KOHDEN_STEP, "left"),
    "x.lay": Expected(0.01, "left", 1.5),
    "wide.lay": Expected(0.01, "left", 1.5),
    "x.raw": Expected(1e-5, "left", names=("E1", "E2")),
    "short.raw": Expected(410 / 2**12, "left", names=("E1", "E2")),
    "double.raw": Expected(1e-9, "left", names=("E1", "E2")),
    "x.mff": Expected(1e-5, "left"),
}


def write(folder: Path, name: str) -> Path:
    """Write one of the files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return WRITERS[name](folder / name)

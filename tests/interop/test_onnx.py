"""An ONNX file computes what its model computes, says what it takes, or is not there."""

from __future__ import annotations

import builtins
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from berger.cli import main
from berger.errors import BergerError
from berger.importing import import_weights
from berger.interop import onnx as door
from berger.interop.onnx import Exported, export
from berger.models import (
    Classifier,
    ClassifierConfig,
    DareConfig,
    DareEEG,
    EEGModel,
    EuclideanAlignment,
    InputContract,
    SpecHiNetConfig,
    SpecMoE,
    SpecMoEConfig,
    create_model,
    load_checkpoint,
)
from tests.golden.published import agree, golden_arrays, published_weights

SIZES = {"stem_dim": 4, "embed_dim": 8, "bottleneck_dim": 16, "n_heads": 2}


def microvolts(*shape: int, seed: int = 5) -> Tensor:
    return 20 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(file: Path, signal: Tensor, **more: Tensor) -> dict[str, Tensor]:
    """Outputs by name of an ONNX file in onnxruntime."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    inputs = {name: x.numpy() for name, x in ({"signal": signal} | more).items()}
    return dict(zip(names, map(torch.from_numpy, session.run(names, inputs)), strict=True))


def metadata(file: Path) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    return {name: json.loads(value) for name, value in properties.items()}


def saved(model: EEGModel, folder: Path, **provenance: object) -> Path:
    model.save_checkpoint(folder, provenance)
    return folder


def mixture(gate: str = "none", **settings: object) -> SpecMoE:
    torch.manual_seed(0)
    fields = {"expert": {"name": "spechinet", **SIZES}, "n_experts": 1, "gate": gate} | settings
    return SpecMoE(SpecMoEConfig.model_validate(fields)).eval()


# what files compute


@torch.inference_mode()
def test_an_encoder_takes_any_number_of_windows_and_electrodes(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / "encoder.onnx"
    exported = export(tiny_checkpoint, file)
    assert exported.inputs == {"signal": ("batch", "n_chans", 400)}
    assert list(exported.outputs) == ["features", "tokens"]
    assert exported.outputs["features"] == ("batch", 8)
    assert 0 < exported.difference < 1e-5
    encoder = load_checkpoint(tiny_checkpoint)
    for shape in ((1, 1, 400), (5, 2, 400), (2, 7, 400), (1, 19, 400), (4, 3, 400)):
        features = encoder.forward_features(microvolts(*shape))
        outputs = run(file, microvolts(*shape))
        agree(outputs["features"], features.summary)
        agree(outputs["tokens"], features.tokens)
    described = metadata(file)
    assert described["contract"] == encoder.contract.model_dump(mode="json")
    assert described["contract"]["unit"] == "µV"
    assert described["contract"]["preprocessing"]["lowpass"] == 40
    assert described["model"] == encoder.config.model_dump(mode="json")
    assert described["signal"] == "microvolts, prepared as the contract says"
    assert described["classes"] == []
    assert described["outputs"].keys() == {"features", "tokens"}
    assert described["provenance"]["kind"] == "pretraining"
    assert described["provenance"]["corpus"] == encoder.provenance["corpus"]["id"]
    # who was recorded, and where the exporting machine keeps its files, is nobody's business
    content = file.read_bytes()
    assert not any(x.encode() in content for x in encoder.provenance["subjects"]["train"])
    assert b".py" not in content


@torch.inference_mode()
def test_an_adapted_model_gives_probabilities(
    tiny_adaptation: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint, file = tiny_adaptation / "checkpoint", tmp_path / "new" / "eyes.onnx"
    model = load_checkpoint(checkpoint)
    main(["export", "--checkpoint", str(checkpoint), "--out", str(file)])
    printed = capfd.readouterr()
    assert printed.err == ""
    assert printed.out.startswith(f"{file}: signal (batch, n_chans, 400) → scores (batch, 2), at")
    signal = microvolts(6, 5, 400)
    scores = run(file, signal)["scores"]
    agree(scores, model(signal).softmax(1))
    torch.testing.assert_close(scores.sum(1), torch.ones(6))
    described = metadata(file)
    assert described["classes"] == list(model.classes) == ["open", "closed"]
    assert described["provenance"]["kind"] == "adaptation"
    assert described["provenance"]["pretraining_corpus"] == described["provenance"]["corpus"]


@torch.inference_mode()
def test_an_adapted_mixture_gives_probabilities(tmp_path: Path) -> None:
    model = mixture("softmax", n_outputs=3, classes=("a", "b", "c"), pool_chans="max")
    file = tmp_path / "mixture.onnx"
    aligned = EuclideanAlignment(amplitude=12)
    model.contract = model.contract.model_copy(update={"euclidean_alignment": aligned})
    exported = export(saved(model, tmp_path / "checkpoint"), file, window_seconds=3)
    assert exported.outputs == {"scores": ("batch", 3)}
    for shape in ((1, 1, 600), (4, 6, 600)):
        agree(run(file, microvolts(*shape))["scores"], model(microvolts(*shape)).softmax(1))
    assert metadata(file)["contract"]["window_seconds"] == 3
    assert metadata(file)["contract"]["euclidean_alignment"]["amplitude"] == 12
    told = "prepared as the contract says, then, outside this file, multiplied by 12 R^(-1/2)"
    assert told in metadata(file)["signal"]
    assert metadata(file)["model"]["gate"] == "softmax"


class Gates(nn.Module):
    """All gates side by side, each of an untrained mixture of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs = dict.fromkeys(("spectral", "encoding", "softmax", "none"), "")
        self.models = nn.ModuleList(mixture(gate, n_experts=2) for gate in self.outputs)

    def forward(self, signal: Tensor) -> tuple[Tensor, ...]:
        return tuple(model.gates(signal) for model in self.models)


@torch.inference_mode()
def test_every_gate(tmp_path: Path) -> None:
    gates: Any = Gates().eval()
    proto = door._traced(gates, {"signal": microvolts(2, 3, 700)}, any_chans=True)
    onnx.save(proto, tmp_path / "gates.onnx")
    for shape in ((1, 1, 700), (3, 5, 700)):
        found = run(tmp_path / "gates.onnx", microvolts(*shape))
        for (name, gate), wanted in zip(found.items(), gates(microvolts(*shape)), strict=True):
            assert gate.shape == (*shape[:2], 2, 1 if name in ("softmax", "none") else 16)
            agree(gate, wanted)


# published weights


def test_a_published_expert_gives_the_published_features(tmp_path: Path) -> None:
    torch.save({"model_state": published_weights("specmoe_expert")}, tmp_path / "expert.pt")
    import_weights([tmp_path / "expert.pt"], tmp_path / "checkpoint", window_seconds=3)
    file = tmp_path / "expert.onnx"
    exported = export(tmp_path / "checkpoint", file, n_chans=4, with_times=True)
    assert exported.inputs == {"signal": ("batch", 4, 600), "times": ("batch", 600)}
    assert exported.outputs == {"features": ("batch", 128), "tokens": ("batch", 40, 128)}
    golden = golden_arrays("specmoe_expert")
    outputs = run(file, 100 * golden["a_signal"], times=golden["a_positions"])
    agree(outputs["tokens"].transpose(1, 2), golden["a_act_Bottom2"])
    torch.testing.assert_close(outputs["features"], outputs["tokens"].mean(1))
    imported = metadata(file)["provenance"]["imported"]
    assert [each["recognised"] for each in imported] == ["published SpecMoE expert"]


def test_a_published_mixture_gives_the_published_logits(tmp_path: Path) -> None:
    torch.save({"model_state": published_weights("specmoe_fusion")}, tmp_path / "fusion.pt")
    checkpoint, file = tmp_path / "checkpoint", tmp_path / "fusion.onnx"
    settings = {"pool_time": "max"}
    import_weights([tmp_path / "fusion.pt"], checkpoint, window_seconds=3.6, settings=settings)
    words = ["export", "--checkpoint", str(checkpoint), "--out", str(file), "--quiet"]
    main([*words, "--n-chans", "6", "--with-times"])
    golden = golden_arrays("specmoe_fusion")
    outputs = run(file, 100 * golden["signal"], times=golden["positions"])
    agree(outputs["scores"], golden["logits_time_max_channel_mean"])
    assert outputs["tokens"].shape == (3, 6, 3 * 128)
    assert metadata(file)["outputs"]["scores"].startswith("what the head puts out: values of a reg")


# what is refused


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of an encoder that does not say how long its windows are."""
    config = SpecHiNetConfig.model_validate(SIZES)
    return saved(create_model(config), tmp_path_factory.mktemp("bare") / "checkpoint")


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nothing may be left."""
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def test_requests_that_cannot_be_done(
    bare: Path, untouched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = untouched / "x.onnx"
    for words, complaint in {
        f"--out {file}": f"{bare}: does not say how long its windows are; give --window-seconds.",
        f"--out {file} --window-seconds 0.004": "--window-seconds 0.004: such windows are shorter",
        f"--out {untouched}/x.pt": f"{untouched}/x.pt: must be a file that ends in .onnx; choose",
        f"--out {untouched}": f"{untouched}: must be a file that ends in .onnx; choose another",
    }.items():
        with pytest.raises(SystemExit) as ended:
            main(["export", "--checkpoint", str(bare), *words.split()])
        assert ended.value.code == 2
        assert f"berger: {complaint}" in capsys.readouterr().err
    with pytest.raises(BergerError, match=r"^--n-chans 0: there must be an electrode"):
        export(bare, file, window_seconds=1, n_chans=0)


def test_a_folder_is_not_replaced(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").mkdir()
    with pytest.raises(BergerError, match=r"x.onnx: must be a file that ends in .onnx; choose"):
        export(bare, tmp_path / "x.onnx", window_seconds=1)


def test_a_model_of_certain_electrodes_takes_these(tmp_path: Path) -> None:
    config = {"encoder": {"name": "spechinet", **SIZES}, "pooling": "electrodes", "n_chans": 3}
    model = create_model(ClassifierConfig.model_validate(config | {"classes": ("rest", "task")}))
    for contract in (
        InputContract(sfreq=200),
        InputContract(sfreq=200, ch_names=("Fz", "Cz", "Pz")),
    ):
        model.contract = contract
        checkpoint = saved(model, tmp_path / "checkpoint")
        assert door._n_chans(model, checkpoint, None) == door._n_chans(model, checkpoint, 3) == 3
        with pytest.raises(BergerError, match=r"checkpoint: was made for 3 electrodes; leave --n-"):
            export(checkpoint, tmp_path / "x.onnx", window_seconds=2, n_chans=4)
    with pytest.raises(BergerError, match=r"checkpoint: its linear head takes no times; leave"):
        export(checkpoint, tmp_path / "x.onnx", window_seconds=2, with_times=True)


@pytest.mark.parametrize("adapted", [False, True])
def test_a_model_that_finds_electrodes_by_name_is_told_them(
    adapted: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    config = DareConfig(embed_dim=16, n_heads=2, n_streams=2, parts="encoder")
    contract = InputContract(sfreq=256, window_seconds=1)
    described = ClassifierConfig(encoder=config, classes=("a", "b")) if adapted else config
    model = create_model(described, contract).eval()
    checkpoint, file = saved(model, tmp_path / "checkpoint"), tmp_path / "x.onnx"
    words = ["export", "--checkpoint", str(checkpoint), "--out", str(file)]
    for more, complaint in (
        ([], "finds its electrodes by name; say by --ch-names which the file shall take, e.g. "),
        (["--ch-names", "C3,C4", "--n-chans", "3"], "was made for 2 electrodes; leave --n-chans"),
        (["--ch-names", "C3,TP9"], "the model has no embedding for TP9; "),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*words, *more])
        assert ended.value.code == 2
        assert f"berger: {checkpoint}: {complaint}" in capsys.readouterr().err
    assert not file.exists()
    main([*words, "--ch-names", "C3, Cz, C4"])
    outputs, signal = run(file, microvolts(2, 3, 256)), microvolts(2, 3, 256)
    names = ("C3", "Cz", "C4")
    assert metadata(file)["contract"]["ch_names"] == list(names)
    with torch.inference_mode():
        if isinstance(model, Classifier):
            agree(outputs["scores"], model(signal, names).softmax(1))
        else:
            assert isinstance(model, DareEEG)
            agree(outputs["tokens"], model.forward_features(signal, names).tokens)
            assert "all of the first time step first" in metadata(file)["outputs"]["tokens"]
    fixed = create_model(described, contract.model_copy(update={"ch_names": names}))
    with pytest.raises(BergerError, match=r"was made for C3 Cz C4 in this order; leave --ch-names"):
        export(saved(fixed, tmp_path / "fixed"), file, ch_names=("Cz", "C3", "C4"))


def test_electrodes_end_to_end_must_be_counted(tmp_path: Path) -> None:
    model = mixture(expert={"name": "spechinet-published", **SIZES})
    checkpoint = saved(model, tmp_path / "checkpoint")
    with pytest.raises(BergerError, match=r"lays its electrodes end to end, .*; give --n-chans\.$"):
        export(checkpoint, tmp_path / "x.onnx", window_seconds=3)


def test_a_window_shorter_than_the_spectrum_is_refused(tmp_path: Path) -> None:
    checkpoint = saved(mixture("spectral"), tmp_path / "checkpoint")
    with pytest.raises(BergerError, match=r"^a window of 200 samples is shorter than a segment"):
        export(checkpoint, tmp_path / "x.onnx", window_seconds=1)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named(
    package: str, bare: Path, untouched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(
        BergerError, match=rf"^export: the package {package} is not installed; install `berger\[on"
    ):
        export(bare, untouched / "x.onnx", window_seconds=1)


OTHER = """\
<ir_version: 10, opset_import: ["" : 23]>
other (float[batch, 1, 200] signal) => (float[batch, 16] features, float[batch, 6, 16] tokens) {
  batch = Shape <start = 0, end = 1> (signal)
  per_window = Constant <value_ints = [16]> ()
  per_token = Constant <value_ints = [6, 16]> ()
  features_shape = Concat <axis = 0> (batch, per_window)
  tokens_shape = Concat <axis = 0> (batch, per_token)
  same = ConstantOfShape <value = float[1] {VALUE}> (features_shape)
  features = Log (same)
  tokens = ConstantOfShape (tokens_shape)
}
"""


@pytest.mark.parametrize(("value", "difference"), [("1.0", r"1e\+00"), ("-1.0", "nan")])
def test_a_file_that_computes_something_else_is_not_left(
    value: str,
    difference: str,
    bare: Path,
    untouched: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Zeros, and a logarithm of -1, where an exporter should have put the network."""
    other = onnx.parser.parse_model(OTHER.replace("VALUE", value))
    monkeypatch.setattr(door, "_traced", lambda *_, **__: other)
    with pytest.raises(
        BergerError,
        match=rf"x.onnx: not written, because .* by {difference} of the largest output, more",
    ):
        export(bare, untouched / "x.onnx", window_seconds=1, n_chans=1)


def test_only_mixtures_with_a_trained_head_give_scores(tmp_path: Path) -> None:
    twice = [{"file": "a.pt"}, {"file": "b.pt"}]
    for made_from, has_scores in (
        ({}, True),
        ({"kind": "import", "imported": twice[:1]}, True),
        ({"kind": "import", "imported": twice}, False),
        ({"kind": "assembly"}, False),
    ):
        model = mixture()
        model.provenance = made_from
        assert ("scores" in door._Network(model).outputs) == has_scores


def test_the_exporters_warnings_are_kept_from_users(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    with door._quietly():
        log.warning("torchvision is not installed")
        warnings.warn("its own deprecation", FutureWarning, stacklevel=1)
    log.warning("afterwards")
    assert [record.message for record in caplog.records] == ["afterwards"]


def test_what_is_printed() -> None:
    exported = Exported({"signal": ("batch", 3, 400)}, {"scores": ("batch", 2)}, 2.6e-7)
    assert str(exported) == (
        "signal (batch, 3, 400) → scores (batch, 2), at most 3e-07 from the model"
    )

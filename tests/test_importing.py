"""Published weights become checkpoints that compute what was published; files run nothing."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from berger.cli import main
from berger.errors import BergerError
from berger.importing import KINDS, import_weights, read_published
from berger.models import DareConfig, DareEEG, SpecHiNetPublished, SpecMoE, load_checkpoint
from berger.simulation import (
    alternating_blocks,
    simulate_dataset,
    simulate_recording,
    write_edf,
)
from tests.golden.published import agree, golden_arrays, manifest, published_weights

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def expert() -> Weights:
    return published_weights("specmoe_expert")


@pytest.fixture(scope="module")
def mixture() -> Weights:
    return published_weights("specmoe_fusion")


def as_published(weights: Weights, prefix: str = "") -> dict[str, Any]:
    """Weights as the published trainer saves them, with the state of its optimiser beside."""
    optimizer = {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}},
        "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0]}],
    }
    counted = {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(7)
        for name in weights
        if name.endswith("running_mean")
    }
    state = OrderedDict((prefix + name, value) for name, value in (weights | counted).items())
    return {"model_state": state, "optimizer": optimizer, "epoch": 50, "args": {"lr": 1e-3}}


WRITERS: dict[str, Callable[[Weights, Path], Any]] = {
    "expert.pt": lambda weights, path: torch.save(as_published(weights), path),
    "parallel.pth": lambda weights, path: torch.save(as_published(weights, "module."), path),
    "old.pt": lambda weights, path: torch.save(
        as_published(weights), path, _use_new_zipfile_serialization=False
    ),
    "plain.pt": lambda weights, path: torch.save(weights, path),
    "plain.safetensors": lambda weights, path: save_file(weights, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_expert_computes_what_was_published(name: str, expert: Weights, tmp_path: Path) -> None:
    WRITERS[name](expert, tmp_path / name)
    import_weights([tmp_path / name], tmp_path / "checkpoint")
    model = load_checkpoint(tmp_path / "checkpoint")
    assert isinstance(model, SpecHiNetPublished)
    assert model.n_parameters == 2_928_104
    assert model.contract.window_seconds == 30
    assert model.provenance["imported"][0]["file"] == name
    golden = golden_arrays("specmoe_expert")
    with torch.inference_mode():
        restored = model.reconstruct(100 * golden["b_signal"], golden["b_positions"])
    agree(restored.fine / 100, golden["b_out_branch_fine"])
    agree(restored.auxiliary[1] / 100, golden["b_out_aux_up1"])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_mixture_computes_what_was_published(
    prefix: str, mixture: Weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(as_published(mixture, prefix), tmp_path / "fusion.pt")
    out = tmp_path / "checkpoint"
    words = ["import-weights", str(tmp_path / "fusion.pt"), "--out", str(out)]
    main([*words, "--pool-time", "max", "--window-seconds", "3.6"])
    assert "published SpecMoE, 4,306,084 parameters." in capsys.readouterr().out
    model = load_checkpoint(out)
    assert isinstance(model, SpecMoE)
    assert (model.config.n_outputs, model.config.n_experts, model.config.segment) == (4, 3, 400)
    assert model.contract.window_seconds == 3.6
    golden = golden_arrays("specmoe_fusion")
    with torch.inference_mode():
        logits = model(100 * golden["signal"], golden["positions"])
    agree(logits, golden["logits_time_max_channel_mean"])


def test_experts_in_several_files_become_a_mixture(
    expert: Weights, mixture: Weights, tmp_path: Path
) -> None:
    """The golden mixture's experts, cut into files, pool to the golden mixture's features."""
    files = []
    for number in range(2):
        own = {n.removeprefix(f"experts.{number}."): x for n, x in mixture.items()}
        both = {name: own.get(name, value) for name, value in expert.items()}
        files.append(tmp_path / f"expert{number}.pt")
        torch.save({"model_state": both}, files[-1])
    model, title = import_weights(files, tmp_path / "out", settings={"gate": "none"}, seed=3)
    assert title == "2 × published SpecMoE expert"
    assert isinstance(model, SpecMoE)
    for number in range(2):
        weights = model.experts[number].state_dict()
        wanted = mixture[f"experts.{number}.Down1.features1.0.weight"]
        assert torch.equal(weights["down1.fine.0.weight"], wanted)
    again, _ = import_weights(files, tmp_path / "again", settings={"gate": "none"}, seed=3)
    assert all(torch.equal(x, again.state_dict()[n]) for n, x in model.state_dict().items())
    torch.save({"model_state": mixture}, tmp_path / "fusion.pt")
    with pytest.raises(
        BergerError, match=r"fusion.pt: is a published SpecMoE, not an expert; give"
    ):
        import_weights([files[0], tmp_path / "fusion.pt"], tmp_path / "x")


def test_an_imported_expert_embeds_recordings(
    expert: Weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate_dataset(tmp_path / "raw", 1, n_blocks=3, block_seconds=8.0)
    torch.save(as_published(expert), tmp_path / "expert.pt")
    out = tmp_path / "checkpoint"
    words = ["import-weights", str(tmp_path / "expert.pt"), "--out", str(out)]
    main([*words, "--window-seconds", "2", "--quiet"])
    features = tmp_path / "features.parquet"
    where = ["--checkpoint", str(out), "--out", str(features), "--device", "cpu", "--quiet"]
    main(["embed", str(tmp_path / "raw"), *where])
    assert capsys.readouterr().out == ""
    table = pd.read_parquet(features).filter(like="feature_")
    assert table.shape[1] == 128
    assert np.isfinite(table.to_numpy()).all()
    assert table.std().min() > 0


def as_dare(case: str = "dare_nano", copy: bool = True) -> dict[str, Any]:
    """A training checkpoint of DARE-EEG.

    The golden weights are those of the momentum copy; the encoder itself has others.
    """
    state = {}
    for name, value in published_weights(case).items():
        if name.startswith("encoder.") and copy:
            state[f"target_{name}"] = value
            state[name] = value + 1
        else:
            state[name] = value
    return {"state_dict": OrderedDict(state), "epoch": 199, "global_step": 7}


def encoder_of(case: str, prefix: str) -> Weights:
    """The encoder alone, its names with another prefix."""
    return {
        name.replace("encoder.", prefix, 1): value
        for name, value in published_weights(case).items()
        if name.startswith("encoder.")
    }


@pytest.mark.parametrize("case", ["dare_nano", "dare_streams4"])
@pytest.mark.parametrize("copy", [True, False])
def test_dare_computes_what_was_published(case: str, copy: bool, tmp_path: Path) -> None:
    torch.save(as_dare(case, copy), tmp_path / "dare.ckpt")
    _, title = import_weights([tmp_path / "dare.ckpt"], tmp_path / "checkpoint")
    left = "encoder and loss_mc" if copy else "loss_mc"
    assert title == f"published DARE-EEG (without {left})"
    model = load_checkpoint(tmp_path / "checkpoint")
    assert isinstance(model, DareEEG)
    assert model.contract.sfreq == 256
    assert model.contract.window_seconds == 4
    assert model.contract.ch_names is None
    arrays, names = golden_arrays(case), manifest(case)["channels"]
    with torch.inference_mode():
        features = model.forward_features(10 * arrays["signal"], names)
        agree(features.tokens, arrays["features_full"].flatten(1, 2))
        signal, electrodes = model.prepare(10 * arrays["signal"], names)
        view = arrays["visible_view1"]
        seen, n_steps = view[:, 0] // len(names), signal.shape[2] // 64
        _, combined = model.predictor(model.encoder(signal, electrodes, view), seen, n_steps)
        restored = model.reconstructor(combined, arrays["target"], electrodes)
        agree(restored, arrays["reconstruction"])


@pytest.mark.parametrize("case", ["dare_nano", "dare_streams4"])
@pytest.mark.parametrize("prefix", ["target_encoder.", "encoder.", "", "module.target_encoder."])
def test_an_eegpt_encoder_computes_what_was_published(
    case: str, prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "eegpt.ckpt", tmp_path / "checkpoint"
    weights = encoder_of(case, prefix)
    if prefix == "target_encoder.":  # what was trained beside it is left
        weights |= encoder_of(case, "encoder.") | {"predictor.cls_token": _zeros(1, 1, 64)}
    torch.save({"state_dict": weights} if prefix else weights, file)
    main(["import-weights", str(file), "--out", str(out)])
    said = capsys.readouterr()
    assert "published EEGPT encoder" in said.out
    assert ("(without encoder and predictor)" in said.out) == (prefix == "target_encoder.")
    assert "millivolts; import with --scale 1000" in said.err
    model = load_checkpoint(out)
    assert isinstance(model, DareEEG)
    assert model.config.parts == "encoder"
    arrays, names = golden_arrays(case), manifest(case)["channels"]
    with torch.inference_mode():
        features = model.forward_features(10 * arrays["signal"], names)
    agree(features.tokens, arrays["features_full"].flatten(1, 2))


def test_what_an_encoders_weights_do_not_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(encoder_of("dare_nano", "target_encoder."), tmp_path / "eegpt.pt")
    words = ["--scale", "1000", "--n-heads", "8", "--unknown-electrodes", "nearest"]
    file, out = str(tmp_path / "eegpt.pt"), tmp_path / "checkpoint"
    main(["import-weights", file, "--out", str(out), *words])
    assert capsys.readouterr().err == ""
    model = load_checkpoint(out)
    assert isinstance(model, DareEEG)
    assert (model.config.scale, model.config.n_heads) == (1000, 8)
    with pytest.warns(UserWarning, match="Iz as Oz"):
        model.forward_features(torch.ones(1, 2, 64), ["Cz", "Iz"])
    with pytest.raises(
        BergerError, match=r"eegpt.pt: n_heads: 7 does not fit these weights \(width 64 must be"
    ):
        import_weights([Path(file)], tmp_path / "x", settings={"n_heads": 7})
    deep = DareEEG(DareConfig(embed_dim=512, n_streams=4, n_heads=8, encoder_depth=1))
    weights = deep.encoder.state_dict()
    published = {
        "summary_token": weights["summary_tokens"],
        "patch_embed.proj.weight": weights["embed.weight"].view(512, 1, 1, 64),
    }
    torch.save(published, tmp_path / "cut.pt")
    with pytest.raises(BergerError, match=r"looks like a published EEGPT encoder, but 16 weights"):
        import_weights([tmp_path / "cut.pt"], tmp_path / "x")
    assert KINDS[2].config(published).model_dump() == (
        deep.config.model_copy(
            update={"parts": "encoder", "predictor_depth": 1, "reconstructor_depth": 1}
        ).model_dump()
    )


def test_an_imported_dare_embeds_recordings(tmp_path: Path) -> None:
    recording, _ = simulate_recording("s1", alternating_blocks(3, 8.0), ch_names=("Fz", "Cz"))
    write_edf(recording, tmp_path / "s1.edf")
    torch.save(as_dare(), tmp_path / "dare.ckpt")
    import_weights([tmp_path / "dare.ckpt"], tmp_path / "checkpoint")
    where = ["--out", str(tmp_path / "features.parquet"), "--device", "cpu", "--quiet"]
    main(["embed", str(tmp_path / "s1.edf"), "--checkpoint", str(tmp_path / "checkpoint"), *where])
    table = pd.read_parquet(tmp_path / "features.parquet").filter(like="feature_")
    assert table.shape == (6, 64)
    assert table.std().min() > 0


# what is refused


def test_dare_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    file = tmp_path / "dare.ckpt"
    for changes, complaint in (
        ({"predictor.predictor_norm.bias": None}, "1 weights are missing .predictor.norm.bias."),
        ({"predictor.more": _zeros(1)}, "1 weights are unknown .predictor.more."),
        (
            {"target_encoder.chan_embed.weight": _zeros(60, 64)},
            r"of another size .target_encoder.chan_embed.weight is \(60, 64\) instead of \(62, 64",
        ),
        (
            {"target_encoder.patch_embed.proj.weight": _zeros(6, 1, 1, 64)},
            r"of a size that none has \(width 6 must be",
        ),
        (  # as large as it claims, the network would fill any memory
            {"target_encoder.patch_embed.proj.weight": _zeros(4_000_000, 1, 1, 2)},
            "of another size",
        ),
        ({"target_encoder.blocks.999999999.norm1.bias": _zeros(64)}, "weights are unknown"),
    ):
        state = {
            name: value
            for name, value in (as_dare()["state_dict"] | changes).items()
            if value is not None
        }
        torch.save({"state_dict": state}, file)
        with pytest.raises(BergerError, match=rf"looks like a published DARE-EEG, .*{complaint}"):
            import_weights([file], tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_a_dare_checkpoint_that_would_run_something_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "dare.ckpt"
    torch.save(as_dare() | {"hyper_parameters": Payload(tmp_path / "it-ran")}, file)
    with pytest.raises(
        BergerError,
        match=r"torch.save\(\{'state_dict': torch.load\('dare.ckpt', weights_only=False\)"
        r"\['state_dict'\]\}, 'weights.pt'\)",
    ):
        import_weights([file], tmp_path / "checkpoint")
    assert not (tmp_path / "it-ran").exists()
    assert not (tmp_path / "checkpoint").exists()


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("place", ["optimizer", "model_state", "inside"])
@pytest.mark.parametrize("new_format", [True, False])
def test_a_malicious_file_is_refused_and_nothing_in_it_runs(
    place: str, new_format: bool, expert: Weights, tmp_path: Path
) -> None:
    content: dict[str, Any] = as_published(expert)
    payload = Payload(tmp_path / "it-ran")
    if place == "inside":
        content["model_state"]["Down1.features1.0.weight"] = payload
    else:
        content[place] = payload
    file = tmp_path / "expert.pt"
    torch.save(content, file, _use_new_zipfile_serialization=new_format)
    with pytest.raises(
        BergerError,
        match=r"(?s)^\S+expert.pt: holds more than tensors .* \(posix.mkdir\), .* none was run; .* "
        r"torch.save\(\{'model_state': torch.load\('expert.pt', weights_only=False\)",
    ) as refused:
        import_weights([file], tmp_path / "checkpoint")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "it-ran").exists()
    assert not (tmp_path / "checkpoint").exists()
    # the payload does what it claims where files are trusted
    torch.load(file, weights_only=False)
    assert (tmp_path / "it-ran").exists()


def test_a_bare_pickle_is_refused_and_nothing_in_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "expert.pkl"
    file.write_bytes(pickle.dumps(Payload(tmp_path / "it-ran")))
    with pytest.raises(BergerError, match=r"expert.pkl: is damaged, or not a file that torch.save"):
        import_weights([file], tmp_path / "checkpoint")
    assert not (tmp_path / "it-ran").exists()


def test_harmless_objects_are_refused_with_the_way_out(expert: Weights, tmp_path: Path) -> None:
    file = tmp_path / "expert.pt"
    torch.save(as_published(expert) | {"args": argparse.Namespace(lr=1)}, file)
    with pytest.raises(BergerError, match=r"\(argparse.Namespace\), .* and import weights.pt\.$"):
        import_weights([file], tmp_path / "checkpoint")
    # what the message says
    torch.save(
        {"model_state": torch.load(file, weights_only=False)["model_state"]},
        tmp_path / "weights.pt",
    )
    import_weights([tmp_path / "weights.pt"], tmp_path / "checkpoint")


def changed(weights: Weights, **changes: Tensor | None) -> Weights:
    """Weights with some replaced, added or (None) left out."""
    both = weights | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in both.items() if value is not None}


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (
            lambda w: changed(w, Up1__features1__0__bias=None, Up1__features1__3__bias=None),
            r"but 2 weights are missing \(up1.fine.0.bias, up1.fine.3.bias\); give the file as",
        ),
        (
            lambda w: changed(w, extra=_zeros(1), Down9__x=_zeros(1)),
            r"but 2 weights are unknown \(extra, Down9.x\); give",
        ),
        (
            lambda w: changed(w, aux_head_up1__0__bias=_zeros(7)),
            r"of another size \(aux_head_up1.0.bias is \(7,\) instead of \(19,\)\); give",
        ),
        (
            lambda w: changed(w, aux_head_up1__0__bias=_zeros(19) / 0),
            r"values that are not finite in aux_head_up1.0.bias; copy",
        ),
        (
            lambda w: {"layer.weight": _zeros(2)},
            r"no weights that Berger knows \(.* layer.weight\)",
        ),
        (lambda w: w | {"module." + next(iter(w)): _zeros(2)}, r"with and without module\.;"),
        (lambda w: {"model_state": 3}, r"holds no weights by name, neither at its top nor in"),
        (lambda w: [_zeros(2)], r"holds no weights by name"),
        (lambda w: {"a": _zeros(1).expand(10**12)}, r"holds no weights by name"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    make: Callable[[Weights], Any], complaint: str, expert: Weights, tmp_path: Path
) -> None:
    torch.save(make(expert), tmp_path / "weights.pt")
    with pytest.raises(BergerError, match=complaint) as refused:
        import_weights([tmp_path / "weights.pt"], tmp_path / "checkpoint")
    assert str(refused.value).startswith(f"{tmp_path}/weights.pt: ")
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("left_out", ["classifier.net.4.weight", "gate_LinearT_1.weight"])
def test_a_mixture_without_what_tells_its_size(
    left_out: str, mixture: Weights, tmp_path: Path
) -> None:
    torch.save({n: x for n, x in mixture.items() if n != left_out}, tmp_path / "fusion.pt")
    with pytest.raises(BergerError, match=r"^\S+: looks like a published SpecMoE, but .* missing"):
        import_weights([tmp_path / "fusion.pt"], tmp_path / "checkpoint")


def test_files_that_are_none(expert: Weights, tmp_path: Path) -> None:
    torch.save(expert, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("hello\n")
    (tmp_path / "empty.pt").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("a.txt", "hello")
    for name in ("cut", "text", "empty", "other"):
        with pytest.raises(BergerError, match=rf"{name}.pt: is damaged, or not a file that torch"):
            read_published(tmp_path / f"{name}.pt")
    (tmp_path / "text.safetensors").write_text("hello\n")
    with pytest.raises(BergerError, match=r"text.safetensors: damaged \("):
        read_published(tmp_path / "text.safetensors")
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(BergerError, match="no such file; give a file of weights"):
            read_published(path)


def test_requests_that_cannot_be_done(
    expert: Weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "expert.pt"
    torch.save(expert, file)
    (tmp_path / "taken").mkdir()
    for words, complaint in {
        f"--out {tmp_path}/x": "import-weights: no file given; name one before --out.",
        f"{file} --out {tmp_path}/taken": f"{tmp_path}/taken: exists already; choose another",
        f"{file} --out {tmp_path}/x --pool-time max": (
            f"{file}: a published SpecMoE expert has no pool_time; leave it out."
        ),
    }.items():
        with pytest.raises(SystemExit) as ended:
            main(["import-weights", *words.split()])
        assert ended.value.code == 2
        assert f"berger: {complaint}" in capsys.readouterr().err

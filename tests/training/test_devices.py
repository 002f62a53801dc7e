"""One training on several processes is the training of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from berger.configuration import load_config
from berger.corpus import Batch, collate, open_corpus
from berger.errors import BergerError
from berger.masking.views import ViewsConfig, draw_views
from berger.models import InputContract
from berger.objectives import dual_alignment
from berger.pretraining import PretrainingConfig, fresh_objective
from berger.training import devices
from berger.training.devices import (
    SynchronisedNorm,
    blocks_of,
    checkpoint_activations,
    compile_blocks,
    fabric,
    setup,
)
from berger.training.log import read_log
from berger.training.loop import fit
from berger.training.run import Run
from berger.training.state import BEFORE_FILE, STATE_FILE, read_state
from tests.conftest import TINY_MODEL

ROOT = Path(__file__).parents[2]
COMMON: dict[str, Any] = {
    "window_seconds": 4,
    "training.epochs": None,
    "training.steps": 6,
    "training.batch_size": 5,
    "training.accumulate": 2,
    "training.log_every": 1,
    "training.save_every": 3,
    "training.optimizer.warmup": 0.5,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "spechinet": {f"model.{name}": value for name, value in TINY_MODEL.items()}
    | {
        "model.dropout": 0,
        "model.decoder_dropout": 0,
        "objective.mask.n_fft": 200,
        "objective.mask.hop": 100,
        "objective.n_fft": 128,
        "objective.hop": 64,
        "objective.n_chans": 3,
    },
    "dare": {
        "model.name": "dare",
        "objective.name": "dual-alignment",
        "model.sfreq": 100,
        "model.patch_size": 50,
        "model.embed_dim": 16,
        "model.n_heads": 2,
        "model.encoder_depth": 1,
        "model.predictor_depth": 1,
        "model.reconstructor_depth": 1,
        "objective.mask_alignment": 1.0,
        "objective.momentum": [0.5, 0.9],
    },
    "aligned": {f"model.{name}": value for name, value in TINY_MODEL.items()}
    | {
        "objective.name": "aligned-restoration",
        "model.dropout": 0,
        "model.decoder_dropout": 0,
        "objective.mask.n_fft": 200,
        "objective.mask.hop": 100,
        "objective.n_fft": 128,
        "objective.hop": 64,
        "objective.anchor": 1.0,
        "objective.mask_alignment": 0.1,
    },
}


def config_of(family: str, **changes: object) -> PretrainingConfig:
    fields = COMMON | FAMILIES[family]
    for name, value in changes.items():
        fields[name if name.startswith("objective.") else f"training.{name}"] = value
    return load_config(PretrainingConfig, None, fields)


def train(family: str, corpus: Path, out: Path, strategy: Any = "ddp", **how: Any) -> nn.Module:
    """Train for some steps, and write what this process's objective holds."""
    resume = how.pop("resume", False)
    config = config_of(family, **how)
    found = open_corpus(corpus)
    contract = InputContract(
        sfreq=100, window_seconds=4, preprocessing=found.manifest.preprocessing
    )
    objective = fresh_objective(config, contract, seed=1)
    out.mkdir(parents=True, exist_ok=True)
    fit(
        objective,
        found.windows(4),
        config.training,
        out,
        seed=3,
        device="cpu",
        strategy=strategy,
        quiet=True,
        resume=resume,
    )
    return objective


RANK = """
import os, sys, torch
from pathlib import Path
from tests.training.test_devices import train
family, corpus, out, strategy, resume = sys.argv[1:]
objective = train(family, Path(corpus), Path(out), strategy, resume=resume == "resume")
own = {name: value.full_tensor() if hasattr(value, "full_tensor") else value
       for name, value in objective.state_dict().items()}
torch.save(own, Path(out) / f"rank-{os.environ['RANK']}.pt")
"""


def together(
    family: str,
    corpus: Path,
    out: Path,
    strategy: str,
    *,
    resume: bool = False,
    program: str = RANK,
) -> list[str]:
    """Train in two processes, as torchrun starts them; return what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",  # by which Fabric knows torchrun
        "GROUP_RANK": "0",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    arguments = [family, str(corpus), str(out), strategy, "resume" if resume else "anew"]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            cwd=ROOT,
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(said)
    return said


def losses(out: Path) -> Tensor:
    lines = [line for line in read_log(out / "log.jsonl") if line["split"] == "train"]
    return torch.tensor([line["loss"] for line in lines], dtype=torch.double)


def assert_close(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Compare losses, and weights as a whole: biases before a batch norm move by rounding alone."""
    torch.testing.assert_close(losses(one), losses(other), rtol=tolerance, atol=tolerance)
    before, after = (
        torch.cat([value.flatten().double() for value in read_state(out)["objective"].values()])
        for out in (one, other)
    )
    assert (before - after).norm() < 1e-4 * before.norm()


@pytest.fixture(scope="module")
def alone(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs of one process, made once each."""
    made: dict[str, Path] = {}

    def run(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(f"alone-{family}")
            train(family, tiny_corpus, made[family])
        return made[family]

    return run


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_train_as_one(
    family: str, strategy: str, alone: Callable[[str], Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    """With batch norm, contrastive negatives, a momentum copy, and batches that do not divide."""
    together(family, tiny_corpus, tmp_path, strategy)
    assert_close(alone(family), tmp_path)
    first, second = (torch.load(tmp_path / f"rank-{n}.pt", weights_only=True) for n in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert any(name.startswith("target_encoder.") for name in first) == (family != "spechinet")


SKIPPING = """
import sys, time
from pathlib import Path
from berger.models import EEGModel
from berger.objectives.restoration import Restoration
from berger.pretraining import pretrain
from berger.training.run import TooManySkippedError
from tests.training.test_devices import config_of
family, corpus, out, *_ = sys.argv[1:]
forward, save, calls = Restoration.forward, EEGModel.save_checkpoint, iter(range(1, 100))
def spoilt(self, *arguments):
    losses = forward(self, *arguments)
    bad = self.training and next(calls) == 4
    return losses | {"loss": losses["loss"] * float("nan")} if bad else losses
def slowly(self, *arguments):
    time.sleep(3)
    save(self, *arguments)
Restoration.forward, EEGModel.save_checkpoint = spoilt, slowly
config = config_of(family, accumulate=1, save_every=2, max_skipped=0)
try:
    pretrain(config, corpus, Path(out), device="cpu", quiet=True)
except TooManySkippedError:
    print((Path(out) / "checkpoint-last-good" / "config.json").is_file())
"""


def test_no_process_ends_before_the_last_good_weights_are_written(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    """Who ends first has the others ended."""
    said = together("spechinet", tiny_corpus, tmp_path / "run", "ddp", program=SKIPPING)
    assert [text.splitlines()[-1] for text in said] == ["True", "True"]


def test_a_run_goes_on_with_another_number_of_processes(
    alone: Callable[[str], Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    """Begun on two that share the model, continued on one, and the other way round."""
    for first, then in (("fsdp", None), ("ddp", "fsdp")):
        out = tmp_path / f"{first} {then}"
        out.mkdir()
        for strategy, resume in ((first, False), (then, True)):
            if resume:  # as if it had ended after the third step
                (out / BEFORE_FILE).replace(out / STATE_FILE)
            if strategy is None:
                train("dare", tiny_corpus, out, resume=resume)
            else:
                together("dare", tiny_corpus, out, strategy, resume=resume)
            assert read_state(out)["step"] == 6
        assert [line["step"] for line in read_log(out / "log.jsonl")] == [1, 2, 3, 4, 5, 6]
        assert_close(alone("dare"), out)


# what computes otherwise computes the same


@pytest.mark.parametrize("family", ["spechinet", "dare"])
def test_activations_computed_anew_are_the_same(
    family: str, alone: Callable[[str], Path], tiny_corpus: Path, tmp_path: Path
) -> None:
    """Bit for bit, with the statistics of batch norms."""
    objective = train(family, tiny_corpus, tmp_path, checkpoint_activations=True)
    blocks = [*blocks_of(objective)]
    assert len(blocks) > 2
    assert any("forward" in vars(block) for block in blocks)
    one, other = (read_state(out)["objective"] for out in (alone(family), tmp_path))
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulated_batches_of_views_are_one_large_batch(
    accumulate: int, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the same views, and without windows that are each other's negatives."""
    dataset = open_corpus(tiny_corpus).windows(4)
    windows = [dataset[number] for number in range(2 * accumulate)]  # of one recording
    views = draw_views(8, 19, ViewsConfig(), torch.Generator().manual_seed(0))
    monkeypatch.setattr(dual_alignment, "draw_views", lambda *given: views)
    fields = COMMON | FAMILIES["dare"] | {"objective.mask_alignment": 0}
    config = load_config(PretrainingConfig, None, fields)

    def gradients(batches: list[Batch]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        objective = fresh_objective(config, contract=None, seed=0)
        training = config.training.model_copy(update={"accumulate": len(batches)})
        alone = Fabric(accelerator="cpu", devices=1)
        module, optimizer, bare = setup(alone, objective, training.optimizer)
        run = Run(alone, objective, module, optimizer, bare, training, 1, torch.Generator())
        losses, _, _ = run.add_gradients((batch, 1.0) for batch in batches)
        found = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
        return losses, found

    parts = [collate(windows[i : i + 2]) for i in range(0, len(windows), 2)]
    for many, one in zip(gradients(parts), gradients([collate(windows)]), strict=True):
        assert many.keys() == one.keys()
        assert len(one) > 3
        for name in many:
            torch.testing.assert_close(many[name], one[name], rtol=1e-4, atol=1e-6)


def test_fewer_activations_are_kept() -> None:
    """What stays for the backward pass of a block is its input."""
    torch.manual_seed(0)
    kept = []
    for again in (False, True):
        objective = fresh_objective(config_of("spechinet"), InputContract(sfreq=100), seed=0)
        if again:
            checkpoint_activations(objective)
        n_bytes = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal n_bytes
            n_bytes += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            objective.model.reconstruct(torch.randn(2, 3, 400))
        kept.append(n_bytes)
    assert kept[1] < 0.5 * kept[0]


# torch's compiler itself uses what torch has deprecated
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:The .grad attribute")
@pytest.mark.parametrize("family", ["spechinet", "dare"])
def test_compiled_blocks_learn_the_same(
    family: str,
    alone: Callable[[str], Path],
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their graphs; what C++ is made of them takes minutes and a compiler."""
    torch.compiler.reset()
    graphs = partial(compile_blocks, backend="aot_eager")
    monkeypatch.setattr(devices, "compile_blocks", graphs)
    train(family, tiny_corpus, tmp_path, compile=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert_close(alone(family), tmp_path, tolerance=1e-4)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BergerError, match="install one, or leave it out"):
        compile_blocks(fresh_objective(config_of("spechinet"), InputContract(sfreq=100), seed=0))


def test_the_synchronised_norm_is_torchs_in_one_process(tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    try:
        torch.manual_seed(0)
        plain = nn.BatchNorm1d(4)
        nn.init.normal_(plain.weight)
        nn.init.normal_(plain.bias)
        synchronised = SynchronisedNorm(4)
        synchronised.copies = 1
        synchronised.load_state_dict(plain.state_dict())
        signal = torch.randn(3, 4, 50) * 7 + 100
        given = [signal.clone().requires_grad_() for _ in range(2)]
        for norm, x in zip((plain, synchronised), given, strict=True):
            norm(x).square().sum().backward()
        torch.testing.assert_close(given[0].grad, given[1].grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            dict(plain.state_dict()), dict(synchronised.state_dict()), rtol=1e-5, atol=1e-5
        )
        x = torch.randn(3, 4, 50)
        assert torch.equal(plain.eval()(x), plain.eval()(x))
        torch.testing.assert_close(plain.eval()(x), synchronised.eval()(x))
    finally:
        torch.distributed.destroy_process_group()


def test_what_does_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    with pytest.raises(BergerError, match="to bf16-mixed, or take --strategy ddp"):
        fabric("cpu", "16-mixed", "fsdp")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BergerError, match="2 processes on a machine of 1 GPUs; start one for each"):
        fabric("cuda", "32-true")

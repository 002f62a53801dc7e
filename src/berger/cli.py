"""The commands. Each is one function; what it does stands in the room that it calls."""

from __future__ import annotations

import errno
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter, validators

from berger import __version__, data_commands, telling
from berger.configuration import load_config
from berger.errors import BergerError, StoppedError
from berger.options import Common, Overrides, hint, print_config_of, refuse_addresses
from berger.overrides import take_overrides
from berger.training import processes

app = App(
    name="berger",
    version=__version__,
    help="EEG foundation models, from raw files to honest numbers.",
)
for command in (data_commands.fetch, data_commands.tasks, data_commands.prepare):
    app.command(command)
corpus_app = App(name="corpus", help="Look into a corpus.")
corpus_app.command(data_commands.info)
corpus_app.command(data_commands.verify)
app.command(corpus_app)

NOT_OUR_FAULT = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
)
"""Errors of the system that a user can mend: a path that cannot be written, a full disk."""


@app.command
def demo(*, out: Path, common: Common = Common()) -> None:
    """Walk the whole road on simulated recordings, offline, and end with OUT/report.html.

    Parameters
    ----------
    out
        Folder for everything; finished stages in it are not done again.
    """
    from berger.demo import run_demo

    report = run_demo(
        out,
        seed=common.seed or 0,
        device=common.device,
        workers=common.n_processes,
        quiet=common.quiet,
    )
    common.say(f"Open {report}")


@app.command
def pretrain(
    config: str,
    *,
    corpus: str,
    out: Path,
    expert: Annotated[int | None, Parameter(validator=validators.Number(gte=0))] = None,
    resume: bool = False,
    strategy: Literal["ddp", "fsdp"] = "ddp",
    profile: bool = False,
    log_to: Annotated[
        tuple[Literal["tensorboard", "wandb"], ...], Parameter(consume_multiple=True)
    ] = (),
    print_config: bool = False,
    common: Common = Common(),
    overrides: Overrides = None,
) -> None:
    """Pretrain a model on a corpus without labels; ends with OUT/checkpoint.

    A configuration of several experts trains them in turn in OUT/expert-0, OUT/expert-1, ... and
    assembles them; --expert trains one of them in OUT, for example on another machine. Started by
    torchrun or srun, one process for each device, it trains on all of them.

    Parameters
    ----------
    config
        YAML file or name of a shipped configuration; every field can be overridden, e.g.
        --training.steps 500.
    corpus
        Folder made by `berger prepare`, or its address, e.g. https://… or s3://…
    out
        The run's folder.
    expert
        Train this one of the configuration's experts, counted from 0, and no other.
    resume
        Continue the run in OUT, which ends as if it had never been interrupted. To begin a new run
        with the weights of another: --start_from CHECKPOINT.
    strategy
        On several devices: the whole model on each (ddp), or a part of it (fsdp).
    profile
        Write OUT/trace.json, what a few steps spent their time on, for Chrome or Perfetto.
    log_to
        Where the log's numbers go besides OUT/log.jsonl: tensorboard, wandb.
    print_config
        Show what would run, and stop.
    """
    from berger.assembling import pretrain_experts
    from berger.pretraining import PretrainingConfig, how_to_continue
    from berger.pretraining import pretrain as run
    from berger.training.stopping import stop_at_once

    settings = load_config(PretrainingConfig, config, _with_seed(overrides, common))
    if print_config:
        return print_config_of(settings)
    how: dict[str, Any] = {
        "resume": resume,
        "device": common.device,
        "workers": common.workers or 0,
        "quiet": common.quiet,
        "strategy": strategy,
        "profile": profile,
        "log_to": log_to,
    }
    with stop_at_once(lambda name: f"{out}: stopped by {name}; {how_to_continue(out)}."):
        if settings.experts > 1 and expert is None:
            checkpoint = pretrain_experts(settings, corpus, out, **how)
        else:
            checkpoint = run(settings, corpus, out, expert=expert, **how)
    if processes.is_first():
        telling.tell_training(out, how["workers"], common.say)
        common.say(f"{checkpoint}: ready. See it with `berger report {out}`.")


@app.command
def assemble(*experts: Path, out: Path, common: Common = Common()) -> None:
    """Join experts that were trained on disjoint parts of one corpus into one SpecMoE.

    Parameters
    ----------
    experts
        Checkpoints, or runs, of `berger pretrain --expert`.
    out
        The checkpoint's folder.
    """
    from berger.assembling import assemble as run

    common.say(f"{run(experts, out, common.seed or 0)}: ready.")


@app.command
def import_weights(
    *files: Path,
    out: Path,
    window_seconds: Annotated[float | None, Parameter(validator=validators.Number(gt=0))] = None,
    pool_time: Literal["mean", "max"] | None = None,
    pool_chans: Literal["mean", "max"] | None = None,
    unknown_electrodes: Literal["refuse", "nearest"] | None = None,
    scale: Annotated[float | None, Parameter(validator=validators.Number(gt=0))] = None,
    n_heads: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    common: Common = Common(),
) -> None:
    """Turn published weights into a checkpoint; what they are is recognised from the names.

    Parameters
    ----------
    files
        A file of weights, .pt, .pth or .safetensors; or one for each expert of a mixture, whose
        gate and head will be new.
    out
        The checkpoint's folder.
    window_seconds
        Windows that the model is used on; default: those it was pretrained on, if published.
    pool_time, pool_chans
        How a mixture pools over time and electrodes, which its weights do not tell; default: mean.
    unknown_electrodes
        What DARE-EEG and EEGPT do with electrodes that they have no embedding of; default: refuse.
    scale
        Microvolts per unit inside the network; default: 10 for DARE-EEG and EEGPT.
    n_heads
        Attention heads of EEGPT, which its weights do not tell; default: 8 from a width of 512.
    """
    from berger.importing import import_weights as run

    told: dict[str, Any] = {
        "pool_time": pool_time,
        "pool_chans": pool_chans,
        "unknown_electrodes": unknown_electrodes,
        "scale": scale,
        "n_heads": n_heads,
    }
    model, titles = run(
        files,
        out,
        window_seconds=window_seconds,
        settings={name: value for name, value in told.items() if value is not None},
        seed=common.seed or 0,
    )
    common.say(f"{out}: {titles}, {model.n_parameters:,} parameters.")
    for remark in {file["remark"] for file in model.provenance["imported"]} - {""}:
        print(f"berger: {remark}", file=sys.stderr)


@app.command
def adapt(
    config: str,
    *,
    checkpoint: Path,
    task: str,
    out: Path,
    data: Path | None = None,
    corpus: str | None = None,
    print_config: bool = False,
    common: Common = Common(),
    overrides: Overrides = None,
) -> None:
    """Adapt a checkpoint to a labelled task and test it on people it has not seen labels of.

    Parameters
    ----------
    config
        YAML file or name of a shipped configuration.
    checkpoint
        Folder of a pretrained model.
    task
        Name from `berger tasks`, or a YAML file of your own.
    out
        The run's folder; ends with OUT/checkpoint and OUT/predictions.parquet.
    data
        Folder of the task's recordings; default: beside your YAML file, or $BERGER_DATA/TASK.
    corpus
        A corpus prepared from them already; its folder or address.
    print_config
        Show what would run, and stop.
    """
    from berger.evaluation.decoding import AdaptationConfig, format_results
    from berger.evaluation.decoding import adapt as run
    from berger.tasks import find_data, load_task

    settings = load_config(AdaptationConfig, config, _with_seed(overrides, common))
    if print_config:
        return print_config_of(settings)
    described = load_task(task, data)
    telling.tell_parts({} if corpus else {task: data})
    results = run(
        settings,
        checkpoint,
        described,
        out,
        data=None if corpus else find_data(described, task, data),
        corpus_folder=corpus,
        device=common.device,
        workers=common.n_processes,
        quiet=common.quiet,
        tell=common.say,
    )
    common.say(f"{format_results(results)}\n{out}: done. See it with `berger report {out}`.")


@app.command
def evaluate(
    config: str,
    *,
    out: Path,
    print_config: bool = False,
    common: Common = Common(),
    overrides: Overrides = None,
) -> None:
    """Evaluate models on tasks, by adaptations, seeds and folds; running it again continues.

    A cell that fails is a row with its reason, and tried again by the next run; the exit status is
    0 unless all fail.

    Parameters
    ----------
    config
        YAML file or name of a shipped configuration; every field can be overridden, e.g. --n_folds
        3. --seed gives one seed in place of the configuration's.
    out
        The evaluation's folder; ends with OUT/results.parquet and OUT/report.html.
    print_config
        Show what would run, and stop.
    """
    from berger.evaluation.matrix import evaluate as run
    from berger.evaluation.matrix import format_results
    from berger.evaluation.plan import EvaluationConfig
    from berger.reports import build_report

    seeds = {} if common.seed is None else {"seeds": [common.seed]}
    settings = load_config(EvaluationConfig, config, {**(overrides or {}), **seeds})
    if print_config:
        return print_config_of(settings)
    telling.tell_parts(
        {task.task or name: task.data for name, task in settings.tasks.items() if not task.corpus}
    )
    cells = run(
        settings,
        out,
        device=common.device,
        workers=common.n_processes,
        quiet=common.quiet,
        tell=lambda sentence: telling.tell_failures([sentence]),
    )
    telling.tell_failed_cells(cells)
    common.say(f"{format_results(out)}\nOpen {build_report(out)}")


@app.command
def embed(*paths: Path, checkpoint: Path, out: Path, common: Common = Common()) -> None:
    """Write one row of features per window of new recordings.

    Parameters
    ----------
    paths
        Recordings or folders.
    checkpoint
        Folder of a pretrained or adapted model.
    out
        Parquet file.
    """
    from berger.inference import embed as run

    failures = run(checkpoint, paths, out, device=common.device, quiet=common.quiet)
    telling.tell_failures(failures["reason"].tolist())
    common.say(f"{out}: written.")


@app.command
def predict(*paths: Path, checkpoint: Path, out: Path, common: Common = Common()) -> None:
    """Write, for every new recording, a table of scores and annotations.

    Parameters
    ----------
    paths
        Recordings or folders.
    checkpoint
        Folder of an adapted model.
    out
        Folder for the tables.
    """
    from berger.inference import predict as run

    failures = run(checkpoint, paths, out, device=common.device, quiet=common.quiet)
    telling.tell_failures(failures["reason"].tolist())
    common.say(f"{out}: written.")


@app.command
def export(
    *,
    checkpoint: Path,
    out: Path,
    window_seconds: Annotated[float | None, Parameter(validator=validators.Number(gt=0))] = None,
    n_chans: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    ch_names: str | None = None,
    with_times: bool = False,
    common: Common = Common(),
) -> None:
    """Write a model as ONNX, with its input contract as metadata, and check what it computes.

    Parameters
    ----------
    checkpoint
        Folder of a pretrained, adapted or imported model.
    out
        File that ends in .onnx.
    window_seconds
        Length of the windows; default: those that the model was trained on.
    n_chans
        Number of electrodes; default: the model's, or any number where it takes any.
    ch_names
        Electrodes of the file in this order, e.g. C3,Cz,C4, for models that find them by name.
    with_times
        Let the file take the positions of the samples as a second input.
    """
    from berger.interop.onnx import export as run

    exported = run(
        checkpoint,
        out,
        window_seconds=window_seconds,
        n_chans=n_chans,
        ch_names=None if ch_names is None else [name.strip() for name in ch_names.split(",")],
        with_times=with_times,
        seed=common.seed or 0,
    )
    common.say(f"{out}: {exported}.")


@app.command
def report(folder: Path, *, out: Path | None = None, common: Common = Common()) -> None:
    """Build the report of a corpus, of a run, or of a folder that holds some of these.

    Parameters
    ----------
    folder
        Made by prepare, pretrain, adapt, evaluate or demo.
    out
        HTML file; default: FOLDER/report.html.
    """
    from berger.reports import build_report

    common.say(f"Open {build_report(folder, out=out, seed=common.seed or 0)}")


@app.command
def models(*, common: Common = Common()) -> None:
    """List the models that can be made by name, with their sizes."""
    print(telling.describe_models())


@app.command
def configs(*, common: Common = Common()) -> None:
    """List the configurations that are shipped with Berger."""
    print(telling.describe_configs())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command: exit status 0 done, 2 the request cannot be done, 1 a fault of ours."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # as stderr has it: "µV" must not end a command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with processes.in_turn():
            _run(given)
    except BergerError as error:
        _refuse(str(error))
    except StoppedError as error:
        if processes.is_first():
            print(f"berger: {error.message}", file=sys.stderr)
        sys.exit(error.EXIT_STATUS)
    except CycloptsError as error:
        _refuse(f"{error}{hint(error, given)}")
    except OSError as error:
        if error.errno not in NOT_OUR_FAULT:
            raise
        path = error.filename2 or error.filename
        _refuse(f"{path}: {error.strerror}; free space, or choose another place.")
    except KeyboardInterrupt:
        if processes.is_first():
            print(
                "berger: interrupted; the same command continues, `pretrain` with --resume.",
                file=sys.stderr,
            )
        sys.exit(130)


def _run(given: list[str]) -> None:
    """Do what the words of a command line say."""
    tokens, overrides = take_overrides(given)
    command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
    if processes.world()[0] > 1 and command is not pretrain:
        raise BergerError(
            "only `berger pretrain` is done by several processes; start other commands without "
            "torchrun and srun."
        )
    if not processes.is_first():
        warnings.simplefilter("ignore")  # the first one says it too
    if "overrides" in ignored:
        bound.arguments["overrides"] = overrides
    refuse_addresses(bound.arguments)
    command(*bound.args, **bound.kwargs)


def _refuse(reason: str) -> NoReturn:
    print(f"berger: {reason}", file=sys.stderr)
    sys.exit(2)


def _with_seed(overrides: dict[str, Any] | None, common: Common) -> dict[str, Any]:
    seed = {} if common.seed is None else {"seed": common.seed}
    return {**(overrides or {}), **seed}

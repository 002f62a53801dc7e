"""The commands about recordings and data sets; `berger.cli` has the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from berger import telling
from berger.configuration import load_config
from berger.errors import BergerError
from berger.options import Common, Overrides, print_config_of


def prepare(
    *paths: Path,
    out: Path,
    config: str | None = None,
    exclude: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    executor: Literal["processes", "dask"] = "processes",
    scheduler: str | None = None,
    check_sources: bool = False,
    print_config: bool = False,
    common: Common = Common(),
    overrides: Overrides = None,
) -> None:
    """Turn raw files or folders of them into a corpus; running it again continues.

    Parameters
    ----------
    paths
        Recordings, or folders that are searched for them.
    out
        The corpus' folder.
    config
        YAML file or name of a shipped configuration; see `berger configs`. Every field can also
        be given by itself, e.g. --notch 50.
    exclude
        Leave out all recordings of the people whom tasks are tested on, e.g. TUAB's by
        tuab=FOLDER with its files, tuev=LIST.txt with a person a line, or tuev=unknown.
    check_sources
        Read every file that is in the corpus already and compare its content. Otherwise that is
        done where size or time of change tell that it may be another.
    executor
        Where: in processes of this machine (--workers), or on a dask cluster (--scheduler).
    scheduler
        Of the cluster, tcp://HOST:PORT. Its workers must see PATHS and OUT under the same absolute
        paths, and take one task at a time: dask worker --nthreads 1 tcp://HOST:PORT.
    print_config
        Show what would be done, and stop.
    """
    from berger.corpus import prepare as prepare_corpus
    from berger.preprocessing import PreprocessingConfig
    from berger.tasks.exclusion import exclusions

    settings = load_config(PreprocessingConfig, config, overrides)
    if print_config:
        return print_config_of(settings)
    if not paths:
        raise BergerError("prepare: no recordings given; name files or folders before --out.")
    if executor == "dask" and common.workers is not None:
        raise BergerError("--workers: a cluster has as many workers as it has; leave it out.")
    summary = prepare_corpus(
        list(paths),
        out,
        settings,
        exclude=exclusions(exclude, paths, settings, common.say),
        workers=common.n_processes,
        executor=executor,
        scheduler=scheduler,
        progress=not common.quiet,
        check_sources=check_sources,
    )
    telling.tell_failures([failure.reason for failure in summary.failures])
    telling.tell_doubts(summary)
    common.say(str(summary))


def info(corpus: str, *, common: Common = Common()) -> None:
    """Say what is in a corpus.

    Parameters
    ----------
    corpus
        Its folder or address, e.g. https://… or s3://…
    """
    from berger.corpus import open_corpus

    print(telling.describe_corpus(open_corpus(corpus)))


def verify(corpus: str, *, common: Common = Common()) -> None:
    """Check that every byte of a corpus is as written.

    Parameters
    ----------
    corpus
        Its folder or address, e.g. https://… or s3://…
    """
    from berger.corpus import verify_corpus

    if problems := verify_corpus(corpus, progress=not common.quiet):
        raise BergerError("\n".join(problems))
    common.say(f"{corpus}: every byte is as written.")


def tasks(name: str | None = None, *, data: Path | None = None, common: Common = Common()) -> None:
    """List the labelled data sets that Berger knows; tell all of one, and compare a folder.

    Parameters
    ----------
    name
        Tell all facts of this one; or a YAML file of your own.
    data
        Compare this folder with them, by headers and labels alone; default: $BERGER_DATA/NAME, if
        it is there. The exit status is 2 if anything differs.
    """
    if name is None:
        return print(telling.describe_tasks())
    telling.show_task(name, data, quiet=common.quiet)


def fetch(
    name: str,
    *,
    out: Path | None = None,
    subjects: str | None = None,
    mirror: str | None = None,
    dry_run: bool = False,
    common: Common = Common(),
) -> None:
    """Fetch a freely downloadable data set as it is distributed; running it again continues.

    Parameters
    ----------
    name
        From `berger tasks`. Of a data set behind an agreement it says where to apply.
    out
        The data set's folder; default: $BERGER_DATA/NAME.
    subjects
        Only these people, separated by commas, as they are called there.
    mirror
        Address of a folder with the same content, e.g.
        https://physionet-open.s3.amazonaws.com/eegmat/1.0.0
    dry_run
        Say how much it is, and stop.
    """
    from berger.fetching import AT_ONCE, place_of
    from berger.fetching import fetch as run
    from berger.tasks import load_task

    task = load_task(name)
    fetched = run(
        task,
        place_of(task, out),
        subjects=[] if subjects is None else [person.strip() for person in subjects.split(",")],
        mirror=mirror,
        at_once=common.workers or AT_ONCE,
        dry_run=dry_run,
        progress=not common.quiet,
        tell=common.say,
    )
    telling.tell_failures([f"{row.file}: {row.reason}" for row in fetched.failed])
    if not dry_run:
        common.say(str(fetched))
    if fetched.failed:
        raise BergerError(
            f"{len(fetched.failed)} of {len(fetched.rows)} files are missing; the same command "
            "tries again."
        )

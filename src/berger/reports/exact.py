"""Exactly what ran: configuration, versions, command, machine, seeds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from berger.errors import BergerError
from berger.reports.blocks import Block, Details, Note, Section, Source, Table, Topic
from berger.reports.folders import Part, mapping


def exact_section(parts: Iterable[Part]) -> Section:
    """List what is needed to make the same again."""
    blocks: list[Block] = [_corpus(p) if p.kind == "corpus" else _run(p) for p in parts]
    return Section("Exact configuration", topics=[Topic("", blocks)])


def _corpus(part: Part) -> Block:
    name = f"Corpus “{part.name}”"
    try:
        manifest = part.corpus.manifest
    except BergerError as error:
        return Details(name, [Note(str(error))])
    facts = [
        ("id", manifest.id),
        ("format", f"{manifest.format}, version {manifest.version}"),
        (
            "shards",
            f"{len(manifest.shards)}, {sum(s.bytes for s in manifest.shards) / 1e6:,.1f} MB",
        ),
    ]
    config = yaml.safe_dump(
        manifest.preprocessing.model_dump(mode="json"), sort_keys=False, allow_unicode=True
    )
    return Details(name, [_facts(facts), Source(config)])


def _run(part: Part) -> Block:
    run = part.run
    record = run.record
    blocks: list[Block] = []
    if record:
        corpus = mapping(record, "corpus")
        people = mapping(record, "subjects")
        facts = [
            *((key.replace("_", " "), record.get(key)) for key in ("command", "started")),
            ("duration", f"{record['wall_seconds']:,.0f} s" if "wall_seconds" in record else None),
            ("resumed", _times(record.get("resumed"))),
            ("energy", _energy(mapping(record, "energy"))),
            ("waited for data", _percent(record.get("data_wait"))),
            ("skipped steps", record.get("skipped_steps")),
            *((key, record.get(key)) for key in ("device", "hardware", "seed")),
            ("git commit", record.get("git_commit")),
            ("corpus", corpus.get("name")),
            ("corpus id", corpus.get("id")),
            ("pretrained on corpus id", mapping(record, "checkpoint").get("corpus_id")),
            *((f"people, {name}", _list(names)) for name, names in people.items()),
            *(
                (f"fold {number}, test", _list(fold.get("test", ())))
                for number, fold in enumerate(record.get("folds") or (), 1)
            ),
        ]
        blocks.append(_facts((key, value) for key, value in facts if value is not None))
        versions = mapping(record, "versions")
        blocks.append(
            Table(("package", "version"), [(str(k), str(v)) for k, v in versions.items()])
        )
    else:
        blocks.append(Note("run.json is missing: the run has not ended."))
    blocks.append(Source(run.config_text) if run.config_text else Note("config.yaml is missing."))
    return Details(f"{part.kind.capitalize()} “{part.name}”", blocks)


def _times(resumed: int | None) -> str | None:
    return None if not resumed else "once" if resumed == 1 else f"{resumed} times"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%} of the training"


def _energy(used: dict[str, Any]) -> str | None:
    """Say what the machine tells, and for how long it was counted."""
    said = [
        f"{source} {one['joules'] / 3.6e6:.3g} kWh in {one['seconds']:,.0f} s"
        for source, one in used.items()
        if isinstance(one, dict)
    ]
    return ", ".join(said) + " (of the whole machine)" if said else None


def _facts(facts: Iterable[tuple[str, Any]]) -> Table:
    return Table(("fact", "value"), [(key, str(value)) for key, value in facts])


def _list(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "–"

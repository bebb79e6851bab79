"""From plain data to objects: the one border where a configuration's names and types are checked."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.errors import UserError
from harness.interfaces import Context, Corpus, Meter, Model, Technique, Workload, moments
from harness.trial import Part, Trial

KINDS: dict[str, type] = {
    "model": Model,
    "technique": Technique,
    "workload": Workload,
    "corpus": Corpus,
    "meters": Meter,
}


def nearest(name: str, names: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or an empty string when nothing is near."""
    match = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


def find_class(target: str, kind: str, where: str) -> type:
    """Import `package.module.Class` and check that it is of the kind that its folder promises."""
    module_name, _, class_name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{where}: cannot import _target_ {target!r} ({error})") from error
    expected = KINDS[kind]
    if not (isinstance(found, type) and issubclass(found, expected)):
        raise UserError(f"{where}: _target_ {target!r} is not a {expected.__name__}; name a subclass of it")
    return found


def build(found: type, options: Mapping[str, Any], where: str) -> Any:
    """Return `found(**options)` after checking every key and type; UserError names the key and what to do."""
    from pydantic import TypeAdapter, ValidationError

    fields = [item.name for item in dataclasses.fields(found)] if dataclasses.is_dataclass(found) else []
    for key in options:
        if key not in fields:
            known = f" It has: {', '.join(fields)}." if fields else " It has no options."
            raise UserError(f"{where}: unknown key {key!r}.{nearest(key, fields)}{known}")
    if not fields:
        return found()
    try:
        return TypeAdapter(found).validate_python(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(item) for item in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        got = f" (got {first['input']!r})" if place else ""
        raise UserError(f"{where}{'.' if place else ''}{place}: {message}{got}") from error


def make_part(kind: str, name: str, data: Mapping[str, Any], changes: Iterable[str] = ()) -> Part:
    """Check one option of a group and return it as plain data with its defaults filled in."""
    where = f"{kind} {name!r}"
    options = {str(key): value for key, value in data.items() if key != "_target_"}
    if "_target_" not in data:
        raise UserError(f"{where}: no _target_; name the class, such as harness.techniques.peft.lora.Lora")
    found = find_class(str(data["_target_"]), kind, where)
    built = build(found, options, where)
    filled = dataclasses.asdict(built) if dataclasses.is_dataclass(built) else {}  # type: ignore[call-overload]
    return Part(name, str(data["_target_"]), filled, tuple(changes))


def make(kind: str, part: Part) -> Any:
    """The object that a part describes."""
    found = find_class(part.target, kind, f"{kind} {part.name!r}")
    return build(found, part.options, f"{kind} {part.name!r}")


def make_context(trial: Trial, cache: str) -> Context:
    """Every object of a trial, nothing loaded yet."""
    model: Model = make("model", trial.model)
    workload: Workload = make("workload", trial.workload)
    techniques = tuple(make("technique", part) for part in trial.techniques)
    matched = trial.match != "none"
    return Context(
        device=trial.device,
        model=model,
        workload=workload,
        corpus=make("corpus", trial.corpus),
        techniques=techniques,
        seed=trial.seed,
        cache=cache,
        match=model.matching(trial.match, techniques, workload.context_tokens()) if matched else None,
    )


#: Moments that only one technique of a stack can hold.
EXCLUSIVE = ("optimizer", "training_step", "cache", "generation")


def _conflict(context: Context, names: Sequence[str]) -> str | None:
    for moment in EXCLUSIVE:
        holders = [name for name, item in zip(names, context.techniques, strict=True) if moment in moments(item)]
        if len(holders) > 1:
            return f"{' and '.join(holders)} both replace the {moment.replace('_', ' ')}; stack one of them"
    return None


def skip_reason(context: Context, names: Iterable[str]) -> str | None:
    """Why this combination cannot be measured, or None: from the model, the techniques, their moments, the workload."""
    names = list(names)
    reason = context.model.skip_reason(context) or _conflict(context, names)
    if reason:
        return reason
    for name, technique in zip(names, context.techniques, strict=True):
        acts = moments(technique)
        if acts and not acts & context.workload.moments:
            return f"{name} acts in {', '.join(sorted(acts))}, which this workload never reaches"
        reason = technique.skip_reason(context)
        if reason:
            return f"{name}: {reason}"
    # These two build the model's shapes, which a technique that does not apply may make impossible.
    return (context.match and context.match.skip_reason(context)) or context.workload.skip_reason(context)

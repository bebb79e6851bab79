"""One trial from its plain data to its row, inside the process that is its own."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from harness.interfaces import Context, Meter, Session, moments
from harness.machine import environment
from harness.plan.building import make, make_context, skip_reason
from harness.protocol import Protocol
from harness.rows.checks import broken_identities
from harness.rows.curve import curve_columns
from harness.run.costs import cost_columns
from harness.run.evidence import all_changes, architecture_evidence, fingerprint, loading_evidence
from harness.run.framework import framework_facts
from harness.run.measure import Measurement, measure
from harness.run.tensors import model_bytes
from harness.trial import Trial


def execute(trial: Trial, cache: str) -> dict[str, Any]:
    """Measure `trial` and return its row's own part; failures are statuses, not exceptions."""
    context = make_context(trial, cache)
    row = describe(trial, context)
    reason = skip_reason(context, [part.name for part in trial.techniques])
    if reason:
        return {**row, "status": "skipped", "reason": reason}
    try:
        return {**row, **_measured(trial, context)}
    except Exception as error:  # every failure of a technique is a result of the study
        return {**row, **failure(error)}


def describe(trial: Trial, context: Context) -> dict[str, Any]:
    """What the row says of the trial whatever comes of it."""
    facts = environment.machine_facts(trial.device)
    gpu = facts.get("gpu") or {}
    return {
        "trial_id": trial.id,
        "config_id": trial.config_id,
        "model": trial.model.label,
        "technique": trial.technique_label,
        "technique_family": "+".join(dict.fromkeys(technique.family for technique in context.techniques)),
        "workload": trial.workload.label,
        "corpus": trial.corpus.label,
        "match": trial.match,
        "seed": trial.seed,
        "device": trial.device,
        "device_name": environment.device_name(trial.device),
        "gpu_uuid": gpu.get("uuid"),
        "gpu_power_limit_watts": gpu.get("power_limit_watts"),
        "gpu_memory_total_bytes": gpu.get("memory_total_bytes"),
        "code_revision": environment.code_revision(),
        "git_revision": environment.git_revision(),
        "versions_json": json.dumps(environment.versions(), sort_keys=True),
        "environment_json": json.dumps(facts, sort_keys=True, default=str),
        "trial_json": json.dumps(trial.to_dict(), sort_keys=True),
    }


def failure(error: BaseException) -> dict[str, Any]:
    """Status, reason and traceback of an exception; running out of memory is a status of its own."""
    text = f"{type(error).__name__}: {error}".strip()
    return {
        "status": "oom" if is_out_of_memory(error) else "error",
        "reason": text[:2000],
        "traceback": traceback.format_exc(),
    }


def is_out_of_memory(error: BaseException) -> bool:
    """Whether host or device memory ran out, however the library words it."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(word in str(error).lower() for word in words)


def _measured(trial: Trial, context: Context) -> dict[str, Any]:
    started = time.perf_counter()
    meters: list[Meter] = [make("meters", part) for part in trial.meters]
    for meter in meters:
        meter.open(trial.device)
    for meter in meters:
        meter.phase("load")
    model, changes = load(context, [part.name for part in trial.techniques])
    session = context.workload.prepare(model, context)
    loaded = time.perf_counter()
    protocol = Protocol(**trial.protocol)
    result = measure(session, protocol, trial.device, meters, session.fixed_steps())
    measured = time.perf_counter()
    outcome = dict(session.outcome())
    evaluated = time.perf_counter()
    counted = dict(session.counted())
    row = _row(context, session, model, result, outcome, counted)
    for meter in meters:
        meter.probe(session)
    _read(meters, result, row)
    _derive(context, model, row)
    row["facts"]["framework"] = framework_facts(trial.device)
    row["facts"]["sampled_every_seconds"] = result.sampled_every_seconds
    row["changed_json"] = json.dumps(all_changes(context, session.facts(), changes, row["flags"]), sort_keys=True)
    row["load_seconds"] = loaded - started
    row["measure_seconds"] = measured - loaded
    row["quality_seconds"] = evaluated - measured
    row["flags"] += broken_identities(row)
    return row


def load(context: Context, names: Sequence[str]) -> tuple[Any, dict[str, list[str]]]:
    """The model after every technique's loading and transformation, and what each of them changed."""
    changes: dict[str, list[str]] = {name: [] for name in names}
    model = context.model.load(context)
    print_now = fingerprint(model)
    for name, technique in zip(names, context.techniques, strict=True):
        if "configure" in moments(technique):
            changes[name].append(architecture_evidence(context, technique))
        if "load_options" in moments(technique):
            changes[name] += [loading_evidence(context, print_now), technique.evidence(model) or ""]
    for name, technique in zip(names, context.techniques, strict=True):
        if "transform" in moments(technique):
            model = technique.transform(model, context)
            before, print_now = print_now, fingerprint(model)
            changes[name] += [before.difference(print_now), technique.evidence(model) or ""]
    return model, changes


def _row(
    context: Context,
    session: Session,
    model: Any,
    result: Measurement,
    outcome: Mapping[str, Any],
    counted: Mapping[str, int],
) -> dict[str, Any]:
    window, work = result.window, result.window.work
    steps = len(result.warmup_seconds) + window.steps
    shape = fingerprint(model)
    kind = f"{work.token_kind}_tokens"
    reasons = {
        metric.name: "random weights predict nothing"
        for metric in context.workload.metrics
        if metric.name not in outcome
    }
    return {
        "status": "ok",
        "flags": [],
        "converged": result.converged,
        "stop_reason": result.stop_reason,
        "warmup_settled": result.settled,
        "parameter_count": shape.parameters,
        "trainable_parameter_count": shape.trainable,
        "weights_bytes": model_bytes(model),
        "weights_dtype": "/".join(shape.dtypes),
        "token_kind": work.token_kind,
        "step_tokens_count": work.tokens,
        "step_samples_count": work.samples,
        "step_model_flops": work.model_flops,
        "step_moved_bytes": work.moved_bytes,
        "step_count": window.steps,
        "window_seconds": window.seconds,
        "step_seconds": window.step_seconds,
        "device_step_seconds": window.device_step_seconds,
        "warmup_step_seconds": result.warmup_seconds,
        "tokens_expected_count": steps * work.tokens,
        "tokens_counted_count": counted.get(kind),
        # Asked for again, because a curve's last point is evaluated after the window.
        **{name: list(values) for name, values in session.samples().items()},
        **{metric.name: outcome.get(metric.name) for metric in context.workload.metrics},
        "reasons": reasons,
        "facts": dict(session.facts()),
    }


def _derive(context: Context, model: Any, row: dict[str, Any]) -> None:
    """What follows from the shapes of the model and of the untouched one, and from a learning curve."""
    values, reasons = cost_columns(context, model)
    more, more_reasons, facts = curve_columns(row)
    row |= values | more
    row["reasons"] |= reasons | more_reasons
    row["facts"] |= facts


def _read(meters: Sequence[Meter], result: Measurement, row: dict[str, Any]) -> None:
    for meter in meters:
        readings = meter.readings(result.window)
        row |= {name: value for name, value in readings.values.items() if value is not None or name not in row}
        row["reasons"] |= {name: reason for name, reason in readings.reasons.items() if row.get(name) is None}
        row["facts"] |= readings.facts
        row["flags"] += readings.flags
        row |= {name: list(values) for name, values in readings.samples.items()}
        for metric in meter.metrics:
            if row.setdefault(metric.name, None) is None:
                row["reasons"].setdefault(metric.name, "no reason was given")

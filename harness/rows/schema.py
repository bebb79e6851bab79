"""The columns of a row: their types by name, and how nested facts become columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

#: Raised when a column changes its meaning.
SCHEMA_VERSION = 2


#: Columns that are text, whole numbers or truth values; every other scalar is a float64 and every list is of float64.
TEXT = (
    "row_id trial_id config_id status reason traceback model technique technique_family workload corpus device "
    "device_name gpu_uuid code_revision git_revision versions_json environment_json trial_json changed_json "
    "reasons_json facts_json started_at command token_kind weights_dtype stop_reason energy_source sweep log match"
).split()


WHOLE = (
    "schema_version seed order_index block parameter_count trainable_parameter_count baseline_parameter_count "
    "step_tokens_count step_samples_count step_count tokens_expected_count tokens_counted_count"
).split()


TRUTH = ("converged", "warmup_settled")


def schema_of(row: Mapping[str, Any]) -> pa.Schema:
    """The columns of one row, typed by name, so that a null has the same type as a number."""
    return pa.schema([pa.field(name, _type(name, value)) for name, value in sorted(row.items())])


def _type(name: str, value: Any) -> pa.DataType:
    if name in TEXT:
        return pa.string()
    if name in WHOLE:
        return pa.int64()
    if name in TRUTH:
        return pa.bool_()
    if name == "flags":
        return pa.list_(pa.string())
    return pa.list_(pa.float64()) if isinstance(value, list) else pa.float64()


def flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    """Nested facts become JSON columns; everything else stays a scalar or a list of numbers."""
    flat = dict(row)
    facts = dict(flat.pop("facts", {}))
    flat["energy_source"] = facts.get("energy_source")
    flat["facts_json"] = json.dumps(facts, sort_keys=True, default=str)
    flat["reasons_json"] = json.dumps(flat.pop("reasons", {}), sort_keys=True)
    flat.setdefault("flags", [])
    flat["schema_version"] = SCHEMA_VERSION
    return flat


def check_schema(schema: pa.Schema) -> None:
    """ValueError for a file that is no row of this program, so that one stranger does not spoil the table."""
    if "row_id" not in schema.names:
        raise ValueError("it has no row_id: not a row of this program")
    for field in schema:
        # The name of a list's elements differs between writers and says nothing.
        expected = {_type(field.name, []), _type(field.name, None)}
        found = pa.list_(field.type.value_type) if pa.types.is_list(field.type) else field.type
        if found not in expected:
            raise ValueError(f"column {field.name} is {field.type}: not a row of this program")

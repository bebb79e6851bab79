"""The four interfaces that a shelf implements, and the plain data that passes between them and the core.

Nothing here imports torch: the planning side checks configurations against these classes without loading it, so a
module on a shelf imports its libraries inside its functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from harness.work import Work

#: What a workload can exercise. A technique acts in the moments whose method it overrides; a technique that acts in
#: none of a workload's moments is skipped there, because it could not change the measurement.
Moment = Literal["configure", "load_options", "transform", "optimizer", "training_step", "cache", "generation"]

#: A unit that a column's name may end in.
UNITS = tuple(
    "seconds bytes joules watts watt_hours grams grams_per_kilowatt_hour grams_per_token grams_per_sample ratio count "
    "celsius hertz flops per_second bits_per_byte nats".split()
)


@dataclass(frozen=True)
class Metric:
    """One number of a row. `name` ends in its unit; `better` says which way is an improvement."""

    name: str
    meaning: str
    better: Literal["lower", "higher", "neither"] = "neither"

    @property
    def unit(self) -> str:
        """The unit that the name ends in; ValueError where it ends in none."""
        for unit in sorted(UNITS, key=len, reverse=True):
            if self.name.endswith("_" + unit):
                return unit
        raise ValueError(f"metric {self.name!r} does not end in a unit; use one of: {', '.join(UNITS)}")


@dataclass(frozen=True)
class Context:
    """What is known of a trial before anything is loaded."""

    device: str
    model: Model
    workload: Workload
    corpus: Corpus
    techniques: tuple[Technique, ...]
    seed: int
    #: A folder that outlives the trial, for what is made once and used by many trials (trained weights).
    cache: str = ""
    #: Changes one size after every technique's `configure`, so that the model costs what the untouched one does.
    match: Technique | None = None

    @property
    def configuring(self) -> tuple[Technique, ...]:
        """What makes the architecture: every technique, and the matching of costs after them."""
        return self.techniques if self.match is None else (*self.techniques, self.match)


class Model:
    """What is loaded. Subclasses are dataclasses whose fields are the YAML's keys."""

    def skip_reason(self, context: Context) -> str | None:
        """Why this model cannot be measured here, or None."""
        return None

    def architecture_facts(self, techniques: Iterable[Technique]) -> dict[str, Any]:
        """The architecture after every technique's `configure`, as plain data."""
        raise NotImplementedError

    def check(self, context: Context) -> None:
        """Raise ValueError, saying what to change, when no such model can exist."""

    def empty(self, techniques: Iterable[Technique]) -> Any:
        """The model's shapes in its own dtype, on a device that holds no data, before any technique's loading."""
        raise NotImplementedError

    def matching(self, quantity: str, techniques: tuple[Technique, ...], tokens: int) -> Technique:
        """What makes `quantity` of the model with `techniques` equal the untouched model's, at contexts of `tokens`.

        It acts in `configure` alone, and its `skip_reason` says when nothing comes near enough. A model whose class
        does not override this cannot be matched.
        """
        raise NotImplementedError

    def tokenizer(self) -> Any:
        """The tokenizer that the weights were made for, or None for a model that reads bytes."""
        return None

    def ingredients(self, context: Context) -> dict[str, Any] | None:
        """What must be made once before this model can load (a recipe as plain data), or None."""
        return None

    def make_ingredients(self, context: Context) -> None:
        """Make what `ingredients` names; called in a process of its own, never inside a measurement."""

    def identity(self) -> dict[str, Any]:
        """Facts beyond the fields that decide what is measured, such as a content hash of local weights."""
        return {}

    def load(self, context: Context) -> Any:
        """Build or read the model on `context.device` and return it in evaluation mode."""
        raise NotImplementedError


class Corpus:
    """Text to train and evaluate on. Subclasses are dataclasses whose fields are the YAML's keys."""

    def identity(self) -> dict[str, Any]:
        """Facts beyond the fields that decide what is measured, such as a content hash of the user's files."""
        return {}

    def check(self) -> None:
        """Raise ValueError, saying what to change, when there is no such text."""

    def load(self) -> Any:
        """Return a `harness.corpora.text.Text`."""
        raise NotImplementedError


class Technique:
    """A change to how a model is built, loaded, trained or decoded. Override only the moments it touches."""

    family: ClassVar[str]
    paper: ClassVar[str] = ""
    library: ClassVar[str] = ""
    #: Sizes of its architecture that `match` may change before `intermediate_size`, in the order in which they are
    #: tried; a dot leads into a part (`feed_forward.width`).
    width_field: ClassVar[str | tuple[str, ...]] = ()
    #: The same for what is kept of a sequence, before `num_hidden_layers`.
    cache_field: ClassVar[str | tuple[str, ...]] = ()

    def skip_reason(self, context: Context) -> str | None:
        """Why this technique does not apply to this trial, or None. Asked before anything is loaded."""
        return None

    def configure(self, architecture: dict[str, Any]) -> dict[str, Any]:
        """Return the changed architecture. `architecture` holds the keys of the model's configuration class."""
        return architecture

    def load_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return changed loading options (`dtype`, `quantization_config`, `attn_implementation`)."""
        return options

    def transform(self, model: Any, context: Context) -> Any:
        """Return the loaded model, changed in place or wrapped."""
        return model

    def optimizer(self, parameters: list[Any], learning_rate: float) -> Any:
        """Return the optimizer for the trainable `parameters`; called only when overridden."""
        raise NotImplementedError

    def training_step(self, model: Any, batch: Any, learning_rate: float, seed: int) -> Any:
        """Do one update without the default backpropagation; return the loss. Called only when overridden."""
        raise NotImplementedError

    def training_flops(self, forward: float, backward: float) -> float:
        """Model FLOPs of one training step, from those of one forward and one backward pass."""
        return forward + backward

    def cache(self, model: Any, maximum_tokens: int) -> Any:
        """Return the cache object to decode with; called only when overridden."""
        raise NotImplementedError

    def generation(self) -> dict[str, Any]:
        """Return keyword arguments for `generate`; called only when overridden."""
        raise NotImplementedError

    def evidence(self, model: Any) -> str | None:
        """What this technique changed in `model` that the generic fingerprint cannot see, or None."""
        return None


def moments(technique: Technique) -> frozenset[str]:
    """The moments in which `technique` acts: those whose method its class overrides."""
    acts = Moment.__args__  # type: ignore[attr-defined]
    return frozenset(name for name in acts if getattr(type(technique), name) is not getattr(Technique, name))


class Workload:
    """A step worth repeating. Subclasses are dataclasses whose fields are the YAML's keys."""

    #: The moments of a technique that this workload exercises.
    moments: ClassVar[frozenset[str]]
    #: Numbers that `outcome` returns.
    metrics: ClassVar[tuple[Metric, ...]] = ()

    def skip_reason(self, context: Context) -> str | None:
        """Why this workload cannot be done with this model, or None. Asked before anything is loaded."""
        return None

    def context_tokens(self) -> int:
        """The length of sequence at which a model's costs of a token are stated and matched."""
        return 1024

    def prepare(self, model: Any, context: Context) -> Session:
        """Return a session bound to `model`, ready for its first step."""
        raise NotImplementedError


class Session:
    """A workload in progress."""

    def fixed_steps(self) -> int | None:
        """The number of steps that the workload prescribes, or None when the protocol decides."""
        return None

    def step(self) -> None:
        """Do the step once. The caller synchronises the device and reads the clocks."""
        raise NotImplementedError

    def before_step(self) -> None:
        """What must happen between steps without being timed, such as the start of a new sequence."""

    def aside_seconds(self) -> float:
        """Time since `forget` that went into something else than the work, such as an evaluation between steps."""
        return 0.0

    def forget(self) -> None:
        """The warm-up is over: drop what `samples` has collected."""

    def work(self) -> Work:
        """What one step gets done."""
        raise NotImplementedError

    def counted(self) -> Mapping[str, int]:
        """What the steps actually produced so far, counted where it is produced (`output_tokens`, ...)."""
        return {}

    def held_bytes(self) -> Mapping[str, int]:
        """Bytes held by cause (`optimizer_state_bytes`, `kv_cache_bytes`), counted from the live objects."""
        return {}

    def samples(self) -> Mapping[str, list[float]]:
        """Raw samples beyond the step times, such as the gaps between tokens; names end in a unit."""
        return {}

    def outcome(self) -> Mapping[str, float | None]:
        """Quality, evaluated after the timed window; keys are names of the workload's `metrics`."""
        return {}

    def facts(self) -> Mapping[str, Any]:
        """What a reader of the row must know of the session (corpus hash, budget, tokens trained)."""
        return {}


@dataclass(frozen=True)
class Window:
    """What happened while the meters watched: `steps` steps, back to back, after the warm-up."""

    work: Work
    step_seconds: list[float]
    device_step_seconds: list[float]
    start_ns: int
    end_ns: int
    held_bytes: Mapping[str, int] = field(default_factory=dict)
    samples: Mapping[str, list[float]] = field(default_factory=dict)
    #: Part of the window that went into something else than the work; it lies in the window's energy and in no step.
    aside_seconds: float = 0.0
    #: Bytes of the buffer that was written before each step to empty the caches, 0 for hot caches. What that cost lies
    #: in the window's time, energy and traffic but in no step's; the buffer is held on the device throughout.
    flushed_bytes: int = 0

    @property
    def steps(self) -> int:
        """Number of timed steps."""
        return len(self.step_seconds)

    @property
    def seconds(self) -> float:
        """Length of the window by the host clock, gaps between steps included."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True)
class Readings:
    """A meter's numbers, and a reason for each number it could not give. A flagged row is shown and never ranked."""

    values: Mapping[str, float | None] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, list[float]] = field(default_factory=dict)
    flags: Sequence[str] = ()


class Meter:
    """Watches a window of steps and returns readings. `sample` runs in a thread, every `period_seconds`."""

    metrics: ClassVar[tuple[Metric, ...]]
    #: Seconds between calls of `sample`; None when the meter needs no sampling.
    period_seconds: float | None = None

    def once(self) -> Mapping[str, str]:
        """What takes long to find out and holds for a whole sweep, as environment variables of its trials."""
        return {}

    def open(self, device: str) -> None:
        """Prepare; called once, before the model is loaded."""

    def phase(self, name: str) -> None:
        """A phase begins: load, warmup, step, quality."""

    def start(self) -> None:
        """The window begins now."""

    def sample(self) -> None:
        """Take one reading."""

    def before_step(self) -> None:
        """A step is timed next, warm-up included; the device is synchronised before its clocks start."""

    def after_step(self) -> None:
        """The step's clocks have stopped. What is done here and in `before_step` costs time between steps."""

    def stop(self) -> None:
        """The window has ended."""

    def probe(self, session: Session) -> None:
        """A pass of its own after the window, for what would disturb the timing; may run the step once."""

    def readings(self, window: Window) -> Readings:
        """Every metric of this meter, or a reason."""
        raise NotImplementedError

    def calibrate(self, device: str, seconds: float, say: Callable[[str], object]) -> Any:
        """For `harness calibrate`: `MeasuredRoofs` of this device (`harness.machine.measured_roofs`), within `seconds`.

        None for a meter that holds nothing against a roof. `say` hears what is being measured.
        """
        return None

    def availability(self, device: str) -> Mapping[str, str]:
        """For `harness doctor`: metric or group -> its source on this machine, or `unavailable: why`."""
        return {}

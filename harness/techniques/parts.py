"""What techniques share that put another part into a model's architecture."""

from __future__ import annotations

from typing import Any, ClassVar

from harness.interfaces import Context, Technique
from harness.techniques.twin import no_twin, with_part


class PartTechnique(Technique):
    """Replaces one part of the model's twin (`harness.decoder`); subclasses say which by `parts`."""

    library: ClassVar = "this harness"

    def parts(self) -> dict[str, Any]:
        """Place to part, such as {"mixer": {"kind": "linformer", "rank": 64}}."""
        raise NotImplementedError

    def skip_reason(self, context: Context) -> str | None:
        """Needs an architecture that has a twin, and its places for itself."""
        for other in context.techniques:
            if isinstance(other, PartTechnique) and other != self and (shared := other.parts().keys() & self.parts()):
                return f"{type(other).__name__} replaces the {' and the '.join(sorted(shared))} too; stack one of them"
        return no_twin(context.model.architecture_facts(()))

    def configure(self, architecture: dict[str, Any]) -> dict[str, Any]:
        """The twin, with these parts in place."""
        for place, part in self.parts().items():
            architecture = with_part(architecture, place, part)
        return architecture

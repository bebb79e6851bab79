"""A cache of fixed size, allocated once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.interfaces import Technique


@dataclass(frozen=True)
class Static(Technique):
    """transformers' StaticCache: no reallocation while decoding, attention over the whole allocation."""

    family: ClassVar = "cache"
    library: ClassVar = "transformers"

    def cache(self, model: Any, maximum_tokens: int) -> Any:
        """A fresh cache that holds `maximum_tokens`."""
        from transformers import StaticCache

        return StaticCache(config=model.config, max_cache_len=maximum_tokens)

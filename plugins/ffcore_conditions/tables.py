"""The recipe table of conditions from a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from ffcore.keys import key
from ffcore.system.files import File

if TYPE_CHECKING:
    from ffcore.interfaces import ConditionSource, Context


@attrs.frozen(kw_only=True)
class Named:
    """Conditions with names, drawn uniformly from a list."""

    file: str = key(
        help="safetensors file of the conditions, as ffcore_conditions.file.write_named writes it: "
        "a path, package:file of an installed package, or hf://organisation/repository/file"
    )

    @classmethod
    def examples(cls) -> Iterator[Named]:
        """Yield one whose file is missing: no list of conditions is everybody's."""
        yield cls(file="conditions.safetensors")

    @property
    def files(self) -> tuple[File, ...]:
        """The file that is read."""
        return (File(self.file, "conditions.file", "the list of conditions"),)

    def build(self, context: Context) -> ConditionSource:
        """Return the conditions. Raises WeightsError for any other file."""
        del context
        from ffcore_conditions.file import read_named

        return read_named(self.file)

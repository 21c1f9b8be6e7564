"""The one kind of console that rt-scale prints on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from rt_scale.system.plain_text import printable


class PlainConsole(Console):
    """Shows all text as it is: no markup, no emoji codes, control characters written out, and others in place
    of those that the encoding lacks.

    Text from outside (paths, names, values, error messages) needs no care then; what is to have a style is a
    ``rich.text.Text``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """As Text; measured as it will be seen."""
        return super().render_str(printable(text, self.encoding), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments, of which only those that rich itself made control the terminal."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text, self.encoding), segment.style)

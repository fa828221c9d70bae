"""Griffe extension: show the doctests under "Example:" as code. Griffe itself supports only "Examples:"."""

import griffe


class Examples(griffe.Extension):
    """Renames the section."""

    def on_instance(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")

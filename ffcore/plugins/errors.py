"""What can go wrong between a name in a recipe and the class behind it."""


class PluginError(Exception):
    """A plugin is missing, ambiguous or broken; the message says which and what is possible."""


class UnknownComponent(PluginError):
    """No active plugin brings a component of this role and name."""


class AmbiguousComponent(PluginError):
    """Several plugins claim the same role and name, and the recipe does not say whose it means."""


class BrokenPlugin(PluginError):
    """The plugin that brings the component, or the component's target, cannot be used."""


def root_cause(error: BaseException) -> str:
    """One line that names `error`, and the error that it was raised from, if any."""
    words = f"{type(error).__name__}: {error}".removesuffix(": ")
    line = " ".join(words.split())
    return line if error.__cause__ is None else f"{line} (from {root_cause(error.__cause__)})"

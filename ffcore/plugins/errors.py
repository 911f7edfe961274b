"""What can go wrong between a name in a recipe and the class behind it."""


class PluginError(Exception):
    """A plugin is missing, ambiguous or broken; the message says which one and what is possible."""


class UnknownComponent(PluginError):
    """No active plugin brings a component of this role and name."""


class AmbiguousComponent(PluginError):
    """Several plugins claim the same role and name, and the recipe does not say whose it means."""


class BrokenPlugin(PluginError):
    """The plugin that brings the component, or the component's target, cannot be used."""


def root_cause(error: BaseException) -> str:
    """One line that names `error`, and the errors that it was raised from, if any."""
    chain = causes(error)
    return " (from ".join(map(_line, chain)) + ")" * (len(chain) - 1)


def causes(error: BaseException) -> list[BaseException]:
    """The error, and the errors that it was raised from, the first of all last."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and all(cause is not each for each in chain):
        chain.append(cause)
    return chain


def _line(error: BaseException) -> str:
    try:
        words = str(error)
    except Exception:  # noqa: BLE001 - a stranger's error may not even have words
        words = ""
    return " ".join(f"{type(error).__name__}: {words}".split()).removesuffix(":")

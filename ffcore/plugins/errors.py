"""Errors between a name in a recipe and the class behind it."""


class PluginError(Exception):
    """A plugin is missing, ambiguous or broken. The message names it and the possible names."""


class UnknownComponent(PluginError):
    """No active plugin provides a component of this role and name."""


class AmbiguousComponent(PluginError):
    """Several plugins provide the same role and name, and the recipe does not choose one."""


class BrokenPlugin(PluginError):
    """The plugin that provides the component, or the component's target, cannot be used."""


class UntrustedCode(PluginError):
    """A file that the user did not write names code that is not of an installed plugin."""


def root_cause(error: BaseException) -> str:
    """One line with `error` and the errors that caused it."""
    chain = causes(error)
    return " (from ".join(map(_line, chain)) + ")" * (len(chain) - 1)


def causes(error: BaseException) -> list[BaseException]:
    """The error and the errors that caused it; the root cause is last."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and all(cause is not each for each in chain):
        chain.append(cause)
    return chain


def _line(error: BaseException) -> str:
    try:
        words = str(error)
    except Exception:  # noqa: BLE001 - a third party's error may fail to print
        words = ""
    return " ".join(f"{type(error).__name__}: {words}".split()).removesuffix(":")

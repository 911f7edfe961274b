"""Components: the declarative records by which a plugin says what it brings."""

import re
from typing import Any

import attrs

from ffcore.keys import ImpossibleValue, Possible

ROLES = {
    "teacher": "the frozen velocity field to distil",
    "student": "the flow map to train",
    "predictor": "the objective that aligns the generating velocity with the teacher's",
    "corrector": "the objective that aligns the noising velocity with the teacher's",
    "data": "where samples come from, for an objective that needs data",
    "balancer": "how the gaps of both objectives become one loss",
    "network": "a velocity network that an objective may train beside the student",
    "features": "the space in which an evaluation measures Fréchet distances",
    "decoder": "how samples become images: from latents, or as they are",
    "tracker": "where a run's metrics and pictures go, beside its own files",
}
"""The roles a component can play, each with its meaning."""

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_TEXT = re.compile(r".*", re.DOTALL)


def _matches(pattern: re.Pattern[str], possible: str) -> Any:
    def check(instance: object, attribute: "attrs.Attribute[str]", value: str) -> None:
        if not (isinstance(value, str) and pattern.fullmatch(value)):
            raise ImpossibleValue(attribute.name, value, possible)

    return check


@attrs.frozen
class Component:
    """One thing a plugin brings: what it is for, its name in recipes, and where its table is.

    `target` is `"module:Class"`, a frozen attrs class whose fields are the recipe table's keys.
    Neither its module nor the plugin's imports torch; its `build` method may.
    """

    role: str = attrs.field(validator=Possible(one_of=tuple(ROLES)))
    name: str = attrs.field(
        validator=_matches(_NAME, "lower-case letters, digits and hyphens, starting with a letter")
    )
    target: str = attrs.field(validator=_matches(_TARGET, "of the form 'module:Class'"))
    summary: str = attrs.field(validator=_matches(_TEXT, "a string"))
    citation: str = attrs.field(default="", validator=_matches(_TEXT, "a string"))

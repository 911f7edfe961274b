"""Components: the records in which a plugin declares what it provides."""

import re
from typing import Any

import attrs

from ffcore.keys import ImpossibleValue, Possible

ROLES = {
    "teacher": "the frozen velocity field to distil",
    "student": "the flow map to train",
    "predictor": "the objective that aligns the generating velocity with the teacher's",
    "corrector": "the objective that aligns the noising velocity with the teacher's",
    "conditions": "the source of conditions, for a teacher that does not bring its own",
    "data": "the source of samples, for an objective that needs data",
    "balancer": "the weights that make one loss of the gaps of both objectives",
    "network": "a velocity network that an objective may train beside the student",
    "features": "the space in which an evaluation measures Fréchet distances",
    "decoder": "the map from samples to images: a latent decoder, or the identity",
    "tracker": "a further store of a run's metrics and pictures, beside its own files",
}
"""The roles that a component can play, with their meanings."""

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
    """A component that a plugin provides: its role, its name in recipes and its table.

    `target` is the table as `"module:Class"`: a frozen attrs class whose fields are the recipe
    table's keys. Neither its module nor the plugin's may import torch; its `build` method may.
    """

    role: str = attrs.field(validator=Possible(one_of=tuple(ROLES)))
    name: str = attrs.field(
        validator=_matches(_NAME, "lower-case letters, digits and hyphens, starting with a letter")
    )
    target: str = attrs.field(validator=_matches(_TARGET, "of the form 'module:Class'"))
    summary: str = attrs.field(validator=_matches(_TEXT, "a string"))
    citation: str = attrs.field(default="", validator=_matches(_TEXT, "a string"))

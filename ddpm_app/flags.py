"""Settings: each field of a frozen dataclass has its help, unit, bounds and choices; checks, flags and commands follow from them.

@dataclass(frozen=True)
class Settings:
    n: int = setting(16, "images to make", low=1, high=64)

    def __post_init__(self):
        check(self)                                # "n is 0; a whole number from 1 to 64 is accepted"

add_flags(parser, Settings)                        # --n N   images to make (1 to 64, default 16)
Settings(**read_flags(Settings, parser.parse_args()))
write_flags(Settings(n=4))                         # ["--n", "4"]
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping


@dataclasses.dataclass(frozen=True)
class Setting:
    """The help and the accepted values of one field.

    help:        one line, without the unit, the bounds, the choices and the default, which are added to it
    unit:        of a number
    low, high:   bounds of a number, accepted themselves
    above:       lower bound of a number, not accepted itself
    below:       upper bound of a number, not accepted itself
    also:        numbers accepted outside the bounds
    choices:     the names that are accepted; a dict's keys
    always:      write_flags and changed include it even if it has its default
    default_by:  (another field, {its value: default}): the default depends on the other field
    alias:       an older name of the field; its flag is accepted, too
    """

    help: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    also: tuple[float, ...] = ()
    choices: Collection[str] | None = None
    always: bool = False
    default_by: tuple[str, Mapping] | None = None
    alias: str = ""

    @property
    def bounds(self) -> str:
        """ "from 1 to 64", "above 0", "from 0 to below 1, or -1,": the bounds as words of a sentence; "" without bounds."""
        start = f"from {_text(self.low)}" if self.low is not None else f"above {_text(self.above)}" if self.above is not None else ""
        end = _text(self.high) if self.high is not None else f"below {_text(self.below)}" if self.below is not None else ""
        if not end:
            words = f"of {_text(self.low)} or more" if self.low is not None else start
        elif self.above is not None:
            words = f"{start} and {end if self.high is None else f'up to {end}'}"
        else:
            words = f"{start} to {end}" if start else end if self.high is None else f"up to {end}"
        return words + "".join(f", or {_text(v)}," for v in self.also)

    def holds(self, value: float) -> bool:
        """Whether a number lies within the bounds; NaN does not."""
        inside = (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )
        return inside and value == value or value in self.also


def setting(default, help: str, **facts):
    """A dataclass field with a Setting: `n: int = setting(16, "images", low=1)`. A dict or list is copied for each instance."""
    metadata = {"setting": Setting(help, **facts)}
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settings_of(cls) -> dict[str, Setting]:
    """The Setting of each field of a dataclass (or an instance) that has one, in order."""
    return {f.name: f.metadata["setting"] for f in dataclasses.fields(cls) if "setting" in f.metadata}


def default_of(cls, name: str, values: Mapping | None = None):
    """A field's default; `values` are the other fields, where it depends on one of them."""
    f = next(f for f in dataclasses.fields(cls) if f.name == name)
    default = f.default_factory() if f.default is dataclasses.MISSING else f.default
    if (s := f.metadata.get("setting")) and s.default_by:
        other, table = s.default_by
        return table.get((values or {}).get(other, default_of(cls, other)), default)
    return default


# -- checks ---------------------------------------------------------------------------------------------------------------


def check(instance) -> None:
    """Check each field that has a Setting. Raises ValueError, one sentence: what the value is, and what is accepted."""
    for name, s in settings_of(instance).items():
        kind, value = _kind(instance, name), getattr(instance, name)
        if value is None and kind.endswith("| None"):
            continue
        kind = kind.removesuffix("| None").strip()
        if not kind.startswith("tuple["):
            check_value(name, value, kind, s)
            continue
        for item in value:
            check_value(name, item, kind[6:].partition(",")[0].rstrip("]"), s)


def check_value(name: str, value, kind: str, setting: Setting) -> None:
    """Check one value. kind: "int", "float", "str" or "bool"; others are not checked. Raises ValueError."""
    if setting.choices is not None:
        check_choice(name, value, setting.choices)
    elif kind in ("int", "float"):
        accepted = int if kind == "int" else (int, float)
        if isinstance(value, bool) or not isinstance(value, accepted) or not setting.holds(value):
            noun = "a whole number" if kind == "int" else "a number"
            raise ValueError(f"{name} is {value!r}; {noun} {setting.bounds}".rstrip() + " is accepted")
    elif kind == "str" and not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; a text is accepted")
    elif kind == "bool" and not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; True or False is accepted")


def check_choice(kind: str, name: str, names: Iterable[str]) -> str:
    """`name`, if it is one of `names`. Raises ValueError that names the nearest one, or all if none is near. kind: for the error."""
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    raise ValueError(f"unknown {kind} {str(name)[:80]!r}; {hint}")


def whole(value, name: str, low: int | None = None, high: int | None = None) -> int:
    """The whole number that an input field of the page holds. The field may hold 3.0 for 3, or None. Raises ValueError otherwise."""
    s = Setting("", low=low, high=high)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value % 1 == 0 and s.holds(value):
        return int(value)
    raise ValueError(f"{name} is {'empty' if value is None else repr(value)}; a whole number {s.bounds}".rstrip() + " is accepted")


# -- flags ----------------------------------------------------------------------------------------------------------------


def flag(name: str) -> str:
    """label_dropout is --label-dropout."""
    return "--" + name.replace("_", "-")


def help_of(cls, name: str, default=None) -> str:
    """A field's help with its choices, unit, bounds and default. default: another one than the field's."""
    s, default = settings_of(cls)[name], default_of(cls, name) if default is None else default
    facts = [s.unit, s.bounds.removeprefix("from ").removeprefix("of ").rstrip(",")]
    if default not in (None, "", ()) and not isinstance(default, bool) and "default" not in s.help:
        facts.append(f"default {_text(default)}")
    choices = f": {', '.join(s.choices)}" if s.choices is not None else ""
    return s.help + choices + (f" ({', '.join(filter(None, facts))})" if any(facts) else "")


def add_flags(parser, cls, names: Collection[str] | None = None, **defaults) -> None:
    """Add a flag for each of these fields (default: all that have a Setting). A flag that is not given has the value None.

    defaults: values of flags that are not given, instead of None."""
    for name in names or settings_of(cls):
        text, default = help_of(cls, name, defaults.get(name)).replace("%", "%%"), defaults.get(name)
        kind = _kind(cls, name)
        if kind == "bool":
            parser.add_argument(flag(name), action="store_true", default=default, help=text)
        else:
            parser.add_argument(flag(name), type=_reader(kind), default=default, help=text)
        if alias := settings_of(cls)[name].alias:
            parser.add_argument(flag(alias), type=_reader(kind), help=argparse.SUPPRESS)


def read_flags(cls, args: argparse.Namespace, names: Collection[str] | None = None) -> dict:
    """{field: value} of the flags that were given: keyword arguments of cls. Raises ValueError if a flag and its alias differ."""
    settings, values = settings_of(cls), {}
    for name in names or settings:
        values[name], alias = getattr(args, name, None), settings[name].alias
        if alias and (other := getattr(args, alias, None)) is not None:
            if values[name] not in (None, other):
                raise ValueError(f"{flag(name)} is {values[name]} and its alias {flag(alias)} is {other}; give one of them")
            values[name] = other
    return {name: value for name, value in values.items() if value is not None}


def parse_flags(cls, text: str, names: Collection[str]) -> dict:
    """{field: value} of flags as a person types them, "--T 200 --flip no". Raises ValueError for any flag but these fields'."""
    parser = _Refusing(add_help=False, allow_abbrev=False)
    add_flags(parser, cls, names)
    try:
        values = read_flags(cls, parser.parse_args(shlex.split(text)), names)
    except ValueError as error:
        raise ValueError(f"{error}; {', '.join(map(flag, names))} are accepted, each with a value") from None
    for name, value in values.items():
        if (choices := settings_of(cls)[name].choices) is not None:
            check_choice(name, value, choices)
    return values


def changed(instance, names: Collection[str] | None = None) -> dict:
    """{field: value} of the fields that differ from their defaults, and of those with `always`."""
    values = {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}
    return _changed(type(instance), values, names)


def write_flags(instance, names: Collection[str] | None = None) -> list[str]:
    """The arguments that read_flags takes for the same settings, without those at their defaults."""
    return settings_to_flags(type(instance), {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}, names)


def settings_to_flags(cls, values: Mapping, names: Collection[str] | None = None) -> list[str]:
    """The flags of stored fields {name: value}, as from write_flags. Missing fields count as their defaults."""
    argv = []
    for name, value in _changed(cls, values, names).items():
        text = ",".join(map(_text, value)) if isinstance(value, (tuple, list)) else _text(value)
        if isinstance(value, bool):
            argv += [flag(name)] if value else []
        elif isinstance(value, str) and text.startswith("-"):
            argv.append(f"{flag(name)}={text}")  # argparse would take the value for a flag
        else:
            argv += [flag(name), text]
    return argv


def _changed(cls, values: Mapping, names: Collection[str] | None) -> dict:
    settings, shown = settings_of(cls), {}
    for name in names or settings:
        default = default_of(cls, name, values)
        value = values.get(name, default)
        if settings[name].always or value != default:
            shown[name] = value
    return shown


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, without the list of all flags."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}; -h shows what is accepted\n")


class _Refusing(argparse.ArgumentParser):
    def error(self, message: str):
        raise ValueError(message)


def _kind(cls, name: str) -> str:
    """A field's type as it is written: "int", "tuple[str, ...]", "float | None"."""
    kind = next(f.type for f in dataclasses.fields(cls) if f.name == name)
    return kind if isinstance(kind, str) else str(kind) if hasattr(kind, "__args__") else kind.__name__


def _reader(kind: str) -> Callable:
    """The function that converts a flag's text to this type."""
    kind = kind.removesuffix("| None").strip()
    one = {"int": int, "float": float, "str": str}
    if not kind.startswith("tuple["):
        return one[kind]
    item = one[kind[6:].partition(",")[0].rstrip("]")]

    def values(text: str) -> tuple:
        try:
            return tuple(item(part.strip()) for part in text.split(",") if part.strip())
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a list of numbers; numbers separated by commas are accepted") from None

    return values


def _text(value) -> str:
    """A number as its shortest text with the same value: 25.0 is 25, 1e6 is 1000000."""
    if isinstance(value, float) and abs(value) < 1e15 and value == int(value):
        return str(int(value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)

"""Settings: the metadata of a field decides its check, its flag, its help and the command that is shown."""

import argparse
import dataclasses
import subprocess
import sys
from dataclasses import dataclass

import pytest

from ddpm_app.flags import (  # fmt: skip
    add_flags,
    changed,
    check,
    default_of,
    help_of,
    parse_flags,
    read_flags,
    setting,
    settings_of,
    settings_to_flags,
    whole,
    write_flags,
)
from ddpm_app.studio.request import Request
from ddpm_app.training.config import TrainConfig


@dataclass(frozen=True)
class Cake:
    layers: int = setting(3, "how many", unit="layers", low=1, high=10)
    sugar: float = setting(0.5, "share of 100 % sugar", above=0, below=1)
    salt: float = setting(-1.0, "grams; -1 is a pinch", low=0, also=(-1,))
    kind: str = setting("plum", "which fruit", choices=("plum", "apple"), always=True)
    note: str = setting("", "to be written on it")
    iced: bool = setting(False, "with icing")
    bakes: tuple[int, ...] = setting((20, 5), "minutes in the oven", low=1)
    weight: float | None = setting(None, "grams", above=0)
    price: int = setting(10, "price", default_by=("kind", {"apple": 8}))

    def __post_init__(self):
        check(self)


def parsed(argv, names=None, **defaults):
    parser = argparse.ArgumentParser()
    add_flags(parser, Cake, names, **defaults)
    return read_flags(Cake, parser.parse_args(argv), names)


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"layers": 0}, "layers is 0; a whole number from 1 to 10 is accepted"),
        ({"layers": 2.0}, "layers is 2.0; a whole number from 1 to 10 is accepted"),
        ({"layers": True}, "layers is True; a whole number from 1 to 10 is accepted"),
        ({"sugar": 1}, "sugar is 1; a number above 0 and below 1 is accepted"),
        ({"sugar": float("nan")}, "sugar is nan; a number above 0 and below 1 is accepted"),
        ({"salt": -2}, "salt is -2; a number of 0 or more, or -1, is accepted"),
        ({"kind": "appel"}, "unknown kind 'appel'; did you mean 'apple'?"),
        ({"note": 3}, "note is 3; a text is accepted"),
        ({"iced": 1}, "iced is 1; True or False is accepted"),
        ({"bakes": (20, 0)}, "bakes is 0; a whole number of 1 or more is accepted"),
        ({"weight": 0.0}, "weight is 0.0; a number above 0 is accepted"),
        ({"price": None}, "price is None; a whole number is accepted"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_accepted(wrong, sentence):
    with pytest.raises(ValueError) as error:
        Cake(**wrong)
    assert str(error.value) == sentence


def test_bounds_are_accepted_themselves_and_so_are_exceptions():
    for right in ({"layers": 1}, {"layers": 10}, {"salt": 0}, {"salt": -1}, {"weight": None}, {"bakes": ()}, {"sugar": 1e-9}):
        Cake(**right)


def test_flags_that_are_written_are_read_back():
    cake = Cake(7, 0.25, -1.0, "apple", '--it\'s "mine"', True, (1, 2, 3), 1e6, 9)
    argv = write_flags(cake)
    assert argv[:4] == ["--layers", "7", "--sugar", "0.25"] and "1000000" in argv and "--iced" in argv
    assert Cake(**parsed(argv)) == cake
    assert write_flags(Cake()) == ["--kind", "plum"] and parsed([]) == {}
    assert write_flags(cake, ["layers", "salt"]) == ["--layers", "7"]


def test_a_default_may_depend_on_another_field():
    assert default_of(Cake, "price", {"kind": "apple"}) == 8 and default_of(Cake, "price") == 10
    assert changed(Cake(kind="apple", price=8)) == {"kind": "apple"} and "price" in changed(Cake(kind="apple"))
    assert settings_to_flags(Cake, {"kind": "apple", "flavour": "unknown fields are left out"}) == ["--kind", "apple"]


def test_help_states_unit_bounds_choices_and_default(capsys):
    assert help_of(Cake, "layers") == "how many (layers, 1 to 10, default 3)"
    assert help_of(Cake, "kind") == "which fruit: plum, apple (default plum)"
    assert help_of(Cake, "note") == "to be written on it" and help_of(Cake, "layers", 5).endswith("default 5)")
    with pytest.raises(SystemExit):
        parsed(["--help"])
    assert "share of 100 % sugar (above 0 and below 1, default 0.5)" in " ".join(capsys.readouterr().out.split())


def test_a_parser_may_have_other_defaults():
    assert parsed([], ["layers"], layers=5) == {"layers": 5} and parsed(["--layers", "6"], ["layers"], layers=5) == {"layers": 6}


def test_typed_flags_are_read_or_refused_in_a_sentence():
    assert parse_flags(Cake, "--layers 4 --bakes '1, 2'", ("layers", "bakes")) == {"layers": 4, "bakes": (1, 2)}
    for text, sentence in (
        ("--sugar 1", "unrecognized arguments: --sugar 1; --layers, --kind are accepted"),
        ("--kind pear", "unknown kind 'pear'"),
        ("--layers", "expected one argument"),
        ("--layers 'x", "quotation"),
    ):
        with pytest.raises(ValueError, match=sentence):
            parse_flags(Cake, text, ("layers", "kind"))


def test_a_page_holds_whole_numbers_as_floats():
    assert whole(3.0, "n", 1, 5) == 3 and isinstance(whole(3.0, "n"), int)
    for value, sentence in (
        (None, "n is empty; a whole number from 1 to 5 is accepted"),
        (1.5, "n is 1.5"), (float("inf"), "n is inf"), (float("nan"), "n is nan"), (6, "n is 6"), ("2", "n is '2'"), (True, "n is True"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            whole(value, "n", 1, 5)


@pytest.mark.parametrize("cls", [Request, TrainConfig])
def test_every_field_of_the_programs_settings_says_what_it_is(cls):
    assert set(settings_of(cls)) == {f.name for f in dataclasses.fields(cls)} and all(s.help for s in settings_of(cls).values())


def test_flags_load_no_torch():
    subprocess.run([sys.executable, "-c", "import sys, ddpm_app.flags; assert 'torch' not in sys.modules"], check=True)

"""Colours and fonts: all of them stand in assets/tokens.css; text is readable on its grounds; the fonts are complete."""

import re

import pytest

from ddpm_app.ui import theme
from ddpm_app.ui.components.base import SHARED_SCRIPT

UI = theme.ASSETS.parent
COLOUR = re.compile(r"(?<!&)#(?:[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})(?![\w-])|\b(?:rgba?|hsla?|oklch|lab)\(")


def tokens(theme_name):
    """{name: #rrggbb} of one theme."""
    text = (theme.ASSETS / "tokens.css").read_text()
    start = ":root, .light {" if theme_name == "light" else "\n.dark {"
    block = text[text.index(start) :].split("}")[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9A-F]{6});", block))


def luminance(colour):
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_no_file_but_the_tokens_names_a_colour():
    assert SHARED_SCRIPT.parent.parent == UI
    files = [f for f in UI.rglob("*") if f.suffix in (".css", ".js", ".html", ".py") and f.name != "tokens.css"]
    found = {f"{f.relative_to(UI)}: {hit}" for f in files for hit in COLOUR.findall(f.read_text())}
    assert len(files) > 60 and not found


@pytest.mark.parametrize("theme_name", ["light", "dark"])
def test_text_is_readable_on_every_ground(theme_name):
    t = tokens(theme_name)
    for text in ("ink", "ink2", "noise", "signal", "klass", "bad"):
        for ground in ("paper", "card", "sunk"):
            assert contrast(t[text], t[ground]) >= 4.5, (text, ground)
    for text, ground in (("paper", "ink"), ("klass", "klass-s"), ("noise", "noise-s"), ("signal", "signal-s"), ("bad", "bad-s")):
        assert contrast(t[text], t[ground]) >= 4.5, (text, ground)


def test_both_themes_define_the_same_colours():
    assert tokens("light").keys() >= tokens("dark").keys() and len(tokens("dark")) >= 20


def test_used_variables_are_defined():
    defined = set(re.findall(r"(--[\w-]+):", (theme.ASSETS / "tokens.css").read_text()))
    scripts = "".join(f.read_text() for f in UI.rglob("*") if f.suffix in (".js", ".py", ".html"))
    scripted = set(re.findall(r"['\"](--[\w-]+)", scripts))  # set by a script, or by style='...' in HTML
    for f in UI.rglob("*.css"):
        text = f.read_text()
        own = set(re.findall(r"(--[\w-]+):", text))
        used = set(re.findall(r"var\((--[\w-]+)(?!\s*,)[,)]", re.sub(r"var\(--[\w-]+,[^)]*\)", "", text)))
        assert not used - own - defined - scripted, f.name


def test_the_fonts_hold_the_letters_and_signs_of_the_page():
    ttlib = pytest.importorskip("fontTools.ttLib")
    pytest.importorskip("brotli")
    for family, _, _, name in theme.FACES:
        letters = ttlib.TTFont(theme.ASSETS / "fonts" / f"{name}.woff2").getBestCmap()
        wanted = "ασε" if name.endswith("greek") else "Aa1×·−–“”’éü…"
        assert all(ord(letter) in letters for letter in wanted), (family, name)
        assert (theme.ASSETS / "fonts" / f"{name}.woff2").stat().st_size <= 22_000
    assert "SIL OPEN FONT LICENSE" in (theme.ASSETS / "fonts" / "OFL.txt").read_text()

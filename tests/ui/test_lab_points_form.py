"""The Lab tab's form: its betas field."""

import pytest

from ddpm_app.ui.views.lab.points import parse_betas


def test_betas_are_two_numbers_and_only_for_schedules_with_betas():
    assert parse_betas("") == parse_betas(None) == {} and parse_betas("1e-4, 0.02") == {"beta_start": 1e-4, "beta_end": 0.02}
    for text in ("0.1", "a, b", "1,2,3"):
        with pytest.raises(ValueError, match="two numbers between 0 and 1"):
            parse_betas(text)
    assert parse_betas("", "cosine") == {} and parse_betas("1e-4, 0.02", "quadratic")["beta_end"] == 0.02
    with pytest.raises(ValueError, match="the cosine schedule has no betas to set"):
        parse_betas("1e-4, 0.02", "cosine")

"""What a visitor hears of a run that was stopped, replaced, or failed after it: handlers.Newest."""

from types import SimpleNamespace

import gradio as gr
import pytest

from ddpm_app.ui.handlers import Newest, guarded

ANN, BOB = SimpleNamespace(session_hash="ann"), SimpleNamespace(session_hash="bob")


def stopped():
    return {"bar": "Stopped.", "start": "on"}


def three(values):
    try:
        for k in range(3):
            yield {"bar": k}
        if values.get("fails"):
            raise ValueError("too late")
    finally:
        values["closed"] = True


@pytest.fixture
def newest():
    return Newest()


def test_an_undisturbed_run_says_what_it_says(newest):
    values = {}
    assert list(newest.follow(three, stopped)(values, ANN)) == [{"bar": 0}, {"bar": 1}, {"bar": 2}]
    assert values["closed"]


def test_after_a_stop_its_last_message_is_the_stop_itself(newest):
    values = {}
    run = newest.follow(three, stopped)(values, ANN)
    assert next(run) == {"bar": 0}
    newest.end(ANN)
    assert list(run) == [stopped()]
    assert values["closed"]


def test_a_run_that_another_replaced_changes_nothing(newest):
    run = newest.follow(three, stopped)
    first, second = run({}, ANN), run({}, ANN)
    next(first), next(second)
    assert list(first) == [{"bar": gr.skip(), "start": gr.skip()}]
    assert list(second) == [{"bar": 1}, {"bar": 2}]


def test_one_visitor_s_stop_is_not_another_s(newest):
    run = newest.follow(three, stopped)
    ann, bob = run({}, ANN), run({}, BOB)
    next(ann), next(bob)
    newest.end(BOB)
    assert list(ann) == [{"bar": 1}, {"bar": 2}] and list(bob) == [stopped()]


def test_only_a_failure_that_still_concerns_somebody_is_told(newest):
    run = guarded(newest.follow(three, stopped), lambda: {"bar": "failed"})
    wanted = run({"fails": True}, ANN)
    heard = [next(wanted) for _ in range(4)]
    assert heard[-1] == {"bar": "failed"}
    with pytest.raises(gr.Error, match="too late"):
        next(wanted)

    late = run({"fails": True}, ANN)
    for _ in range(3):
        next(late)  # it fails at its next step
    newest.end(ANN)
    assert list(late) == [stopped()]


def test_old_visitors_are_forgotten():
    newest = Newest(most=2)
    runs = [newest.follow(three, stopped)({}, SimpleNamespace(session_hash=str(k))) for k in range(3)]
    for run in runs:
        next(run)
    assert [next(run) for run in runs] == [stopped(), {"bar": 1}, {"bar": 1}]

"""events.NewestRuns: the messages of a run that was stopped or replaced, or that failed after that."""

from types import SimpleNamespace

import gradio as gr
import pytest

from ddpm_app.ui.events import AT_ONCE, NewestRuns, active_runs, guarded

ANN, BOB = SimpleNamespace(session_hash="ann"), SimpleNamespace(session_hash="bob")
NOTHING = {"bar": gr.skip(), "start": gr.skip()}


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
    return NewestRuns()


def start(newest, visitor=ANN, **values):
    """A click and its run, before the first message."""
    values["token"] = newest.begin(visitor)
    return newest.follow(three, stopped, "token")(values, visitor), values


def test_a_run_sends_all_messages_of_its_handler(newest):
    run, values = start(newest)
    assert list(run) == [{"bar": 0}, {"bar": 1}, {"bar": 2}]
    assert values["closed"] and not newest.has_run(ANN)


def test_after_a_stop_the_last_message_is_that_of_the_stop(newest):
    run, values = start(newest)
    assert next(run) == {"bar": 0}
    assert newest.end(ANN, values["token"]) and not newest.end(ANN, values["token"])
    assert list(run) == [stopped()]
    assert values["closed"]


def test_a_run_stopped_while_it_waited_changes_nothing_and_does_nothing(newest):
    run, values = start(newest)
    newest.end(ANN, values["token"])
    assert list(run) == [NOTHING]
    assert "closed" not in values  # its handler never ran


def test_a_run_that_another_replaced_changes_nothing(newest):
    first, _ = start(newest)
    next(first)
    second, _ = start(newest)
    assert next(second) == {"bar": 0}
    assert list(first) == [NOTHING]
    assert list(second) == [{"bar": 1}, {"bar": 2}]


def test_a_late_stop_does_not_end_a_newer_run(newest):
    _, old = start(newest)
    run, _ = start(newest)
    next(run)
    assert not newest.end(ANN, old["token"])  # a late second click on Stop
    assert list(run) == [{"bar": 1}, {"bar": 2}]


def test_a_stop_ends_no_run_of_another_visitor(newest):
    ann, _ = start(newest)
    bob, values = start(newest, BOB)
    next(ann), next(bob)
    newest.end(BOB, values["token"])
    assert list(ann) == [{"bar": 1}, {"bar": 2}] and list(bob) == [stopped()]


def test_only_the_newest_run_shows_its_error(newest):
    def begun():
        values = {"fails": True, "token": newest.begin(ANN)}
        run = guarded(newest.follow(three, stopped, "token"), lambda: {"bar": "failed"})(values, ANN)
        assert [next(run) for _ in range(3)] == [{"bar": 0}, {"bar": 1}, {"bar": 2}]
        return run

    wanted = begun()
    assert next(wanted) == {"bar": "failed"}
    with pytest.raises(gr.Error, match="too late"):
        next(wanted)
    assert not newest.has_run(ANN)

    late = begun()  # it fails at its next step
    newest.end(ANN)
    assert list(late) == [stopped()]


def test_old_visitors_are_forgotten():
    newest = NewestRuns(most=2)
    runs = [start(newest, SimpleNamespace(session_hash=str(k)))[0] for k in range(3)]
    assert [next(run) for run in runs] == [NOTHING, {"bar": 0}, {"bar": 0}]


def test_the_name_of_a_run_that_has_to_wait_ends_with_a_plus(newest):
    runs = [start(newest, SimpleNamespace(session_hash=str(k)))[0] for k in range(AT_ONCE)]
    for run in runs:
        next(run)
    assert newest.begin(ANN).endswith("+")
    runs[0].close()  # a visitor has left
    assert not newest.begin(ANN).endswith("+")
    for run in runs:
        run.close()
    assert not active_runs

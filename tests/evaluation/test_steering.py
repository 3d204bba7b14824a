"""The comparison of guidance and re-ranking: its rows, and the script that prints them."""

import torch

from ddpm_app.cli import measure_steering as command
from ddpm_app.evaluation.steering import SteeringPlan, measure_steering, steering_requests


def names(colour=True, **settings):
    return [name for name, _ in steering_requests(SteeringPlan("m", **settings), colour)]


def test_rows_follow_from_the_settings():
    assert names() == ["unconditional", "conditional", "classifier-free 1.5"]
    more = names(classifier_scales=(1.0, 2.5), on_top=(2.0,), candidates=4)[3:]
    assert more == [
        "unconditional + classifier 1", "unconditional + classifier 2.5", "conditional + classifier 2",
        "conditional, best of 4 by classifier (circular)", "conditional, best of 4 by clip",
    ]  # fmt: skip
    assert names(False, candidates=4)[3:] == ["conditional, best of 4 by classifier (circular)"]
    assert names(text="a horse", text_class="horse", candidates=2) == ["text scale 0", "text scale 30", "best of 2 by CLIP"]


def test_a_row_has_agreement_and_time(studio, monkeypatch):
    class Classifier:
        def classify(self, images):
            return torch.full((len(images), 10), 0.1)

    monkeypatch.setattr(studio.steering, "classifier", lambda config: Classifier())
    rows = list(measure_steering(studio, SteeringPlan("mnist-random", n=2, evaluations=2)))
    assert [row["row"] for row in rows] == ["unconditional", "conditional", "classifier-free 1.5"]
    assert all(row["n"] == 2 and row["agreement"] == 0.5 and row["ms an evaluation"] > 0 for row in rows)


def test_an_unknown_model_is_one_sentence_on_stderr(capsys):
    assert command.main(["there-is-no-such-model"], "") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("measure_steering: ") and err.count("\n") == 1

"""Trade-off curves on a small real model: every point is what evaluate() says at that setting."""

import dataclasses

import pytest

from ddpm_app.cli import main as cli
from ddpm_app.evaluation import tradeoff
from ddpm_app.evaluation.tradeoff import Point, Sweep, parse_sweep, sweep
from ddpm_app.images.sets import Progress
from ddpm_app.studio.studio import Request
from tests.evaluation.conftest import MODEL, done, plan

pytestmark = pytest.mark.usefixtures("cache", "no_real_data")


def test_points_are_what_evaluate_measures(studio, classifier_folder, model):
    events = list(sweep(studio, plan(classifier_folder, n=70), Sweep("guidance", (1.0, 4.0))))
    points = [e for e in events if isinstance(e, Point)]
    assert [p.value for p in points] == [1.0, 4.0] and points[0].name == "FD-classifier"
    assert any(isinstance(e, Progress) and "point 2 of 2" in e.what for e in events)
    for p in points:
        one = plan(classifier_folder, n=70, metrics=("fid", "classifier"))
        rows, _, _ = done(studio, dataclasses.replace(one, request=dataclasses.replace(one.request, guidance=p.value)))
        assert (p.distance, p.agreement, p.confidence) == tuple(rows[k].value for k in ("FD-classifier", "agreement", "confidence"))
        assert p.protocol["guidance"] == p.value and p.request.guidance == p.value
        pictures, _ = studio.images(Request(MODEL, "all", 70, p.value, "ddim", 2))
        assert (p.images.part(0, 70).numpy().transpose(0, 2, 3, 1) == pictures).all()
    assert points[0].distance != points[1].distance


def test_a_point_without_a_distance_says_why(studio, classifier_folder, model):
    (p,) = [e for e in sweep(studio, plan(classifier_folder, n=8), Sweep("sampler", ("unipc",))) if isinstance(e, Point)]
    assert p.distance is None and "more than 12 samples" in p.reason and p.agreement is not None and p.images.n == 8


def test_a_value_out_of_range_is_said_before_anything_is_sampled(studio, classifier_folder, model, monkeypatch):
    monkeypatch.setattr(tradeoff, "evaluate", lambda *_: pytest.fail("began"))
    with pytest.raises(ValueError, match="guidance is 40.0"):
        list(sweep(studio, plan(classifier_folder), Sweep("guidance", (1.0, 40.0))))


def test_parse_sweep():
    assert parse_sweep("evaluations=5,10").values == (5, 10) and parse_sweep("sampler").values[0] == "dpmpp-2m"
    assert parse_sweep("guidance = 1, 2.5").values == (1.0, 2.5) and "ddpm" not in Sweep("sampler").values
    for text, says in (
        ("guidnce", "did you mean 'guidance'"),
        ("evaluations=1.5", "whole numbers"),
        ("guidance=" + "1," * 21, "at most 20"),
    ):
        with pytest.raises(ValueError, match=says):
            parse_sweep(text)


@pytest.mark.parametrize(
    "flags, precision", [(["--metrics", "bpd"], "fp32"), (["--sweep", "guidance"], "auto"), (["--metrics", "fid"], "auto")]
)
def test_only_bits_alone_are_in_float32(monkeypatch, flags, precision):
    class Seen(Exception):
        pass

    def studio(device, precision, backend):
        raise Seen(precision)

    monkeypatch.setattr("ddpm_app.cli.evaluate.Studio", studio)
    with pytest.raises(Seen, match=precision):
        cli.main(["evaluate", "--checkpoint", MODEL, *flags])

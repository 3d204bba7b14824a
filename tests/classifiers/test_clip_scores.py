"""Prompts, and scores of unit vectors with known angles."""

from __future__ import annotations

import math

import pytest
import torch

from ddpm_app.classifiers.clip_scores import MAX_PROMPTS, check_prompts, class_prompts, prompts_of_classes, rank, score
from ddpm_app.images.datasets import CIFAR10_CLASSES


def at(*degrees):
    """Unit vectors in the plane: their similarities are cosines of differences."""
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


def test_scores_of_known_angles():
    images, prompts = at(0, 10, 80, 95), at(0, 90)
    s = score(images, prompts, torch.tensor([0, 1, 1, -1]))
    assert s.best.tolist() == [0, 0, 1, 1]
    wanted = [1.0, math.cos(math.radians(10)), math.cos(math.radians(10)), math.cos(math.radians(5))]
    assert s.top1.tolist() == pytest.approx(wanted) and s.average_top1 == pytest.approx(sum(wanted) / 4)
    assert s.judged == 3 and s.matching == pytest.approx(2 / 3)
    assert s.intended == pytest.approx((1 + math.cos(math.radians(80)) + math.cos(math.radians(10))) / 3)
    assert [row["n"] for row in s.by_class] == [1, 2] and [row["matching"] for row in s.by_class] == [1.0, 0.5]


def test_without_classes_there_is_no_matching():
    s = score(at(0, 10), at(0, 90))
    assert s.matching is None and s.intended is None and s.similarity.shape == (2, 2)
    assert score(at(0, 10), at(0, 90), torch.tensor([-1, -1])).matching is None
    assert score(at(0), at(0, 90), torch.tensor([7])).matching is None  # a class no prompt stands for


def test_several_prompts_may_name_a_class():
    prompts = ["a photo of a cat", "a drawing of a cat", "a photo of a dog"]
    names_class = prompts_of_classes(("cat", "dog", "bird"), prompts)
    assert names_class.tolist() == [[True, True, False], [False, False, True], [False, False, False]]
    s = score(at(50, 0, 0), at(0, 45, 90), torch.tensor([0, 0, 2]), names_class)
    assert s.judged == 2 and s.matching == 1.0
    assert s.intended == pytest.approx((math.cos(math.radians(5)) + 1) / 2)


def test_a_class_is_named_by_whole_words():
    names_class = prompts_of_classes(
        ("cat", "car", "7", "c++"), ["a CAT.", "a cattle boat", "the number: 7", "the number: 17", "a (c++) page"]
    )
    assert names_class.tolist() == [
        [True, False, False, False, False],
        [False] * 5,
        [False, False, True, False, False],
        [False, False, False, False, True],
    ]


def test_rank_sorts_by_similarity():
    order, values = rank(at(40, 5, 90), at(0))
    assert order.tolist() == [1, 0, 2] and values.tolist() == pytest.approx([math.cos(math.radians(d)) for d in (5, 40, 90)], abs=1e-6)


def test_prompts_of_classes_in_clips_words():
    assert class_prompts(CIFAR10_CLASSES)[3] == "a photo of a cat" and class_prompts("7") == ["a photo of the number: 7"]


def test_prompts_as_people_type_them():
    assert check_prompts("  a cat \n\n a   cat\r\na dog\n") == ["a cat", "a dog"]
    for nothing in ("", " \n\t\n", []):
        with pytest.raises(ValueError, match="there is no prompt"):
            check_prompts(nothing)
    many = [f"prompt {k}" for k in range(MAX_PROMPTS + 1)]
    with pytest.raises(ValueError, match="1,001 prompts were given; at most 1,000"):
        check_prompts(many)
    assert len(check_prompts(many[:-1])) == MAX_PROMPTS
    with pytest.raises(ValueError, match="at most 64 are accepted"):
        check_prompts(many, 64)
    with pytest.raises(ValueError, match="letters"):
        check_prompts("x" * 301)


@pytest.mark.parametrize("images, prompts", [(at(0), torch.ones(1, 3)), (torch.ones(0, 2), at(0)), (at(0), torch.ones(0, 2))])
def test_features_that_do_not_fit(images, prompts):
    with pytest.raises(ValueError, match="features are"):
        score(images, prompts)

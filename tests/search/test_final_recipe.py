"""The recipe of a final training: what few samples change, and what the options of the user change."""

from __future__ import annotations

from typing import Any

import numpy as np

from models import plain
from netadapt_onnx.data.dataset import Dataset, Split
from netadapt_onnx.graph.fold_shapes import fold
from netadapt_onnx.search.final_recipe import AGAIN, FEW_SAMPLES, FinalRecipe
from netadapt_onnx.search.options import AdaptOptions
from netadapt_onnx.training.length import FEWEST_STEPS
from netadapt_onnx.training.options import TrainingOptions
from netadapt_onnx.training.settings import Settings
from netadapt_onnx.training.views import Views


def recipe(samples: int, *, again: bool = False, labelled: bool = True, **options: Any) -> FinalRecipe:
    labels = np.zeros(samples, np.int64) if labelled else None
    split = Split({"image": np.zeros((samples, 3, 16, 16), np.float32)}, labels)
    original, model = fold(plain((8, 12, 16))), fold(plain((4, 6, 8)))
    return FinalRecipe(AdaptOptions(budget=("macs=0.5x",), **options), Dataset(split, split), model, original, again)


def training_options(samples: int, flips: bool = True, **options: Any) -> TrainingOptions:
    return recipe(samples, **options).training_options(Settings(), flips)


def test_few_samples_keep_statistics_in_small_batches_on_many_views_at_a_lower_rate() -> None:
    few, many = training_options(300), training_options(FEW_SAMPLES)
    assert (few.fixes_statistics, many.fixes_statistics) == (True, False)
    assert (few.batch_size, many.batch_size) == (37, None)
    assert few.views.crops and few.views.count > 8
    assert few.lr_share < many.lr_share < 1
    for options in (few, many):
        assert options.averages and options.matches_features and options.length_may_differ


def test_the_automatic_length_grows_with_the_samples_and_a_given_one_is_kept() -> None:
    assert recipe(300).is_automatic
    assert training_options(300).steps == FEWEST_STEPS
    assert training_options(10_000).steps > FEWEST_STEPS
    seven = training_options(300, final_epochs=7)
    assert (seven.epochs, seven.steps) == (7, None)
    assert not recipe(300, final_epochs=7).is_automatic


def test_a_trained_model_that_was_cut_again_is_trained_for_a_share_of_it() -> None:
    assert training_options(300, again=True).steps == round(AGAIN * FEWEST_STEPS)
    assert training_options(300, again=True, final_epochs=10).epochs == 2
    assert training_options(300, again=True, final_epochs=1).epochs == 1


def test_what_the_user_says_of_augmentation_holds() -> None:
    assert training_options(300, augment=False).views == Views()
    assert training_options(30_000, final_epochs=2, augment=True).views.crops
    assert training_options(30_000, final_epochs=2).views == Views(2, flips=True, pairs_agree=True)
    assert training_options(30_000, False, final_epochs=2).views == Views()


def test_answers_are_averaged_only_where_labels_say_that_mirror_images_are_known() -> None:
    assert training_options(300).views.pairs_agree
    assert not training_options(300, labelled=False).views.pairs_agree

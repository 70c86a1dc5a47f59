"""Recipes: strict, every mistake at once, and the resolved one repeats the run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecnn import recipe
from edgecnn.data import shipped
from edgecnn.errors import InputError, UsageError
from edgecnn.pipeline.recipe_run import find_recipe, load_recipe, run_recipe

RECIPES = sorted(shipped("recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_shipped_recipe_loads_and_names_its_command(path):
    assert load_recipe(path).title
    assert path.read_text().splitlines()[0].split(" --data ")[0] == f"# edgecnn run recipes/{path.name}"


def test_a_recipe_whose_images_lie_elsewhere_takes_them_from_an_option(tmp_path):
    with pytest.raises(UsageError, match="needs your images"):
        run_recipe("cifar10", work=tmp_path / "work")
    with pytest.raises(InputError, match="no such") as caught:
        run_recipe("cifar10", work=tmp_path / "work", data=f"cifar10:{tmp_path / 'nowhere'}")
    assert "nowhere" in str(caught.value)
    assert recipe.load(tmp_path / "work" / "recipe.toml").data.profile == f"cifar10:{tmp_path / 'nowhere'}"


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_the_resolved_recipe_is_the_same_recipe(path, tmp_path):
    first = recipe.load(path)
    (tmp_path / "again.toml").write_bytes(first.to_toml())
    assert recipe.load(tmp_path / "again.toml") == first


def test_all_mistakes_are_told_at_once(tmp_path):
    text = (shipped("recipes") / "digits.toml").read_text()
    text = (
        text.replace("epochs", "epoch", 1)
        .replace('"tflite-int8"', '"tflite-int9"')
        .replace("mobilenet_v2", "mobilenet_v5")
    )
    text = text.replace('profile = "digits"', 'profile = "digit"')
    text = text.replace("threads = 1", 'threads = "one"')
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_recipe(tmp_path / "bad.toml")
    message = str(caught.value)
    assert "5 mistakes in the recipe" in message
    assert "train.epoch: no such key; did you mean `epochs`?" in message
    assert "bench.threads: Input should be a valid integer" in message
    assert "data.profile: unknown name `digit`; did you mean `digits`?" in message
    assert "export.targets: unknown name `tflite-int9`; did you mean `tflite-int8`?" in message
    assert "nets.2.net: unknown name `mobilenet_v5`; did you mean `mobilenet_v" in message


def test_missing_file_and_no_toml(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        recipe.load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = [")
    with pytest.raises(InputError, match="is not TOML"):
        recipe.load(tmp_path / "bad.toml")


def test_shipped_recipes_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_recipe("digits") == find_recipe("recipes/digits.toml") == shipped("recipes") / "digits.toml"
    assert find_recipe("nothing.toml") == Path("nothing.toml")


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda x: st.lists(x, max_size=3),
            max_leaves=4,
        ),
        max_size=4,
    )
)
def test_any_content_is_either_a_recipe_or_a_usage_error(content):
    from edgecnn.data.settings import parse_settings

    with pytest.raises(UsageError, match="mistake"):
        parse_settings(recipe.Recipe, content, where="x")

"""Every example in a docstring is true, and every public function has a docstring."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import transkd_lite

MODULES = [module.name for module in pkgutil.walk_packages(transkd_lite.__path__, "transkd_lite.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true_and_nothing_public_is_unexplained(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
    public = [getattr(module, each) for each in getattr(module, "__all__", ())]
    assert not [each for each in public if inspect.isroutine(each) and not inspect.getdoc(each)]

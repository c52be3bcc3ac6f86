"""Fixture of tests that train the small network. Keras is imported only for these."""

import pytest


@pytest.fixture
def few_parts(make_part, monkeypatch):
    """Twelve images to train on and six to validate on. The small network is a registered backbone."""
    from small import THREE, planted, register

    register(monkeypatch)
    return make_part("train", *planted(12), classes=THREE), make_part("validation", *planted(6, seed=1), classes=THREE)

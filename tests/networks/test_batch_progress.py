"""Progress of a network over batches: shares for the screen of a run."""

import logging

import keras
import numpy as np
import pytest

from retinaflow.networks.batch_progress import BatchProgress


@pytest.fixture
def network() -> keras.Model:
    pixels = keras.Input((2, 2, 3))
    return keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels))


def test_each_batch_reports_its_share(network, caplog):
    pixels = np.zeros((7, 2, 2, 3), np.float32)
    with caplog.at_level(logging.DEBUG, "retinaflow.progress"):
        plain = network.predict(pixels, batch_size=2, verbose=0)
        observed = network.predict(
            pixels, batch_size=2, verbose=0, callbacks=[BatchProgress("view 2 of 2", first=0.5, last=1)]
        )
    np.testing.assert_array_equal(plain, observed)
    states = [record.progress for record in caplog.records]
    assert [state["share"] for state in states] == [0.625, 0.75, 0.875, 1]
    assert {state["step"] for state in states} == {"view 2 of 2"}

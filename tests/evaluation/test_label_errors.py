import numpy as np

from retinaflow.evaluation.label_errors import find_suspect_labels


def simulated(wrong, seed=8, images=1000):
    """Labels, of which ``wrong`` are replaced, and probabilities of a fair model. Return the replaced places, too."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(5, images, p=[0.6, 0.1, 0.15, 0.1, 0.05])
    outputs = -1.5 * (np.arange(5) - (truth + rng.normal(0, 0.5, images))[:, None]) ** 2
    probabilities = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    places = rng.permutation(images)[:wrong]
    labels = truth.copy()
    labels[places] = (truth[places] + rng.integers(2, 4, wrong)) % 5
    return labels, probabilities, places


def test_planted_wrong_labels_are_found():
    labels, probabilities, planted = simulated(wrong=30)
    found = find_suspect_labels(labels, probabilities)
    assert len(set(found.places[:30].tolist()) & set(planted.tolist())) >= 25
    assert len(set(found.places.tolist()) & set(planted.tolist())) >= 29
    assert (np.diff(found.margin) >= 0).all()


def test_right_labels_are_rarely_suspected():
    labels, probabilities, _ = simulated(wrong=0)
    strong = find_suspect_labels(labels, probabilities).margin < -0.9
    assert strong.sum() <= 5


def test_suspicion_by_hand():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.1, 0.9], [0.3, 0.7], [0.2, 0.8]])
    # Mean probability of the label: 0.5 for grade 0, 0.75 for grade 1.
    found = find_suspect_labels(labels, probabilities)
    assert (found.places.tolist(), found.suggested.tolist()) == ([1], [1])
    assert found.margin.tolist() == [-0.8]


def test_grade_without_images_is_never_suggested():
    found = find_suspect_labels(np.array([0, 0]), np.array([[0.2, 0.8], [0.3, 0.7]]))
    assert len(found.places) == 0

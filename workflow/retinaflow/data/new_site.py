"""Number of patients of a test set that refit a model for a new site."""


def too_few_patients(found: int, count: int) -> str:
    """Return why a test set of ``found`` patients cannot give ``count`` of them away; ``""`` if it can.

    At least half of the patients stay to be scored.
    """
    if found >= 2 * count:
        return ""
    return (
        f"has {found} patients; expected at least {2 * count}, twice those that refit. Use fewer in "
        "evidence.recalibration, or leave it out"
    )

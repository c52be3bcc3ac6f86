"""Policies of data sets for the problems in them. Imports nothing heavy."""

from typing import NamedTuple

from retinaflow.settings.data import DataSettings, ProblemSettings, named_sets


class DataSetPolicy(NamedTuple):
    """Policy for the problems of a data set: for each kind, and the largest share that may be excluded."""

    on_problem: ProblemSettings
    exclude_limit: float


def own_policies(data: DataSettings) -> dict[str, DataSetPolicy]:
    """Return the policies of data sets that have one of their own, by their names, such as ``train-aptos``."""
    policies = {}
    for name, source in named_sets(data).items():
        if source.on_problem is None and source.exclude_limit is None:
            continue
        own = source.on_problem or ProblemSettings()
        named = {kind: getattr(own, kind) for kind in own.model_fields_set}
        limit = data.exclude_limit if source.exclude_limit is None else source.exclude_limit
        policies[name] = DataSetPolicy(data.on_problem.model_copy(update=named), limit)
    return policies

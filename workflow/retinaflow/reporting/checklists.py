"""Checklists of reporting guidelines: the answers that a run knows, and the names of those who have to give the others.

- STARD 2015: Bossuyt, P. M. et al. (2015), BMJ 351, h5527. STARD-AI: Sounderajah, V. et al. (2025), Nature Medicine.
- TRIPOD+AI: Collins, G. S. et al. (2024), BMJ 385, e078378.
- CLAIM: Mongan, J., Moy, L. and Kahn, C. E. (2020), Radiology: Artificial Intelligence 2(2), e200029.

Topics are in our words. The published checklists have the binding ones.
"""

from collections.abc import Mapping
from typing import NamedTuple

AUTHORS, PROVIDER, CLINICIAN, SPONSOR = "authors", "data provider", "clinical lead", "sponsor"


class ChecklistItem(NamedTuple):
    """Item of a guideline.

    Attributes:
        guideline: Name of the guideline.
        item: Its number.
        topic: Content of the item.
        answer: Answer of the run; empty if it knows none.
        who: Person who has to answer or to complete the answer; empty if the answer is complete.
    """

    guideline: str
    item: str
    topic: str
    answer: str
    who: str


# Number, topic, name of the fact that answers it, and who has to answer or to complete the answer.
_Rows = tuple[tuple[str, str, str, str], ...]

STARD_AI: _Rows = (
    ("1", "title names a study of diagnostic accuracy, and AI", "", AUTHORS),
    ("2", "structured abstract", "", AUTHORS),
    ("3", "background, intended use and role of the index test", "", CLINICIAN),
    ("4", "objectives and hypotheses", "targets", CLINICIAN),
    ("5", "data collected before or after the index test was planned", "", AUTHORS),
    ("6", "eligibility", "exclusions", CLINICIAN),
    ("7", "how eligible participants were identified", "", PROVIDER),
    ("8", "where and when they were identified", "", PROVIDER),
    ("9", "consecutive, random or convenience series", "", PROVIDER),
    ("10a", "index test, to be repeated", "model", ""),
    ("10b", "reference standard, to be repeated", "", PROVIDER),
    ("11", "reason for the reference standard", "", CLINICIAN),
    ("12a", "cutoffs of the index test, fixed before or explored", "operating_points", ""),
    ("12b", "cutoffs of the reference standard", "endpoints", ""),
    ("13a", "index test blind to the reference standard", "blinding", ""),
    ("13b", "reference standard blind to the index test", "", PROVIDER),
    ("14", "methods for accuracy", "methods", ""),
    ("15", "indeterminate results of index test and reference standard", "ungradable", PROVIDER),
    ("16", "missing data", "exclusions", AUTHORS),
    ("17", "variability of accuracy", "subgroups", ""),
    ("18", "intended sample size", "size", AUTHORS),
    ("19", "flow of participants", "flow", ""),
    ("20", "demographic and clinical characteristics", "subgroups", PROVIDER),
    ("21a", "severity of the condition", "grades", ""),
    ("21b", "other diagnoses of those without the condition", "", PROVIDER),
    ("22", "time and treatment between index test and reference standard", "same_image", PROVIDER),
    ("23", "cross tabulation of the results", "table", ""),
    ("24", "accuracy with intervals", "table", ""),
    ("25", "adverse events", "", CLINICIAN),
    ("26", "limitations, bias and generalisability", "", AUTHORS),
    ("27", "implications for practice", "", CLINICIAN),
    ("28", "registration", "", AUTHORS),
    ("29", "protocol", "settings", AUTHORS),
    ("30", "funding and role of funders", "", SPONSOR),
    ("AI", "sources of data, annotation and their quality control", "exclusions", PROVIDER),
    ("AI", "split of the data, and leaks between its parts", "split", ""),
    ("AI", "preprocessing of the images", "preprocessing", ""),
    ("AI", "version of the model, software and hardware", "versions", ""),
    ("AI", "failures and errors of the index test", "ungradable", AUTHORS),
    ("AI", "bias and fairness", "subgroups", AUTHORS),
    ("AI", "availability of code, model and data", "code", AUTHORS),
    ("AI", "commercial interests", "", SPONSOR),
)
TRIPOD_AI: _Rows = (
    ("1", "title", "", AUTHORS),
    ("2", "abstract", "", AUTHORS),
    ("3", "context, target population, health inequalities", "", CLINICIAN),
    ("4", "objectives", "targets", CLINICIAN),
    ("5", "sources and dates of the data", "data", PROVIDER),
    ("6", "setting, eligibility, treatments", "exclusions", PROVIDER),
    ("7", "preparation of the data", "preprocessing", ""),
    ("8", "outcome and its assessment", "endpoints", PROVIDER),
    ("9", "predictors", "preprocessing", ""),
    ("10", "sample size", "size", AUTHORS),
    ("11", "missing data", "exclusions", ""),
    ("12", "analysis: partition, model building, performance measures", "split", ""),
    ("13", "class imbalance", "imbalance", ""),
    ("14", "fairness", "subgroups", AUTHORS),
    ("15", "output of the model", "operating_points", ""),
    ("16", "differences between training and evaluation data", "data", AUTHORS),
    ("17", "ethical approval", "", AUTHORS),
    ("18", "open science: funding, interests, protocol, registration, data, code", "code", AUTHORS),
    ("19", "involvement of patients and the public", "", CLINICIAN),
    ("20", "participants: flow and characteristics", "flow", PROVIDER),
    ("21", "numbers of participants and events in each analysis", "table", ""),
    ("22", "full model", "code", ""),
    ("23", "performance with intervals, and by subgroup", "table", ""),
    ("24", "updated models", "recalibration", ""),
    ("25", "interpretation", "", CLINICIAN),
    ("26", "limitations", "", AUTHORS),
    ("27", "use in practice: poor input, needed skills, next steps", "ungradable", CLINICIAN),
)
CLAIM: _Rows = (
    ("1-4", "title, abstract, background, objectives", "", AUTHORS),
    ("5", "prospective or retrospective", "", AUTHORS),
    ("6", "goal of the study", "targets", AUTHORS),
    ("7", "data sources", "data", PROVIDER),
    ("8", "eligibility", "exclusions", PROVIDER),
    ("9", "preprocessing", "preprocessing", ""),
    ("10", "selection of subsets", "exclusions", ""),
    ("11", "definitions of data elements", "endpoints", ""),
    ("12", "deidentification", "", PROVIDER),
    ("13", "missing data", "exclusions", ""),
    ("14-17", "ground truth: definition, reason, annotators, tools", "", PROVIDER),
    ("18", "variability of annotators", "agreement", PROVIDER),
    ("19", "sample size", "size", AUTHORS),
    ("20-21", "partitions, and the level at which they are disjoint", "split", ""),
    ("22-24", "model, software, initial weights", "model", ""),
    ("25", "training", "training", ""),
    ("26", "selection of the final model", "selection", ""),
    ("27", "ensembles", "model", ""),
    ("28-29", "metrics, significance and uncertainty", "methods", ""),
    ("30", "robustness", "subgroups", ""),
    ("31", "explainability", "explain", ""),
    ("32", "validation on external data", "data", AUTHORS),
    ("33", "flow of participants", "flow", ""),
    ("34", "characteristics in each partition", "grades", PROVIDER),
    ("35-36", "performance with intervals", "table", ""),
    ("37", "failure analysis", "mistakes", AUTHORS),
    ("38-39", "limitations, implications", "", AUTHORS),
    ("40-42", "registration, protocol, funding", "settings", SPONSOR),
)
GUIDELINES: Mapping[str, _Rows] = {"STARD-AI": STARD_AI, "TRIPOD+AI": TRIPOD_AI, "CLAIM": CLAIM}


def fill_checklists(facts: Mapping[str, str]) -> list[ChecklistItem]:
    """Return the items of all guidelines, answered by the facts of the run.

    Args:
        facts: Answers by name. An item whose fact is unknown is for the authors.
    """
    return [
        ChecklistItem(guideline, item, topic, facts.get(fact, ""), who if facts.get(fact) else who or AUTHORS)
        for guideline, rows in GUIDELINES.items()
        for item, topic, fact, who in rows
    ]

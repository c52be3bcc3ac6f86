"""Small downloads in the layouts of public data sets, with drawn images."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openpyxl
from PIL import Image

SIZE = 64
GRADES = 5


class Expected(NamedTuple):
    """Label of an image: the grade (empty if it has none), patient, eye, and the problem of an image without grade."""

    grade: str
    patient: str
    eye: str = ""
    problem: str = ""


Labels = dict[str, Expected]


def draw(path: Path) -> None:
    """Draw an image of its own bytes: a disc whose shade follows from the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(list(str(path).encode()))
    y, x = np.mgrid[:SIZE, :SIZE]
    inside = (x - SIZE / 2) ** 2 + (y - SIZE / 2) ** 2 < (SIZE / 2) ** 2
    pixels = inside[..., None] * generator.integers(40, 200, (SIZE, SIZE, 3))
    kinds = {".png": "PNG", ".tif": "TIFF"}
    Image.fromarray(pixels.astype(np.uint8)).save(path, kinds.get(path.suffix.lower(), "JPEG"))


def write_rows(path: Path, rows: Iterable[Sequence[object]], delimiter: str = ",") -> None:
    """Write a table as text."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.getvalue(), encoding="utf-8")


def write_sheet(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a table as a workbook of Excel."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(list(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)


def eyepacs(folder: Path, patients: int) -> dict[str, Labels]:
    parts = {}
    for part, first, table, extra in (
        ("train", 10, "trainLabels.csv", []),
        ("test", 1000, "retinopathy_solution.csv", ["Usage"]),
    ):
        labels = {
            f"{first + patient}_{eye}": Expected(str(patient % GRADES), str(first + patient), eye)
            for patient in range(patients)
            for eye in ("left", "right")
        }
        for image in labels:
            draw(folder / part / f"{image}.jpeg")
        rows = [[image, label.grade, *(["Public"] if extra else [])] for image, label in labels.items()]
        write_rows(folder / table, [["image", "level", *extra], *rows])
        parts[part] = labels
    return parts


def aptos(folder: Path, patients: int) -> dict[str, Labels]:
    labels = {}
    for number in range(2 * patients):
        name = f"{number * 7919 + 10**6:012x}"
        labels[name] = Expected(str(number % GRADES), name)
        draw(folder / "train_images" / f"{name}.png")
    draw(folder / "test_images" / "0005cfc8afb6.png")
    write_rows(folder / "train.csv", [["id_code", "diagnosis"], *([name, one.grade] for name, one in labels.items())])
    write_rows(folder / "test.csv", [["id_code"], ["0005cfc8afb6"]])
    return {"all": labels}


def messidor2(folder: Path, patients: int) -> dict[str, Labels]:
    labels, pairs, rows = {}, [], []
    for patient in range(patients):
        # Those of the first hospitals are PNG, the others JPEG whose extension the table has in lower case.
        names = [f"20051020_{43800 + 2 * patient + eye}_0100_PP.png" for eye in range(2)]
        if patient % 2:
            names = [f"IM{2 * patient + eye:06}.JPG" for eye in range(2)]
        pairs.append(names)
        for name, eye in zip(names, ("left", "right"), strict=True):
            ungradable = patient == 1 and eye == "left"
            grade = "" if ungradable else str(patient % GRADES)
            stem = name.rpartition(".")[0]
            problem = "ungradable" if ungradable else ""
            labels[stem] = Expected(grade, names[0].rpartition(".")[0], eye, problem)
            rows.append([name.replace("JPG", "jpg"), grade, "" if ungradable else 0, int(not ungradable)])
            draw(folder / "IMAGES" / name)
    header = ["image_id", "adjudicated_dr_grade", "adjudicated_dme", "adjudicated_gradable"]
    write_rows(folder / "messidor_data.csv", [header, *rows])
    write_rows(folder / "messidor-2.csv", [["left", "right"], *pairs], ";")
    return {"all": labels}


def idrid(folder: Path, patients: int) -> dict[str, Labels]:
    parts = {}
    for part, images, title in (("train", "a. Training Set", "Training"), ("test", "b. Testing Set", "Testing")):
        labels = {}
        for number in range(1, 2 * patients + 1):
            name = f"IDRiD_{number:03}"
            labels[name] = Expected(str(number % GRADES), name)
            draw(folder / "1. Original Images" / images / f"{name}.jpg")
        header = ["Image name", "Retinopathy grade", "Risk of macular edema ", *[""] * 9]
        rows = [[f"{name} ", one.grade, 0, *[""] * 9] for name, one in labels.items()]
        table = f"{images[0]}. IDRiD_Disease Grading_{title} Labels.csv"
        write_rows(folder / "2. Groundtruths" / table, [header, *rows])
        parts[part] = labels
    return parts


def ddr(folder: Path, patients: int) -> dict[str, Labels]:
    parts = {}
    for hospital, (part, place) in enumerate((("train", "train"), ("validation", "valid"), ("test", "test"))):
        labels = {}
        for number in range(2 * patients):
            name = f"{hospital:03}-{number:04}-000" if number % 2 else f"2017041310{hospital}{number:06}"
            grade = "5" if number % 7 == 6 else str(number % GRADES)
            is_graded = grade != "5"
            labels[name] = Expected(grade, name) if is_graded else Expected("", name, "", "ungradable")
            draw(folder / place / f"{name}.jpg")
            with open(folder / f"{place}.txt", "a", encoding="utf-8") as file:
                file.write(f"{name}.jpg {grade}\n")
        parts[part] = labels
    return parts


def deepdrid(folder: Path, patients: int) -> dict[str, Labels]:
    parts = {}
    header = ["patient_id", "image_id", "image_path", "Overall quality", "left_eye_DR_Level", "right_eye_DR_Level"]
    header += ["patient_DR_Level", "Clarity", "Field definition", "Artifact"]
    places = {"train": "regular-fundus-training", "validation": "regular-fundus-validation"}
    places["test"] = "Online-Challenge1&2-Evaluation"
    for first, (part, place) in enumerate(places.items()):
        labels, rows = {}, []
        for patient in range(100 * first + 1, 100 * first + 1 + patients):
            for eye in "lr":
                for view in (1, 2):
                    name, grade = f"{patient}_{eye}{view}", str(patient % GRADES)
                    labels[name] = Expected(grade, str(patient), {"l": "left", "r": "right"}[eye])
                    draw(folder / place / "Images" / str(patient) / f"{name}.jpg")
                    sides = [f"{grade}.0", ""] if eye == "l" else ["", f"{grade}.0"]
                    windows = f"\\{place}\\{patient}\\{name}.jpg"
                    rows.append([patient, name, windows, 1, *sides, grade, 10, 8, 0])
        if part == "test":
            sheet = [["image_id", "DR_Levels"], *([name, int(one.grade)] for name, one in labels.items())]
            write_sheet(folder / place / "Challenge1_labels.xlsx", sheet)
        else:
            write_rows(folder / place / f"{place}.csv", [header, *rows])
        parts[part] = labels
    return parts


def brset(folder: Path, patients: int) -> dict[str, Labels]:
    labels, rows = {}, []
    header = ["image_id", "patient_id", "camera", "patient_age", "comorbidities", "diabetes_time_y", "insuline"]
    header += ["patient_sex", "exam_eye", "diabetes", "optic_disc", "DR_SDRG", "DR_ICDR", "focus", "quality"]
    for patient in range(1, patients + 1):
        for eye, code in (("right", 1), ("left", 2)):
            name = f"img{2 * patient + code:05}"
            labels[name] = Expected(str(patient % GRADES), str(patient), eye)
            camera = ("Canon CR", "NIKON NF5050")[patient % 2]
            grade = patient % GRADES
            person = [camera, 48.0, "diabetes, hypertension", "12", "", 1 + patient % 2]
            rows.append([name, patient, *person, code, "yes", 1, grade, grade, 1, "Adequate"])
            draw(folder / "fundus_photos" / f"{name}.jpg")
    write_rows(folder / "labels_brset.csv", [header, *rows])
    return {"all": labels}


KEYWORDS = (
    "normal fundus",
    "mild nonproliferative retinopathy",
    "moderate non proliferative retinopathy",
    "laser spot，severe nonproliferative retinopathy",
    "proliferative diabetic retinopathy，hypertensive retinopathy",
)


def odir(folder: Path, patients: int) -> dict[str, Labels]:
    header = ["ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus"]
    header += ["Left-Diagnostic Keywords", "Right-Diagnostic Keywords", *"NDGCAHMO"]
    labels, rows = {}, [header]
    for patient in range(patients):
        left, right = KEYWORDS[patient % GRADES], KEYWORDS[(patient + 1) % GRADES]
        grades = {"left": str(patient % GRADES), "right": str((patient + 1) % GRADES)}
        found = {eye: Expected(grade, str(patient), eye) for eye, grade in grades.items()}
        if patient == 1:
            left, found["left"] = "cataract，suspected diabetic retinopathy", Expected("", "1", "left", "bad_grade")
        if patient == 2:
            right, found["right"] = "low image quality", Expected("", "2", "right", "ungradable")
        if patient == 5:
            left = "lens dust,normal fundus"
        for eye, label in found.items():
            labels[f"{patient}_{eye}"] = label
            draw(folder / "Training Images" / f"{patient}_{eye}.jpg")
        sex = ("Female", "Male")[patient % 2]
        rows.append([patient, 60, sex, f"{patient}_left.jpg", f"{patient}_right.jpg", left, right, *[0] * 8])
    write_sheet(folder / "data.xlsx", rows)
    return {"all": labels}


MAKERS: dict[str, Callable[[Path, int], dict[str, Labels]]] = {
    maker.__name__: maker for maker in (aptos, brset, ddr, deepdrid, eyepacs, idrid, messidor2, odir)
}
DOWNLOADS = {
    **dict.fromkeys(("aptos", "brset", "messidor2", "odir"), ("all",)),
    **dict.fromkeys(("eyepacs", "idrid"), ("train", "test")),
    **dict.fromkeys(("ddr", "deepdrid"), ("train", "validation", "test")),
}


def make_download(preset: str, folder: Path, patients: int = 10) -> dict[str, Labels]:
    """Write a download of the layout of ``preset``. Return the labels of each of its parts, by image name."""
    return MAKERS[preset](folder, patients)

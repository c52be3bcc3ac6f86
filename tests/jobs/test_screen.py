"""The screen of a run, from records as Snakemake logs them; no workflow runs."""

import csv
import io
import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

import snakemake_logger_plugin_retinaflow as plugin
from snakemake_logger_plugin_retinaflow import ranking, reasons
from snakemake_logger_plugin_retinaflow.joblogs import Progress, message, progress_file
from snakemake_logger_plugin_retinaflow.screen import Running, Screen, clock

CODE = "{'training': '0a1b2c3d4e', 'storage': '1111111111'}"
NEW_CODE = "{'training': 'ffffffffff', 'storage': '1111111111'}"
SIZE = "parameter changed: image_size 224 -> 299"


class Stream(io.StringIO):
    """A pipe, or a terminal."""

    encoding = "utf-8"

    def __init__(self, terminal=False):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv(plugin.SCREEN, "")  # so that it is taken back
    monkeypatch.delenv(plugin.SCREEN)


@pytest.fixture
def make(monkeypatch):
    """Make a handler that writes to a stream of the test."""

    def handler(*, dryrun=False, terminal=False, quiet=(), **settings):
        stream = Stream(terminal)
        monkeypatch.setattr(plugin, "standard_stream", lambda _: stream)
        common = SimpleNamespace(
            printshellcmds=False,
            nocolor=True,
            quiet=set(quiet),
            debug_dag=False,
            verbose=False,
            show_failed_logs=False,
            stdout=dryrun,
            dryrun=dryrun,
        )
        made = plugin.LogHandler(common, plugin.LogHandlerSettings(**settings))
        made.stream = stream
        return made

    return handler


def send(handler, event, text="", level=logging.INFO, **fields):
    record = logging.LogRecord("snakemake.logging", level, "file", 1, text, (), None)
    record.__dict__.update(fields)
    if event is not None:
        record.event = event
    handler.handle(record)


def info(handler, number, rule, outputs=("out.csv",), reason="", log=(), **wildcards):
    send(
        handler,
        LogEvent.JOB_INFO,
        jobid=number,
        rule_name=rule,
        wildcards=wildcards,
        output=list(outputs),
        log=list(log),
        reason=reason,
    )


def dry_run(handler, jobs):
    total = {"total": len(jobs)}
    send(handler, LogEvent.RUN_INFO, stats=total)
    for number, (rule, outputs, reason, wildcards) in enumerate(jobs):
        info(handler, number, rule, outputs, reason, **wildcards)
    send(handler, LogEvent.RUN_INFO, stats=total)
    send(handler, None, "This was a dry-run (flag -n). The order of jobs does not reflect the order of execution.")
    return handler.stream.getvalue().splitlines()


def reason_of(text, makers=()):
    return reasons.describe(reasons.parse(text), lambda _: " and ".join(makers), os.path.exists)


def change(before, now):
    return (
        "Params have changed since last execution: Union of exclusive params before and now across all output: "
        f"before: {before} now: {now} "
    )


def test_snakemake_finds_the_plugin():
    assert "retinaflow" in LoggerPluginRegistry().plugins


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("Missing output files: a.csv, b.csv; Input files updated by another job: c.csv", "new"),
        ("Input files updated by another job: c.csv", "after train VGG16"),
        ("Updated input files: labels/train.csv", "input changed: train.csv"),
        ("Updated input files: a, b, c", "input changed: a, b and 1 more"),
        ("Updated input files: workflow/retinaflow/training/job.py", "code of training changed"),
        ("Code has changed since last execution; Input files updated by another job: c.csv", "script changed"),
        ("Set of input files has changed since last execution", "other inputs than last time"),
        ("Incomplete output files: a.csv", "unfinished"),
        ("Forced execution", "forced"),
        ("A sentence of a later Snakemake", "A sentence of a later Snakemake"),
        (change("5", "10"), "parameter changed: 5 -> 10"),
        (change("<nothing exclusive>", "'x'"), "parameter changed"),
        (change("'it\\'s, 1'", "'a, b'"), "parameter changed: it's, 1 -> a, b"),
        (change("1,'x'", "2,'y'"), "parameter changed: 1 -> 2, x -> y"),
        (change("['0a1b2c3d4e']", "['ffffffffff']"), "input changed"),
        (
            change(f"'{'a' * 40}/one/{'b' * 40}'", f"'{'a' * 40}/two/{'b' * 40}'"),
            f"parameter changed: …{'a' * 9}/one/{'b' * 14}… -> …{'a' * 9}/two/{'b' * 14}…",
        ),
        (
            change("['validation', 'test-a', 'test-b']", "['validation', 'test-a', 'test-b', 'test-c']"),
            "parameter changed: + test-c",
        ),
        (change("{'image_size': 224, 'n': 2}", "{'image_size': 299, 'n': 2}"), SIZE),
        (
            change("{'augment': {'zoom': [1, 1]}}", "{'augment': {'zoom': [1, 2]}}"),
            "parameter changed: zoom [1, 1] -> [1, 2]",
        ),
        (change(CODE, NEW_CODE), "code of training changed"),
        (
            change(f"{CODE},{{'n': 2}}", f"{{'n': 3}},{NEW_CODE}"),
            "code of training changed; parameter changed: n 2 -> 3",
        ),
        (change("{'a': 1", "{'a': 2}}"), "parameter changed"),
    ],
)
def test_reasons_are_short(text, short):
    assert reason_of(text, ["train VGG16"]) == short


def test_missing_output_beside_others_is_named(tmp_path):
    (tmp_path / "a.csv").touch()
    assert reason_of("Missing output files: a.csv, b.csv") == "output missing"


@pytest.mark.parametrize("shards", [3, 300])
def test_a_dry_run_has_as_many_lines_at_any_size(make, shards):
    jobs = [("inventory", ["inventory.csv"], "Missing output files: inventory.csv", {"data_set": "train"})]
    for size, split in ((224, "train"), (299, "train"), (299, "test")):
        for number in range(shards):
            name = f"{size}-{split}-{number}.npy"
            where = {"variant": f"{size}-trim", "split": split, "shard": str(number)}
            jobs.append(("preprocess", [name], f"Missing output files: {name}", where))
    pixels = ", ".join(f"224-train-{number}.npy" for number in range(shards))
    jobs.append(("train", ["model"], f"Input files updated by another job: {pixels}", {"training_run": "VGG16"}))
    jobs.append(("all", [], "Input files updated by another job: model", {}))
    lines = dry_run(make(dryrun=True), jobs)
    assert [" ".join(line.split()) for line in lines[:-1]] == [
        "inventory train new",
        f"preprocess 224 px {shards} shards new",
        f"preprocess 299 px {2 * shards} shards new",
        "train VGG16 after preprocess 224 px",
        "all target",
    ]
    assert lines[-1].startswith(f"{len(jobs)} jobs. Nothing was run")
    assert "--logger-retinaflow-list-jobs" in lines[-1]


def test_another_switch_lists_each_job(make):
    jobs = [
        ("preprocess", [f"{number}.npy"], "Forced execution", {"variant": "9-a", "split": "test", "shard": str(number)})
        for number in (10, 9)
    ]
    lines = dry_run(make(dryrun=True, list_jobs=True), jobs)
    assert [" ".join(line.split()) for line in lines[:-1]] == [
        "preprocess 9 px test shard 9 1 shard forced",
        "preprocess 9 px test shard 10 1 shard forced",
    ]


def test_two_variants_of_one_size_keep_their_names(make):
    jobs = [("preprocess", [name], "", {"variant": name, "shard": "0"}) for name in ("96-trim", "96-keep")]
    lines = dry_run(make(dryrun=True), jobs)
    assert [line.split()[1] for line in lines[:-1]] == ["96-keep", "96-trim"]


def study_jobs(networks):
    """Jobs of a study: each network is trained, scored and graded, alone and with both eyes."""
    jobs = []
    for number in range(networks):
        name = f"net-{number}"
        jobs.append(("train", [f"{name}.keras"], "Missing output files: x", {"training_run": name}))
        after = f"Input files updated by another job: {name}.keras"
        jobs.append(("score", [f"{name}.csv"], after, {"training_run": name}))
        for model in (name, f"{name}+eye_average"):
            graded = f"Input files updated by another job: {name}.csv"
            jobs.append(("grade", [f"{model}.json"], graded, {"model": model}))
    return jobs


def test_many_models_of_one_rule_and_reason_are_one_line(make):
    lines = dry_run(make(dryrun=True), study_jobs(16))
    assert [" ".join(line.split()) for line in lines[16:-1]] == [
        "score 16 jobs after train",
        "grade 32 jobs after score",
    ]
    assert [line.split() for line in lines[:2]] == [["train", "net-0", "new"], ["train", "net-1", "new"]]
    assert lines[-1].startswith("64 jobs. Nothing was run")
    assert len(dry_run(make(dryrun=True), study_jobs(30))) == 4
    each = dry_run(make(dryrun=True, list_jobs=True), study_jobs(16))
    assert len(each) == 65


def test_few_models_of_one_reason_are_listed(make):
    jobs = study_jobs(3)[:-1]
    jobs[5] = ("score", ["net-1.csv"], "Forced execution", {"training_run": "net-1"})
    lines = [" ".join(line.split()) for line in dry_run(make(dryrun=True), jobs)]
    assert "score net-0 after train net-0" in lines
    assert "score net-1 forced" in lines


def test_one_job_is_not_jobs(make):
    lines = dry_run(make(dryrun=True), [("train", ["model"], "Forced execution", {})])
    assert lines[-1] == "1 job. Nothing was run: this was a dry run."


def test_a_long_reason_is_cut(make):
    reason = f"Updated input files: {'x' * 300}"
    lines = dry_run(make(dryrun=True), [("train", ["model"], reason, {})])
    assert len(lines[0]) == 120
    assert lines[0].endswith("…")


def test_a_quiet_dry_run_gives_the_totals(make):
    handler = make(dryrun=True, quiet=[Quietness.RULES, Quietness.PROGRESS])
    send(handler, LogEvent.RUN_INFO, stats={"train": 3, "total": 3})
    info(handler, 1, "train")
    assert handler.stream.getvalue() == "train       3\n3 jobs. Nothing was run: this was a dry run.\n"


def test_only_noise_is_dropped(make):
    handler = make()
    for noise in (
        "Building DAG of jobs...",
        "Select jobs to execute...",
        "Provided cores: 2",
        "Using shell: /bin/bash",
    ):
        send(handler, None, noise)
    send(handler, LogEvent.RESOURCES_INFO, "Provided cores: 2", cores=2)
    send(handler, LogEvent.SHELLCMD, "rm -rf x")
    send(handler, LogEvent.JOB_STARTED, "Execute 2 jobs...")
    assert handler.stream.getvalue() == ""
    send(handler, None, "Nothing to be done (all requested files are present and up to date).")
    send(handler, None, "a warning", logging.WARNING)
    send(handler, LogEvent.ERROR, "WorkflowError:\nepochs: wrong", logging.ERROR, exception="WorkflowError")
    assert handler.stream.getvalue().splitlines() == [
        "Nothing to be done (all requested files are present and up to date).",
        "a warning",
        "WorkflowError:",
        "epochs: wrong",
    ]


def run(handler, *, shards=2):
    """Records of two shards and a training run that finish, and then of the comparison."""
    send(handler, LogEvent.RESOURCES_INFO, cores=2)
    send(handler, LogEvent.RUN_INFO, stats={"preprocess": shards, "train": 1, "compare": 1, "total": shards + 2})
    for number in range(shards):
        where = {"variant": "9-a", "split": "test", "shard": str(number)}
        info(handler, number, "preprocess", [f"{number}.npy"], log=[f"logs/{number}.log"], **where)
    for number in range(shards):
        send(handler, LogEvent.JOB_FINISHED, job_id=number)
    info(handler, 50, "train", ["model.keras"], log=["logs/VGG16.log"], training_run="VGG16")
    Path("logs").mkdir()
    progress_file("logs/VGG16.log").write_text(
        "\n".join(
            map(json.dumps, [{"step": "epoch 1/2", "left": 9}, {"message": "halved"}, {"result": "kappa 0.7"}, ""])
        )
    )
    send(handler, LogEvent.JOB_FINISHED, job_id=50)
    info(handler, 51, "compare", ["comparison/comparison.csv", "comparison/comparison.md"])
    Path("comparison").mkdir()
    with open("comparison/comparison.csv", "w", newline="") as file:
        kappa, corrected = "quadratic_weighted_kappa", "selection_corrected_kappa"
        columns = [f"{name}{end}" for name in (kappa, corrected) for end in ("", "_low", "_high")]
        table = csv.DictWriter(file, ["rank", "model", "split", *columns])
        table.writeheader()
        for rank, model in (("1", "ensemble"), ("2", "VGG16"), ("", "VGG16/fold-1")):
            for split in ("validation", "test"):
                low = {f"{kappa}_low": 0.5, f"{kappa}_high": 0.75} if rank == "1" else {}
                if rank == "1" and split == "validation":
                    low |= {corrected: 0.6, f"{corrected}_low": 0.375, f"{corrected}_high": 0.7}
                table.writerow({"rank": rank, "model": model, "split": split, kappa: 0.625, **low})
    send(handler, LogEvent.JOB_FINISHED, job_id=51)
    send(handler, None, "Elapsed time: 0:00:01")
    handler.close()
    return handler.stream.getvalue()


def test_run_on_a_pipe_prints_lines_and_then_the_ranking(make):
    shown = run(make())
    assert shown.splitlines() == [
        "4 jobs on 2 cores",
        "preprocess, 2 shards: done in 0:00",
        "train VGG16: halved",
        "train VGG16: done in 0:00; kappa 0.7",
        "compare: done in 0:00",
        "All 4 jobs done in 0:00.",
        "",
        "Quadratic weighted kappa and its 95 % confidence interval:",
        "rank  model     validation            test",
        "1     ensemble  0.625 (0.50 to 0.75)  0.625 (0.50 to 0.75)",
        "2     VGG16     0.625                 0.625",
        "ensemble on validation, corrected for the choice among 2 models: 0.600 (0.38 to 0.70)",
        "All metrics: comparison",
    ]
    assert not progress_file("logs/VGG16.log").exists()


def test_a_terminal_has_bars_of_its_width(make):
    shown = run(make(terminal=True))
    assert "train VGG16: done in 0:00; kappa 0.7" in shown
    assert "\x1b[" in shown
    assert shown.endswith("All metrics: comparison\n")


def test_jobs_print_nothing_except_under_a_dry_run(make):
    make(dryrun=True)
    assert plugin.SCREEN not in os.environ
    make()
    assert os.environ[plugin.SCREEN] == str(os.getpid())


def test_a_run_without_progress_is_silent(make):
    handler = make(quiet=[Quietness.PROGRESS, Quietness.RULES])
    send(handler, LogEvent.RUN_INFO, stats={"total": 1})
    info(handler, 1, "train")
    send(handler, LogEvent.JOB_FINISHED, job_id=1)
    send(handler, None, "Elapsed time: 0:00:01")
    assert handler.stream.getvalue() == ""


def test_failed_job_is_one_block_with_its_message(make):
    handler = make(quiet=[Quietness.PROGRESS, Quietness.RULES])
    Path("VGG16.log").write_text(
        "10:00:00 epoch 1\n10:00:01 error: VGG16: out of memory\nLower batch_size.\n"
        "10:00:01 raised here:\nTraceback: x\n"
    )
    send(handler, LogEvent.ERROR, "CalledProcessError in file ...: Command 'set -euo' failed", logging.ERROR)
    send(
        handler,
        LogEvent.JOB_ERROR,
        "Error in rule train, jobid: 3",
        logging.ERROR,
        rule_name="train",
        rule_msg=None,
        jobid=3,
        log=["VGG16.log"],
        aux={},
    )
    assert handler.stream.getvalue().splitlines() == [
        "train failed",
        "  error: VGG16: out of memory",
        "  Lower batch_size.",
        "  log: VGG16.log",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10:00:00 unexpected error\nTraceback (most recent call last):\nKeyError: 'a'\n", "KeyError: 'a'"),
        ("10:00:00 ended by SIGTERM; run again to resume\n", "ended by SIGTERM; run again to resume"),
        ("", ""),
    ],
)
def test_the_message_of_a_log(tmp_path, text, expected):
    (tmp_path / "job.log").write_text(text)
    assert message(tmp_path / "job.log").endswith(expected)
    assert message(tmp_path / "absent.log") == ""


def test_a_home_that_cannot_be_written_to_is_a_message(make):
    handler = make()
    places = 'Traceback (most recent call last):\n  File "snakemake/sourcecache.py", line 791\n'
    text = f"{places}PermissionError: [Errno 13] no: /root"
    send(handler, LogEvent.ERROR, text, logging.ERROR, exception="PermissionError")
    shown = handler.stream.getvalue()
    assert "XDG_CACHE_HOME" in shown
    assert "PermissionError: [Errno 13] no: /root" in shown
    assert "Traceback" not in shown


def test_names_with_control_characters_do_not_reach_the_terminal():
    screen = Screen(Stream())
    screen.write("a\x1b]0;x\x07\rb\u202ec\n")
    assert screen.stream.getvalue() == "a\\x1b]0;x\\x07\\rb\\u202ec\n\n"


def test_progress_is_read_as_it_is_appended(tmp_path):
    path = tmp_path / "job.progress.jsonl"
    progress = Progress(path)
    assert progress.read() == []
    path.write_text('{"step": "epoch 1/9", "left": 100}\n{"message": "slow"}\n{"step": "epo')
    running = Running("train VGG16", progress, read=0.0)
    assert progress.read() == ["slow"]
    assert progress.state == {"step": "epoch 1/9", "left": 100}
    with open(path, "a") as file:
        file.write('ch 2/9", "left": "soon"}\nno JSON\n')
    assert progress.read() == []
    assert running.left() is None
    assert running.note() == "epoch 2/9, 0:00"
    # The job began the file again.
    path.write_text('{"step": "epoch 3/9"}\n')
    progress.read()
    assert progress.state == {"step": "epoch 3/9"}


def test_times_are_as_on_a_clock():
    assert [clock(seconds) for seconds in (-1, 7.4, 60, 3905)] == ["0:00", "0:07", "1:00", "1:05:05"]


def test_repeats_are_one_line_of_the_ranking(tmp_path):
    kappa = "quadratic_weighted_kappa"
    table = tmp_path / "comparison.csv"
    with open(table, "w", newline="") as file:
        columns = ["rank", "model", "split", kappa, "repeat_of", "title", "remark"]
        rows = csv.DictWriter(file, columns)
        rows.writeheader()
        for rank, model, value, of in (("1", "B", 0.55, ""), ("2", "A-x", 0.6, "A-x"), ("3", "A-y", 0.4, "A-x")):
            row = {"rank": rank, "model": model, "repeat_of": of, "title": model.replace("-", " ")}
            rows.writerow({**row, "split": "validation", kappa: value})
            rows.writerow({**row, "split": "test", kappa: -0.00001})
        rows.writerow({"rank": "", "model": "B", "split": "test-y", "remark": "no fellow eyes"})
    text = ranking.lines(table)
    assert [" ".join(line.split()) for line in text] == [
        "Quadratic weighted kappa and its 95 % confidence interval, or mean ± standard deviation of repeats:",
        "rank model validation test test-y",
        "1 B 0.550 0.000 no fellow eyes",
        "2 A x 0.500 ± 0.141 0.000 ± 0.000",
    ]

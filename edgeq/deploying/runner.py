"""`run.sh`: times, scores and limits on the device, with edgeq's wheel and without torch."""

from __future__ import annotations

from collections.abc import Sequence

from edgeq.deploying.base import DeployJob
from edgeq.deploying.shell import Script, in_folder
from edgeq.errors import InputError

RUN_LINES = """\
    ./run.sh                           # times
    ./run.sh ANNOTATIONS IMAGES        # times, scores and limits"""
"""How it is called, as a README shows it."""

RESULTS = "results"
"""Folder for the results, below the one that the script is called from."""


def run_script(job: DeployJob, files: Sequence[str], runtimes: Sequence[str], extra: str) -> str:
    """Returns the script.

    Args:
        job: The folder's models.
        files: Paths of the files to run, within the folder.
        runtimes: For each of them the runtime that it is planned for.
        extra: Extra of edgeq's wheel that brings the runtime, such as `[litert]`; empty if the wheel suffices.
    """
    script = Script(
        "Measures the models here: times, and with images scores and limits. Results go to ./results.",
        [
            "./run.sh                               times",
            "./run.sh ANNOTATIONS IMAGES            times, scores and limits",
            "SECONDS_PER_FILE=10 ./run.sh           measures each file for at least 10 s",
        ],
    )
    advice = f"install its wheel: pip install 'edgeq-VERSION-py3-none-any.whl{extra}'"
    script.require_program("edgeq", advice, "", "EDGEQ")
    if any(path.endswith(".engine") for path in files):
        for path in files:
            script.require_file(path, "build it first: ./build_edgeq.sh")
    script.add('[ $# -eq 0 ] || [ $# -eq 2 ] || fail "wanted no argument, or ANNOTATIONS and IMAGES"')
    if not job.can_score:
        script.add('[ $# -eq 0 ] || fail "a manifest does not say how outputs are read, so nothing can be scored"')
    script.add(f"mkdir -p {RESULTS}", "")
    for runtime in dict.fromkeys(runtimes):
        words = " ".join(in_folder(path) for path, own in zip(files, runtimes, strict=True) if own == runtime)
        script.add(
            f'"$edgeq" bench --runtime {_word(runtime)} --seconds "${{SECONDS_PER_FILE:-3}}" '
            f"--json {RESULTS}/bench_{_word(runtime)}.json -- {words}",
            "if [ $# -eq 2 ]; then",
            f'    "$edgeq" eval --runtime {_word(runtime)} --annotations "$1" --images "$2" '
            f"--json {RESULTS}/eval_{_word(runtime)}.json -- {words}",
            "fi",
        )
    if job.can_gate:
        script.add("", *_gate(job, runtimes))
    return script.text()


def _gate(job: DeployJob, runtimes: Sequence[str]) -> list[str]:
    scores, times = (" ".join(option) for option in job.limits.options)
    benches, evals = (
        " ".join(f"{RESULTS}/{kind}_{_word(runtime)}.json" for runtime in dict.fromkeys(runtimes))
        for kind in ("bench", "eval")
    )
    return [
        "if [ $# -eq 2 ]; then",
        f'    "$edgeq" gate {times} {scores} --json {RESULTS}/gate.json {benches} {evals}',
        "else",
        f'    "$edgeq" gate {times} --json {RESULTS}/gate.json {benches}',
        "fi",
    ]


def _word(runtime: str) -> str:
    if not runtime.isidentifier():
        raise InputError(f"runtime {runtime!r}: its name is unfit for a script; wanted letters, digits and _")
    return runtime

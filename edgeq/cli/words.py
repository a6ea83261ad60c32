"""Parameters as options: messages below the command line name `vit_plan`, people here are shown --vit-plan."""

from __future__ import annotations

import functools
import re

_PARAMETER = re.compile(r"`([a-z]\w*)`")
# Parameters that Python calls otherwise than the command line. One name means the same option in every command, so a
# message of one command may send the user to another: "export it with `precisions` int8", says `edgeq build`.
_OTHERWISE = {
    "algorithm": "--method",
    "calibration": "--calib",
    "compute_precisions": "--compute",
    "devices": "--device",
    "dla_core": "--dla",
    "images_dir": "--images",
    "precisions": "--precision",
    "runtimes": "--runtime",
    "workspace_bytes": "--workspace",
}


def as_options(text: str) -> str:
    """Returns a message with each parameter in backticks as the option that sets it; all else stays as it is.

    >>> as_options("`vit_plan` quick: wanted one of fast, balanced, safe; run `edgeq export` again")
    '--vit-plan quick: wanted one of fast, balanced, safe; run `edgeq export` again'
    """
    return _PARAMETER.sub(lambda found: _options().get(found[1], found[0]), text)


@functools.cache
def _options() -> dict[str, str]:
    import typer.main

    from edgeq.cli.app import app

    commands = typer.main.get_group(app).commands.values()
    declared = {
        str(parameter.name): parameter.opts[0]
        for command in commands
        for parameter in command.params
        if parameter.param_type_name == "option"
    }
    spelled = {option.removeprefix("--").replace("-", "_"): option for option in declared.values()}
    return {**spelled, **declared, **_OTHERWISE}

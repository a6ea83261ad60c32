"""`edgeq presets`: parse, call the verb, print. `edgeq.cli.app` registers it."""

from __future__ import annotations

from edgeq.cli.printing import say


def presets() -> None:
    """List the built-in presets by task: what --preset takes if a model is not recognised."""
    from edgeq.verbs.presets import list_presets

    listed = list_presets()
    width = max(len(each.name) for each in listed)
    task = None
    for each in listed:
        if each.task != task:
            say(f"{each.task}:")
            task = each.task
        say(f"  {each.name:{width}}  {each.family} ({each.images})")

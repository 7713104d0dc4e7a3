"""``rillet spec``: commands on feature spec files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rillet.schemas import SpecDiff

#: exit status of a change that cannot be rolled out
INCOMPATIBLE = 3


@click.group()
def spec() -> None:
    """Compare feature specs."""


@spec.command()
@click.argument("old", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("new", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
def diff(old: Path, new: Path, as_json: bool) -> None:
    """Say what changes from the feature spec file OLD to NEW, and what each change means for who runs.

    Exit status 0 where both can be accepted at the same time, 3 where not: a number or a name would mean two things.
    """
    from rillet.schemas import compare, load_spec

    specs = {"old": load_spec(old), "new": load_spec(new)}
    found = compare(specs["old"], specs["new"])
    if as_json:
        heads = {key: {"name": one.name, "hash": f"{one.hash:#x}"} for key, one in specs.items()}
        click.echo(json.dumps({**heads, **found.as_dict()}, indent=1))
    else:
        for key, path in (("old", old), ("new", new)):
            one = specs[key]
            click.echo(f"{key}  {path}: {one.name}, hash {one.hash:#x}")
        _echo(found)
    raise SystemExit(INCOMPATIBLE if found.incompatible else 0)


def _echo(found: SpecDiff) -> None:
    if not found.changes:
        click.echo("no differences")
        return
    for change in found.changes:
        click.echo(f"\n{change}")
        if not change.compatible:
            click.echo("  refused  it would mean two things while both specs are in use")
            continue
        for who in ("joiner", "trainer", "serving"):
            click.echo(f"  {who:8} {getattr(change, who)}")
    if found.incompatible:
        click.echo(f"\nincompatible: {len(found.incompatible)} of {len(found.changes)} changes are refused")
    else:
        click.echo(
            "\ncompatible: name both files in also_accepts of every rillet.toml, then change spec, service by service"
        )

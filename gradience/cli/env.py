"""`gradience env`: what a bug report needs, and nothing that identifies a person or a machine."""

from typing import Any

from gradience.cli.output import JsonOutput, print_facts, print_screen
from gradience.environment import Versions, environment


def env(out: JsonOutput) -> None:
    """No paths, no host name and no user name are printed."""
    facts = environment()
    if out.json:
        print_facts(facts)
    else:
        print_screen(environment_text, facts)


def environment_text(facts: dict[str, Any], *, width: int | None = None, color: bool = False) -> str:
    """Return the facts as lines for a person."""
    from gradience.reports.base import terminal
    from gradience.reports.base.blocks import Facts
    from gradience.words import counted

    def line(versions: Versions) -> str:
        missing = [name for name, version in versions.items() if version is None]
        shown = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
        return f"not installed (missing: {', '.join(missing)})" if missing else shown

    cpu = facts["cpu"]
    rows = [
        ("gradience", facts["gradience"]),
        ("python", f"{facts['python']} ({facts['implementation']})"),
        ("platform", facts["platform"]),
        ("cpu", f"{cpu['usable']} of {cpu['count']} usable"),
    ]
    for library in facts["blas"]:
        kernel = f", {library['architecture']} kernels" if library["architecture"] else ""
        version = f" {library['version']}" if library["version"] else ""
        rows.append(
            ("blas", f"{library['library']}{version}, {counted(library['threads'], 'thread')}{kernel}")
        )
    rows += [("variable", f"{name}={value}") for name, value in facts["variables"].items()]
    if facts["conflict"]:
        rows.append(("conflict", facts["conflict"]))
    rows.append(("core", line(facts["core"])))
    rows += [("extra", f"{extra}: {line(versions)}") for extra, versions in facts["extras"].items()]
    return terminal.render([Facts(rows)], width=width, color=color)

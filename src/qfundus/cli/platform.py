"""The platform on this machine: started, stopped, looked at."""

import typer

from qfundus.cli.shared import AsJson, Column, columns, console, print_rows

commands = typer.Typer()


@commands.command()
def up() -> None:
    """Start the embedded platform, unless it runs already."""
    from qfundus.platform.supervision import start_platform

    start_platform(console.print)
    status()


@commands.command()
def down() -> None:
    """Stop the embedded platform."""
    from qfundus.platform.supervision import stop_platform

    stop_platform(console.print)


@commands.command()
def status(as_json: AsJson = False) -> None:
    """Show which services run, and where."""
    from qfundus.platform.supervision import platform_status

    states = platform_status()
    rows = [
        {"service": s.name, "state": s.state, "ready": s.ready, "memory_mb": round(s.memory_mb), "address": s.url}
        for s in states
    ]
    listed = (*columns("service", "state", "ready"), Column("memory_mb", "MB"), Column("address"))
    if as_json:
        print_rows(listed, rows, as_json=True)
        return
    if not states:
        console.print("The platform is down. Start it with `qfundus up`.")
        return
    print_rows(listed, rows, as_json=False)
    console.print(f"Logs: {states[0].log.parent}", soft_wrap=True)


@commands.command()
def doctor() -> None:
    """Say what is missing, and how to get it."""
    from qfundus.platform.doctor import examine

    for finding in examine():
        sign = "[green]ok[/]     " if finding.good else "[yellow]missing[/]"
        console.print(f"{sign} {finding.what}{'' if finding.good else '. ' + finding.remedy}", soft_wrap=True)


@commands.command()
def login() -> None:
    """Print the address, user and password of Airflow's pages."""
    from qfundus.settings import load_settings

    settings = load_settings()
    password = settings.airflow_password.get_secret_value()
    typer.echo(f"{settings.airflow_url}  user {settings.airflow_user}  password {password}")

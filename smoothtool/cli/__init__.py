"""The front door: one Typer command per job. The only room that prints, colours and sets exit codes."""

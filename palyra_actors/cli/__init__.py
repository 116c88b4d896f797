"""The command line: `palyra-actors`, for people and for scripts."""


def main() -> None:
    """The entry point; ends the process with one of `exits`' codes."""
    try:
        from palyra_actors.cli.app import app

        app(prog_name="palyra-actors")
    except KeyboardInterrupt:  # while it was being loaded: nothing was begun
        raise SystemExit(130) from None

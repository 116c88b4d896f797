"""`python -m palyra_actors.cli`, where the entry point is not on the path."""

from palyra_actors.cli import main

main()

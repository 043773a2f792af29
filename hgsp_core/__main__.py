"""`python -m hgsp_core` is `hgsp`."""

from hgsp_core.cli import main

main()

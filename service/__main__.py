"""``python -m service``: the same as ``zsq``."""

from service.cli import main

raise SystemExit(main())

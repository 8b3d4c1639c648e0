"""``python -m service``: the same as ``zsq``."""

from service.entry import main

raise SystemExit(main())
